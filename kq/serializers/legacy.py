"""Values that KQ 1.x and 2.x wrote.

KQ 2.1 to 2.2.1 wrote a dataclass: an empty ``Job`` first, then a dict of its fields, which a namedtuple cannot take in.
Such a value is known by its first bytes and read by an unpickler in Python, where the two become one ``Job``. What KQ
2.0 and KQ 1.x wrote is a namedtuple with fewer fields, and any unpickler reads it.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any, ClassVar

from kq.job import Job

__all__ = ["is_dataclass", "load_dataclass"]

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


def is_dataclass(value: bytes | bytearray | memoryview) -> bool:
    """Return whether KQ 2.1 to 2.2.1 wrote a value."""
    return _DATACLASS.match(value) is not None


def load_dataclass(value: bytes | bytearray | memoryview, unpickler: Callable[[io.BytesIO], Any]) -> Job:
    """Return the job in such a value.

    :param unpickler: Makes the unpickler whose ``find_class`` looks up names.
    """
    names = unpickler(io.BytesIO(bytes(value[:2]) + pickle.NONE + pickle.STOP))
    names.load()  # how it looks up old names depends on the protocol, which it learns from loading something: None
    job: Job = _DataclassUnpickler(io.BytesIO(value), names.find_class).load()
    return job


class _DataclassUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Reads dataclass Jobs as namedtuples, at any depth: the unpickler in C has no place to replace an object."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: io.BytesIO, find_class: Callable[[str, str], Any]) -> None:
        super().__init__(file)
        self.find_class = find_class

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
