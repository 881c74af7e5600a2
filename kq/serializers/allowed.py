"""Which names of functions and classes a JSON value may hold, and what they stand for.

1. ``check`` and ``check_type`` compare a name with the list, as text: nothing is imported before all names passed.
2. ``function`` and ``cls`` import the module then, and look into its own dictionary. Nothing else is asked for
   anything: no attribute of an object, no ``__getattr__`` of a module.
3. ``name_of_function`` and ``name_of_class`` find the name under which a worker with the same list will find the same
   object.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from kq.errors import ArgumentError
from kq.serializers.names import FUNCTIONS

__all__ = ["Allowed"]

#: ASCII only: Python takes letters that NFKC makes the same for one name, and people those that look alike.
_WORD = "[A-Za-z_][A-Za-z0-9_]*"
_NAME = re.compile(rf"{_WORD}(?:\.{_WORD})*:{_WORD}")
_WHOLE = re.compile(rf"{_WORD}(?:\.{_WORD})*:\*")
#: Characters of a name, and of one that is shown.
_LONGEST, _SHOWN = 200, 80
#: What begins so is Python's own, or opens everything.
_DUNDER = "__"


class Allowed:
    """A list of names, each ``package.module:name``, or ``package.module:*`` for what a module itself defines.

    :raises kq.ArgumentError: An entry is none of these.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        if isinstance(entries, str):
            raise ArgumentError('allow must be a list of names, such as ["package.module:function"]')
        self.entries = tuple(entries)
        for entry in self.entries:
            _check_entry(entry)
        self._names = frozenset(entry for entry in self.entries if not entry.endswith("*"))
        self._whole = frozenset(entry.partition(":")[0] for entry in self.entries if entry.endswith("*"))
        self._modules = frozenset(entry.partition(":")[0] for entry in self.entries)
        self._known: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    def check(self, name: Any) -> None:
        """Raise ``ValueError`` unless a name is that of an allowed function, whatever stands behind it."""
        module, attribute = _parts(name)
        if name not in self._names and not (module in self._whole and not attribute.startswith("_")):
            raise ValueError(f"{name} is not in the list of what is allowed")

    def check_type(self, name: Any) -> None:
        """Raise ``ValueError`` unless a name is that of a class of an allowed module."""
        module, attribute = _parts(name)
        if name not in self._names and (module not in self._modules or attribute.startswith("_")):
            raise ValueError(f"{name} is no class of a module that is in the list of what is allowed")

    def function(self, name: str) -> Callable[..., Any]:
        """Return the function of an allowed name.

        :raises ValueError: It is not allowed, or no function.
        :raises ImportError: The module is not here, or has no such name.
        """
        self.check(name)
        found = _found(name)
        if type(found) not in FUNCTIONS:
            raise ValueError(f"{name} is no function, but a {type(found).__name__}")
        if name not in self._names and found.__module__ != name.partition(":")[0]:
            raise ValueError(f"{name} is a function of module {found.__module__}, which has to be allowed by its name")
        return found  # type: ignore[no-any-return]

    def cls(self, name: str) -> type:
        """Return the class of an allowed name; raises as ``function`` does."""
        self.check_type(name)
        found = _found(name)
        if not isinstance(found, type):
            raise ValueError(f"{name} is no class, but a {type(found).__name__}")
        if name not in self._names and found.__module__ != name.partition(":")[0]:
            raise ValueError(f"{name} is a class of module {found.__module__}, which has to be allowed by its name")
        return found

    def name_of_function(self, func: Any) -> str:
        """Return the allowed name of a function.

        :raises ValueError: It has none.
        """
        if type(func) not in FUNCTIONS:
            raise ValueError(f"it is no function of a module, but a {type(func).__name__}")
        return self._name_of(func)

    def name_of_class(self, cls: type) -> str:
        """Return the allowed name of a class; raises as ``name_of_function`` does."""
        return self._name_of(cls)

    def _name_of(self, obj: Any) -> str:
        name = self._known.get(obj)
        if name is None:
            name = self._known[obj] = self._search(obj)
        return name

    def _search(self, obj: Any) -> str:
        find: Callable[[str], Any] = self.cls if isinstance(obj, type) else self.function
        own = f"{getattr(obj, '__module__', None)}:{getattr(obj, '__qualname__', None)}"
        why = None
        for name in (own, *sorted(self._names)):
            try:
                if name.partition(":")[0] in sys.modules and find(name) is obj:
                    return name
            except (ValueError, ImportError) as error:
                why = why or error
        raise ValueError(str(why or f"{own} is not what its module has under that name"))


def _check_entry(entry: Any) -> None:
    if not (isinstance(entry, str) and (_NAME.fullmatch(entry) or _WHOLE.fullmatch(entry))):
        raise ArgumentError(f'allow must hold names such as "package.module:function", not {entry!r}')
    if _has_dunder(entry):
        raise ArgumentError(f"allow must not hold a name with two underscores in front: {entry}")


def _parts(name: Any) -> tuple[str, str]:
    """Return module and name in it of a name, as text."""
    if not (type(name) is str and len(name) <= _LONGEST and _NAME.fullmatch(name)) or _has_dunder(name):
        raise ValueError(f'{ascii(name)[:_SHOWN]} is no name such as "package.module:function"')
    module, _, attribute = name.partition(":")
    return module, attribute


def _has_dunder(name: str) -> bool:
    return any(word.startswith(_DUNDER) for word in re.split("[.:]", name))


def _found(name: str) -> Any:
    module, _, attribute = name.partition(":")
    names = vars(importlib.import_module(module))
    if attribute not in names:
        raise ImportError(f"module {module} has no {attribute}", name=module)
    return names[attribute]
