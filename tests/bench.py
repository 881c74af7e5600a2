"""An executor without Kafka, driven as the loop drives it."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable
from typing import Any

import kq
from kq.executors import Finished, Setting
from kq.working import Waker

__all__ = ["EXECUTORS", "Bench"]

#: What makes each kind of executor.
EXECUTORS: dict[str, Callable[..., Any]] = {
    "inline": kq.InlineExecutor,
    "thread": kq.ThreadExecutor,
    "process": kq.ProcessExecutor,
}
#: Seconds until whatever a test waits for has failed.
PATIENCE = 60.0


class Bench:
    """Runs jobs on an executor, one after another unless told otherwise."""

    def __init__(self, executor: Any, concurrency: int = 1, **setting: Any) -> None:
        self.waker = Waker()
        defaults = Setting(
            kq.loads, None, logging.getLogger("kq.worker"), True, self.waker.wake, self.waker.watch, self.waker.unwatch
        )
        self.executor = executor
        try:
            executor.open(defaults._replace(**setting), concurrency)
        except BaseException:
            self.waker.close()
            raise
        self._count = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()
        self.executor.release()
        self.waker.close()

    def start(self, func: Callable[..., Any], *args: Any, timeout: float = 0) -> None:
        """Begin a job without waiting for it."""
        job = kq.Job(f"job-{self._count}", 0, "bench", func, args, {}, timeout)
        self._count += 1
        self.executor.start(kq.Message("bench", 0, self._count - 1, None, kq.dumps(job)))
        self.executor.flush()

    def finish(self, count: int = 1) -> list[Finished]:
        """Wait until so many jobs have ended, and return what became of them."""
        ended: list[Finished] = []
        deadline = time.monotonic() + PATIENCE
        while len(ended) < count:
            assert time.monotonic() < deadline, f"{len(ended)} of {count} ended"
            ended += self.executor.finished()
            if len(ended) < count:
                self.waker.wait(min(0.2, self.executor.patience()))
        return ended

    def wait_for_room(self, count: int = 1) -> None:
        """Wait until so many jobs can begin."""
        deadline = time.monotonic() + PATIENCE
        while self.executor.room() < count:
            assert time.monotonic() < deadline
            assert self.executor.finished() == []
            self.waker.wait(0.2)

    def run(self, func: Callable[..., Any], *args: Any, timeout: float = 0) -> Any:
        """Run one job, and return its outcome."""
        self.wait_for_room()
        self.start(func, *args, timeout=timeout)
        (finished,) = self.finish()
        return finished.outcome

    def run_all(self, *calls: tuple[Any, ...]) -> list[Finished]:
        """Run jobs, as many at once as there is room for."""
        waiting, ended = collections.deque(calls), []
        while len(ended) < len(calls):
            for _ in range(min(self.executor.room(), len(waiting))):
                self.start(*waiting.popleft())
            ended += self.executor.finished()
            if len(ended) < len(calls):
                self.waker.wait(min(0.2, self.executor.patience()))
        return ended
