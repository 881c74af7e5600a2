"""Names: what a worker can import goes as its name, and the worker looks the name up.

1. ``is_importable`` says whether a function or class is what its module has under the name that it gives itself.
2. ``by_name`` finds any callable that a module has under some name: bound methods of a module's hidden object such as
   ``random.random``, partials, commands, instances. What such an object holds, a state for instance, stays at home.
"""

from __future__ import annotations

import functools
import importlib
import operator
import pickle
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

__all__ = ["FUNCTIONS", "MAIN", "by_name", "is_importable", "module_by_name"]

#: Names of the module that each process has of its own: the second is what multiprocessing calls the parent's.
MAIN = ("__main__", "__mp_main__")
#: Types whose objects have names of their own, as classes do.
FUNCTIONS = frozenset({BuiltinFunctionType, FunctionType})
_METHODS = frozenset({BuiltinFunctionType, MethodType})


def is_importable(obj: Any) -> bool:
    """Return whether importing a function's or class's module anywhere gives the very same."""
    found = module = _module(getattr(obj, "__module__", None))
    for part in getattr(obj, "__qualname__", "<locals>").split("."):
        found = getattr(found, part, None)
    return module is not None and found is obj


def by_name(obj: Any) -> tuple[Any, ...] | None:
    """Return how a pickle looks up a callable that a module has under a name; None if it is not found under one.

    Looked through are the modules that the callable itself leads to: its own, its class's, that of the object to which
    it is bound, and those of the functions that it holds.
    """
    owner = obj.__self__ if type(obj) in _METHODS else obj
    if type(owner).__module__ == "builtins":  # plain data, a class or a module keeps no state for its method
        owner = obj
    wanted = {id(obj), id(owner)}
    for module in filter(None, map(_module, dict.fromkeys(_homes(obj, owner)))):
        if wanted.isdisjoint(map(id, list(vars(module).values()))):  # for most this is all, and fast
            continue
        for name, value in list(vars(module).items()):
            if value is obj:
                return operator.attrgetter(name), (module,)
            if value is owner and getattr(owner, obj.__name__, None) == obj:
                return operator.attrgetter(f"{name}.{obj.__name__}"), (module,)
    return None


def module_by_name(module: ModuleType) -> tuple[Any, ...]:
    """Return how a pickle looks up a module; raise if only this process has it."""
    if module.__name__ in MAIN or sys.modules.get(module.__name__) is not module:
        raise pickle.PicklingError(f"module {module.__name__} exists in this process only")
    return importlib.import_module, (module.__name__,)


def _homes(obj: Any, owner: Any) -> Iterator[str]:
    """Yield names of modules that may have an object, or the object to which it is bound."""
    for part in (obj, type(owner), *(() if type(obj) in _METHODS else _functions_in(obj))):
        name = getattr(part, "__module__", None)
        if type(name) is str:
            yield name


def _functions_in(obj: Any) -> Iterator[Any]:
    """Yield functions that an object holds: of a wrapper, of a partial, of a command."""
    held = list(vars(obj).values()) if type(obj).__dictoffset__ and not isinstance(obj, type) else []
    if isinstance(obj, functools.partial):
        held.append(obj.func)
    for cell in (type(obj) is FunctionType and obj.__closure__) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # it is empty
            pass
    return (one for one in held if type(one) is FunctionType)


def _module(name: Any) -> Any:
    """Return the loaded module of a name if other processes can import it, too."""
    module: Any = sys.modules.get(name) if isinstance(name, str) else None
    # a module without a spec was not imported but made up, or is being run
    if module is None or name in MAIN or module is sys.modules.get("__main__") or not getattr(module, "__spec__", None):
        return None
    return module
