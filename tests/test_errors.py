"""Every error has one root, and is also what a caller would expect it to be."""

from __future__ import annotations

import pickle
import re

import pytest

from kq import errors
from kq.errors import ArgumentError, BrokerUnreachable, KQError, MissingExtra, RetryLater

ALL = [getattr(errors, name) for name in errors.__all__]


def test_all_errors_have_one_root() -> None:
    """``except kq.KQError`` catches whatever KQ raises by itself."""
    assert [error for error in ALL if not issubclass(error, KQError)] == []
    assert KQError.__mro__[1] is Exception


def test_all_errors_are_in_the_tree_at_the_top() -> None:
    """The drawing names every class of the file, with its other bases, and two that live elsewhere."""
    lines = re.findall(r"^ *- ``(\w+)``(.*)$", errors.__doc__ or "", re.MULTILINE)
    drawn = dict(lines)
    assert set(drawn) == {*errors.__all__, "EnqueueError", "EnqueueUnknown"}
    for error in ALL:
        for base in error.__bases__[1:]:
            assert f"``{base.__name__}``" in drawn[error.__name__], error


def test_a_bad_argument_is_what_kq_raised_and_what_it_is() -> None:
    """KQ 2.x asserted; callers who catch AssertionError go on to, and it is a TypeError."""
    for expected in (ArgumentError, TypeError, AssertionError, KQError):
        with pytest.raises(expected, match=r"^topic must be a str$"):
            raise ArgumentError("topic must be a str")


def test_errors_are_also_the_builtin_ones() -> None:
    """A program that knows no KQ catches them by their builtin names."""
    assert issubclass(BrokerUnreachable, ConnectionError)
    assert issubclass(MissingExtra, ImportError)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_errors_keep_their_words_through_pickle(error: type[Exception]) -> None:
    """They come back from another process with the same message."""
    words = "what to do about it"
    again = pickle.loads(pickle.dumps(error(1.5, words) if error is RetryLater else error(words)))
    assert type(again) is error
    assert str(again) == "what to do about it"
