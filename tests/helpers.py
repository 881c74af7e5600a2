"""What tests need in many places."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import kq

__all__ = ["at_work", "deliver", "placeless", "wait_until"]

_Value = TypeVar("_Value")

#: Seconds between two looks: short beside any wait that is worth a helper.
POLL = 0.01


def wait_until(predicate: Callable[[], _Value], timeout: float = 10.0, message: str = "") -> _Value:
    """Return what the predicate returns as soon as that is true; fail when it is not within so many seconds."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(message or f"not true within {timeout:g} s: {predicate}")
        time.sleep(POLL)
    return value


def placeless(value: object) -> str:
    """Return the name of a parameter: the same in each process of a run, so without an address."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def deliver(pid: int, signum: int) -> None:
    """Send a signal, and return when the process has it: two of one kind that are both on their way become one."""
    os.kill(pid, signum)
    status = Path(f"/proc/{pid}/status")
    if not status.exists():  # macOS tells nobody what is on its way
        time.sleep(0.2)
        return

    def is_pending() -> bool:
        masks = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)", status.read_text(), re.MULTILINE)
        return any(int(mask, 16) >> (signum - 1) & 1 for mask in masks)

    wait_until(lambda: not is_pending(), message=f"signal {signum} does not arrive at {pid}")


@contextmanager
def at_work(worker: kq.Worker) -> Iterator[None]:
    """Have a worker at work in a thread meanwhile."""
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()
