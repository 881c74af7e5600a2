"""Jobs to bytes and back.

1. ``Queue`` calls ``dumps(job)``: the value of a Kafka record, which plain ``dill.loads`` reads as well. Where a worker
   can import all that is in the job, Python's own pickler writes it; else dill's does, twenty times slower.
2. A worker calls ``loads(value)``. A call of an importable function with nothing but text and numbers is read by
   Python's own unpickler. The rest of what this KQ, KQ 2.0 or KQ 1.x wrote is a namedtuple, and dill's to read.
3. KQ 2.1 to 2.2.1 wrote a dataclass: an empty ``Job`` first, then a dict of its fields, which a namedtuple cannot
   take in. Such a value is known by its first bytes and goes the long way, where the two become one ``Job``.
"""

from __future__ import annotations

import importlib
import io
import pickle
import re
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar

import dill
from dill import _dill

from kq.errors import ArgumentError
from kq.job import Job
from kq.serializers.byvalue import MAIN, ByValue, is_importable
from kq.utils import get_call_repr

__all__ = ["dumps", "loads"]

#: How a pickled dataclass ``kq.job.Job`` begins, in protocols 2 and 3 (GLOBAL) and in 4 and 5 (STACK_GLOBAL, mostly
#: framed): the class, no arguments, NEWOBJ. A namedtuple has its fields between the class and NEWOBJ.
_DATACLASS = re.compile(
    rb"\x80[\x02-\x05](?:\x95.{8})?"
    rb"(?:ckq\.job\nJob\n|\x8c\x06kq\.job\x94?\x8c\x03Job\x94?\x93)"
    rb"(?:q.|\x94)?"
    rb"\)\x81",
    re.DOTALL,
)

#: The standard library's unpickler in Python, which calls a method for every opcode; nobody published its types.
_PythonUnpickler: Any = pickle._Unpickler


#: Old enough for every Python that may read it; the one that dill and pickle choose until Python 3.14.
_PROTOCOL = 4
#: How a value begins that calls ``Job`` with the tuple that follows.
_JOB_OF = pickle.PROTO + bytes([_PROTOCOL]) + pickle.GLOBAL + b"kq.job\nJob\n"
#: In names that dill's unpickler looks up in a way of its own.
_PYTHON_2, _OLD_DILL = b"__builtin__", b"dill.dill"
#: In every name that only this process could look up.
_MAIN_NAME = b"_main__"
#: What is pickled by its name if it is importable.
_FUNCTIONS = frozenset({BuiltinFunctionType, FunctionType})
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
    if type(job.func) not in _FUNCTIONS or type(job.args) is not tuple or type(job.kwargs) is not dict:
        return False
    if job.kwargs and not all(type(value) in _ATOMS for value in job.kwargs.values()):
        return False
    return all(type(value) in _ATOMS for value in job.args) and is_importable(job.func)


def _dumps_plain(job: Job) -> bytes:
    """Pickle a job as the tuple that it is, and put what makes a Job of it around that: half the time."""
    return _JOB_OF + pickle.dumps(tuple(job), _PROTOCOL)[2:-1] + pickle.REDUCE + pickle.STOP


def _dumps(obj: Any) -> bytes:
    file = io.BytesIO()
    try:
        _ByName(file, _PROTOCOL).dump(obj)
        value = file.getvalue()
        if _MAIN_NAME not in value:
            return value
    except Exception:  # noqa: BLE001 - the door of the user's objects: dill, which can do more, tries it all again
        pass
    file = io.BytesIO()
    ByValue(file, _PROTOCOL).dump(obj)
    return file.getvalue()


class _CannotImport(Exception):
    """Something is to go by value, and so all of its job goes dill's way."""


class _ByName(pickle.Pickler):
    """The pickler in C, for what a worker can import; it raises of anything else."""

    def reducer_override(self, obj: Any) -> Any:
        kind: Any = type(obj)
        if kind is Job:
            return Job, tuple(obj)
        if kind is FunctionType or issubclass(kind, type):
            return _name_of(obj)
        if kind is MethodType:
            return _method_parts(obj)
        if kind is ModuleType:
            return _import_of(obj)
        return NotImplemented


def _name_of(obj: Any) -> Any:
    """Return what has a function or class saved by its name; raise if it is to go by value."""
    if obj is Job or is_importable(obj):
        return NotImplemented
    if obj is MethodType:
        return _dill._load_type, ("MethodType",)
    raise _CannotImport


def _import_of(module: ModuleType) -> tuple[Any, tuple[str]]:
    if sys.modules.get(module.__name__) is not module or module.__name__ in MAIN:
        raise _CannotImport
    return importlib.import_module, (module.__name__,)


def _method_parts(method: MethodType) -> tuple[Any, tuple[Any, ...]]:
    """Return how to make a bound method anew: of its function, which need not be what its object has by that name."""
    owner, func = method.__self__, method.__func__
    if isinstance(owner, type) and _is_class_method(owner, func):
        return getattr, (owner, func.__name__)
    return _dill._create_type, (MethodType, func, owner)


def _is_class_method(owner: type, func: Any) -> bool:
    """Return whether a function is what an importable class, or a base of it, has as a class method of its name."""
    for base in owner.__mro__:
        if func.__name__ in vars(base):
            is_own = getattr(vars(base)[func.__name__], "__func__", None) is func
            return is_own and func.__qualname__ == f"{base.__qualname__}.{func.__name__}" and is_importable(base)
    return False


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
    :raises Exception: Whatever dill raises of a damaged value, or of one whose function cannot be imported here.
    """
    # most values: dill would do the same with them, and take longer
    if type(value) is bytes and value.startswith(_JOB_OF) and _PYTHON_2 not in value and _OLD_DILL not in value:
        plain: Job = pickle.loads(value)
        return plain

    loaded: Job = _load_dataclass(value) if _DATACLASS.match(value) else dill.loads(value)
    if type(loaded) is Job and isinstance(loaded.key, str):  # Python 2 had one type for text and bytes
        return loaded._replace(key=loaded.key.encode())
    return loaded


def _load_dataclass(value: bytes | bytearray | memoryview) -> Job:
    job: Job = _DataclassUnpickler(io.BytesIO(value), bytes(value[:2])).load()
    return job


class _DataclassUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Reads dataclass Jobs as namedtuples, at any depth: the unpickler in C has no place to replace an object."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: io.BytesIO, protocol: bytes) -> None:
        super().__init__(file)
        # dill knows where its old and special names are today; how it looks them up depends on the protocol, which
        # it learns from loading something: None
        self._dill = dill.Unpickler(io.BytesIO(protocol + pickle.NONE + pickle.STOP))
        self._dill.load()

    def find_class(self, module: str, name: str) -> Any:
        return self._dill.find_class(module, name)

    def load_build(self) -> None:
        if type(self.stack[-2]) is not Job:
            super().load_build()
            return
        fields = self.stack.pop()
        empty = self.stack.pop()
        job = Job(**fields)
        self.stack.append(job)
        for index, known in self.memo.items():
            if known is empty:
                self.memo[index] = job

    dispatch[pickle.BUILD[0]] = load_build
