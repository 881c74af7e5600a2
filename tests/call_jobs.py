"""Jobs that fork, that leave things behind on an event loop, that run nothing, and hooks around jobs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from journal import note

# -- forks -------------------------------------------------------------------------------------------------------------


def fork_and(way: str) -> int:
    """Fork, and let the copy come back; return how that ends."""
    pid = os.fork()
    if pid == 0:
        _come_back(way)
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def fork_on_the_loop_and(way: str) -> int:
    await asyncio.sleep(0)
    return fork_and(way)


def _come_back(way: str) -> None:
    if way == "print":
        sys.stdout.write("printed by the copy\n")
    elif way == "raise":
        raise ValueError("raised by the copy")
    elif way == "text":
        sys.exit("said by the copy")
    elif way != "return":
        sys.exit(int(way))


# -- exceptions from outside -------------------------------------------------------------------------------------------


def raise_later_in_this_thread(seconds: float) -> None:
    """Return, and have an exception raised in this thread afterwards, as helpers for timeouts do that come too late."""
    thread = threading.get_ident()

    def throw() -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(ZeroDivisionError))

    threading.Timer(seconds, throw).start()


class InterruptingText:
    """A result whose text raises what ``safe_str`` lets through."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt


def give_interrupting_text() -> InterruptingText:
    return InterruptingText()


# -- event loops -------------------------------------------------------------------------------------------------------


class Client:
    """Bound to the event loop of its first use, as pools of connections and HTTP sessions are."""

    loop: asyncio.AbstractEventLoop | None = None

    async def get(self) -> str:
        if Client.loop is None:
            Client.loop = asyncio.get_running_loop()
        if Client.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        await asyncio.sleep(0)
        return "got"


client = Client()
_kept: list[Any] = []


async def fetch() -> str:
    return await client.get()


async def fail() -> None:
    await client.get()
    raise ValueError("one bad job")


async def wait_for_ever() -> None:
    await client.get()
    await asyncio.sleep(600)


async def leave_a_task(path: str) -> str:
    async def background() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            note(path, "ended", "background")

    _kept.append(asyncio.create_task(background()))
    await asyncio.sleep(0)
    return await client.get()


async def leave_a_stubborn_task(way: str = "kept") -> str:
    async def stubborn() -> None:
        while True:  # when it is freed, no loop runs: what sleeps raises, and this never ends
            try:
                await (asyncio.sleep(1) if way == "kept" else asyncio.get_running_loop().create_future())
            except BaseException:
                pass

    task = asyncio.create_task(stubborn())
    if way == "kept":
        _kept.append(task)
    await asyncio.sleep(0)
    return "left"


async def leave_a_task_that_is_nearly_done() -> None:
    _kept.append(asyncio.create_task(asyncio.sleep(0)))


async def leave_a_generator(path: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            note(path, "closed", "generator")

    generator = numbers()
    _kept.append(generator)
    await anext(generator)


# -- work that is not run ----------------------------------------------------------------------------------------------


def steps(path: str) -> Iterator[int]:
    note(path, "ran", "steps")
    yield 1


async def async_steps(path: str) -> AsyncIterator[int]:
    note(path, "ran", "async steps")
    yield 1


def lazy_map(path: str) -> Any:
    return map(note, [path], ["ran"], ["map"])


async def forget_to_await(path: str) -> Any:
    return note_later(path)


def give_future() -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.create_task(note_later(os.devnull))
    finally:
        loop.close()


async def give_task(path: str) -> Any:
    return asyncio.create_task(note_later(path, 0.05))


async def note_later(path: str, seconds: float = 0) -> str:
    await asyncio.sleep(seconds)
    note(path, "ran", "later")
    return "ran"


class Request:
    """An object that can be awaited, as HTTP clients return it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __await__(self) -> Any:
        return note_later(self.path).__await__()


def give_coroutine(path: str) -> Any:
    return note_later(path)


def give_awaitable(path: str) -> Any:
    return Request(path)


def give_done_future() -> Any:
    loop = asyncio.new_event_loop()
    try:
        future = loop.create_future()
        future.set_result(7)
        return future
    finally:
        loop.close()


# -- hooks -------------------------------------------------------------------------------------------------------------

current: contextvars.ContextVar[str] = contextvars.ContextVar("current")


@contextlib.contextmanager
def context() -> Iterator[None]:
    """Set what jobs look for, as an application context does."""
    token = current.set("shop")
    try:
        yield
    finally:
        current.reset(token)


def read_context() -> str:
    return current.get()


async def read_context_on_the_loop() -> str:
    await asyncio.sleep(0)
    return current.get()


@contextlib.contextmanager
def noting() -> Iterator[None]:
    """Write down what a session would do; the path comes by the environment."""
    path = os.environ["KQ_TEST_NOTES"]
    note(path, "enter", threading.get_ident())
    try:
        yield
    except BaseException as error:
        note(path, "roll-back", type(error).__name__)
        raise
    else:
        note(path, "commit", threading.get_ident())


@contextlib.contextmanager
def swallowing() -> Iterator[None]:
    with contextlib.suppress(BaseException):
        yield


@contextlib.contextmanager
def cannot_enter() -> Iterator[None]:
    raise ConnectionError("no session")
    yield


@contextlib.contextmanager
def cannot_leave() -> Iterator[None]:
    yield
    raise ConnectionError("no commit")
