"""Text about things whose own ``repr`` and ``str`` may fail.

1. The queue and the worker log jobs: functions and arguments that somebody else wrote.
2. Whatever those raise while they are turned into text, the text is made and the job goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from kq.errors import ArgumentError

__all__ = ["MASKED", "call_repr", "get_call_repr", "hides_arguments", "safe_repr", "safe_str", "type_name"]

#: Stands for what is to stay out of what KQ writes.
MASKED = "***"
#: The variable that says so where the program does not, and what it may hold.
_VARIABLE = "KQ_LOG_ARGUMENTS"
_WORDS = {"": False, "1": False, "true": False, "yes": False, "0": True, "false": True, "no": True}
#: What bears a name of its own. No class can derive from these, so ``type()`` finds them all and runs nobody's code,
#: which ``isinstance`` would: it asks the object for its ``__class__``.
_NAMED = (FunctionType, BuiltinFunctionType, MethodType)


def get_call_repr(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
    """Return a function call as text: ``module.name(1, 2, a=3)``.

    Functions, builtins and methods appear by their qualified name, callable instances by the name of their class,
    classes and everything else by their repr. Keyword arguments are sorted.

    :param func: What is called.
    :param args: Positional arguments of the call.
    :param kwargs: Keyword arguments of the call.
    """
    texts = [safe_repr(arg) for arg in args]
    texts += [f"{name}={safe_repr(kwargs[name])}" for name in sorted(kwargs)]
    return f"{_name(func)}({', '.join(texts)})"


def call_repr(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], hides: bool) -> str:
    """Return a function call as text, without its arguments where these are to stay out."""
    if not hides:
        return get_call_repr(func, *args, **kwargs)
    return f"{_name(func)}({MASKED if args or kwargs else ''})"


def hides_arguments(log_arguments: bool | None) -> bool:
    """Return whether arguments, results and keys are to stay out of what KQ writes.

    :param log_arguments: What the program says; None for what the environment does.
    :raises kq.ArgumentError: One of them says something else.
    """
    if log_arguments is None:
        text = os.environ.get(_VARIABLE, "").strip().lower()
        if text not in _WORDS:
            raise ArgumentError(f"{_VARIABLE} must be 0 or 1")
        return _WORDS[text]
    if not isinstance(log_arguments, bool):
        raise ArgumentError("log_arguments must be True, False or None")
    return not log_arguments


def safe_repr(obj: object) -> str:
    """Return the repr of an object, or ``<unprintable ClassName>`` where that raises."""
    return _text(repr, obj)


def safe_str(obj: object) -> str:
    """Return an object as ``str`` does, or ``<unprintable ClassName>`` where that raises."""
    return _text(str, obj)


def type_name(kind: type) -> str:
    """Return the dotted name of a class, whatever a metaclass says of it: ``module.Outer.Inner``."""
    names: list[str] = []
    for name in ("__module__", "__qualname__"):
        try:
            names.append(str(type.__getattribute__(kind, name)))
        except AttributeError:
            names.append("?")
    return ".".join(names)


def _name(func: Any) -> str:
    if issubclass(type(func), type) or not callable(func):
        return safe_repr(func)
    try:
        if type(func) in _NAMED:
            return f"{func.__module__}.{func.__qualname__}"
        return f"{func.__module__}.{_class_name(func)}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a name that cannot be read: the repr stands in
        return safe_repr(func)


def _text(convert: Callable[[object], str], obj: object) -> str:
    try:
        # a subclass of str would bring methods of its own, which may raise when the text is used
        return str.__str__(convert(obj))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - sys.exit() in a repr is no reason to end a worker: the class's name stands in
        return f"<unprintable {_class_name(obj)}>"


def _class_name(obj: object) -> str:
    """Return the name of an object's class, whatever the object or a metaclass says of it."""
    name: str = type.__dict__["__name__"].__get__(type(obj))
    return name
