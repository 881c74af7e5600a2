"""What modules have under names: functions, and all sorts of things that can be called."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any


def add(a: int, b: int) -> int:
    return a + b


def unlike(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate without telling so."""

    def wrapper(*args: Any) -> Any:
        return func(*args)

    return wrapper


class Command:
    """Calls a function, as the commands of click do."""

    def __init__(self, callback: Callable[..., Any]) -> None:
        self.callback = callback

    def __call__(self, *args: Any) -> Any:
        return self.callback(*args)


class Counter:
    """Counts in its process; holds what no pickle takes."""

    def __init__(self) -> None:
        self.count = 0
        self.stream = iter(lambda: 0, 1)

    def up(self, step: int = 1) -> int:
        self.count += step
        return self.count


class Dice(random.Random):
    """A generator of its own."""


decorated = unlike(add)
double = lambda x: x * 2  # noqa: E731 - functions that have no other name exist
ten_more = functools.partial(add, 10)
cached = functools.lru_cache(add)
command = Command(add)
counter = Counter()
count_up = counter.up
dice = Dice(1)
roll = dice.random
