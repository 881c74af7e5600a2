"""Jobs that fail in each way that a retry policy knows."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from journal import note

import kq


class Flaky(ConnectionError):
    """An exception of a program's own, with a base class of Python's."""


def flaky() -> None:
    raise Flaky("the other side was away")


def fail_slowly(seconds: float) -> None:
    time.sleep(seconds)
    raise Flaky("slowly")


def wrong() -> None:
    raise ValueError("wrong for ever")


async def flaky_async() -> None:
    await asyncio.sleep(0)
    raise Flaky("the other side was away")


def ask_later(delay: float | None = None) -> None:
    raise kq.RetryLater(delay, "busy")


async def ask_later_async() -> None:
    raise kq.RetryLater(0, "busy")


def give_up() -> None:
    raise kq.GiveUp("never")


def stay() -> None:
    for _ in range(6000):  # in steps that let a thread be interrupted
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_and_tell(path: str, name: str, times: int = 1000) -> None:
    """Write down that it ran, and fail the first so many times."""
    note(path, "run", name)
    with open(path) as file:
        runs = sum(line.rstrip().endswith(f" run {name}") for line in file)
    if runs <= times:
        raise Flaky(name)
