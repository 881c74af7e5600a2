"""Jobs to bytes and back.

1. ``Queue`` calls ``dumps(job)``: the value of a Kafka record, which plain ``dill.loads`` reads as well. Where a worker
   can import all that is in the job, Python's own pickler writes it; else dill's does, twenty times slower.
2. What holds more than plain data is read back once, and refused if that fails: better here than in every worker.
3. A worker calls ``loads(value)``. A call of an importable function with nothing but text and numbers is read by
   Python's own unpickler. The rest is dill's to read, and no file, socket or lock is made anew.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable
from typing import Any

from kq.errors import ArgumentError
from kq.job import Job
from kq.serializers.byvalue import ByValue
from kq.serializers.handles import Reducing, SafeUnpickler, safe_loads
from kq.serializers.legacy import is_dataclass, load_dataclass
from kq.serializers.names import FUNCTIONS, is_importable
from kq.utils import get_call_repr

__all__ = ["dumps", "is_unimportable", "loads"]

#: Old enough for every Python that may read it; the one that dill and pickle choose until Python 3.14.
_PROTOCOL = 4
#: How a value begins that calls ``Job`` with the tuple that follows.
_JOB_OF = pickle.PROTO + bytes([_PROTOCOL]) + pickle.GLOBAL + b"kq.job\nJob\n"
#: In names that dill's unpickler looks up in a way of its own, and in those that it must not look up.
_PYTHON_2, _DILL = b"__builtin__", b"dill"
#: In every name that only this process could look up.
_MAIN_NAME = b"_main__"
#: What is pickled in one way only. Subclasses are not among them.
_ATOMS = frozenset({bool, bytes, float, int, str, type(None)})


def dumps(job: Job) -> bytes:
    """Return a job as bytes that ``dill.loads`` turns into a ``kq.Job``.

    :param job: The job, with a function and arguments that can be pickled, if need be by dill.
    :raises kq.ArgumentError: The function or an argument cannot be pickled; the message names it, the cause tells why.
    """
    try:
        return _dumps_plain(job) if _is_plain(job) else _dumps(job)
    except Exception as error:  # the door of the user's objects: told in one clear error
        raise _blame(job, error) from error


def _is_plain(job: Job) -> bool:
    """Return whether a job calls an importable function with nothing but text and numbers: most do."""
    if type(job.func) not in FUNCTIONS or type(job.args) is not tuple or type(job.kwargs) is not dict:
        return False
    if job.kwargs and not all(type(value) in _ATOMS for value in job.kwargs.values()):
        return False
    return all(type(value) in _ATOMS for value in job.args) and is_importable(job.func)


def _dumps_plain(job: Job) -> bytes:
    """Pickle a job as the tuple that it is, and put what makes a Job of it around that: half the time."""
    return _JOB_OF + pickle.dumps(tuple(job), _PROTOCOL)[2:-1] + pickle.REDUCE + pickle.STOP


def _dumps(obj: Any) -> bytes:
    try:
        return _written(obj, _ByName, pickle.loads)
    except Exception:  # noqa: BLE001 - the door of the user's objects: dill, which can do more, tries it all again
        return _written(obj, ByValue, safe_loads)


def _written(obj: Any, kind: Any, loads: Callable[[bytes], Any]) -> bytes:
    """Return what a pickler makes of an object, and try to read it."""
    file = io.BytesIO()
    pickler = kind(file, _PROTOCOL)
    pickler.dump(obj)
    value = file.getvalue()
    if kind is _ByName and _MAIN_NAME in value:
        raise _CannotImport
    if pickler.has_objects and not pickler.has_finalizers:
        loads(value)
    return value


class _CannotImport(Exception):
    """Something is to go by value, and so all of its job goes dill's way."""


class _ByName(Reducing, pickle.Pickler):
    """The pickler in C, for what a worker can import; it raises of anything else."""

    def reduce_by_value(self, obj: Any) -> Any:
        """Leave it, and all of its job, to dill."""
        raise _CannotImport


def _blame(job: Job, error: Exception) -> ArgumentError:
    """Return an error that names what of a job cannot be pickled."""
    call = get_call_repr(job.func or print).removesuffix("()")
    parts = {
        f"the function {call}": job.func,
        **{f"argument {number} of {call}": arg for number, arg in enumerate(job.args or (), 1)},
        **{f"argument {name} of {call}": arg for name, arg in (job.kwargs or {}).items()},
    }
    for name, part in parts.items():
        try:
            _dumps(part)
        except Exception as reason:  # noqa: BLE001 - the same door
            return ArgumentError(f"{name} cannot be serialized ({type(part).__name__}): {reason}")
    return ArgumentError(f"the job {job.id} cannot be serialized: {error}")


def loads(value: bytes | bytearray | memoryview) -> Job:
    """Return the job in a value that this KQ, KQ 2.x or KQ 1.x wrote.

    Fields that a release did not have are None. A value that holds anything but a job is returned as dill makes it.
    What Python 2 wrote is read if its byte strings are ASCII.

    :param value: The value of a Kafka record. It runs code of its own choice: load only what you trust.
    :raises pickle.UnpicklingError: It holds a file, a socket, a lock or the like of another process.
    :raises Exception: Whatever dill raises of a damaged value, or of one whose function cannot be imported here.
    """
    # most values: dill would do the same with them, and take longer
    if type(value) is bytes and value.startswith(_JOB_OF) and _PYTHON_2 not in value and _DILL not in value:
        plain: Job = pickle.loads(value)
        return plain

    if value[:1] == b"{":  # which is no opcode
        raise pickle.UnpicklingError("the value is JSON: give the worker deserializer=JSONSerializer(allow=[…]).loads")
    loaded: Job = load_dataclass(value, SafeUnpickler) if is_dataclass(value) else safe_loads(value)
    if type(loaded) is Job and isinstance(loaded.key, str):  # Python 2 had one type for text and bytes
        return loaded._replace(key=loaded.key.encode())
    return loaded


def is_unimportable(error: BaseException) -> bool:
    """Return whether a value could not be read because of a module, or a name in one, and not because of itself.

    The module is missing, it has no such name, or its own code raised.
    """
    if isinstance(error, (ImportError, SyntaxError)):
        return True
    if isinstance(error, AttributeError) and str(error).startswith("Can't get attribute"):  # as every unpickler says it
        return True
    return any(frame.f_code.co_name == "<module>" for frame, _ in traceback.walk_tb(error.__traceback__))
