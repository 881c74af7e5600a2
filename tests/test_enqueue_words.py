"""What the words of ``kq enqueue`` stand for: positional arguments, keywords, options."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers import placeless
from test_enqueue import on_topic

import kq
from kq.cli.main import main
from kq.cli.targets import parse_arguments


def named(a: Any, b: Any = None, *, c: Any = None) -> None:
    """Take parameters by name."""


def positional(a: Any, /, *rest: Any) -> None:
    """Take none by name."""


def anything(**kwargs: Any) -> None:
    """Take any name."""


@pytest.fixture
def enqueue(hosts: str, topic: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., kq.Job]:
    """Return a function that runs ``kq enqueue`` and returns the job that is on the topic then."""

    def run(*words: str) -> kq.Job:
        assert main(["enqueue", "--hosts", hosts, "--topic", topic, *words]) == 0, capsys.readouterr().err
        return kq.loads(on_topic(hosts, topic)[-1].value)

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["1", "-2.5", "true", "null"], [1, -2.5, True, None]),
        (["word", "two words", "", "NaN", "1x"], ["word", "two words", "", "NaN", "1x"]),
        (['"1"', '"a=b"', '"--x"'], ["1", "a=b", "--x"]),
        (["1=2", "a-b=3", "="], ["1=2", "a-b=3", "="]),
    ],
    ids=json.dumps,
)
def test_words_are_json_or_strings(words: list[str], expected: list[Any]) -> None:
    """Values are JSON literals; a word that is none is a string."""
    assert parse_arguments(positional, words) == (expected, {})


@pytest.mark.parametrize(
    ("function", "words", "expected"),
    [
        (named, ["a=1", 'b={"c": [2]}', "c="], ([], {"a": 1, "b": {"c": [2]}, "c": ""})),
        (named, ["a=x=y", "other=1"], (["other=1"], {"a": "x=y"})),
        (named, ["aGVsbG8=", "https://example.com/?q=1"], (["aGVsbG8=", "https://example.com/?q=1"], {})),
        (positional, ["a=1", "rest=2"], (["a=1", "rest=2"], {})),
        (anything, ["é=1", "a-b=2", "kwargs=3"], (["a-b=2"], {"é": 1, "kwargs": 3})),
        (base64.b64decode, ["aGVsbG8=", "validate=true"], (["aGVsbG8="], {"validate": True})),
        (str.upper, ["name=Bob"], (["name=Bob"], {})),
    ],
    ids=placeless,
)
def test_a_keyword_is_a_parameter_of_the_function(
    function: Callable[..., Any], words: list[str], expected: tuple[list[Any], dict[str, Any]]
) -> None:
    """``name=value`` is text unless the function has a parameter that goes by that name, or takes any name."""
    assert parse_arguments(function, words) == expected


@pytest.mark.parametrize("function", [dict, time.sleep])
def test_where_parameters_cannot_be_read_a_keyword_needs_a_value(function: Callable[..., Any]) -> None:
    """Functions of C may not tell their parameters; base64 ends in equals signs."""
    words = ["a=3", "aGVsbG8=", "aGVsbA==", "a-b=1"]
    assert parse_arguments(function, words) == (["aGVsbG8=", "aGVsbA==", "a-b=1"], {"a": 3})


def test_text_with_an_equals_sign_is_enqueued_as_text(enqueue: Callable[..., kq.Job]) -> None:
    """The call that arrives is the one that was meant."""
    job = enqueue("base64:b64decode", "aGVsbG8=")
    assert (job.args, job.kwargs) == (("aGVsbG8=",), {})


@pytest.mark.parametrize(
    "words",
    [
        ["builtins:print", "1", "sep=;", "--", "--x", "-y=1", "-5", "--", "end=."],
        ["--", "builtins:print", "1", "sep=;", "--x", "-y=1", "-5", "--", "end=."],
    ],
    ids=["after some", "before all"],
)
def test_nothing_is_an_option_after_two_dashes(words: list[str], enqueue: Callable[..., kq.Job]) -> None:
    """Values may look like options there; keywords are still keywords."""
    job = enqueue(*words)
    assert (job.args, job.kwargs) == ((1, "--x", "-y=1", -5, "--"), {"sep": ";", "end": "."})


def test_a_misspelt_option_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Before ``--`` it is no argument, and the error says how to make it one."""
    assert main(["enqueue", "builtins:print", "--topik", "x", "--", "--y"]) != 0
    assert "no such option: --topik (an argument that looks so comes after --)" in capsys.readouterr().err
