"""Handles: files, sockets, locks and the like, which belong to their process, and never travel.

dill pickles many of them as a name or a number, and opens those again where it reads: a worker would empty a file, or
close a descriptor of its own that happens to have the number. So they are refused twice:

1. ``Reducing`` looks at each object when a job is written.
2. ``safe_loads`` refuses what would make a handle anew, whoever wrote the value.
"""

from __future__ import annotations

import io
import operator
import pickle
import sys
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import dill
from dill import _dill

from kq.job import Job
from kq.serializers.names import FUNCTIONS, by_name, is_importable, module_by_name

__all__ = ["Reducing", "SafeUnpickler", "safe_loads"]

#: Types whose objects the picklers know how to take.
_PLAIN = frozenset({bool, bytes, dict, float, int, list, set, str, tuple, type(None), CellType})
#: How dill calls the functions that save handles; it has one for each type.
_SAVERS = {"save_file", "save_lock", "save_rlock", "save_socket", "save_thread_handle", "save_capsule"}
_HANDLES = frozenset(kind for kind, save in _dill.Pickler.dispatch.items() if save.__name__ in _SAVERS)
#: Its connections are plain objects, so any pickler takes them: with the number of a descriptor, to be closed.
_CONNECTIONS = "multiprocessing.connection"
#: What makes handles anew: functions of dill, of any release, and of multiprocessing.
_REOPENERS = frozenset(
    {
        *("_create_filehandle", "_create_lock", "_create_rlock", "_create_thread_handle", "_create_capsule"),
        *("Connection", "PipeConnection", "rebuild_connection", "rebuild_pipe_connection"),
        *("DupFd", "DupHandle", "DupSocket", "_rebuild_socket", "rebuild_handle"),
    }
)
#: Their files are the same everywhere, so they go as these names.
_STREAMS = ("stdin", "stdout", "stderr")


class Reducing:
    """What each pickler of jobs does with an object before all else."""

    #: Whether there was an object that is not plain data, nor looked up: reading it may fail.
    has_objects = False
    #: Whether there was one that does something when it goes: a copy of it must not come to be here.
    has_finalizers = False

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is looked up, or made anew, if the pickler must be told; raise if it cannot go."""
        kind: Any = type(obj)
        if kind in _PLAIN:
            return NotImplemented
        if kind is Job:
            return Job, tuple(obj)
        if obj is MethodType:  # no module has it under the name that it gives itself
            return _dill._load_type, ("MethodType",)
        if kind in FUNCTIONS or issubclass(kind, type):
            if is_importable(obj):
                return NotImplemented
            if kind is not BuiltinFunctionType:
                return by_name(obj) or self.reduce_by_value(obj)
        if kind is ModuleType:
            return module_by_name(obj)
        return self._reduce_object(kind, obj)

    def reduce_by_value(self, obj: Any) -> Any:
        """Return how a function or class goes that has no name."""
        return NotImplemented

    def _reduce_object(self, kind: Any, obj: Any) -> Any:
        if callable(obj) and (found := by_name(obj)) is not None:
            return found
        for name in _STREAMS:
            if getattr(sys, name) is obj:
                return operator.attrgetter(name), (sys,)
        if kind in _HANDLES or kind.__module__ == _CONNECTIONS:
            hint = "; pass its path or its content" if isinstance(obj, io.IOBase) else ""
            raise pickle.PicklingError(f"a {kind.__name__} belongs to this process and cannot go to a worker{hint}")
        self.has_objects = True
        self.has_finalizers = self.has_finalizers or type(getattr(kind, "__del__", None)) is FunctionType
        return _reduce_method(obj) if kind is MethodType else NotImplemented


def _reduce_method(method: MethodType) -> Any:
    """Return how to make a bound method anew: of its function, which need not be what its object has by that name."""
    owner, func = method.__self__, method.__func__
    if isinstance(owner, type):
        found = getattr(owner, method.__name__, None)
        if getattr(found, "__func__", None) is func and getattr(found, "__self__", None) is owner:
            return getattr, (owner, method.__name__)
    return _dill._create_type, (MethodType, func, owner)


def safe_loads(value: bytes | bytearray | memoryview) -> Any:
    """Return what dill makes of a value, but for files, sockets, locks and the like.

    :raises pickle.UnpicklingError: It holds one of those.
    """
    return SafeUnpickler(io.BytesIO(value)).load()


class SafeUnpickler(dill.Unpickler):  # type: ignore[misc]  # dill has no types
    """dill's unpickler, which opens nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for."""
        if name in _REOPENERS and module.startswith(("dill", "multiprocessing")):
            raise pickle.UnpicklingError(f"the value holds what belongs to another process alone ({name})")
        return super().find_class(module, name)
