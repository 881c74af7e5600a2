"""Jobs that are coroutine functions: an event loop a thread, made at first use and kept.

1. ``complete`` takes what a call returned. Anything but a coroutine is the result already.
2. A coroutine runs to its end on this thread's event loop.
3. After an interrupt the loop is thrown away with the tasks that are left on it.
"""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["close", "complete", "wake"]

_local = threading.local()
#: Thread ID -> its event loop: an interrupt from another thread must wake a loop that waits.
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def complete(result: Any) -> Any:
    """Return the result of a call, after running it if it is a coroutine."""
    if not inspect.iscoroutine(result):
        return result
    loop = _event_loop()
    try:
        return loop.run_until_complete(result)
    except BaseException:
        _throw_away(loop)
        raise


def close() -> None:
    """Close the event loop of this thread, if it has one."""
    loop = getattr(_local, "loop", None)
    if loop is not None and not loop.is_closed():
        _throw_away(loop)


def wake(thread_id: int) -> None:
    """Have the event loop of a thread, if there is one, run bytecode soon."""
    loop = _loops.get(thread_id)
    if loop is not None and not loop.is_closed():
        loop.call_soon_threadsafe(int)


def _event_loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop | None = getattr(_local, "loop", None)
    if loop is None or loop.is_closed():
        import asyncio  # most jobs are not coroutines, and a child that needs no event loop should not pay for one

        loop = _local.loop = asyncio.new_event_loop()
        _loops[threading.get_ident()] = loop
    return loop


def _throw_away(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    _local.loop = None
    _loops.pop(threading.get_ident(), None)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
