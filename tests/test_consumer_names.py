"""Every name of django-carrot's consumers is here with its parameters first, or a table says why it means nothing."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import kq
from kq import logs

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "consumers.rst").read_text(encoding="utf-8")
#: What RabbitMQ's client hands over in four parameters is one message here.
OF_A_MESSAGE = {"channel", "method_frame", "properties", "body"}
#: Hooks that get one of those alone: what it is there has no meaning here, and its place has.
ALONE = {"on_consumer_cancelled"}


def reference() -> dict[str, list[tuple[str, Any]]]:
    """Return each name, ``Class`` or ``Class.method``, with names and default values of its parameters."""
    names: dict[str, list[tuple[str, Any]]] = {}
    owner = ""
    for line in (HERE / "data" / "carrot_consumer.txt").read_text(encoding="utf-8").splitlines():
        found = re.match(r"(class |static )?([\w.]+)(\(.*\))?", line)
        assert found is not None, line
        kind, name, params = found.groups()
        name = name.rpartition(".")[2]
        if kind == "class ":
            owner = name
        names[name if kind == "class " else f"{owner}.{name}"] = parameters(params or "()")
    return names


def parameters(text: str) -> list[tuple[str, Any]]:
    """Return names and defaults of the parameters that a signature of the documentation shows."""
    plain = re.sub(r": (?:Union\[[^]]*\]|[\w.]+)", "", text)  # no type is needed, and few of them are here
    namespace: dict[str, Any] = {}
    exec(f"def signature{plain}: pass", namespace)
    return described(namespace["signature"])


def described(func: Any) -> list[tuple[str, Any]]:
    params = inspect.signature(func).parameters.values()
    return [(str(one).split("=")[0].split(":")[0], one.default) for one in params if one.kind is not one.KEYWORD_ONLY]


REFERENCE = reference()
ROWS = dict(re.findall(r"^    \* - ``([\w.]+)``\n      - (.*)$", PAGE, re.MULTILINE))


def here(name: str) -> Any:
    """Return what has a name of the reference here; None if nothing has."""
    owner, _, method = name.partition(".")
    found = getattr(kq, owner, None) or getattr(logs, owner)
    return getattr(found, method, None) if method else found


HERE_TOO = [name for name in REFERENCE if here(name) is not None]


def test_the_reference_is_all_there():
    """Four classes, and their methods."""
    assert len(REFERENCE) == 30
    assert [name for name in REFERENCE if "." not in name] == ["Consumer", "ConsumerSet", "ListHandler", "LoggingTask"]


def test_the_table_names_all_of_them():
    """And nothing else."""
    assert sorted(ROWS) == sorted(REFERENCE)


@pytest.mark.parametrize("name", REFERENCE)
def test_a_name_is_here_or_has_no_meaning(name):
    """What is not here has a reason in the table: exchanges, bindings and channels."""
    has_none = ROWS[name].startswith("No meaning")
    assert (here(name) is None) is has_none
    assert not has_none or re.search("exchange|channel|bound|reason", ROWS[name])


@pytest.mark.parametrize("name", [name for name in HERE_TOO if name != "Consumer.serializer"])
def test_its_parameters_come_first(name):
    """In the same order, with the same names and default values, and what was added is behind them."""
    expected = REFERENCE[name]
    if name.partition(".")[2] not in ALONE and OF_A_MESSAGE & {param for param, _ in expected}:
        assert {param for param, _ in expected} <= OF_A_MESSAGE
        expected = [("message", inspect.Parameter.empty)]
    found = [param for param in described(here(name)) if param[0] != "self"]
    defaults = {"carrot.consumer.Consumer": "kq.Consumer"}
    assert found[: len(expected)] == [(param, defaults.get(default, default)) for param, default in expected]


def test_a_signature_that_differs_is_noticed():
    """By name, order and default."""
    assert parameters("(a: str, b: int = 1, *args)") == [
        ("a", inspect.Parameter.empty),
        ("b", 1),
        ("*args", inspect._empty),
    ]
    assert parameters("(a: str, b: int = 1)") != described(lambda b, a=1: None)
    assert parameters("(a: int = 1)") != described(lambda a=2: None)
