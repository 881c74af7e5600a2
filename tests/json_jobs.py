"""Jobs and classes for JSON, in a module that a worker can import."""

from __future__ import annotations

import os
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from math import hypot  # noqa: F401 - something that is not the module's own
from pathlib import Path
from typing import Any

from kq import current_job

__all__ = ["Box", "Color", "Computed", "Given", "Grade", "Grumpy", "Perm", "Point", "Spoilt", "add", "give", "where"]


class Color(Enum):
    RED = "r"
    GREEN = "g"
    ROUGE = "r"  # noqa: PIE796 - another name of a member


class Grade(IntEnum):
    LOW = 1
    HIGH = 2


class Perm(Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass
class Box:
    content: Any
    name: str = ""


@dataclass
class Computed:
    side: int
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.area = self.side**2


@dataclass
class Given:
    factor: InitVar[int]
    number: int = 0

    def __post_init__(self, factor: int) -> None:
        self.number = factor


@dataclass
class Spoilt:
    """Has a field whose reading fails."""

    name: str = ""

    def __getattribute__(self, name: str) -> Any:
        if name == "name":
            raise KeyError(name)
        return super().__getattribute__(name)


class Grumpy(Exception):
    """Cannot be made of its arguments, and tells who unpickles it."""

    def __init__(self, path: str, more: int) -> None:
        super().__init__(f"grumpy about {path}")
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def add(one: Any, other: Any = 1) -> Any:
    return one + other


def give(value: Any) -> Any:
    return value


def box(value: Any) -> Box:
    return Box(value, "b")


def canary(path: str) -> object:
    """Return what makes a directory where it is unpickled."""

    class Canary:
        def __reduce__(self) -> Any:
            return os.mkdir, (path,)

    return Canary()


def bring_up(path: str) -> None:
    raise Grumpy(path, 1)


def leave(code: int) -> None:
    raise SystemExit(code)


def touch(path: str) -> None:
    Path(path).touch()


def price(amount: Decimal) -> Decimal:
    return amount * 2


def bound_memory() -> None:
    """Let this process have no more than 48 MB beyond what it has now."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (48 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def where() -> Any:
    context = current_job()
    assert context is not None
    return context.topic, context.key


def _hidden() -> None:
    pass


class Tool:
    @staticmethod
    def run() -> None:
        pass


tool = Tool()


def signers() -> int:
    """Return how many signers there are in this process."""
    import gc

    return sum(type(one).__name__ in ("Signer", "_Key") for one in gc.get_objects())
