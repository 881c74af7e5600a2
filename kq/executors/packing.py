"""Packing: results and exceptions as bytes, made where the job ran.

The result of a job that came as JSON goes on as JSON, and its exception as words: nothing of it is ever unpickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import dill

from kq.errors import RemoteError
from kq.executors.telling import told
from kq.serializers import JSONSerializer, safe_loads
from kq.utils import safe_str

__all__ = ["PLAIN", "pack", "pack_error", "why_not"]

#: Types that any process can unpickle, so that it need not be tried.
PLAIN = (type(None), bool, int, float, str, bytes)


def pack(thing: Any, errors: list[BaseException], serializer: JSONSerializer | None = None) -> bytes | None:
    """Return a result so that another process can read it: whatever unpickling does, it does here first; else None.

    :param errors: Gets why it cannot be packed.
    :param serializer: Writes it, where it is to be JSON.
    """
    if serializer is None:
        return pickle.dumps(thing, pickle.HIGHEST_PROTOCOL) if type(thing) in PLAIN else _pickled(thing, errors)
    try:
        return serializer.pack(thing)
    except BaseException as error:  # the door of the user's object: its fields may be properties  # noqa: BLE001
        errors.append(error)
        return None


def pack_error(error: BaseException) -> bytes:
    """Return an exception as bytes; one that would not come back as what it is, by its name and text."""
    name = type(error).__name__
    packed = _pickled(error, [], lambda copy: isinstance(copy, BaseException) and type(copy).__name__ == name)
    return packed or pickle.dumps(RemoteError(type(error).__qualname__, safe_str(error)))


def why_not(errors: list[BaseException], hides: bool = False) -> str:
    """Return why something could not be packed, in words; "" where nothing was wrong."""
    return f"{type(errors[0]).__name__}: {told(errors[0], hides)}" if errors else ""


def _pickled(thing: Any, errors: list[BaseException], is_good: Callable[[Any], bool] = lambda _: True) -> bytes | None:
    for dumps in (pickle.dumps, dill.dumps):
        try:
            packed: bytes = dumps(thing)
            if is_good(safe_loads(packed)):
                return packed
        except BaseException as error:  # the door of user code: __reduce__ may raise anything  # noqa: BLE001
            errors.append(error)
    return None
