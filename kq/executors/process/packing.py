"""Packing between a child and its worker: what a job returned or raised.

1. A child packs: plain data as it is, the rest as bytes. What cannot cross is told in words.
2. The worker unpacks. No payload ends it. By what a job's result crosses the worker knows from the job's own value, and
   need not believe the child.
"""

from __future__ import annotations

from typing import Any

from kq.errors import ChildLost, ChildTraceback, JobExpired, RemoteError
from kq.executors import packing
from kq.executors.lines import warn_own
from kq.executors.process.protocol import Packed, Result
from kq.executors.telling import told
from kq.serializers import JSONSerializer, safe_loads
from kq.utils import type_name

__all__ = ["pack", "pack_error", "unpack", "unpack_error"]

#: KQ's own failures, which a child tells of: they are what they were, also where the job's are words.
_LOST, _EXPIRED = type_name(ChildLost), type_name(JobExpired)


def pack(thing: Any, errors: list[BaseException], serializer: JSONSerializer | None, as_bytes: bool) -> Packed:
    """Return a result so that the worker can read it; else None.

    :param errors: Gets why it cannot cross.
    :param serializer: Writes it, where it is to be JSON.
    :param as_bytes: Whether it goes on as bytes, also where it is plain data.
    """
    if type(thing) in packing.PLAIN and not as_bytes:
        return (thing,)
    return packing.pack(thing, errors, serializer)


def pack_error(error: BaseException, serializer: JSONSerializer | None) -> Packed:
    """Return an exception as bytes; one that would not come back as what it is, by its name and text.

    :param serializer: If the job came as JSON: then only an exit code, for the words are told in any case.
    """
    if serializer is not None:
        return (error.exitcode,) if isinstance(error, ChildLost) and type(error.exitcode) is int else None
    for name in ("__traceback__", "__cause__", "__context__"):  # frames cannot cross; the text does
        BaseException.__setattr__(error, name, None)  # its class may have another way, which may raise
    return packing.pack_error(error)


def unpack(packed: Packed, serializer: JSONSerializer | None, hides: bool = False) -> Any:
    """Return what a child has packed; None, and a warning, where this process cannot read it: no payload ends it."""
    if packed is None or isinstance(packed, tuple):
        return packed and packed[0]
    try:
        return safe_loads(packed) if serializer is None else serializer.unpack(packed)
    except BaseException as error:  # the door of user code: the child could, this process cannot  # noqa: BLE001
        warn_own("What a job returned or raised cannot be read here: %s: %s", type(error).__name__, told(error, hides))
        return None


def unpack_error(result: Result, serializer: JSONSerializer | None, hides: bool = False) -> BaseException | None:
    """Return the exception of a run that failed, with the child's traceback as its cause."""
    if serializer is not None:
        error = _told(result)
    elif result.packed is None:
        return None
    else:
        unpacked = unpack(result.packed, None, hides)
        last_line = result.stacktrace.rstrip().rpartition("\n")[2]
        error = unpacked if isinstance(unpacked, BaseException) else RemoteError(last_line)
    # its class may refuse attributes
    BaseException.__setattr__(error, "__cause__", ChildTraceback(result.stacktrace))
    return error


def _told(result: Result) -> BaseException:
    """Return an exception that is made of words alone."""
    kinds, text = result.cause[:2] if result.cause else (("?",), "")
    if kinds[0] == _LOST:
        return ChildLost(text, result.packed[0] if isinstance(result.packed, tuple) else None)
    return JobExpired(text) if kinds[0] == _EXPIRED else RemoteError(kinds[0], text)
