"""What crosses from a child to its parent: results and exceptions.

1. The child packs, and unpickles what it has packed: whatever that does, it does there first.
2. The parent unpacks. Whatever is raised there becomes a warning: no payload ends the worker.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any

import dill

from kq.errors import ChildTraceback, RemoteError
from kq.serializers import safe_loads
from kq.utils import safe_str

__all__ = ["PLAIN", "Packed", "pack", "pack_error", "unpack", "unpack_error"]

_logger = logging.getLogger("kq.executors")

#: Types that any process can unpickle, so that it need not be tried.
PLAIN = (type(None), bool, int, float, str, bytes)
#: Pickled, or in a tuple as it is, or nothing.
Packed = bytes | tuple[Any] | None


# -- in the child ------------------------------------------------------------------------------------------------------


def pack(thing: Any, is_good: Callable[[Any], bool] = lambda _: True) -> Packed:
    """Return bytes that can be unpickled, which is tried here; None if there are none.

    What any process can unpickle is returned as it is, in a tuple.
    """
    if type(thing) in PLAIN:
        return (thing,)
    for dumps in (pickle.dumps, dill.dumps):
        try:
            packed: bytes = dumps(thing)
            if is_good(safe_loads(packed)):
                return packed
        except BaseException:  # the door of user code: __reduce__ and __init__ may raise anything  # noqa: BLE001
            continue
    return None


def pack_error(error: BaseException) -> Packed:
    """Return an exception as bytes; one that would not come back as what it is, by its name and text."""
    for name in ("__traceback__", "__cause__", "__context__"):  # frames cannot cross; the text does
        BaseException.__setattr__(error, name, None)  # its class may have another way, which may raise
    name = type(error).__name__
    packed = pack(error, lambda copy: isinstance(copy, BaseException) and type(copy).__name__ == name)
    return packed or pickle.dumps(RemoteError(type(error).__qualname__, safe_str(error)))


# -- in the parent -----------------------------------------------------------------------------------------------------


def unpack(packed: Packed) -> Any:
    """Return what a child has packed; None where this process cannot read it."""
    if packed is None or isinstance(packed, tuple):
        return packed and packed[0]
    try:
        return safe_loads(packed)
    except BaseException as error:  # the door of user code: the child could, this process cannot  # noqa: BLE001
        _logger.warning(
            "What a job returned or raised cannot be read here: %s: %s", type(error).__name__, safe_str(error)
        )
        return None


def unpack_error(packed: Packed, stacktrace: str) -> BaseException | None:
    """Return the exception that a child has packed, with the child's traceback as its cause."""
    if packed is None:
        return None
    unpacked = unpack(packed)
    last_line = stacktrace.rstrip().rpartition("\n")[2]
    error = unpacked if isinstance(unpacked, BaseException) else RemoteError(last_line)
    BaseException.__setattr__(error, "__cause__", ChildTraceback(stacktrace))  # its class may refuse attributes
    return error
