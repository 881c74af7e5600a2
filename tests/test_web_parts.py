"""Parts of the dashboard that know no Kafka: words, plots, rates, and what is inside a value."""

from __future__ import annotations

import json
import pickle
import random
from datetime import datetime, timezone
from typing import Any

import pytest

from kq.scheduling.table import Table
from kq.web.history import History, Point
from kq.web.inside import look_inside
from kq.web.settings import Settings
from kq.web.spark import spark
from kq.web.words import counted, duration, rate, short, when


class Bomb:
    """Does harm when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))


def test_a_pickle_is_listed_and_not_unpickled() -> None:
    """Its instructions are text, with what they hold; long ones are cut."""
    inside = look_inside(pickle.dumps([Bomb(), "x" * 500]), [])
    assert (inside.kind, inside.is_whole) == ("pickle", True)
    assert any("it was unpickled" in line for line in inside.lines)
    assert max(map(len, inside.lines)) < 230


@pytest.mark.parametrize("value", [b"\x80", b"\x80\x05garbage", pickle.dumps(1)[:-1], b"\x80\x04" + b"]" * 100_000])
def test_a_broken_pickle_shows_what_there_is(value: bytes) -> None:
    """It never fails, and has a bound."""
    inside = look_inside(value, [])
    assert (inside.kind, inside.is_whole) == ("pickle", False)
    assert len(inside.lines) <= 300


def test_json_bytes_and_nothing() -> None:
    """Each is shown as what it is."""
    header = [("kq-content-type", b"application/json")]
    assert look_inside(json.dumps({"func": "a.b"}).encode(), header).lines == ["{", '  "func": "a.b"', "}"]
    assert look_inside(b"[" * 100_000, header).kind == "bytes"
    assert look_inside(b"\x00<b>", []).lines == ["\\x00<b>"]
    assert [look_inside(value, header).kind for value in (None, b"")] == ["nothing", "nothing"]


def test_rates_are_of_the_last_ten_seconds() -> None:
    """The first point has none; a topic that was made anew begins anew."""
    history = History()
    for second in range(0, 30, 2):
        history.add(Point(float(second), second * 10, second * 5 if second > 10 else None, 3))
    assert history.rates[0] == (None, None)
    assert history.rates[-1] == (10.0, 5.0)
    assert history.lags == (3,) * 15
    history.add(Point(31.0, 2, 0, 0))
    assert history.rates == ((None, None),)


def test_a_plot_stands_at_the_right_edge() -> None:
    """Nothing is at the bottom, the largest at the top."""
    drawn = spark([None, 5, 10], 100, 12, 5)
    assert drawn is not None
    assert (drawn.line, drawn.top) == ("50.0,11.0 75.0,6.0 100.0,1.0", 10)
    assert drawn.area == "50.0,12 50.0,11.0 75.0,6.0 100.0,1.0 100.0,12"
    assert spark([1], 100, 12, 5) is None


def test_words() -> None:
    """Numbers and times as people read them."""
    assert [counted(1234567), counted(None), rate(None), rate(0), rate(0.04), rate(9.94), rate(1234.5)] == [
        *("1,234,567", "–", "–", "0", "0.0", "9.9", "1,234"),
    ]
    assert [duration(given) for given in (None, 0.0123, 3.44, 42.0, 600, 7300, 200_000)] == [
        *("–", "12 ms", "3.4 s", "42 s", "10 min", "2 h", "2 d"),
    ]
    assert short("a\n b" + "c" * 99, 10) == "a bcccccc…"
    at = datetime(2030, 1, 31, 12, tzinfo=timezone.utc)
    exact = '<time datetime="2030-01-31T12:00:00+00:00" title="2030-01-31 12:00:00 UTC">'
    assert when(at, at.timestamp() + 61) == f"{exact}61 s ago</time>"
    assert when(at.timestamp() * 1000, at.timestamp() - 7200) == f"{exact}in 2 h</time>"
    assert when(None) == "–"
    assert "9999-12-31" in when(9e18)


def test_arguments_are_hidden_where_they_are_switched_off() -> None:
    """The name of a call stays."""
    hidden, shown = Settings("h:1", hides_arguments=True), Settings("h:1")
    assert [one.arguments("1, 2") for one in (hidden, shown)] == ["***", "1, 2"]
    assert [one.call("a.b(1, c(2))") for one in (hidden, shown)] == ["a.b(***)", "a.b(1, c(2))"]
    assert (hidden.arguments(None), hidden.call("a.b")) == (None, "a.b")


def test_what_is_due_next_is_found_in_order() -> None:
    """As sorting all would, after any number of changes."""
    table, known = Table(), {}
    rng = random.Random(7)
    for offset in range(2_000):
        name = rng.randrange(500)
        if rng.random() < 0.3:
            table.remove(name)
            known.pop(name, None)
        else:
            known[name] = (rng.randrange(300), offset)
            table.put(*known[name], name)
    for count in (0, 1, 20, 10_000):
        assert [one[:2] for one in table.soonest(count)] == sorted(known.values())[:count]
