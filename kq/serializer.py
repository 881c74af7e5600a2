"""Jobs to bytes and back, by dill.

1. ``Queue`` calls ``dumps(job)``: the value of a Kafka record, which plain ``dill.loads`` reads as well.
2. A worker calls ``loads(value)``. What this KQ, KQ 2.0 or KQ 1.x wrote is a namedtuple and goes the short way.
3. KQ 2.1 to 2.2.1 wrote a dataclass: an empty ``Job`` first, then a dict of its fields, which a namedtuple cannot
   take in. Such a value is known by its first bytes and goes the long way, where the two become one ``Job``.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import Any, ClassVar

import dill

from kq.job import Job

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


def dumps(job: Job) -> bytes:
    """Return a job as bytes that ``dill.loads`` turns into a ``kq.Job``.

    :param job: The job, with a function and arguments that dill can pickle.
    :raises Exception: Whatever dill raises of a job that it cannot pickle.
    """
    value: bytes = dill.dumps(job)
    return value


def loads(value: bytes | bytearray | memoryview) -> Job:
    """Return the job in a value that this KQ, KQ 2.x or KQ 1.x wrote.

    Fields that a release did not have are None. A value that holds anything but a job is returned as dill makes it.
    What Python 2 wrote is read if its byte strings are ASCII.

    :param value: The value of a Kafka record. It runs code of its own choice: load only what you trust.
    :raises Exception: Whatever dill raises of a damaged value, or of one whose function cannot be imported here.
    """
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
