"""Things that belong to one process, and what holds them: arguments that no job may have."""

from __future__ import annotations

import contextlib
import functools
import mmap
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Holder:
    """Holds something, and can be called."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __call__(self, *_: Any) -> None:
        pass

    def use(self) -> None:
        pass


def numbers() -> Iterator[int]:
    yield 1


async def nothing() -> None:
    pass


async def steps() -> Any:
    yield 1


@contextlib.contextmanager
def opened(kind: str, folder: Path) -> Iterator[Any]:
    """Give one thing of a kind, and close it afterwards."""
    thing = _MAKERS[kind](folder)
    try:
        yield thing
    finally:
        close = getattr(thing, "close", None)
        if close is not None:
            with contextlib.suppress(TypeError):
                close()


def _file(mode: str, **options: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        path = folder / "lines"
        path.write_bytes(b"precious lines")
        return open(path, mode, **options)

    return make


def _traceback() -> Any:
    try:
        raise ValueError
    except ValueError as error:
        return error.__traceback__


def _process(_: Path) -> Any:
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.PIPE)
    process.communicate()
    return process


_MAKERS: dict[str, Callable[[Path], Any]] = {
    "text": _file("r"),
    "text to write": _file("r+"),
    "binary": _file("rb"),
    "binary to append": _file("ab"),
    "binary for both": _file("rb+"),
    "raw": _file("rb", buffering=0),
    "temporary": lambda _: tempfile.TemporaryFile(),  # noqa: SIM115
    "temporary with a name": lambda _: tempfile.NamedTemporaryFile(),  # noqa: SIM115
    "temporary text": lambda _: tempfile.TemporaryFile("w+"),  # noqa: SIM115
    "socket": lambda _: socket.socket(),
    "file of a socket": lambda _: socket.socket().makefile("rb"),
    "connection": lambda _: multiprocessing.Pipe()[0],
    "descriptor as a file": lambda _: os.fdopen(os.open(os.devnull, os.O_RDONLY)),
    "memory map": lambda _: mmap.mmap(-1, 10),
    "database": lambda _: sqlite3.connect(":memory:"),
    "lock": lambda _: threading.Lock(),
    "recursive lock": lambda _: threading.RLock(),
    "event": lambda _: threading.Event(),
    "thread": lambda _: threading.Thread(),
    "process": _process,
    "generator": lambda _: numbers(),
    "coroutine": lambda _: nothing(),
    "asynchronous generator": lambda _: steps(),
    "frame": lambda _: sys._getframe(),
    "traceback": lambda _: _traceback(),
}
KINDS = list(_MAKERS)

#: Ways to hide a thing in an argument.
WRAPS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda thing: thing,
    "in a list": lambda thing: [1, [thing]],
    "in a dict": lambda thing: {"a": {"b": thing}},
    "in an instance": Holder,
    "in a closure": lambda thing: lambda: thing,
    "in a default": lambda thing: functools.partial(print, file=thing),
    "in a method": lambda thing: Holder(thing).use,
    "beside a lambda": lambda thing: (lambda: 1, thing),
}
