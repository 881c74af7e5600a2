"""Jobs that are cancelled while they run."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from journal import note

import kq


def wait(path: str, seconds: float) -> None:
    """Take long, in steps that let a thread be interrupted."""
    note(path, "start", "long")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    note(path, "end", "long")


def swallow(path: str, seconds: float) -> None:
    """Take long, whatever is raised in it."""
    note(path, "start", "long")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(BaseException):
            time.sleep(0.01)
    note(path, "end", "long")


def until_open(path: str, gate: str) -> None:
    """Take as long as there is no such file."""
    note(path, "start", "long")
    while not Path(gate).exists():
        time.sleep(0.01)


def is_cancelled() -> bool:
    job = kq.current_job()
    assert job is not None
    return job.is_cancelled()


def until_cancelled(path: str) -> None:
    """Go on until it is cancelled, which another thread is told, too."""
    job, seen = kq.current_job(), threading.Event()
    assert job is not None and not job.is_cancelled()

    def look() -> None:
        while not job.is_cancelled():
            time.sleep(0.01)
        seen.set()

    threading.Thread(target=look, daemon=True).start()
    note(path, "start", "asking")
    while not job.is_cancelled():
        time.sleep(0.01)
    assert seen.wait(5)
    raise kq.Cancelled("ended by itself")
