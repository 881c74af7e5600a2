"""Functions that know their queue: what ``Queue.job`` makes of a function.

1. The decorator gives back a function that calls the user's, so ``f(…)`` stays a plain call, here and in the worker:
   a worker imports the module and finds, under the function's name, what it is to call.
2. Beside that, the function has ``enqueue``, ``enqueue_many``, their asyncio forms and ``using``.
3. Of a method it makes an object: the ``enqueue`` of a plain function would not learn whose method it is.
4. Where it goes by value, as from ``__main__``, the queue does not go with it.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from kq.errors import ArgumentError, KQError
from kq.job import EnqueuedJob
from kq.producing.calls import HasTerms, Terms
from kq.producing.spec import EnqueueSpec, Sender
from kq.producing.window import Progress
from kq.retry import Retry

__all__ = ["JobFunction", "JobSpec", "job_function"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)


class JobSpec(HasTerms, Generic[P]):
    """How to enqueue one function: what :class:`JobFunction` has, and what its ``using`` returns."""

    def __init__(self, func: Callable[P, Any], sender: Sender, terms: Terms) -> None:
        self._func = func
        self._sender = sender
        self._terms = terms
        self._spec = EnqueueSpec(sender, terms)

    def __reduce__(self) -> Any:
        return _LeftBehind, ()

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> EnqueuedJob:
        """Enqueue a call; see :meth:`kq.Queue.enqueue`."""
        return self._spec.enqueue(self._func, *args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> EnqueuedJob:
        """Enqueue a call in asyncio code; see :meth:`kq.Queue.aenqueue`."""
        return await self._spec.aenqueue(self._func, *args, **kwargs)

    def enqueue_many(self, calls: Iterable[Any], *, on_progress: Progress | None = None) -> list[EnqueuedJob]:
        """Enqueue many calls; see :meth:`kq.Queue.enqueue_many`.

        :param calls: The arguments of each: a tuple or list of positional ones, or a dict of keyword ones.
        """
        return self._spec.enqueue_many(map(self._item, calls), on_progress=on_progress)

    async def aenqueue_many(
        self, calls: Iterable[Any] | AsyncIterable[Any], *, on_progress: Progress | None = None
    ) -> list[EnqueuedJob]:
        """Enqueue many calls in asyncio code, given as to :meth:`enqueue_many`; see :meth:`kq.Queue.aenqueue_many`."""
        items = self._items(calls) if isinstance(calls, AsyncIterable) else map(self._item, calls)
        return await self._spec.aenqueue_many(items, on_progress=on_progress)

    async def _items(self, calls: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async for arguments in calls:
            yield self._item(arguments)

    def _item(self, arguments: Any) -> Any:
        if isinstance(arguments, dict):
            return self._func, (), arguments
        if isinstance(arguments, (tuple, list)):
            return self._func, arguments
        raise ArgumentError("each call must be a tuple or list of positional arguments, or a dict of keyword ones")

    def using(
        self,
        timeout: float | int | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        *,
        headers: Sequence[tuple[str, bytes]] | None = None,
        delay: float | int | timedelta | None = None,
        at: datetime | float | int | None = None,
        expires: float | int | timedelta | datetime | None = None,
        retry: Retry | int | None = None,
    ) -> JobSpec[P]:
        """Return something to ``enqueue`` with, with other settings; see :meth:`kq.Queue.using`."""
        terms = self._terms.changed(timeout, key, partition, headers, delay, at, expires, retry)
        return JobSpec(self._func, self._sender, terms)


class JobFunction(JobSpec[P], Generic[P, R]):
    """A function decorated with :meth:`kq.Queue.job`: it is called as before, and can also be enqueued.

    Of a plain function the decorator makes a plain function with these methods. Of a method it makes an object of this
    class: it binds as a plain method does, and what it then is keeps its object where it is enqueued.
    """

    #: The function that was decorated.
    __wrapped__: Callable[..., Any]

    def __init__(self, plain: Any, sender: Sender, terms: Terms, is_of_class: bool) -> None:
        super().__init__(self, sender, terms)
        functools.update_wrapper(self, plain, updated=())
        self.__wrapped__ = plain.__wrapped__
        self._plain = plain
        self._is_of_class = is_of_class

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        result: R = self._plain(*args, **kwargs)
        return result

    @overload
    def __get__(self, instance: None, owner: type, /) -> JobFunction[P, R]: ...

    @overload
    def __get__(self: JobFunction[Concatenate[Any, Q], R], instance: object, owner: type, /) -> JobFunction[Q, R]: ...

    def __get__(self, instance: Any, owner: type, /) -> Any:
        bound_to = owner if self._is_of_class else instance
        return self if bound_to is None else BoundJob(MethodType(self, bound_to), self._sender, self._terms)

    def __reduce__(self) -> Any:
        path, _, name = self.__qualname__.rpartition(".")  # type: ignore[attr-defined]  # update_wrapper sets it
        home: Any = sys.modules.get(self.__module__)
        for part in path.split("."):
            home = getattr(home, part, None)
        found = getattr(home, name, None)
        if self.__module__ != "__main__" and found is self:
            return f"{path}.{name}"
        if self.__module__ != "__main__" and getattr(found, "__func__", None) is self:
            return operator.attrgetter(f"{name}.__func__"), (home,)
        # the class itself goes by value, with what it had without KQ
        return (classmethod, (self._plain,)) if self._is_of_class else (operator.itemgetter(0), ((self._plain,),))


class BoundJob(JobSpec[P]):
    """A method of one object, which can be called and enqueued."""

    def __init__(self, method: Any, sender: Sender, terms: Terms) -> None:
        super().__init__(method, sender, terms)
        functools.update_wrapper(self, method, updated=())
        self.__self__, self.__func__ = method.__self__, method.__func__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the method, here and now."""
        return self._func(*args, **kwargs)

    def __reduce__(self) -> Any:
        return getattr, (self.__self__, self._func.__name__)


def job_function(func: Callable[P, R], sender: Sender, terms: Terms) -> JobFunction[P, R]:
    """Return a function that calls another, and that can be enqueued."""
    if isinstance(func, staticmethod):
        return cast("JobFunction[P, R]", staticmethod(job_function(func.__func__, sender, terms)))
    is_of_class = isinstance(func, classmethod)
    plain: Any = getattr(func, "__func__", func) if is_of_class else func
    if not callable(plain):
        raise ArgumentError("first argument must be a callable")
    wrapper: Any = _calling_async(plain) if inspect.iscoroutinefunction(plain) else _calling(plain)
    spec = JobSpec(wrapper, sender, terms)
    wrapper.enqueue, wrapper.aenqueue, wrapper.using = spec.enqueue, spec.aenqueue, spec.using
    wrapper.enqueue_many, wrapper.aenqueue_many = spec.enqueue_many, spec.aenqueue_many
    within = getattr(plain, "__qualname__", "").rpartition(".")[0]
    is_method = within != "" and not within.endswith("<locals>")
    return cast("JobFunction[P, R]", JobFunction(wrapper, sender, terms, is_of_class) if is_method else wrapper)


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
    def _spec(self) -> EnqueueSpec:
        raise KQError("this function came by value, as from __main__, without its queue: put it into a module")

    _sender = _terms = _spec
