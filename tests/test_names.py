"""A callable that a module has under a name goes as that name, and the worker's own is called."""

from __future__ import annotations

import base64
import functools
import logging
import math
import pickle
import random
import sys
import types
from typing import Any

import dill
import jobs
import named
import pytest

import kq
from kq import Job, Queue
from kq.serializers import ByValue
from kq.testing import drain

#: Callables, each of which a module has under a name.
NAMED = {
    "hidden generator": random.random,
    "hidden generator, in Python": random.randint,
    "bound method under a name": named.count_up,
    "method of a module's object": named.counter.up,
    "builtin method under a name": named.roll,
    "builtin method of a module's object": named.dice.random,
    "logger": logging.getLogger("kq.tests").info,
    "builtin": math.sin,
    "partial": named.ten_more,
    "command": named.command,
    "decorated": named.decorated,
    "lambda": named.double,
    "cached": named.cached,
    "class": logging.Logger,
}


def there_and_back(obj: Any, way: str) -> Any:
    """Return what a worker gets of an argument, by either pickler and either reader."""
    args = (obj,) if way == "by name" else (obj, eval("lambda: 1", {"__name__": "__main__"}))
    value = kq.dumps(Job(func=jobs.echo, args=args, kwargs={}))
    assert (b"_create_function" in value) == (way == "beside a lambda")
    read = kq.loads(value).args
    assert (dill.loads(value).args[0] is obj) == ((read or ())[0] is obj)
    return (read or ())[0]


@pytest.mark.parametrize("way", ["by name", "beside a lambda"])
@pytest.mark.parametrize("name", NAMED)
def test_what_a_module_has_is_the_same_there(name: str, way: str) -> None:
    """Not a copy of it, whatever else is in the job."""
    found = there_and_back(NAMED[name], way)
    assert found == NAMED[name]
    assert getattr(found, "__self__", None) is getattr(NAMED[name], "__self__", None)


@pytest.mark.parametrize("name", NAMED)
def test_what_has_a_name_is_small(name: str) -> None:
    """A function's state, as that of a generator of random numbers, stays at home."""
    assert len(kq.dumps(Job(func=NAMED[name], args=(), kwargs={}))) < 180


def test_jobs_draw_different_numbers(queue: Queue, hosts: str) -> None:
    """The state of the producer's generator does not travel with each of them."""
    queue.enqueue_many([(random.randint, (0, 2**62))] * 4 + [(random.random,)] * 4)
    results = [ran.result for ran in drain(Queue(queue.topic, hosts=hosts))]
    assert len(set(results)) == 8


def test_numpys_hidden_generator_stays_at_home() -> None:
    """Where numpy is installed."""
    numpy = pytest.importorskip("numpy")
    assert there_and_back(numpy.random.rand, "by name") == numpy.random.rand
    assert len(kq.dumps(Job(func=numpy.random.randint, args=(5,), kwargs={}))) < 200


def test_an_object_that_no_module_has_takes_its_state_along() -> None:
    """A generator of one's own gives there what it would have given here."""
    generator = random.Random(5)
    assert there_and_back(generator.random, "by name")() == generator.random()


def test_a_name_of_main_is_no_name() -> None:
    """A worker has another ``__main__``."""
    module = types.ModuleType("__main__")
    names = module.__dict__
    exec("import random\nrng = random.Random(1)\ndraw = rng.random\ndouble = lambda x: x * 2", names)
    for name in ("draw", "double"):
        job = kq.loads(kq.dumps(Job(func=names[name], args=(), kwargs={})))
        assert job.func is not names[name]


def test_looking_for_a_name_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ``==`` nor a property of what a module has."""

    class Touchy:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> None:
            pass

    monkeypatch.setattr(named, "touchy", Touchy(), raising=False)
    value = kq.dumps(Job(func=functools.partial(named.add, 1), args=(named.Command(named.add),), kwargs={}))
    assert pickle.loads(value).args[0].callback is named.add


def test_the_reader_needs_nothing_but_dill() -> None:
    """A process that knows neither this KQ's serializers nor the test."""
    value = kq.dumps(Job(func=random.randint, args=(3, 3), kwargs={}))
    program = f"""
import sys, base64, dill
job = dill.loads(base64.b64decode({base64.b64encode(value).decode()!r}))
print(job.func(*job.args), [name for name in sys.modules if name.startswith("kq.serializers")])
"""
    with jobs.Program(program) as there:
        assert (there.end(), there.lines) == (0, ["3 []"])


def test_dills_own_use_of_the_pickler_is_unchanged() -> None:
    """``ByValue`` looks up names for modules, too."""
    assert issubclass(ByValue, dill.Pickler)
    assert there_and_back(sys, "beside a lambda") is sys
