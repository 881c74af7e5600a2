"""What tests need in many places."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_until"]

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
