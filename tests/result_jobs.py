"""Jobs with something to tell: results, exceptions that cannot be built again, progress, and lines of a log."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import kq

log = logging.getLogger("app.jobs")
log.setLevel(logging.INFO)
#: A logger that hands nothing on to the root logger.
alone = logging.getLogger("app.alone")
alone.setLevel(logging.INFO)
alone.propagate = False


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Canary.sing, (self.path,)

    @staticmethod
    def sing(path: str) -> str:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return "sung"


class Awkward(Exception):
    """An exception that cannot be built again from its arguments."""

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Known(ValueError):
    """An exception with something in it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def awkward() -> None:
    raise Awkward(1, two=2)


def known(code: int) -> None:
    raise Known(code)


def large(size: int) -> bytes:
    return b"x" * size


def canary(path: str) -> Canary:
    return Canary(path)


def unpicklable() -> Any:
    return threading.Lock()


def run_of() -> tuple[int, float]:
    """Return what tells one run of a job from another."""
    return os.getpid(), time.monotonic()


def end_at(seconds: float = 0.0) -> float:
    time.sleep(seconds)
    return time.time()


def when_open(path: str, value: Any) -> Any:
    """Return a value as soon as a file is there."""
    while not Path(path).exists():
        time.sleep(0.01)
    return value


def steps(count: int, seconds: float) -> str:
    for number in range(count):
        kq.progress(number + 1, count, f"step {number + 1}")
        log.info("step %d", number + 1)
        time.sleep(seconds)
    return "done"


def report_often(count: int) -> tuple[float, float]:
    """Report in a tight loop; return the seconds that it took, and those of the processor."""
    begun, used = time.perf_counter(), time.thread_time()
    for number in range(count):
        kq.progress(number + 1, count)
    return time.perf_counter() - begun, time.thread_time() - used


def hang() -> None:
    while True:  # in other threads than the main one a job is interrupted between two steps
        time.sleep(0.05)


def talk(name: str, count: int = 5) -> None:
    for number in range(count):
        log.info("%s says %d", name, number)
        time.sleep(0.01)


async def talk_async(name: str, count: int = 5) -> None:
    for number in range(count):
        log.info("%s says %d", name, number)
        await asyncio.sleep(0.01)


def talk_by_thread(name: str) -> None:
    """Log from a thread of the job's own, and from a logger that hands nothing on."""
    thread = threading.Thread(target=talk, args=(name, 2))
    thread.start()
    thread.join()
    alone.info("%s is alone", name)


def talk_and_fail(name: str, count: int = 2) -> None:
    talk(name, count)
    raise ValueError(name)


def talk_and_hang(name: str) -> None:
    talk(name, 2)
    kq.progress(0.5, text="hanging")
    hang()


def talk_and_die(name: str) -> None:
    talk(name, 2)
    time.sleep(0.3)
    os._exit(3)
