"""Functions that know their queue: what ``Queue.job`` makes of a function.

1. The decorator gives back a function that calls the user's, so ``f(…)`` stays a plain call, here and in the worker:
   a worker imports the module and finds, under the function's name, what it is to call.
2. Beside that, the function has ``enqueue``, ``aenqueue`` and ``using``.
3. Where it goes by value, as from ``__main__``, the queue does not go with it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from kq.errors import ArgumentError, KQError
from kq.job import Job

__all__ = ["JobFunction", "JobSpec", "job_function"]

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Spec(Protocol):
    """What ``Queue.using`` returns."""

    def enqueue(self, obj: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job: ...

    async def aenqueue(self, obj: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job: ...


class JobSpec(Generic[P]):
    """How to enqueue one function: what :class:`JobFunction` has, and what its ``using`` returns."""

    def __init__(self, func: Callable[P, Any], using: Callable[..., Spec], terms: dict[str, Any]) -> None:
        self._func = func
        self._using = using
        self._terms = terms
        self._spec = using(**terms)

    def __reduce__(self) -> tuple[type[_LeftBehind], tuple[()]]:
        return _LeftBehind, ()

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue a call; see :meth:`kq.Queue.enqueue`."""
        return self._spec.enqueue(self._func, *args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue a call in asyncio code; see :meth:`kq.Queue.aenqueue`."""
        return await self._spec.aenqueue(self._func, *args, **kwargs)

    def using(
        self,
        timeout: float | int | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        *,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> JobSpec[P]:
        """Return something to ``enqueue`` with, with other settings; see :meth:`kq.Queue.using`."""
        given = {"timeout": timeout, "key": key, "partition": partition, "headers": headers}
        changed = {name: value for name, value in given.items() if value is not None}
        return JobSpec(self._func, self._using, {**self._terms, **changed})


class JobFunction(Protocol[P, R]):
    """A function decorated with :meth:`kq.Queue.job`: still a plain function, which can also be enqueued."""

    #: The function that was decorated.
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue a call; see :meth:`kq.Queue.enqueue`."""

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue a call in asyncio code; see :meth:`kq.Queue.aenqueue`."""

    def using(
        self,
        timeout: float | int | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        *,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> JobSpec[P]:
        """Return something to ``enqueue`` with, with other settings; see :meth:`kq.Queue.using`."""


def job_function(func: Callable[P, R], using: Callable[..., Spec], terms: dict[str, Any]) -> JobFunction[P, R]:
    """Return a function that calls another, and that can be enqueued."""
    if not callable(func):
        raise ArgumentError("first argument must be a callable")
    wrapper: Any = _calling_async(func) if inspect.iscoroutinefunction(func) else _calling(func)
    spec = JobSpec(wrapper, using, terms)
    wrapper.enqueue, wrapper.aenqueue, wrapper.using = spec.enqueue, spec.aenqueue, spec.using
    return cast("JobFunction[P, R]", wrapper)


def _calling(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


def _calling_async(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await func(*args, **kwargs)

    return wrapper


class _LeftBehind:
    """Stands for a ``JobSpec`` where its function came by value."""

    @property
    def _spec(self) -> Spec:
        raise KQError("this function came by value, as from __main__, without its queue: put it into a module")

    _using = _terms = _spec
