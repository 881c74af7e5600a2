"""What words on the command line, and lines of a file, stand for: functions, values, jobs.

Whatever is wrong with them is a ``click.UsageError`` that says so in one line.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast

import click

import kq
from kq.producing import check_binding, new_ids

__all__ = [
    "at_line",
    "check_modules",
    "import_from_here",
    "jobs_of",
    "load_callback",
    "load_function",
    "parse_arguments",
]


def import_from_here() -> None:
    """Make the modules of the current folder importable, as ``python -m`` does."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def check_modules(names: Iterable[str]) -> None:
    """Raise where a module is not there. What it holds is not imported here.

    :raises click.UsageError: There is no such module, or its package cannot be imported.
    """
    for name in names:
        with _importing(name):
            found = importlib.util.find_spec(name)
        if found is None:
            raise click.UsageError(f"--preload: there is no module {name!r} here, in {os.getcwd()}")


def load_callback(target: str) -> Callable[..., Any]:
    """Return the function that ``--callback`` names: ``FILE.py``, ``package.module``, or either with ``:name``.

    :raises click.UsageError: There is none, or it cannot be imported.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not name.isidentifier():  # no name, but perhaps the colon of a Windows drive
        where, name = target, "callback"
    if not where.endswith(".py") and os.sep not in where:
        return load_function(f"{where}:{name}")
    path = Path(where).absolute()
    # a name of its own: a file called json.py must not replace the module json
    unique = f"kq_callback_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_loader(unique, SourceFileLoader(unique, str(path)))
    assert spec is not None and spec.loader is not None
    module = sys.modules[unique] = importlib.util.module_from_spec(spec)
    with _importing(where):
        spec.loader.exec_module(module)
    return _callable(module, name, where)


def load_function(target: str) -> Callable[..., Any]:
    """Return the function that ``package.module:function`` names.

    :raises click.UsageError: There is none, or it cannot be imported.
    """
    where, colon, name = target.partition(":")
    if not (where and colon and name):
        raise click.UsageError(f"{target!r} must be package.module:function")
    with _importing(where):
        module = importlib.import_module(where)
    return _callable(module, name, where)


def _callable(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    try:
        found = operator.attrgetter(name)(module)
    except AttributeError:
        raise click.UsageError(f"{where} has no {name!r}") from None
    if not callable(found):
        raise click.UsageError(f"{name!r} of {where} is not a callable but of type {type(found).__name__}")
    return cast("Callable[..., Any]", found)


@contextmanager
def _importing(where: str) -> Iterator[None]:
    """Turn whatever a user's module raises at its import into an error of one line."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a user's code: it becomes the error of the command
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
        theirs = [frame for frame in theirs if not frame.filename.startswith("<frozen")]
        line = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
        raise click.UsageError(f"cannot import {where}: {type(error).__name__}: {error}{line}") from error


def parse_arguments(
    function: Callable[..., Any], words: Sequence[str], literal: int = 0
) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and keyword arguments that words of the command line stand for.

    :param literal: How many of the words, the last, came after ``--``: they may look like options.
    :raises click.UsageError: A word is bad JSON, an unknown option, or names an argument for the second time.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    is_keyword = _keywords_of(function)
    for number, word in enumerate(words):
        name, equals, text = word.partition("=")
        if equals and is_keyword(name, text):
            if name in kwargs:
                raise click.UsageError(f"argument {name} is given twice")
            kwargs[name] = _value(text)
            continue
        args.append(_value(word))
        if word.startswith("-") and args[-1] == word and number < len(words) - literal:
            raise click.UsageError(f"no such option: {word} (an argument that looks so comes after --)")
    return args, kwargs


def _keywords_of(function: Callable[..., Any]) -> Callable[[str, str], bool]:
    """Return what tells whether a name and a text are a keyword argument of a function."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions of C; "aGVsbG8=" is more likely text than an empty argument
        return lambda name, text: name.isidentifier() and text.strip("=") != ""
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return lambda name, _: name.isidentifier()
    by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    names = {parameter.name for parameter in parameters if parameter.kind in by_name}
    return lambda name, _: name in names


def _value(word: str) -> Any:
    """Return the JSON value of a word; a word that is none, and does not look like one, is a str."""
    try:
        return json.loads(word, parse_constant=_no_json)
    except ValueError as error:
        if word.startswith(("[", "{", '"')):
            raise click.UsageError(f"bad JSON: {word}: {error}") from None
    return word


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def jobs_of(lines: Iterable[tuple[int, str]], name: str, places: dict[str, int]) -> Iterator[kq.Job]:
    """Yield the jobs of lines of JSON.

    :param lines: Each line behind its number.
    :param name: What the lines are of, for errors.
    :param places: Job ID -> number of its line; filled as jobs are yielded.
    :raises click.UsageError: A line is no job.
    """
    functions: dict[str, Callable[..., Any]] = {}
    for number, line in lines:
        if not line.strip():
            continue
        try:
            job = _job_of(json.loads(line, parse_constant=_no_json), functions)
        except (ValueError, click.UsageError, kq.ArgumentError) as error:
            text = error.format_message() if isinstance(error, click.UsageError) else str(error)
            raise click.UsageError(at_line(name, number, text)) from None
        places[str(job.id)] = number
        yield job


def at_line(name: str, number: int, text: str) -> str:
    """Return what to say of a line that is wrong."""
    before = f"; what stands before it is enqueued: go on with --skip {number - 1}" if number > 1 else ""
    return f"{name}, line {number}: {text}{before}"


def _job_of(fields: Any, functions: dict[str, Callable[..., Any]]) -> kq.Job:
    """Return the job that an object of JSON stands for; raise :class:`ValueError` if it is none."""
    known = {"func", "args", "kwargs", "id", "timeout", "key", "partition"}
    if not (isinstance(fields, dict) and isinstance(fields.get("func"), str) and set(fields) <= known):
        raise ValueError('must be an object such as {"func": "tasks:add", "args": [1, 2], "kwargs": {}}')
    func = fields["func"]
    if func not in functions:
        functions[func] = load_function(func)
    given = {name: value for name, value in fields.items() if value is not None}
    given |= {"func": functions[func], "id": given.get("id") or next(new_ids())}
    if isinstance(given.get("key"), str):
        given["key"] = given["key"].encode()
    args, kwargs = given.get("args", []), given.get("kwargs", {})
    if isinstance(args, list) and isinstance(kwargs, dict):  # what else they are is refused where they are enqueued
        check_binding(given["func"], args, kwargs)
    return kq.Job(**given)
