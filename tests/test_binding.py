"""A call that does not fit its function is refused where it is enqueued; decorated methods keep their object."""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import bound
import jobs
import pytest
from helpers import placeless

import kq
from kq import ArgumentError, Job, Queue
from kq.testing import drain, eager


@pytest.fixture
def nowhere() -> Queue:
    """Return a queue with no Kafka behind it."""
    return Queue("nowhere", hosts="127.0.0.1:1")


#: A function, arguments that do not fit it, and what is told.
MISFITS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    "missing": (bound.pair, (1,), {}, "pair() missing a required argument: 'b'"),
    "too many": (bound.pair, (1, 2, 3), {}, "pair() too many positional arguments"),
    "unknown keyword": (bound.pair, (1, 2), {"c": 3}, "pair() got an unexpected keyword argument 'c'"),
    "given twice": (bound.pair, (1, 2), {"b": 3}, "pair() multiple values for argument 'b'"),
    "keyword that is none": (bound.odd, (), {"a": 1, "c": 1}, "odd() "),
    "keyword only": (bound.odd, (1,), {}, "odd() missing a required"),
    "method": (bound.Mailer("x").plain, (), {}, "Mailer.plain() missing a required argument: 'to'"),
    "method of a class": (bound.Mailer.plain, ("bob",), {}, "Mailer.plain() missing a required argument: 'to'"),
    "class method": (bound.Mailer.made, (1, 2), {}, "Mailer.made() too many positional arguments"),
    "static method": (bound.Mailer.helper, (), {}, "Mailer.helper() missing a required argument: 'x'"),
    "class": (bound.Mailer, (), {}, "Mailer.__init__() missing a required argument: 'name'"),
    "callable instance": (bound.Mailer("x"), (1,), {}, "Mailer.__call__() too many positional arguments"),
    "partial": (functools.partial(bound.pair, 1), (), {}, "pair() missing a required argument: 'b'"),
    "partial with a keyword": (
        functools.partial(bound.pair, b=1),
        (1, 2),
        {},
        "pair() multiple values for argument 'b'",
    ),
    "lambda": (lambda x: x, (), {}, "<lambda>() missing a required argument: 'x'"),
    "coroutine function": (bound.later, (), {}, "later() missing a required argument: 'seconds'"),
    "builtin": (len, (), {}, "len() missing a required argument: 'obj'"),
    "decorated": (bound.double, (), {}, "double() missing a required argument: 'number'"),
}


def ways(queue: Queue, func: Any, args: Any, kwargs: Any) -> dict[str, Callable[[], Any]]:
    return {
        "enqueue": lambda: queue.enqueue(func, *args, **kwargs),
        "using": lambda: queue.using(timeout=5).enqueue(func, *args, **kwargs),
        "job": lambda: queue.enqueue(Job(func=func, args=args, kwargs=kwargs)),
        "many": lambda: queue.enqueue_many([(func, args, kwargs)]),
        "many jobs": lambda: queue.enqueue_many([Job(func=func, args=args, kwargs=kwargs)]),
        "aenqueue": lambda: asyncio.run(queue.aenqueue(func, *args, **kwargs)),
        "amany": lambda: asyncio.run(queue.aenqueue_many([(func, args, kwargs)])),
    }


@pytest.mark.parametrize("case", MISFITS)
def test_a_call_that_does_not_fit_is_refused(case: str, nowhere: Queue) -> None:
    """By each way to enqueue, in Python's words, and before anything connects."""
    func, args, kwargs, words = MISFITS[case]
    for enqueue in ways(nowhere, func, args, kwargs).values():
        with pytest.raises(ArgumentError) as caught:
            enqueue()
        assert words in str(caught.value)


def test_a_job_without_arguments_is_checked_too(nowhere: Queue) -> None:
    """``Job(func=…)`` calls without any; so does a callable in ``enqueue_many``."""
    for items in ([Job(func=bound.pair)], [bound.pair], [(bound.pair,)]):
        with pytest.raises(ArgumentError, match=r"^jobs\[0\]: pair\(\) missing"):
            nowhere.enqueue_many(items)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (bound.pair, (1, 2), {}),
        (bound.pair, (), {"a": 1, "b": 2}),
        (bound.pair, (1,), {"b": 2}),
        (bound.odd, (1,), {"c": 1}),
        (bound.anything, (1, 2, 3), {"x": 1}),
        (bound.Mailer("x").plain, ("bob",), {}),
        (bound.Mailer, ("x",), {}),
        (bound.Mailer("x"), (), {}),
        (bound.injected, (1,), {}),
        (bound.pretender, (1, 2, 3), {}),
        (functools.partial(bound.pair, b=1), (1,), {}),
        (functools.partial(bound.pair, b=1), (1,), {"b": 3}),
        (functools.partial(bound.Mailer("x").plain, "bob"), (), {}),
        (max, (1, 2), {}),
        (dict, (), {"a": 1}),
        (operator.itemgetter(0), ([1],), {}),
        (int, ("ff", 16), {}),
        (bound.Strange(), (1, 2), {"c": 3}),
        (bound.Made, (1, 2), {}),
        (time.sleep, (0,), {}),
    ],
    ids=placeless,
)
def test_a_call_that_fits_is_enqueued(func: Any, args: Any, kwargs: Any, nowhere: Queue) -> None:
    """Also where a decorator, a C function or a metaclass knows better what it takes."""
    with eager() as ran:
        for enqueue in ways(nowhere, func, args, kwargs).values():
            enqueue()
    assert [one.status for one in ran] == ["success"] * 7


def test_checking_runs_nothing(nowhere: Queue) -> None:
    """No property, no ``__getattr__``, no ``__signature__`` and no ``__eq__`` of the user's; nothing is imported."""
    before = set(sys.modules)
    for func in (bound.Alarmed(), bound.Alarmed().method):
        with pytest.raises(ArgumentError, match="missing a required argument: 'x'"):
            nowhere.enqueue(func)
    assert set(sys.modules) == before


def test_the_enqueue_of_a_decorated_function_is_a_function_too(nowhere: Queue) -> None:
    """A job that enqueues another is checked like any."""
    with eager() as ran:
        nowhere.enqueue(bound.double.enqueue, 4)
    assert len(ran) == 1


def test_a_function_that_is_gone_is_not_kept(nowhere: Queue) -> None:
    """Its signature is forgotten with it."""
    signatures = kq.producing.binding._signatures
    before = len(signatures)
    with eager():
        nowhere.enqueue(lambda *, a: a, a=1)
    import gc

    gc.collect()
    assert len(signatures) <= before


# -- methods -----------------------------------------------------------------------------------------------------------


def test_a_decorated_method_keeps_its_object(hosts: str, topic: str) -> None:
    """``Mailer().send.enqueue("bob")`` sends from that mailer, in a worker that looks the class up by its name."""
    with Queue(topic, hosts=hosts) as queue:
        mailer = bound.Mailer("post")
        send = rebound(mailer.send, queue)
        job = send.enqueue("bob")
        assert job.args == ("bob",)
        assert send.using(timeout=3).enqueue(to="eve").timeout == 3
        asyncio.run(send.aenqueue("joe"))
        assert [ran.result for ran in drain(queue)] == ["post to bob", "post to eve", "post to joe"]


def rebound(method: Any, queue: Queue) -> Any:
    """Return a method of the module ``bound``, with another queue than it was made with."""
    return type(method)(method._func, queue._sender, queue._terms)


#: How each kind of decorated method is enqueued, and what it gives.
METHODS: dict[str, tuple[Callable[[], Any], str]] = {
    "method": (lambda: bound.Mailer("post").send.enqueue("bob"), "post to bob"),
    "method of a subclass": (lambda: bound.Express("post").send.enqueue("bob"), "post to bob"),
    "method of the class": (lambda: bound.Mailer.send.enqueue(bound.Mailer("post"), "bob"), "post to bob"),
    "bound method": (lambda: bound.queue.enqueue(bound.Mailer("post").send, "bob"), "post to bob"),
    "class method": (lambda: bound.Mailer.build.enqueue("bob"), "Mailer bob"),
    "class method of a subclass": (lambda: bound.Express.build.enqueue("bob"), "Express bob"),
    "class method of an object": (lambda: bound.Mailer("post").build.enqueue("bob"), "Mailer bob"),
    "static method": (lambda: bound.Mailer.shout.enqueue("bob"), "BOB"),
    "static method, decorated first": (lambda: bound.Mailer.whisper.enqueue("Bob"), "bob"),
    "static method of an object": (lambda: bound.Mailer("post").shout.enqueue("bob"), "BOB"),
    "coroutine": (lambda: bound.Mailer("post").later.enqueue("bob"), "post later to bob"),
}


@pytest.mark.parametrize("kind", METHODS)
def test_each_kind_of_decorated_method_can_be_enqueued(kind: str) -> None:
    """Its name and its object travel, and no code."""
    enqueue, expected = METHODS[kind]
    with eager() as ran:
        enqueue()
    assert [(one.status, one.result) for one in ran] == [("success", expected)]
    assert b"_create_function" not in (ran[0].message.value or b"")


@pytest.mark.parametrize("kind", METHODS)
def test_a_decorated_method_of_main_goes_by_value(kind: str, tmp_path: Any) -> None:
    """Its class goes with it, and another process computes the same."""
    source = inspect.getsource(bound).replace("from __future__ import annotations", "")
    module = types.ModuleType("__main__")
    exec(source, module.__dict__)
    enqueue, expected = METHODS[kind]
    enqueue = types.FunctionType(enqueue.__code__, {"bound": module})  # type: ignore[attr-defined]
    with eager() as ran:
        enqueue()
    program = f"""
import asyncio, inspect, kq
job = kq.loads({ran[0].message.value!r})
result = job.func(*job.args, **job.kwargs)
print(asyncio.run(result) if inspect.iscoroutine(result) else result)
"""
    with jobs.Program(program, folder=tmp_path) as there:
        assert (there.end(), there.lines) == (0, [expected])


def test_a_decorated_method_is_still_called() -> None:
    """On its object, and looks as it did."""
    assert bound.Mailer("post").send("bob") == "post to bob"
    assert bound.Mailer.send(bound.Mailer("post"), "bob") == "post to bob"
    assert bound.Express.build("bob") == "Express bob"
    assert bound.Mailer("post").shout("bob") == bound.Mailer.shout("bob") == "BOB"
    assert asyncio.run(bound.Mailer("post").later("bob")) == "post later to bob"
    assert bound.Mailer("post").send.__name__ == "send"
    assert bound.Mailer.send.__doc__ == "Send."
    assert bound.Mailer("post").send.__self__.name == "post"


@pytest.mark.parametrize("kind", ["method", "class method", "static method"])
def test_a_call_of_a_decorated_method_is_checked(kind: str) -> None:
    """With its object counted."""
    method = {
        "method": bound.Mailer("post").send,
        "class method": bound.Mailer.build,
        "static method": bound.Mailer.shout,
    }[kind]
    for args in ((), (1, 2)):
        with pytest.raises(ArgumentError, match=r"^Mailer\.\w+\(\) "):
            method.enqueue(*args)


def test_a_worker_logs_a_decorated_method_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """As it does a plain one."""
    caplog.set_level("INFO", "kq.worker")
    with eager():
        bound.Mailer("post").send.enqueue("bob")
    assert [line for line in caplog.messages if ": bound.Mailer.send('bob') (topic " in line]
