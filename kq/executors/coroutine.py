"""Jobs that are coroutine functions: an event loop a thread, made at first use and kept.

1. ``run`` runs a coroutine to its end on this thread's event loop. Whatever it raises, the loop is kept: clients that
   later jobs use are bound to it.
2. Tasks that the job leaves behind are cancelled and awaited. They would go on only while another job runs.
3. A loop is replaced only where it is of no more use: a task ignores its cancellation, or an interrupt hit the loop
   itself.
4. ``close`` closes the loop when its thread ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["close", "run", "wake"]

_logger = logging.getLogger("kq.executors")

#: Seconds that cancelled tasks have to end, and asynchronous generators to close: enough for a goodbye to a server.
GRACE = 1.0

#: Thread ID -> its event loop: an interrupt from another thread must wake a loop that waits.
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def run(main: Coroutine[Any, Any, Any], job_id: Any) -> Any:
    """Run the coroutine of a job, end the tasks that it leaves behind, and return its result."""
    loop = _event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        is_free = False
        try:
            is_free = _end_tasks(loop, main, job_id)
        finally:
            if not is_free:
                _let_go(loop)
                _logger.error("The event loop of job %s is abandoned, and with it all clients that use it", job_id)


def close() -> None:
    """Close the event loop of this thread, if it has one, within about ``GRACE`` seconds."""
    loop = _loops.get(threading.get_ident())
    if loop is None:
        return
    try:
        if _is_usable(loop):
            import asyncio

            closing = loop.create_task(loop.shutdown_asyncgens())
            loop.run_until_complete(asyncio.wait([closing], timeout=GRACE))
    except BaseException:  # the door of user code: generators clean up
        _logger.exception("An asynchronous generator failed to close:")
    finally:
        _let_go(loop)


def wake(thread_id: int) -> None:
    """Have the event loop of a thread, if there is one, run bytecode soon."""
    loop = _loops.get(thread_id)
    if loop is not None:
        with contextlib.suppress(RuntimeError):  # it was closed
            loop.call_soon_threadsafe(int)


def _event_loop() -> asyncio.AbstractEventLoop:
    loop = _loops.get(threading.get_ident())
    if loop is None or not _is_usable(loop):
        import asyncio  # most jobs are not coroutines, and a child that needs no event loop should not pay for one

        loop = _loops[threading.get_ident()] = asyncio.new_event_loop()
    return loop


def _is_usable(loop: asyncio.AbstractEventLoop) -> bool:
    return not (loop.is_closed() or loop.is_running())


def _end_tasks(loop: asyncio.AbstractEventLoop, main: Any, job_id: Any) -> bool:
    """End what is left on a loop; return whether nothing is, so that it can be used on."""
    import asyncio

    if not _is_usable(loop):
        return False
    if not asyncio.all_tasks(loop):
        return True
    loop.run_until_complete(asyncio.sleep(0))  # some have only their last step to do
    left = asyncio.all_tasks(loop)
    names = sorted(_name(task) for task in left if task.get_coro() is not main)
    if names:
        _logger.warning("Job %s left tasks behind, which are cancelled: %s", job_id, ", ".join(names))
    deadline = loop.time() + GRACE
    while left and loop.time() < deadline:
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=deadline - loop.time()))
        left = asyncio.all_tasks(loop)
    if left:
        _logger.error("Tasks of job %s ignore their cancellation: %s", job_id, ", ".join(map(_name, left)))
        _let_go(loop)  # while they are referred to here
    return not left


def _name(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", task.get_name()))


def _let_go(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop; the thread gets another when it needs one."""
    import asyncio

    for task in asyncio.all_tasks(loop):
        # never freed, also not as Python ends: that raises in the coroutine, and one that catches everything would spin
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))
    _loops.pop(threading.get_ident(), None)
    if loop.is_running():  # an interrupt hit it as it began or ended to run: it cannot be closed, and is in the way
        asyncio._set_running_loop(None)
    else:
        loop.close()
