"""Jobs that repeat what they are given, wherever a job can."""

from __future__ import annotations

import sys
import time
from typing import Any

import kq

__all__ = ["Secret", "Sour"]


class Sour:
    """Tells what it holds when somebody pickles it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Any:
        raise TypeError(f"no pickle of {self.text}")

    def __repr__(self) -> str:
        return f"Sour({self.text})"


class Secret:
    """Tells what it holds when somebody unpickles it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Any:
        return int, (self.text,)


def give(text: str, more: Any = None) -> str:
    return f"{text} {more}"


def give_sour(text: str) -> Sour:
    return Sour(text)


def read(text: str) -> int:
    return int(text)


def fail(text: str) -> None:
    try:
        read(text)
    except ValueError as error:
        raise LookupError(f"no {text}") from error


def fail_as_group(text: str) -> None:
    error = RuntimeError(f"one of {text}")
    error.__notes__ = [f"a note of {text}"]  # type: ignore[attr-defined,unused-ignore]
    raise error


def leave(text: str) -> None:
    sys.exit(text)


def ask_later(text: str) -> None:
    raise kq.RetryLater(0, text)


def give_up(text: str) -> None:
    raise kq.GiveUp(text)


def stay(text: str) -> None:
    for _ in range(len(text) * 1000):
        time.sleep(0.01)
