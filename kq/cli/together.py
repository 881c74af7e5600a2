"""Several workers in one process, each in a thread of its own, or a set of consumers. A signal reaches all of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import kq

__all__ = ["run_set", "run_together"]

#: Seconds between looks at whether all have ended: a handler runs only while the main thread runs Python code.
_LOOK_EVERY = 0.2
#: Signals after which what runs is ended, and after which the process is.
_KILL, _EXIT = 2, 3


def run_together(workers: Sequence[kq.Worker], start: Callable[[kq.Worker], object]) -> None:
    """Start each worker in a thread, and return when all have ended. The first that fails stops the others.

    :raises BaseException: What the first that failed has raised.
    """
    errors: list[BaseException] = []

    def run(worker: kq.Worker) -> None:
        try:
            start(worker)
        except BaseException as error:  # the door of the thread: the main thread raises it  # noqa: BLE001
            errors.append(error)
            for other in workers:
                other.stop()

    threads = [threading.Thread(target=run, args=[worker], name=f"kq-{worker.topic}") for worker in workers]
    with _signals_to([worker.stop for worker in workers]):
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_LOOK_EVERY)
    if errors:
        raise errors[0]


def run_set(consumers: kq.ConsumerSet) -> None:
    """Start a set of consumers, and return when a signal has ended it."""
    with _signals_to([consumers.stop]):
        consumers.start_consuming()
        while consumers.is_alive():
            consumers.join(_LOOK_EVERY)


@contextmanager
def _signals_to(stops: Iterable[Callable[..., object]]) -> Iterator[None]:
    """Have SIGINT and SIGTERM stop all: the first warmly, the second at once; the third ends the process."""
    count = 0

    def on_signal(signum: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count >= _EXIT:
            os._exit(128 + signum)
        for stop in stops:
            stop(now=count >= _KILL)

    signums = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) not in (signal.SIG_IGN, None)]
    before = {signum: signal.signal(signum, on_signal) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
