"""The call of a job: inside its context manager, to its end, and only in the process that began it.

1. ``Caller.call`` enters ``around``, calls the function, and awaits what it returned if that can be awaited.
2. A function that has run nothing, because it contains ``yield`` for instance, has failed.
3. A fork that returns from user code ends there. It has all that the worker has, and would go on as a second one.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from kq.executors import coroutine
from kq.utils import get_call_repr

__all__ = ["Around", "Caller"]

Around = Callable[[], AbstractContextManager[Any]]

#: Results whose work begins only when somebody goes through them.
_LAZY = (types.GeneratorType, types.AsyncGeneratorType, map, filter)
#: Seconds that a forked copy has to flush: a stream may be locked for ever, by a thread that the copy does not have.
_FLUSH_WAIT = 2.0


class Caller:
    """Calls jobs in this process. As a context manager it guards other code of the user's against forks.

    :param around: Returns the context manager around each call.
    :param leave: Called with the exception, if any, where a fork returns from user code; it ends the fork.
    """

    def __init__(
        self, around: Around | None = None, leave: Callable[[BaseException | None], None] | None = None
    ) -> None:
        self._around = around
        self._leave = leave or _end_copy
        self._generation = _generation[0]

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._generation != _generation[0]:
            self._leave(error)

    def call(self, job_id: Any, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function of a job, and return its result."""
        if self._around is None:
            return self._complete(job_id, func, args, kwargs)
        errors = []
        with self._around():
            try:
                return self._complete(job_id, func, args, kwargs)
            except BaseException as error:
                errors.append(error)
                raise
        raise errors.pop()  # it was swallowed, but there is no result: the job has failed

    def _complete(self, job_id: Any, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        with self:
            result = func(*args, **kwargs)
        kind = type(result)
        if not (hasattr(kind, "__await__") or issubclass(kind, _LAZY)):
            return result
        if inspect.isawaitable(result) and not _is_future(result):
            result = coroutine.run(self._await(result), job_id)
        return _check_ran(func, result)

    async def _await(self, awaitable: Any) -> Any:
        with self:
            return await awaitable


#: How many forks lie between this process and the first of its kind. To ask for the process ID is a system call, and
#: callers ask several times for each job.
_generation = [0]


def _after_fork_in_child() -> None:
    _generation[0] += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _is_future(result: Any) -> bool:
    return hasattr(type(result), "_asyncio_future_blocking")


def _check_ran(func: Callable[..., Any], result: Any) -> Any:
    """Return a result; raise if it is work that was not run."""
    if _is_future(result):
        if (result.done() and not result.cancelled()) or result.get_loop().is_running():  # in some other thread
            return result
    elif not issubclass(type(result), (*_LAZY, types.CoroutineType)):
        return result
    # closed, it does not complain that it was never awaited
    work = result.get_coro() if hasattr(result, "get_coro") else result
    if hasattr(work, "close"):
        work.close()
    raise TypeError(
        f"{get_call_repr(func)[:-2]} ran nothing: it returned a {type(result).__name__}. If it contains yield, enqueue "
        "a function that calls list(…) on what it returns, or goes through it by async for; else one that awaits it"
    )


def _end_copy(error: BaseException | None) -> None:
    """End this process, a fork of the worker, as Python would end it, but without the worker's exit handlers."""
    left = error.code if isinstance(error, SystemExit) else error
    try:
        teller = threading.Thread(target=_tell_and_flush, args=(left,), daemon=True)
        teller.start()
        teller.join(_FLUSH_WAIT)
    finally:
        os._exit(left & 0xFF if isinstance(left, int) else int(left is not None))


def _tell_and_flush(left: Any) -> None:
    if isinstance(left, BaseException):
        sys.excepthook(type(left), left, left.__traceback__)
    elif not isinstance(left, (int, type(None))):
        sys.stderr.write(f"{left}\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # there may be none, and it may be closed
            stream.flush()
