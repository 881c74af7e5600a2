"""Helpers for users' tests do what a worker would, with Kafka and without."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jobs
import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError

import kq
from kq import ArgumentError, EnqueueError, Job, Queue
from kq.consuming.feed import Feed
from kq.testing import Ran, drain, eager

pytest_plugins = ["pytester"]


@pytest.fixture
def nowhere() -> Queue:
    """Return a queue with no Kafka behind it."""
    return Queue("nowhere", hosts="127.0.0.1:1")


@pytest.fixture
def queue(hosts: str) -> Iterator[Queue]:
    """Return a queue on a topic of its own, with three partitions."""
    with Queue(f"topic-{uuid.uuid4().hex[:12]}", hosts=hosts) as queue:
        queue.ensure_topic(partitions=3)
        yield queue


def count_down(hosts: str, topic: str, number: int) -> int:
    if number:
        with Queue(topic, hosts=hosts) as queue:
            queue.enqueue(count_down, hosts, topic, number - 1)
    return number


def test_eager_jobs_run_where_they_are_enqueued(nowhere: Queue) -> None:
    """By whichever way, in order, and what is returned is the job."""
    with eager() as ran:
        job = nowhere.using(timeout=3, key=b"k", headers=[("a", b"1")]).enqueue(jobs.add, 1, 2)
        assert [one.result for one in ran] == [3]
        nowhere.enqueue_many([(jobs.add, (number, 0), {}) for number in range(3)])
        asyncio.run(nowhere.aenqueue(jobs.add, 4, 5))
        asyncio.run(nowhere.aenqueue_many([(jobs.add, (6, 7), {})]))
    assert [one.result for one in ran] == [3, 0, 1, 2, 9, 13]
    assert ran[0].job == job
    message = ran[0].message
    assert (message.topic, message.key, message.timestamp) == ("nowhere", b"k", job.timestamp)
    assert [name for name, _ in message.headers] == ["kq-id", "kq-timeout", "kq-func", "a"]
    assert [one.message.offset for one in ran] == list(range(6))


def test_an_eager_job_may_name_its_partition(nowhere: Queue) -> None:
    """Nobody is asked whether there is one, whichever way the job goes."""
    spec = nowhere.using(partition=1)
    with eager() as ran:
        spec.enqueue(jobs.add, 1, 2)
        asyncio.run(spec.aenqueue(jobs.add, 1, 2))
        asyncio.run(spec.aenqueue_many([jobs.add]))
    assert [one.message.partition for one in ran] == [1, 1, 1]


def test_eager_jobs_have_outcomes(nowhere: Queue) -> None:
    """A failure and a timeout are told as by a worker; ``enqueue`` raises nothing."""
    with eager() as ran:
        nowhere.enqueue(jobs.fail, "words")
        nowhere.using(timeout=0.1).enqueue(time.sleep, 20)
    assert [one.status for one in ran] == ["failure", "timeout"]
    assert isinstance(ran[0].exception, ValueError) and "words" in (ran[0].stacktrace or "")


def test_an_eager_callback_is_told_as_by_a_worker(nowhere: Queue) -> None:
    """With six arguments or with five; one that raises changes nothing."""
    six, five = jobs.Calls(), []

    def old(status: str, job: Job, result: Any, exception: Any, stacktrace: Any) -> None:
        five.append((status, result))
        raise ZeroDivisionError

    with eager(lambda status, message, job, result, exception, stacktrace: six.append((status, result))):  # type: ignore[arg-type]
        nowhere.enqueue(jobs.add, 1, 2)
    with eager(old) as ran:
        nowhere.enqueue(jobs.add, 3, 4)
    assert (six, five, len(ran)) == ([("success", 3)], [("success", 7)], 1)
    with pytest.raises(ArgumentError, match="callback must"), eager(5):  # type: ignore[arg-type]
        pass


def test_an_eager_argument_goes_through_bytes(nowhere: Queue) -> None:
    """The job gets a copy, and what cannot be serialized is told."""
    given = [1]
    with eager() as ran:
        nowhere.enqueue(jobs.echo, given)
        with pytest.raises(ArgumentError, match="cannot be serialized"):
            nowhere.enqueue(jobs.echo, (number for number in ()))
    assert ran[0].result[0][0] == given
    assert ran[0].job.args[0] is not given


def test_eager_jobs_may_enqueue(nowhere: Queue) -> None:
    """At once as well, also below a time limit."""
    with eager() as ran:
        nowhere.using(timeout=30).enqueue(count_down, "127.0.0.1:1", "other", 2)
    assert [one.result for one in ran] == [0, 1, 2]


def test_eager_runs_coroutines_in_a_running_loop(nowhere: Queue) -> None:
    """A job with a loop of its own is not in the way of the test's."""

    async def nap() -> str:
        await asyncio.sleep(0)
        return "slept"

    async def work() -> None:
        await nowhere.aenqueue(nap)

    with eager() as ran:
        asyncio.run(work())
    assert [one.result for one in ran] == ["slept"]


def test_after_eager_all_is_as_before(nowhere: Queue) -> None:
    """Also when the block was left by an exception; and a closed queue is closed."""
    before = dict(vars(kq.producing.delivery.Delivery))
    with pytest.raises(ZeroDivisionError), eager():
        raise ZeroDivisionError
    assert dict(vars(kq.producing.delivery.Delivery)) == before
    nowhere.close()
    with eager(), pytest.raises(EnqueueError, match="closed"):
        nowhere.enqueue(jobs.add)


def test_a_topic_is_drained(queue: Queue) -> None:
    """Every job's outcome is returned; a second time there is nothing left."""
    enqueued = queue.enqueue_many([*((jobs.add, (number, 1), {}) for number in range(20)), (jobs.fail, ("x",))])
    calls = jobs.Calls()
    ran = drain(queue, calls)
    assert sorted(one.job.id for one in ran) == sorted(str(job.id) for job in enqueued)
    assert sorted(one.result for one in ran if one.status == "success") == list(range(1, 21))
    assert [type(one.exception) for one in ran if one.status == "failure"] == [ValueError]
    assert all(isinstance(one, Ran) for one in ran)
    assert [tuple(call) for call in calls] == [tuple(one) for one in ran]
    assert drain(queue) == []
    assert len(drain(queue, group="another")) == 21


def test_jobs_that_jobs_enqueue_are_drained_too(queue: Queue, hosts: str) -> None:
    """Until there is really nothing left."""
    queue.enqueue(count_down, hosts, queue.topic, 3)
    assert [one.result for one in drain(queue)] == [3, 2, 1, 0]


def enqueue_another(hosts: str, topic: str) -> None:
    with Queue(topic, hosts=hosts) as queue:
        queue.using(partition=0).enqueue(jobs.add, 1, 2)


def test_what_comes_before_the_worker_is_ready_is_drained_too(
    queue: Queue, hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has polled it by then, and the worker's idle time is over."""
    real, begins = Feed.begin, []

    def begin(feed: Any, partition: int, *args: Any) -> Any:
        if partition == 0:
            begins.append(time.monotonic())
            if len(begins) > 1 and time.monotonic() < begins[1] + 0.8:
                raise KafkaError("not yet")
        return real(feed, partition, *args)

    monkeypatch.setattr(Feed, "begin", begin)
    queue.using(partition=0).enqueue(enqueue_another, hosts, queue.topic)
    assert [one.result for one in drain(queue)] == [None, 3]


def test_the_end_of_a_transaction_is_nothing_to_drain(queue: Queue, producer: Callable[..., KafkaProducer]) -> None:
    """It takes an offset, and is no message."""
    client = producer(transactional_id=f"tx-{queue.topic}")
    client.init_transactions()
    client.begin_transaction()
    client.send(queue.topic, kq.dumps(Job(func=jobs.add, args=(1, 2), kwargs={})), partition=0)
    client.commit_transaction()
    assert [one.result for one in drain(queue, timeout=20)] == [3]


def test_a_topic_that_is_not_there_is_empty(hosts: str) -> None:
    """There is nothing to do."""
    assert drain(Queue(f"topic-{uuid.uuid4().hex[:12]}", hosts=hosts)) == []


def test_what_takes_too_long_to_drain_is_told(queue: Queue) -> None:
    """With how much is left."""
    queue.enqueue_many([(time.sleep, (0.3,), {})] * 20)
    with pytest.raises(kq.KQError, match=r"messages of topic .* are left after 1 s"):
        drain(queue, timeout=1)


def test_the_fixtures_serve(pytester: pytest.Pytester, hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test suite that knows nothing but ``pytest_plugins``."""
    monkeypatch.setenv("PYTHONPATH", str(jobs.ROOT))
    pytester.makeconftest(
        f"""
        import pytest
        pytest_plugins = ["kq.testing"]

        @pytest.fixture(scope="session")
        def kq_hosts():
            return {hosts!r}
        """
    )
    pytester.makepyfile(
        """
        import operator
        import kq
        from kq.testing import drain

        def test_with_kafka(kq_queue):
            kq_queue.enqueue(operator.add, 1, 2)
            assert [ran.result for ran in drain(kq_queue)] == [3]

        def test_without(kq_eager):
            kq.Queue("t", hosts="127.0.0.1:1").enqueue(operator.add, 3, 4)
            assert [ran.result for ran in kq_eager] == [7]
        """
    )
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=2)
