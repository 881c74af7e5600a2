"""Text about calls is in KQ's words, and making it never fails."""

from __future__ import annotations

import collections
import functools
import operator
from typing import Any

import pytest

from kq.utils import get_call_repr, safe_repr, safe_str

HERE = __name__


def function(*args: Any, **kwargs: Any) -> None:
    """Stand for a job's function."""


class Callable:
    """Stand for all that a class has to call."""

    def __call__(self) -> None:
        """Do nothing."""

    def method(self) -> None:
        """Do nothing."""

    @classmethod
    def of_class(cls) -> None:
        """Do nothing."""

    @staticmethod
    def static() -> None:
        """Do nothing."""

    class Inner:
        """A callable with a longer qualified name, which KQ does not show."""

        def __call__(self) -> None:
            """Do nothing."""


class Derived(Callable):
    """Another name, the same methods."""


class Posing(Callable):
    """A callable that says it is a function, as proxies and mocks do."""

    __class__ = type(function)  # type: ignore[assignment]


class Raising:
    """Its texts raise what they are told to."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error

    __str__ = __repr__


class LyingMeta(type):
    """A metaclass that hides the names of its classes."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")

    __module__ = property(lambda cls: 1 / 0)


class Liar(metaclass=LyingMeta):
    """A callable that says nothing true of itself, and raises while it says it."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)

    def __call__(self) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        raise SystemExit("repr")


class Text(str):
    """A str that cannot be used as one."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError

    def __format__(self, spec: str) -> str:
        raise ValueError


class TextRepr:
    """Its texts are such strings."""

    def __repr__(self) -> str:
        return Text("fine")

    __str__ = __repr__


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (function, f"{HERE}.function"),
        (print, "builtins.print"),
        (len, "builtins.len"),
        (operator.add, "_operator.add"),
        ([].append, "None.list.append"),
        (Callable().method, f"{HERE}.Callable.method"),
        (Derived().method, f"{HERE}.Callable.method"),
        (Callable.method, f"{HERE}.Callable.method"),
        (Callable.of_class, f"{HERE}.Callable.of_class"),
        (Callable.static, f"{HERE}.Callable.static"),
        (Callable(), f"{HERE}.Callable"),
        (Derived(), f"{HERE}.Derived"),
        (Callable.Inner(), f"{HERE}.Inner"),
        (Posing(), f"{HERE}.Posing"),
        (functools.partial(print, 1), "functools.partial"),
        (operator.itemgetter(1), "operator.itemgetter"),
        (int, "<class 'int'>"),
        (Callable, f"<class '{HERE}.Callable'>"),
        (None, "None"),
        # here KQ 2.2.1 failed with AttributeError: these have no module
        (str.upper, "<method 'upper' of 'str' objects>"),
    ],
)
def test_a_function_is_named_as_in_kq(func: Any, expected: str) -> None:
    """Each kind of callable appears in the log as KQ 2.2.1 wrote it."""
    assert get_call_repr(func, 1) == f"{expected}(1)"


def test_a_lambda_is_named_by_where_it_stands() -> None:
    """A lambda has a qualified name too."""
    assert get_call_repr(lambda: 0) == f"{HERE}.test_a_lambda_is_named_by_where_it_stands.<locals>.<lambda>()"


def test_arguments_are_reprs_and_keywords_are_sorted() -> None:
    """Positional arguments come first, in order; keyword arguments by name."""
    text = get_call_repr(function, 1, "x", [None], b=2.5, a="é", **{"not a name": b""})
    assert text == f"{HERE}.function(1, 'x', [None], a='é', b=2.5, not a name=b'')"


def test_a_keyword_may_be_named_func() -> None:
    """A job's keyword argument ``func`` does not collide with the parameter, as it did in KQ 2.2.1."""
    assert get_call_repr(function, func=1, args=2, self=3) == f"{HERE}.function(args=2, func=1, self=3)"


@pytest.mark.parametrize("error", [ValueError(), RecursionError(), SystemExit(1), GeneratorExit(), BaseException()])
def test_an_argument_that_raises_is_called_unprintable(error: BaseException) -> None:
    """One bad repr takes the place of one argument; nothing propagates, not even ``sys.exit()``."""
    text = get_call_repr(function, 1, Raising(error), a=Raising(error))
    assert text == f"{HERE}.function(1, <unprintable Raising>, a=<unprintable Raising>)"
    assert safe_repr([Raising(error)]) == "<unprintable list>"
    assert safe_str(Raising(error)) == "<unprintable Raising>"


def test_ctrl_c_passes() -> None:
    """An interrupt that happens to come while text is made is the user's, and is not swallowed."""
    for convert in (safe_repr, safe_str):
        with pytest.raises(KeyboardInterrupt):
            convert(Raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        get_call_repr(function, Raising(KeyboardInterrupt()))


def test_nothing_true_needs_to_be_said() -> None:
    """An object whose class, module, name and metaclass all lie is named by its type all the same."""
    assert get_call_repr(Liar(), Liar()) == "<unprintable Liar>(<unprintable Liar>)"
    assert safe_str(Liar()) == "<unprintable Liar>"
    assert get_call_repr(Liar).endswith("()")


def test_text_of_a_strange_class_becomes_plain_text() -> None:
    """A repr that is a subclass of str does not raise later, in the logging."""
    for text in (safe_repr(TextRepr()), safe_str(TextRepr()), safe_str(Text("fine"))):
        assert type(text) is str
    assert safe_repr(TextRepr()) == "fine"
    assert get_call_repr(function, TextRepr()) == f"{HERE}.function(fine)"


def test_depth_is_no_error() -> None:
    """A structure that is too deep for repr is unprintable, not fatal."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert safe_repr(deep) == "<unprintable list>"
    assert safe_str(collections.deque([1])) == "deque([1])"
