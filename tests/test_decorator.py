"""Functions that know their queue: decorated ones enqueue themselves."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dill
import jobs
import pytest
from test_enqueue import on_topic

import kq
from kq import ArgumentError, Job, Queue
from kq.producing import window as window


@pytest.fixture
def queue(topic: str, hosts: str) -> Iterator[Queue]:
    """Return a queue with its own producer."""
    with Queue(topic, hosts=hosts) as queue:
        yield queue


def test_a_decorated_function_is_still_called(queue: Queue) -> None:
    """And looks as it did."""

    @queue.job(timeout=5)
    def double(number: int) -> int:
        """Double it."""
        return number * 2

    assert double(4) == 8
    assert double.__doc__ == "Double it."
    assert str(inspect.signature(double)) == "(number: 'int') -> 'int'"


def test_a_decorated_function_enqueues_itself(queue: Queue, hosts: str) -> None:
    """With the decorator's settings, those of ``using`` first; a worker's call of it is a plain call."""

    @queue.job(timeout=5, key=b"k", headers=[("trace", b"1")])
    def double(number: int) -> int:
        return number * 2

    found = [double.enqueue(4), double.using(timeout=1).enqueue(number=5), double.using(key=b"other").enqueue(6)]
    assert [(job.timeout, job.key) for job in found] == [(5, b"k"), (1, b"k"), (5, b"other")]
    records = on_topic(hosts, queue.topic)
    assert [record.headers[-1] for record in records] == [("trace", b"1")] * 3
    loaded = [kq.loads(record.value) for record in records]
    assert [job.func(*job.args, **job.kwargs) for job in loaded] == [8, 10, 12]  # type: ignore[misc,arg-type]
    assert len(on_topic(hosts, queue.topic)) == 3


MODULE = """
import kq
queue = kq.Queue({topic!r}, hosts={hosts!r})

@queue.job(timeout=9)
def double(number):
    return number * 2

class Group:
    @staticmethod
    @queue.job()
    def triple(number):
        return number * 3
"""


@pytest.mark.parametrize("dumps", [kq.dumps, dill.dumps, pickle.dumps])
def test_a_decorated_function_goes_by_name(dumps: Any, topic: str, hosts: str, tmp_path: Any, monkeypatch: Any) -> None:
    """A worker imports its module, and runs the plain function; nothing is enqueued again."""
    name = f"tasks_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(topic=topic, hosts=hosts))
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(name)
    for func, expected in ((module.double, 8), (module.Group.triple, 12)):
        value = dumps(Job(func=func, args=(4,), kwargs={}))
        assert len(value) < 250  # its name, not its code
        program = f"import kq, sys; sys.path.insert(0, {str(tmp_path)!r}); job = kq.loads({value!r}); "
        program += "print(job.func(*job.args))"
        with jobs.Program(program) as there:
            assert (there.end(), there.lines) == (0, [str(expected)])
    assert module.double.enqueue(4).timeout == 9
    module.queue.close()


def test_a_decorated_function_that_goes_by_value_leaves_its_queue(queue: Queue) -> None:
    """It computes the same, and says clearly that it cannot enqueue there."""
    source = "import kq\n@queue.job()\ndef double(n):\n    return n * 2\n"
    names: dict[str, Any] = {"__name__": "__main__", "queue": queue}
    exec(source, names)
    there = kq.loads(kq.dumps(Job(func=names["double"], args=(2,), kwargs={}))).func
    assert there is not None
    assert there(2) == 4
    with pytest.raises(kq.KQError, match="came by value"):
        there.enqueue(2)  # type: ignore[attr-defined]


def test_a_bad_setting_of_the_decorator_is_told_at_once(queue: Queue) -> None:
    """Not first when a job is enqueued."""
    with pytest.raises(ArgumentError, match="timeout must be 0 or greater"):
        queue.job(timeout=-1)
    with pytest.raises(ArgumentError, match="first argument must be a callable"):
        queue.job()(5)  # type: ignore[arg-type]


def test_a_decorated_coroutine_function_stays_one(queue: Queue) -> None:
    """An event loop can await it."""

    @queue.job()
    async def nothing() -> None:
        pass

    assert inspect.iscoroutinefunction(nothing)


# -- a decorated function that the queue enqueues ----------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_its_terms_hold_wherever_it_is_enqueued(queue: Queue, many: bool) -> None:
    """Timeout and key were ignored; what ``using`` says there wins."""
    func = queue.job(timeout=5, key=b"k")(jobs.add)
    other = queue.using(timeout=7)

    def enqueue(spec: Any) -> Job:
        return spec.enqueue_many([(func, (1, 2))])[0] if many else spec.enqueue(func, 1, 2)

    assert enqueue(queue)[6:8] == (5, b"k")
    assert enqueue(other)[6:8] == (7, b"k")
    assert enqueue(queue.using(key=b"other"))[6:8] == (5, b"other")


def test_its_terms_hold_in_a_job(queue: Queue) -> None:
    """Where the job says nothing itself."""
    func = queue.job(timeout=5)(jobs.add)
    assert queue.enqueue(Job(func=func, args=(1, 2))).timeout == 5
    assert queue.enqueue(Job(func=func, args=(1, 2), timeout=1)).timeout == 1


def test_the_terms_of_a_method_hold_too(queue: Queue) -> None:
    """Of the plain method, and of a bound one."""

    class Mailer:
        @queue.job(timeout=5)
        def send(self, name: str) -> None: ...

    assert queue.enqueue(Mailer().send, "bob").timeout == 5


def test_without_parentheses_it_decorates_as_with_them(queue: Queue) -> None:
    """``@queue.job`` is a natural thing to write."""

    @queue.job
    def plain(number: int) -> int:
        return number

    assert plain(3) == 3
    assert plain.enqueue(3).args == (3,)


def test_many_calls_of_one_function(queue: Queue) -> None:
    """Positional arguments or keywords."""
    func = queue.job(timeout=5)(jobs.add)
    enqueued = func.enqueue_many([(1, 2), [3, 4], {"a": 5, "b": 6}])
    assert [(job.args, job.kwargs, job.timeout) for job in enqueued] == [
        ((1, 2), {}, 5),
        ((3, 4), {}, 5),
        ((), {"a": 5, "b": 6}, 5),
    ]
    assert [job.timeout for job in func.using(timeout=1).enqueue_many([(1, 2)])] == [1]
    with pytest.raises(kq.ArgumentError, match="tuple or list of positional"):
        func.enqueue_many([3])


@pytest.mark.parametrize("many", [False, True])
def test_its_headers_hold_wherever_it_is_enqueued(queue: Queue, hosts: str, many: bool) -> None:
    """On another queue too, unless headers are given there."""

    @kq.Queue("elsewhere", hosts=hosts).job(headers=[("trace", b"own")])
    def function() -> None: ...

    for spec in (queue, queue.using(timeout=3), queue.using(headers=[("trace", b"given")])):
        spec.enqueue_many([(function,)]) if many else spec.enqueue(function)
    queue.enqueue(max, 1, 2)
    traces = [dict(record.headers).get("trace") for record in on_topic(hosts, queue.topic)]
    assert traces == [b"own", b"own", b"given", None]


def test_many_of_its_calls_in_asyncio_code(queue: Queue, hosts: str) -> None:
    """As in plain code, also from an asynchronous iterable."""

    @queue.job(timeout=7)
    def function(a: int, b: int = 0) -> int:
        return a + b

    async def later() -> AsyncIterator[Any]:
        yield (5,)
        yield {"a": 6}

    async def enqueue() -> list[Any]:
        return [*await function.aenqueue_many([(1, 2), [3]]), *await function.aenqueue_many(later())]

    enqueued = asyncio.run(enqueue())
    assert [(job.args, job.kwargs, job.timeout) for job in enqueued] == [
        ((1, 2), {}, 7),
        ((3,), {}, 7),
        ((5,), {}, 7),
        ((), {"a": 6}, 7),
    ]
    assert len(on_topic(hosts, queue.topic)) == 4
