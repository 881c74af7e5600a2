"""Values that are no jobs of the list: refused before anything is imported, within bounds, by one clear error."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import json_jobs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_jobs import Color, Point
from test_json import SERIALIZER, payload

import kq
from kq.serializers.plain import MAX_BYTES, MAX_DIGITS
from kq.serializers.tagged import MAX_DEPTH, depth_of

#: Names that are not on the list. Modules that no test imports tell whether anything was.
NAMES = [
    *(
        "os:system",
        "builtins:eval",
        "builtins:exec",
        "this:s",
        "json_jobs:os.system",
        "json_jobs:Tool.run",
        "json_jobs",
    ),
    *("json_jobs:add.__globals__", "json_jobs:__builtins__", "json_jobs:__doc__", "__main__:add"),
    *("json_jobs:_hidden",),
    *("json_jobs.add", "json_jobs::add", "json_jobs:add:", "json_jobs:*", ":", "", "json_jobs:add ", " json_jobs:add"),
    *("json_jobs:add\n", "json_jobs:add\x00", "json_jobs:àdd", "json_jobs:ａdd", "json_jobs:аdd", "ｊson_jobs:add"),
    *("json_jobs:𝐚dd", "json_jobs:ﬁx", "..json_jobs:add", "json_jobs/..:add", "json_jobs:" + "a" * 300),
    *(None, 1, True, ["json_jobs:add"], {"json_jobs": "add"}, {"$kq": "dict", "value": [["a", "json_jobs:add"]]}),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_not_on_the_list_imports_nothing(name: Any) -> None:
    """Neither as a function nor as a class."""
    before = set(sys.modules)
    for value in (
        payload(func=name),
        payload(args=[{"$kq": "dataclass", "type": name, "value": {}}]),
        payload(args=[{"$kq": "enum", "type": name, "value": "RED"}]),
    ):
        with pytest.raises(ValueError) as caught:
            SERIALIZER.loads(value)
        assert len(str(caught.value)) < 300
    assert set(sys.modules) == before


def test_nothing_is_imported_before_all_names_have_passed() -> None:
    """An allowed module would be, and the class behind it is not allowed: the value is refused as a whole."""
    code = """
import json, sys
import kq
serializer = kq.JSONSerializer(allow=["json_jobs:*"])
inner = [{"$kq": "dataclass", "type": "json_jobs:Point", "value": {"x": 1}},
         {"$kq": "dataclass", "type": "subprocess:Popen", "value": {"args": "true"}}]
for func, args in (("json_jobs:add", inner), ("os:system", inner[:1])):
    try:
        serializer.loads(json.dumps({"func": func, "args": args}).encode())
    except ValueError as error:
        print(type(error).__name__, "json_jobs" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="tests")
    assert (done.stdout, done.stderr) == ("ValueError False\nValueError False\n", "")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("json_jobs:hypot", ValueError), ("json_jobs:Point", ValueError), ("json_jobs:tool", ValueError),
        ("json_jobs:os", ValueError), ("json_jobs:gone", ImportError), ("json_jobs:annotations", ValueError),
    ],
)  # fmt: skip
def test_a_name_of_an_allowed_module_must_be_a_function_of_its_own(name: str, error: type[Exception]) -> None:
    """What it has imported, a class, an object are none; what is not there yet may come with the next deploy."""
    with pytest.raises(error) as caught:
        SERIALIZER.loads(payload(func=name))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    "tree",
    [
        {"$kq": "dataclass", "type": "json_jobs:add", "value": {}},
        {"$kq": "dataclass", "type": "json_jobs:Color", "value": {}},
        {"$kq": "dataclass", "type": "json_jobs:Tool", "value": {}},
        {"$kq": "dataclass", "type": "json_jobs:Path", "value": {}},
        {"$kq": "dataclass", "type": "json_jobs:Point", "value": {"x": 1, "z": 2}},
        {"$kq": "dataclass", "type": "json_jobs:Computed", "value": {"side": 1, "area": 5}},
        {"$kq": "dataclass", "type": "json_jobs:Point", "value": [1]},
        {"$kq": "dataclass", "value": {}},
        {"$kq": "enum", "type": "json_jobs:Point", "value": "RED"},
        {"$kq": "enum", "type": "json_jobs:Color", "value": "__class__"},
        {"$kq": "enum", "type": "json_jobs:Color", "value": "BLUE"},
        {"$kq": "enum", "type": "json_jobs:Color", "value": 1},
        {"$kq": "object", "value": 1},
        {"$kq": "dict", "value": {"a": 1}},
        {"$kq": "dict", "value": [["a", 1], ["a", 2]]},
        {"$kq": "dict", "value": [["a"]]},
        {"$kq": "dict", "value": [[1, 2]]},
        {"$kq": "set", "value": [[1]]},
        {"$kq": "tuple", "value": "ab"},
        {"$kq": "bytes", "value": "/w="},
        {"$kq": "bytes", "value": "/w==\n"},
        {"$kq": "bytes", "value": 5},
        {"$kq": "date", "value": "2030-02-30"},
        {"$kq": "date", "value": None},
        {"$kq": "datetime", "value": "2030-01-31T12:00:00", "zone": "../../etc/passwd"},
        {"$kq": "datetime", "value": "2030-01-31T12:00:00", "zone": 1},
        {"$kq": "datetime", "value": "2030-01-31T12:00:00", "fold": True},
        {"$kq": "datetime", "value": "2030-01-31T12:00:00", "more": 1},
        {"$kq": "timedelta", "value": 10**30},
        {"$kq": "timedelta", "value": 1.5},
        {"$kq": "Decimal", "value": "one"},
        {"$kq": "UUID", "value": "1"},
        {"$kq": ["date"], "value": "2030-01-31"},
        {"$kq": None},
    ],
    ids=str,
)
def test_a_tagged_object_that_is_none_is_refused(tree: Any) -> None:
    """Its value would not be what the tag says."""
    with pytest.raises(Exception) as caught:
        SERIALIZER.loads(payload(args=[tree]))
    assert not isinstance(caught.value, (AttributeError, RecursionError, ImportError))


@pytest.mark.parametrize(
    "value",
    [
        b"", b"null", b"[]", b'"x"', b"{}", b'{"func": "json_jobs:add"', b"\xff{}", b"\xef\xbb\xbf{}", None,
        payload().decode().encode("utf-16"), payload(more=1), payload(args={}), payload(args="ab"), payload(kwargs=[]),
        payload(kwargs=None), payload(id=5), payload(id="x" * 2000), payload(timeout="5"), payload(timeout=-1),
        payload(timeout=True), payload(args=[math.nan]), payload(args=[math.inf]),
        b'{"func": "json_jobs:add", "func": "json_jobs:give"}',
        b'{"func": "json_jobs:add", "kwargs": {"a": 1, "a": 2}}',
        b'{"func": "json_jobs:add", "args": [%s]}' % (b"9" * (MAX_DIGITS + 1)),
        b'{"func": "json_jobs:add", "args": ["%s"]}' % (b"9" * MAX_BYTES),
        kq.dumps(kq.Job(func=max, args=(1, 2))),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_a_value_that_is_no_payload_is_refused(value: Any) -> None:
    """By a ValueError that repeats none of it."""
    with pytest.raises(ValueError) as caught:
        SERIALIZER.loads(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_depth_is_bounded_before_anything_is_parsed(opening: bytes) -> None:
    """Python's parser calls itself for each level: a program that allows deep recursion would crash."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        with pytest.raises(ValueError, match="more than 100 levels"):
            SERIALIZER.loads(b'{"func": "json_jobs:add", "args": ' + opening * 200_000)
    finally:
        sys.setrecursionlimit(limit)


@settings(deadline=None, max_examples=200)
@given(tree=st.recursive(st.text('[]{}"\\a'), lambda inner: st.lists(inner) | st.dictionaries(st.text('["{'), inner)))
def test_depth_is_the_depth_of_the_tree(tree: Any) -> None:
    """Brackets in strings are none, nor are quotes that are escaped."""

    def depth(tree: Any) -> int:
        if isinstance(tree, dict):
            tree = [*tree.values()]
        return 1 + max(map(depth, tree), default=0) if isinstance(tree, list) else 0

    padded = b"[" + b"[],{}," * MAX_DEPTH + json.dumps(tree).encode() + b"]"  # so many that they have to be counted
    assert depth_of(padded) == max(2, 1 + depth(tree))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_damaged_value_raises_and_nothing_else(data: st.DataObject) -> None:
    """Bits that flip, bytes that go or come: a job of the list, or an error; no crash, no other function."""
    value = bytearray(SERIALIZER.dumps(kq.Job("1", func=json_jobs.add, args=(Point(1), {1, 2}, b"x", Color.RED))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(value) - 1))
        value[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        job = SERIALIZER.loads(bytes(value))
    except Exception:
        return
    assert job.func is not None and job.func.__module__ == "json_jobs"


@settings(deadline=None, max_examples=300)
@given(value=st.binary(max_size=200))
def test_random_bytes_raise(value: bytes) -> None:
    """They are no job, whichever way they are read."""
    with pytest.raises(ValueError):
        SERIALIZER.loads(value)
