"""Pickling by value: functions and classes that a worker cannot import go with all that they need.

1. ``ByValue`` is dill's pickler. What cannot be imported it takes apart: first an empty function or class, which from
   then on is known, then what is in it, which may lead back to it. So no circle is too tight.
2. A function takes along the global names that its code uses, and no others. Functions of one module share them.

The result is read by plain ``dill.loads``: whatever it calls is dill's or Python's own.
"""

from __future__ import annotations

import _abc  # type: ignore[import-not-found,unused-ignore]
import dis
import enum
import functools
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NewType, ParamSpec, TypeVar

import dill
from dill import _dill

from kq.serializers.handles import Reducing
from kq.serializers.names import MAIN, is_importable

__all__ = ["ByValue"]

#: Instructions that use a global name; LOAD_NAME does so in the body of a class.
_GLOBAL_OPS = {"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
#: Globals that every function takes along: the second is what relative imports in it need.
_NAMES = ("__name__", "__package__")
#: What a class must be made with; all else is put into it later.
_BEGIN = ("__module__", "__slots__", "__orig_bases__")
#: What a class makes by itself, or gets when it is made.
_OF_EVERY_CLASS = {"__dict__", "__weakref__", "__module__", "__qualname__", "__slots__", "__orig_bases__", "_abc_impl"}
#: What an Enum makes of its members, beside names such as ``_member_map_``.
_OF_EVERY_ENUM = {"__new__", "__new_member__"}
#: Set in classes whose instances the heap holds: they were written in Python, or could have been.
_HEAP_TYPE = 1 << 9


class _Dispatch(dict[Any, Any]):
    """dill's table, where a class of any metaclass is saved as a class."""

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key)
        return found or (ByValue.save_class if issubclass(key, type) else default)


class ByValue(Reducing, dill.Pickler):  # type: ignore[misc]  # dill has no types
    """Pickles anything that dill can, and does not rely on the worker's ``__main__``."""

    dispatch: ClassVar[Any] = _Dispatch(_dill.Pickler.dispatch)
    #: Code and classes that are made anew may fail as well.
    has_objects = True

    def __init__(self, file: Any, protocol: int) -> None:
        super().__init__(file, protocol, byref=False, recurse=True)
        #: For each module's globals the part that goes along, by the identity of the whole.
        self._parts: dict[int, dict[str, Any]] = {}
        self._taken: set[tuple[int, str]] = set()

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Save a name, unless it is one of ``__main__``."""
        module = pickle.whichmodule(obj, name or obj.__qualname__)  # type: ignore[attr-defined,unused-ignore]
        if module not in MAIN:
            super().save_global(obj, name)
        elif isinstance(obj, (TypeVar, ParamSpec, NewType)):
            self.save_reduce(*_typing_parts(obj), obj=obj)
        else:
            raise pickle.PicklingError(f"{name} of {module} exists in this process only")

    def save_dict(self, obj: dict[Any, Any]) -> None:
        """Save a dict; that of a module is the module's."""
        module = sys.modules.get(obj["__name__"]) if type(obj.get("__name__")) is str else None
        if module is None or vars(module) is not obj:
            pickle._Pickler.save_dict(self, obj)  # type: ignore[attr-defined]
        else:
            self.save_reduce(vars, (module,), obj=obj)

    # -- functions -----------------------------------------------------------------------------------------------------

    def save_function(self, func: types.FunctionType) -> None:
        """Save a function: by its name, or empty, and then what is in it."""
        if is_importable(func):
            super().save_global(func, func.__qualname__)
            return
        fresh = [cell for cell in func.__closure__ or () if id(cell) not in self.memo]
        for cell in fresh:
            self._save_empty_cell(cell)
            self.write(pickle.POP)
        part = self._parts.setdefault(id(func.__globals__), {name: func.__globals__.get(name) for name in _NAMES})
        args = (func.__code__, part, func.__name__, None, func.__closure__)
        slots = ("__defaults__", "__kwdefaults__", "__annotations__", "__doc__", "__qualname__", "__module__")
        state = func.__dict__ or None, {slot: getattr(func, slot) for slot in slots}
        self.save_reduce(_dill._create_function, args, state, obj=func)
        for cell in fresh:
            self._save_content(cell)
        self._save_globals(func, part)

    def _save_globals(self, func: types.FunctionType, part: dict[str, Any]) -> None:
        """Put the globals that a function uses, and that are not there yet, into the part that goes along."""
        whole = func.__globals__
        for name in sorted(_global_names(func.__code__)):
            if name not in whole or name in part or (id(whole), name) in self._taken:
                continue
            self._taken.add((id(whole), name))
            self.save(part)
            self.save(name)
            try:
                self.save(whole[name])
            except Exception as error:
                text = f"{func.__qualname__} uses the global {name!r}, which cannot be serialized: {error}"
                raise pickle.PicklingError(text) from error
            self.write(pickle.SETITEM + pickle.POP)

    def save_cell(self, cell: types.CellType) -> None:
        """Save a closure's cell."""
        self._save_empty_cell(cell)
        self._save_content(cell)

    def _save_empty_cell(self, cell: types.CellType) -> None:
        self.save_reduce(types.CellType, (), obj=cell)

    def _save_content(self, cell: types.CellType) -> None:
        try:
            content = cell.cell_contents
        except ValueError:  # it is empty
            return
        self._do(setattr, cell, "cell_contents", content)

    def _do(self, func: Callable[..., Any], *args: Any) -> None:
        """Have a function called when this is read, and forget what it returns."""
        self.save_reduce(func, args)
        self.write(pickle.POP)

    # -- classes -------------------------------------------------------------------------------------------------------

    def save_class(self, cls: type) -> None:
        """Save a class: by its name, or empty, and then what is in it."""
        if is_importable(cls):
            super().save_global(cls, cls.__qualname__)
        elif cls in _dill._typemap or not cls.__flags__ & _HEAP_TYPE:
            _dill.save_type(self, cls)
        elif issubclass(cls, enum.Enum) and isinstance(cls, enum.EnumMeta):
            self._save_enum(cls)
        else:
            self._save_own_class(cls)

    def _save_own_class(self, cls: type) -> None:
        own = dict(vars(cls))
        begin: dict[str, Any] = {name: own[name] for name in _BEGIN if name in own}
        begin["__qualname__"] = cls.__qualname__
        args = (type(cls), cls.__name__, cls.__bases__, begin)
        self.save_reduce(_dill._create_type, args, obj=cls)
        self._save_attributes(cls, {name: own[name] for name in own if name not in _OF_EVERY_CLASS})
        if "_abc_impl" in own:
            for reference in _abc._get_dump(cls)[0]:
                if reference() is not None:
                    self._do(type(cls).register, cls, reference())  # type: ignore[attr-defined]

    def _save_enum(self, cls: type[enum.Enum]) -> None:
        """Save an Enum: its members are made with it, and methods come later as in any class."""
        members = {name: member._value_ for name, member in cls.__members__.items()}
        begin = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **members}
        body = functools.partial(_dill._setitems, source=begin)
        self.save_reduce(types.new_class, (cls.__name__, cls.__bases__, {"metaclass": type(cls)}, body), obj=cls)
        own = {name: value for name, value in vars(cls).items() if name not in _OF_EVERY_CLASS | _OF_EVERY_ENUM}
        self._save_attributes(cls, {name: own[name] for name in own if not (name in members or _is_sunder(name))})
        for member in cls:
            for name, value in vars(member).items():
                if not (_is_sunder(name) or name == "__objclass__"):
                    self._do(setattr, member, name, value)

    def _save_attributes(self, cls: type, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            is_slot = isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType))
            if not (is_slot and value.__objclass__ is cls):
                self._do(type.__setattr__, cls, name, value)


ByValue.dispatch.update(
    {
        types.FunctionType: ByValue.save_function,
        types.CellType: ByValue.save_cell,
        dict: ByValue.save_dict,
        type: ByValue.save_class,
    }
)


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> frozenset[str]:
    """Return the global names that code uses, and code within it."""
    return frozenset(_names(code))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL_OPS)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_sunder(name: str) -> bool:
    return name[:1] == name[-1:] == "_" and name[:2] != "__"


def _typing_parts(obj: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return how to make a type variable, or a new type, anew."""
    if type(obj) is NewType:
        return NewType, (obj.__name__, obj.__supertype__)
    terms = {"covariant": obj.__covariant__, "contravariant": obj.__contravariant__, "bound": obj.__bound__}
    constraints = () if isinstance(obj, ParamSpec) else obj.__constraints__
    make: Any = type(obj)
    return functools.partial(make, obj.__name__, *constraints, **terms), ()
