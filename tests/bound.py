"""Functions, classes and decorated methods, whose calls are checked."""

from __future__ import annotations

import functools
from typing import Any

import kq

queue = kq.Queue("nowhere", hosts="127.0.0.1:1")


def pair(a: Any, b: Any) -> tuple[Any, Any]:
    return a, b


def odd(a: Any, /, *, c: Any) -> tuple[Any, Any]:
    return a, c


def anything(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


async def later(seconds: float) -> float:
    return seconds


def inject(func: Any) -> Any:
    """Pass a first argument that the caller does not give."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func("session", *args, **kwargs)

    return wrapper


@inject
@queue.job()
def injected(session: str, x: Any) -> tuple[str, Any]:
    return session, x


def pretender(*args: Any) -> Any:
    return args


pretender.__signature__ = "none"  # type: ignore[attr-defined]


@queue.job()
def double(number: int) -> int:
    return number * 2


class Meta(type):
    """Takes other arguments than its class."""

    def __call__(cls, *args: Any) -> Any:
        return super().__call__(sum(args))


class Made(metaclass=Meta):
    def __init__(self, total: int) -> None:
        self.total = total


class Strange:
    """Can be called, but not as its class says."""

    __call__ = staticmethod(anything)


class Alarmed:
    """Raises if it is touched."""

    __signature__ = property(lambda self: 1 / 0)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __hash__(self) -> int:
        raise AssertionError("hashed")

    def __call__(self, x: Any) -> Any:
        return x

    def method(self, x: Any) -> Any:
        return x


class Mailer:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> str:
        return self.name

    def plain(self, to: str) -> str:
        return f"{self.name} to {to}"

    @classmethod
    def made(cls, name: str) -> Any:
        return cls(name).name

    @staticmethod
    def helper(x: Any) -> Any:
        return x

    @queue.job()
    def send(self, to: str) -> str:
        """Send."""
        return f"{self.name} to {to}"

    @queue.job()
    @classmethod
    def build(cls, name: str) -> str:
        return f"{cls.__name__} {name}"

    @staticmethod
    @queue.job()
    def shout(text: str) -> str:
        return text.upper()

    @queue.job()
    @staticmethod
    def whisper(text: str) -> str:
        return text.lower()

    @queue.job()
    async def later(self, to: str) -> str:
        return f"{self.name} later to {to}"


class Express(Mailer):
    pass
