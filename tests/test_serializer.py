"""Jobs become bytes and jobs again, whichever KQ wrote them."""

from __future__ import annotations

import base64
import collections
import contextlib
import copy
import dataclasses
import json
import operator
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import dill
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kq.job
from kq.job import Job
from kq.serializers import default as serializer
from kq.serializers.default import dumps, loads

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).resolve().parent.parent
PYTHON = "{}.{}".format(*sys.version_info)
#: What an unpickler raises of a value that ends too early, depending on where.
DAMAGE = (pickle.UnpicklingError, EOFError, IndexError, struct.error, AttributeError, ImportError, ValueError)
#: Cases that are byte code: there are none for a Python that KQ 2.2.1 was not tried on.
BY_VALUE = {"lambda", "closure", "own_class"}
INNER = Job("inner", 1, "payloads", operator.add, (3, 4), {}, 5)


class Old(NamedTuple):
    """A value that an old release wrote."""

    kq: str
    python: str
    dill: str
    case: str
    value: bytes

    def __str__(self) -> str:
        return f"{self.case}-kq{self.kq}-python{self.python}-dill{self.dill}"


class Call(NamedTuple):
    """What ``make_payloads.py`` enqueued: the fields that are the same in every run, and what the call returns."""

    result: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout: float = 60
    key: bytes | None = None
    partition: int | None = None


CALLS = {
    "function": Call(3, (1, 2), {}),
    "keywords": Call('{"a": [null, true], "b": 1}', ({"b": 1, "a": [None, True]},), {"sort_keys": True}),
    "text": Call('"Zürich"', ("Zürich",), {"ensure_ascii": False}),
    "builtin_method": Call(["a", "b"], ("-",), {}),
    "method": Call([("a", 5)], (1,), {}),
    "date_method": Call("2018-06-04", (), {}),
    "callable_instance": Call("b", ("abc",), {}),
    "job_in_arguments": Call(INNER, (INNER,), {}),
    "jobs_in_a_list": Call([INNER, [INNER]], ([INNER, [INNER]],), {}),
    "lambda": Call(42, (21,), {}),
    "closure": Call(42, (21,), {}),
    "own_class": Call(42, (21,), {}),
    "key": Call(42, (6, 7), {}, key=b"customer-7"),
    "using": Call(42, (6, 7), {}, timeout=1.5, key=b"customer-7", partition=3),
    "own_job": Call(42, (6, 7), {}, timeout=0.5),
}


def old_values() -> Iterator[Old]:
    """Yield every value in the data files that this Python can read: byte code is for one Python only."""
    for path in sorted(DATA.glob("payloads-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        cases = found["portable"] | (found["same_python"] if found["python"] == PYTHON else {})
        for case, text in cases.items():
            yield Old(found["kq"], found["python"], found["dill"], case, base64.b64decode(text))


OLD = list(old_values())


def old(release: str, case: str) -> bytes:
    """Return one old value, as the newest Python wrote it."""
    return [one.value for one in OLD if (one.kq, one.case) == (release, case)][-1]


@dataclasses.dataclass(frozen=True)
class OldJob:
    """KQ 2.2.1's form of a job, for values made up here."""

    id: Any = None
    timestamp: Any = None
    topic: Any = None
    func: Any = None
    args: Any = None
    kwargs: Any = None
    timeout: Any = None
    key: Any = None
    partition: Any = None


@contextlib.contextmanager
def dataclass_jobs() -> Iterator[None]:
    """Make ``kq.job.Job`` a dataclass, as it was, and put the namedtuple back."""
    names = {"__module__": "kq.job", "__name__": "Job", "__qualname__": "Job"}
    before = {name: getattr(OldJob, name) for name in names}
    for name, text in names.items():
        setattr(OldJob, name, text)
    kq.job.Job = OldJob  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        kq.job.Job = Job  # type: ignore[misc]
        for name, text in before.items():
            setattr(OldJob, name, text)


@pytest.mark.parametrize("written", OLD, ids=str)
def test_an_old_value_is_read_and_runs(written: Old) -> None:
    """What an old release enqueued is a Job with the same fields, and its call returns what it returned then."""
    expected = CALLS[written.case]
    job = loads(written.value)
    assert type(job) is Job
    assert (tuple(job.args or ()), job.kwargs) == (expected.args, expected.kwargs)
    assert (job.topic, job.timeout, job.key) == ("payloads", expected.timeout, expected.key)
    assert job.partition == expected.partition
    assert type(job.id) is str
    assert type(job.timestamp) is int
    assert job.func is not None
    assert job.func(*(job.args or ()), **(job.kwargs or {})) == expected.result


def test_the_data_files_hold_every_form_there_was() -> None:
    """Seven fields, eight fields, nine fields, the dataclass: each release that differs is there, old and new dill."""
    assert {one.kq for one in OLD} == {"1.0", "1.3.2", "2.0.0", "2.0.1", "2.2.1"}
    assert {one.case for one in OLD} | BY_VALUE == set(CALLS)
    assert {value.value[1] for value in OLD} == {2, 3, 4}  # pickle protocols
    for release in ("1.0", "1.3.2", "2.0.0", "2.0.1", "2.2.1"):
        assert len({one.dill for one in OLD if one.kq == release}) > 1, release


def test_plain_dill_reads_all_but_the_dataclass() -> None:
    """That ``kq.loads`` is needed for KQ 2.2.1's values, and for no others, is true."""
    for written in OLD:
        if written.kq == "2.2.1":
            with pytest.raises(AttributeError):
                dill.loads(written.value)
        else:
            assert type(dill.loads(written.value)) is Job


def test_only_dataclasses_go_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unpickler in Python, which is slow, sees none of the values that the one in C can read."""
    long_way: list[bytes] = []
    monkeypatch.setattr(serializer, "load_dataclass", lambda value, _: long_way.append(value))
    new = dumps(INNER._replace(args=(INNER, [INNER])))
    for value in [new, *(one.value for one in OLD if one.kq != "2.2.1")]:
        loads(value)
    assert long_way == []
    for value in [one.value for one in OLD if one.kq == "2.2.1"]:
        loads(value)
    assert len(long_way) == len([one for one in OLD if one.kq == "2.2.1"])


def test_one_old_job_that_is_there_twice_stays_one() -> None:
    """A dataclass Job is replaced wherever it is, also in what the unpickler remembers."""
    job = loads(old("2.2.1", "jobs_in_a_list"))
    assert job.args is not None
    first, [second] = job.args[0]
    assert first is second
    assert type(first) is Job


@given(st.sampled_from([2, 3, 4, 5]), st.booleans(), st.booleans())
def test_a_dataclass_is_known_in_every_protocol(protocol: int, plain: bool, optimized: bool) -> None:
    """Any protocol since 2, dill's pickler or the one in C, with the memo or without what is not used of it."""
    fields = {"id": "a", "func": operator.add, "args": (1, 2), "kwargs": {}, "key": b"k"}
    with dataclass_jobs():
        value: bytes = (pickle if plain else dill).dumps(OldJob(**fields), protocol=protocol)
    job = loads(pickletools.optimize(value) if optimized else value)
    assert type(job) is Job
    assert job == Job(**fields)  # type: ignore[arg-type]


def test_a_dataclass_is_known_at_any_length() -> None:
    """The length stands in its first bytes, and may look like the end of a line."""
    for length in range(512):
        with dataclass_jobs():
            value = dill.dumps(OldJob(id="a" * length), protocol=4)
        assert loads(value) == Job(id="a" * length)


def values() -> st.SearchStrategy[Any]:
    """Return a strategy of nested data as it stands in the arguments of jobs."""
    leaves: st.SearchStrategy[Any] = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    )
    leaves |= st.just(INNER) | st.just(copy.copy) | st.dates() | st.decimals(allow_nan=False)

    def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        lists = st.lists(inner, max_size=4)
        return lists | lists.map(tuple) | st.dictionaries(st.text(), inner, max_size=4) | st.frozensets(st.integers())

    return st.recursive(leaves, nest, max_leaves=12)


def fields() -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of a job's fields, as many of them left out as may be."""
    everything = {
        "id": st.text(),
        "timestamp": st.integers(),
        "topic": st.text(),
        "func": st.sampled_from([operator.add, print, json.dumps, copy.copy, collections.Counter]),
        "args": st.lists(values(), max_size=4) | st.lists(values(), max_size=4).map(tuple),
        "kwargs": st.dictionaries(st.text(), values(), max_size=4),
        "timeout": st.floats(0, allow_infinity=False) | st.integers(0),
        "key": st.binary(),
        "partition": st.integers(0),
    }
    return st.fixed_dictionaries({}, optional=everything)


@settings(deadline=None)
@given(fields())
def test_any_job_comes_back(given_fields: dict[str, Any]) -> None:
    """A job is the same after the way through bytes, by ``kq.loads`` and by plain dill."""
    job = Job(**given_fields)
    value = dumps(job)
    assert type(value) is bytes
    assert type(loads(value)) is type(dill.loads(value)) is Job
    assert loads(value) == dill.loads(value) == job


@settings(deadline=None)
@given(fields(), st.sampled_from([3, 4, 5]))
def test_any_dataclass_job_comes_back(given_fields: dict[str, Any], protocol: int) -> None:
    """The long way tells the same of KQ 2.2.1's form of a job as the short way of today's."""
    with dataclass_jobs():
        value = dill.dumps(OldJob(**given_fields), protocol=protocol)
    job = loads(value)
    assert type(job) is Job
    assert job == Job(**given_fields)


@pytest.mark.parametrize("source", ["lambda x, y=2: x * y", "(lambda y: lambda x: x * y)(2)"])
def test_what_cannot_be_imported_goes_by_value(source: str) -> None:
    """A lambda and a closure of the main program run where that program is not."""
    func = eval(source, {"__name__": "__main__"})
    job = loads(dumps(Job(func=func, args=(21,))))
    assert job.func is not None
    assert job.func(21) == 42


def test_plain_dill_makes_a_kq_job_of_a_value_anywhere() -> None:
    """A process that has imported dill and nothing else gets a ``kq.Job`` from a value."""
    job = Job("id-1", 5, "topic", operator.add, (1, 2), {}, 0.5, b"key", 3)
    program = f"import dill; print(repr(dill.loads({dumps(job)!r})), dill.loads({dumps(job)!r}).__class__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == (f"{job!r} <class 'kq.job.Job'>", "")


@pytest.mark.parametrize("other", [None, 5, {"func": "x"}, SimpleNamespace(func=print, key="text"), [INNER]], ids=repr)
def test_what_is_not_a_job_is_returned_as_it_is(other: Any) -> None:
    """A value of some other kind, with the attributes of a job or without, is nobody's business here."""
    assert loads(dill.dumps(other)) == other


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("value", [dumps(INNER), old("2.2.1", "job_in_arguments")], ids=["new", "dataclass"])
def test_any_form_of_bytes_will_do(form: type, value: bytes) -> None:
    """bytes, bytearray and memoryview are read alike."""
    assert loads(form(value)) == loads(value)


@pytest.mark.parametrize("length", range(len(dumps(INNER))))
def test_a_value_cut_short_raises_what_dill_raises(length: int) -> None:
    """Damage is dill's to report, in its own words."""
    value = dumps(INNER)[:length]
    with pytest.raises(Exception) as expected:
        dill.loads(value)
    with pytest.raises(type(expected.value)):
        loads(value)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_dataclass_cut_short_raises(protocol: int) -> None:
    """No piece of an old value is taken for the whole."""
    with dataclass_jobs():
        value = dill.dumps(OldJob("id", 1, "topic", print, (b"x" * 300, {1: 2}), {}), protocol=protocol)
    assert loads(value).id == "id"
    for length in range(len(value)):
        with pytest.raises(DAMAGE):
            loads(value[:length])


@pytest.mark.parametrize("nothing", [None, "text", 5])
def test_what_is_not_bytes_raises(nothing: Any) -> None:
    """A tombstone has no value; that is an error like any other damage."""
    with pytest.raises(TypeError):
        loads(nothing)


def test_text_as_key_becomes_bytes() -> None:
    """Python 2 wrote keys as text; a Job has them as bytes, so that it can be enqueued again."""
    assert loads(dumps(Job(key="zürich"))).key == "zürich".encode()  # type: ignore[arg-type]
