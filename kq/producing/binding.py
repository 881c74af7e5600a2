"""Whether a call fits its function: what a worker would only refuse is refused where it is enqueued.

The function's own code tells, behind methods, partials, classes and callable instances. Neither annotations nor
wrappers are asked: a decorator may pass other arguments than it gets. What has no readable signature fits.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from kq.errors import ArgumentError

__all__ = ["check_binding"]

#: The module whose functions and objects pass on all that they get to what they wrap.
_OURS = "kq.producing.decorator"
#: Reading a signature takes as long as all the rest of an ``enqueue``, so it is done once.
_signatures: weakref.WeakKeyDictionary[Any, inspect.Signature | None] = weakref.WeakKeyDictionary()


def check_binding(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise :class:`kq.ArgumentError` if a function cannot be called with these arguments."""
    target, before, given = _unfolded(func)
    if before or given:
        args, kwargs = (*before, *args), {**given, **kwargs}
    if type(target) is FunctionType and _takes(target, len(args), kwargs):
        return  # most calls
    signature = _signature(target) if type(target) in (FunctionType, BuiltinFunctionType) else None
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(f"{target.__qualname__}() {error}") from None


def _takes(func: FunctionType, count: int, kwargs: Mapping[str, Any]) -> bool:
    """Return whether a plain function surely takes a call; if not, its signature is asked."""
    code = func.__code__
    if code.co_kwonlyargcount or code.co_posonlyargcount:
        return False
    if count > code.co_argcount and not code.co_flags & inspect.CO_VARARGS:
        return False
    needed = code.co_argcount - len(func.__defaults__ or ())
    if not kwargs:
        return count >= needed
    names = code.co_varnames[count : code.co_argcount]
    return kwargs.keys() <= set(names) and kwargs.keys() >= set(names[: max(0, needed - count)])


def _unfolded(func: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return the function that a call ends in, and what it gets besides; something else where that cannot be told."""
    kind: Any = type(func)
    if kind is FunctionType:
        is_ours = func.__globals__.get("__name__") == _OURS and "__wrapped__" in vars(func)
        return _unfolded(func.__wrapped__) if is_ours else (func, (), {})
    if kind is MethodType:
        target, before, given = _unfolded(func.__func__)
        return target, (*before, func.__self__), given
    if kind is functools.partial:
        target, before, given = _unfolded(func.func)
        return target, before + func.args, {**given, **func.keywords}
    if kind is BuiltinFunctionType:
        return func, (), {}
    if kind.__module__ == _OURS:
        return _unfolded(func.__wrapped__)
    if kind is type:
        return (_raw(func, "__init__") if func.__new__ is object.__new__ else None), (None,), {}
    return _raw(kind, "__call__"), (func,), {}


def _raw(kind: type, name: str) -> Any:
    """Return a method as its class, or a base, has it: not bound, and nothing is called to get it."""
    return next(vars(base)[name] for base in kind.__mro__ if name in vars(base))


def _signature(target: Any) -> inspect.Signature | None:
    if target not in _signatures:
        bare = target
        if type(target) is FunctionType:  # the same code and defaults, and nothing else that would be asked
            bare = FunctionType(target.__code__, {}, None, target.__defaults__, target.__closure__)
            bare.__kwdefaults__ = target.__kwdefaults__
        try:
            _signatures[target] = inspect.signature(bare)
        except (TypeError, ValueError):
            _signatures[target] = None
    return _signatures[target]
