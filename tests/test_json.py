"""Jobs as JSON: what is on the list runs, all else is refused before anything is imported."""

from __future__ import annotations

import json
import math
import os
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import json_jobs
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_jobs import Box, Color, Computed, Given, Grade, Perm, Point

import kq
from kq.serializers.plain import MAX_BYTES

SERIALIZER = kq.JSONSerializer(allow=["json_jobs:*"])


def payload(**changes: Any) -> bytes:
    """Return a payload by hand."""
    return json.dumps({"func": "json_jobs:add", "args": [1], **changes}).encode()


def crossed(value: Any) -> Any:
    """Return an argument as it comes to the worker."""
    job = SERIALIZER.loads(SERIALIZER.dumps(kq.Job(func=json_jobs.give, args=(value,))))
    assert job.args is not None
    return job.args[0]


# -- round trips -------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
OFFSETS = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC"]).map(ZoneInfo)
NAIVE = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.binary(),
    st.dates(),
    st.times(),
    st.times(timezones=OFFSETS),
    st.datetimes(),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=OFFSETS),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.sampled_from([*Color, *Grade, *Perm, Perm.READ | Perm.WRITE, Perm(0)]),
    st.builds(Point, st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
)
KEYS = st.one_of(TEXT, st.sampled_from(["$kq", "value", "type"]))
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(ATOMS, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(Box, inner, TEXT),
    ),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal, down to the types of what they hold."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, Box):
        return same([one.content, one.name], [other.content, other.name])
    if isinstance(one, (datetime, time)):
        return one == other and one.fold == other.fold and one.utcoffset() == other.utcoffset()
    return bool(repr(one) == repr(other) if isinstance(one, (float, Decimal)) else one == other)


@settings(deadline=None, max_examples=300)
@given(value=VALUES)
def test_every_value_survives(value: Any) -> None:
    """Whatever the list of types allows, nested in any way, with its very types."""
    assert same(crossed(value), value)


@settings(deadline=None)
@given(moment=st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=ZONES, allow_imaginary=True))
def test_a_time_keeps_its_zone(moment: datetime) -> None:
    """By name, also in the hour that comes twice and in the one that never comes."""
    for fold in (0, 1):
        given = moment.replace(fold=fold)
        found = crossed(given)
        assert (found.tzinfo, found.fold, found.replace(tzinfo=None)) == (
            *(given.tzinfo, given.fold, given.replace(tzinfo=None)),
        )
        assert found.utcoffset() == given.utcoffset()


@settings(deadline=None)
@given(args=st.lists(VALUES, max_size=3), kwargs=st.dictionaries(TEXT, VALUES, max_size=3), timeout=st.integers(0))
def test_a_job_survives(args: list[Any], kwargs: dict[str, Any], timeout: int) -> None:
    """Function, arguments, ID and time limit; all else is the message's."""
    job = kq.Job("an ID", 1, "topic", json_jobs.give, tuple(args), kwargs, timeout, b"key", 3)
    found = SERIALIZER.loads(SERIALIZER.dumps(job))
    assert found[:4] == ("an ID", None, None, json_jobs.give)
    assert same([found.args, found.kwargs], [tuple(args), kwargs])
    assert (found.timeout, found.key, found.partition) == (timeout, None, None)


def test_what_others_write_is_read() -> None:
    """A time in UTC with a Z, as most languages write it; only func need be there."""
    tagged = {"$kq": "datetime", "value": "2030-01-31T12:00:00.250Z"}
    assert SERIALIZER.loads(payload(args=[tagged])).args == (datetime(2030, 1, 31, 12, 0, 0, 250_000, timezone.utc),)
    assert SERIALIZER.loads(b' \n{"func": "json_jobs:where"}') == kq.Job(None, None, None, json_jobs.where, (), {})
    assert SERIALIZER.loads(payload(args=[{"\u0024kq": "bytes", "value": "AA=="}])).args == (b"\0",)
    escaped = b'{"func": "json_jobs:add", "args": [{"\\u0024kq": "bytes", "value": "AA=="}]}'
    assert SERIALIZER.loads(escaped).args == (b"\0",)


def test_a_payload_is_plain_json() -> None:
    """Its five fields, and text as it is: other programs read it."""
    job = kq.Job("1", 5, "topic", json_jobs.add, (1, "ä"), {"other": [None, 1.5, True]}, 30)
    text = '{"id":"1","func":"json_jobs:add","args":[1,"ä"],"kwargs":{"other":[null,1.5,true]},"timeout":30}'
    assert SERIALIZER.dumps(job).decode() == text


def test_a_tag_of_each_type() -> None:
    """As the page of the wire format shows them."""
    values = [
        datetime(2030, 1, 31, 12, tzinfo=timezone.utc), datetime(2030, 1, 31, 12, tzinfo=ZoneInfo("Europe/Berlin")),
        date(2030, 1, 31), time(12, 30), timedelta(seconds=1.5), b"\xff", Decimal("1.10"), uuid.UUID(int=1),
        {1}, (1, 2), Color.RED, Point(1, 2.5), {"$kq": 1},
    ]  # fmt: skip
    written = json.loads(SERIALIZER.dumps(kq.Job(func=json_jobs.add, args=values)))["args"]
    assert written == [
        {"$kq": "datetime", "value": "2030-01-31T12:00:00+00:00"},
        {"$kq": "datetime", "value": "2030-01-31T12:00:00+01:00", "zone": "Europe/Berlin"},
        {"$kq": "date", "value": "2030-01-31"},
        {"$kq": "time", "value": "12:30:00"},
        {"$kq": "timedelta", "value": 1_500_000},
        {"$kq": "bytes", "value": "/w=="},
        {"$kq": "Decimal", "value": "1.10"},
        {"$kq": "UUID", "value": "00000000-0000-0000-0000-000000000001"},
        {"$kq": "set", "value": [1]},
        {"$kq": "tuple", "value": [1, 2]},
        {"$kq": "enum", "type": "json_jobs:Color", "value": "RED"},
        {"$kq": "dataclass", "type": "json_jobs:Point", "value": {"x": 1, "y": 2.5}},
        {"$kq": "dict", "value": [["$kq", 1]]},
    ]


@cache
def schema() -> Any:
    """Return what the documentation gives to other programs."""
    return json.loads(
        (Path(__file__).parent.parent / "docs" / "_static" / "job.schema.json").read_text(encoding="utf-8")
    )


@settings(deadline=None)
@given(args=st.lists(VALUES, max_size=3))
def test_what_is_written_fits_the_schema(args: list[Any]) -> None:
    """The one that the documentation gives to other programs."""
    value = SERIALIZER.dumps(kq.Job("1", func=json_jobs.give, args=args, timeout=5))
    jsonschema.validate(json.loads(value), schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "changes",
    [
        {"func": "os.system"}, {"func": "json_jobs:a.b"}, {"id": 5}, {"args": {}}, {"kwargs": []}, {"timeout": -1},
        {"more": 1}, {"args": [{"$kq": "object", "value": 1}]}, {"args": [{"$kq": "date"}]},
        {"args": [{"$kq": "timedelta", "value": "1"}]}, {"args": [{"$kq": "enum", "value": "RED"}]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused_does_not_fit_the_schema(changes: dict[str, Any]) -> None:
    """They say the same."""
    value = payload(**changes)
    with pytest.raises(ValueError):
        SERIALIZER.loads(value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(value), schema(), jsonschema.Draft202012Validator)


# -- what does not travel ----------------------------------------------------------------------------------------------


def looped() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), r"\(object\): builtins.object has no form in JSON"),
        ([1, {"a": {"b": (object(),)}}], r"builtins.object has no form in JSON, at \[1\]\['a'\]\['b'\]\[0\]"),
        (frozenset(), "builtins.frozenset has no form"),
        (bytearray(b"1"), "builtins.bytearray has no form"),
        (math.nan, "JSON has no nan"),
        ([math.inf], r"JSON has no inf, at \[0\]"),
        ({1: 2}, "keys must be str, not builtins.int"),
        (looped(), "more than 100 levels, or contains itself"),
        ("\ud800", "surrogates not allowed"),
        (print, "builtins.builtin_function_or_method has no form"),
        (Point, "builtins.type has no form"),
        (uuid.SafeUUID.safe, "is no class of a module that is in the list"),
        (Given(3), "cannot be made of its fields"),
        (json_jobs.Spoilt(), "'name'"),
        ("x" * MAX_BYTES, "bytes, and 4,194,304 are the most"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_no_form_is_refused_by_name(value: Any, why: str) -> None:
    """The argument is named, and where in it that stands."""
    job = kq.Job(func=json_jobs.add, args=(1,), kwargs={"other": value})
    with pytest.raises(kq.ArgumentError, match=why) as caught:
        SERIALIZER.dumps(job)
    assert str(caught.value).startswith("argument other of json_jobs.add cannot be serialized as JSON")


def test_a_zone_of_another_kind_is_refused() -> None:
    """Its name cannot be told, and with an offset alone it would be another one."""

    class Zone(ZoneInfo):
        pass

    with pytest.raises(kq.ArgumentError, match="must be of zoneinfo, or a fixed offset"):
        crossed(datetime(2030, 1, 1, tzinfo=Zone("UTC")))
    with pytest.raises(kq.ArgumentError, match="whole seconds"):
        crossed(time(tzinfo=timezone(timedelta(microseconds=1))))


def test_a_field_that_would_be_lost_is_refused() -> None:
    """What a dataclass computes itself comes back; what was put there afterwards would not."""
    computed = Computed(3)
    assert crossed(computed) == computed
    computed.area = 10
    with pytest.raises(kq.ArgumentError, match="has fields that are not made of the others"):
        crossed(computed)


@pytest.mark.parametrize(
    "func",
    [
        print, json_jobs.Tool.run, json_jobs.Tool, json_jobs.Point, json_jobs.hypot, lambda: None, json_jobs._hidden,
        Color.RED.__class__, [].append, json_jobs.tool.run, os.system,
    ],
)  # fmt: skip
def test_a_function_that_is_not_allowed_is_refused(func: Any) -> None:
    """Also one that a worker would find, but not by the list."""
    with pytest.raises(kq.ArgumentError, match=r"^the function .* cannot be serialized as JSON"):
        SERIALIZER.dumps(kq.Job(func=func, args=()))


def test_a_function_that_is_passed_on_goes_by_the_name_that_allows_it() -> None:
    """The module's own name for it, on both sides."""
    serializer = kq.JSONSerializer(allow=["json_jobs:hypot"])
    value = serializer.dumps(kq.Job(func=math.hypot, args=(3, 4)))
    assert json.loads(value)["func"] == "json_jobs:hypot"
    assert serializer.loads(value).func is math.hypot


@pytest.mark.parametrize(
    "entry",
    [
        *("add", "json_jobs", "json_jobs:", ":add", "json_jobs:add.more", "json_jobs:*.*", "*:*", "json_jobs:__doc__"),
        *(
            "__main__:*",
            "a.__b.c:d",
            "json_jobs.:add",
            "jsön:add",
            "json_jobs:add ",
            "json_jobs:add\n",
            "1a:b",
            5,
            None,
        ),
    ],
)
def test_an_entry_that_is_no_name_is_an_argument_error(entry: Any) -> None:
    """Where the list is made, not at night."""
    with pytest.raises(kq.ArgumentError, match=r"^allow must"):
        kq.JSONSerializer(allow=[entry])
    with pytest.raises(kq.ArgumentError, match="allow must be a list"):
        kq.JSONSerializer(allow="json_jobs:add")


# -- two kinds of values -----------------------------------------------------------------------------------------------


def test_a_value_tells_of_which_kind_it_is() -> None:
    """A brace begins no pickle of any protocol."""
    read = kq.by_content_type(json=SERIALIZER.loads, dill=kq.loads)
    job = kq.Job("1", func=json_jobs.add, args=(1,), kwargs={})
    assert read(SERIALIZER.dumps(job))[:4] == ("1", None, None, json_jobs.add)
    assert read(b"\n\t " + SERIALIZER.dumps(job)).args == (1,)
    assert read(kq.dumps(job)) == job
    for odd in (b"", None, b"\x80\x04N."):
        with pytest.raises((AttributeError, EOFError, TypeError)):
            read(odd).func  # noqa: B018
    with pytest.raises(kq.ArgumentError, match="dill must be a callable"):
        kq.by_content_type(json=SERIALIZER.loads, dill=None)  # type: ignore[arg-type]


def test_a_worker_of_pickles_says_what_json_needs() -> None:
    """The error of the unpickler alone would help nobody."""
    with pytest.raises(Exception, match="the value is JSON: give the worker deserializer"):
        kq.loads(payload())


def test_no_opcode_of_a_pickle_begins_as_json_does() -> None:
    """That is what the choice rests on."""
    import pickletools

    assert {ord(opcode.code) for opcode in pickletools.opcodes} & set(b"{ \t\r\n") == set()


def test_a_serializer_travels_to_children() -> None:
    """By its list."""
    import pickle

    again = pickle.loads(pickle.dumps(SERIALIZER.loads))
    assert again(payload()).func is json_jobs.add
    assert repr(SERIALIZER) == "JSONSerializer(allow=['json_jobs:*'])"
