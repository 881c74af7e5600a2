"""Callbacks: what a worker tells of each message, and to whom.

KQ 2.x calls ``callback(status, message, job, result, exception, stacktrace)``; KQ 1.x called
``callback(status, job, result, exception, traceback)`` and said nothing of invalid messages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from kq.errors import ArgumentError

__all__ = ["takes_message"]

_ARGUMENTS = "(status, message, job, result, exception, stacktrace)"


def takes_message(callback: Callable[..., Any]) -> bool:
    """Return whether a callback has the six arguments of KQ 2.x; if not, it has the five of KQ 1.x.

    :raises kq.ArgumentError: It has neither, or would have to be awaited.
    """
    if any(map(inspect.iscoroutinefunction, (callback, getattr(callback, "__call__", None)))):  # noqa: B004
        raise ArgumentError("callback must not be a coroutine function: it is called, and nothing awaits it")
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some callables written in C have none
        return True
    for count in (6, 5):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count == 6
    raise ArgumentError(f"callback must accept six positional arguments: {_ARGUMENTS}")
