"""Enqueueing in asyncio code: the loop is never blocked, awaits share batches, cancellation harms nobody."""

from __future__ import annotations

import asyncio
import re
import socket
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import jobs
import pytest
from kafka import KafkaProducer
from test_enqueue import ids_of, on_topic

import kq
from kq import EnqueueError, Job, Queue
from kq.producing import aio

T = TypeVar("T")

#: The loop is blocked if nothing else has its turn for so many seconds. A machine under load may pause by itself.
BLOCKED = 1.0


@pytest.fixture
def queue(topic: str, hosts: str) -> Iterator[Queue]:
    """Return a queue with its own producer."""
    with Queue(topic, hosts=hosts) as queue:
        yield queue


async def watched(work: Awaitable[T]) -> tuple[T, float]:
    """Return what something awaited returns, and the longest pause of the loop meanwhile."""
    longest, ended = 0.0, False

    async def tick() -> None:
        nonlocal longest
        before = time.monotonic()
        while not ended:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest, before = max(longest, now - before), now

    ticking = asyncio.ensure_future(tick())
    try:
        return await work, longest
    finally:
        ended = True
        await ticking


def test_an_awaited_job_is_on_the_topic(queue: Queue, hosts: str) -> None:
    """As by ``enqueue``, with the settings of ``using``."""
    job = asyncio.run(queue.using(timeout=3, key=b"k").aenqueue(jobs.echo, 1, a=2))
    (record,) = on_topic(hosts, queue.topic)
    assert kq.loads(record.value) == job
    assert (job.timeout, job.key, job.args, job.kwargs) == (3, b"k", (1,), {"a": 2})


def test_thousands_of_awaits_share_batches_and_wakeups(queue: Queue, hosts: str, monkeypatch: Any) -> None:
    """Each record is there; the loop is woken far less often than there are jobs."""
    wakeups = 0
    real = aio.Bridge._wake

    def wake(self: Any) -> None:
        nonlocal wakeups
        wakeups += 1
        real(self)

    monkeypatch.setattr(aio.Bridge, "_wake", wake)

    async def gather() -> list[Job]:
        return await asyncio.gather(*(queue.aenqueue(jobs.add, number, 0) for number in range(3000)))

    found = asyncio.run(gather())
    assert sorted(ids_of(on_topic(hosts, queue.topic))) == sorted(str(job.id) for job in found)
    assert wakeups < 1000


def test_awaits_in_a_row_keep_their_order(queue: Queue, hosts: str) -> None:
    """Tasks that were made first send first."""

    async def gather() -> list[Job]:
        return await asyncio.gather(*(queue.aenqueue(jobs.add, number, 0) for number in range(200)))

    found = asyncio.run(gather())
    assert ids_of(on_topic(hosts, queue.topic)) == [job.id for job in found]


def test_the_loop_is_not_blocked_by_the_first_connection_nor_by_many(queue: Queue) -> None:
    """Connecting, looking up the topic, and 20,000 jobs at once let other tasks go on."""

    async def work() -> list[Job]:
        await queue.aenqueue(jobs.add, 1, 2)
        return await queue.aenqueue_many((jobs.add, (number, 0), {}) for number in range(20_000))

    found, longest = asyncio.run(watched(work()))
    assert len(found) == 20_000
    assert longest < BLOCKED


def test_a_broker_that_is_not_there_does_not_block_the_loop() -> None:
    """The error comes after the client's own patience; other tasks go on until then."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        queue = Queue("t", hosts=nobody, config={"bootstrap_timeout_ms": 1500})

        async def work() -> list[Any]:
            return await asyncio.gather(*(queue.aenqueue(jobs.add) for _ in range(20)), return_exceptions=True)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a client that does not come to be leaves sockets behind
            errors, longest = asyncio.run(watched(work()))
    assert {type(error) for error in errors} == {EnqueueError}
    assert all(re.search(re.escape(nobody), str(error)) for error in errors)
    assert len({error.jobs[0].id for error in errors}) == 20
    assert longest < BLOCKED


def test_a_failed_job_is_told_to_its_own_await(queue: Queue, hosts: str) -> None:
    """The others are enqueued."""

    async def work() -> list[Any]:
        sizes = [1, 2_000_000, 1]
        tasks = (queue.aenqueue(jobs.echo, b"x" * size) for size in sizes)
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, error, third = asyncio.run(work())
    assert isinstance(error, EnqueueError) and len(error.jobs) == 1
    assert ids_of(on_topic(hosts, queue.topic)) == [first.id, third.id]


def test_what_the_broker_refuses_is_told(make_topic: Callable[..., str], hosts: str) -> None:
    """And an own producer goes on."""

    async def work(queue: Queue) -> Job:
        with pytest.raises(EnqueueError, match="was refused"):
            await queue.aenqueue(jobs.echo, b"x" * 20_000)
        return await queue.aenqueue(jobs.add)

    with Queue(make_topic(max_message_bytes=2000), hosts=hosts) as queue:
        assert asyncio.run(work(queue)).id


def test_a_cancelled_await_harms_nobody(queue: Queue, hosts: str) -> None:
    """Others get their answers, and the record that was sent goes its way."""

    async def work() -> tuple[int, list[Job]]:
        await queue.aenqueue(jobs.add)
        tasks = [asyncio.ensure_future(queue.aenqueue(jobs.add, number, 0)) for number in range(200)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []
        return sum(isinstance(one, asyncio.CancelledError) for one in ended), [
            one for one in ended if isinstance(one, Job)
        ]

    cancelled, found = asyncio.run(work())
    assert 0 < cancelled <= 100  # some may have had their answer
    assert {job.id for job in found} <= set(ids_of(on_topic(hosts, queue.topic)))


def test_cancelling_while_the_client_connects_harms_nobody(queue: Queue) -> None:
    """The next one is enqueued."""

    async def work() -> Job:
        tasks = [asyncio.ensure_future(queue.aenqueue(jobs.add)) for _ in range(3)]
        await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await queue.aenqueue(jobs.add)

    assert asyncio.run(work()).id


def test_a_cancelled_many_sends_no_more(queue: Queue) -> None:
    """The iterable is left alone from then on."""
    read = 0

    def items() -> Iterator[Any]:
        nonlocal read
        while True:
            read += 1
            yield jobs.add

    async def work() -> int:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(queue.aenqueue_many(items()), 0.5)
        before = read
        await queue.aenqueue(jobs.add)  # what was on its way would be sent before it
        assert read == before
        return read

    assert asyncio.run(work()) > 0


def test_awaits_are_bounded(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more records are on their way than the window allows, and each gets its turn."""
    monkeypatch.setattr(aio, "WINDOW_COUNT", 7)
    deepest = 0
    real = aio.Bridge._send

    async def send(self: Any, *args: Any) -> None:
        nonlocal deepest
        deepest = max(deepest, self._count)
        await real(self, *args)

    monkeypatch.setattr(aio.Bridge, "_send", send)

    async def work() -> list[Any]:
        tasks = [asyncio.ensure_future(queue.aenqueue(jobs.add)) for _ in range(300)]
        await asyncio.sleep(0.01)
        for task in tasks[::3]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    ended = asyncio.run(work())
    assert all(isinstance(one, (Job, asyncio.CancelledError)) for one in ended)
    assert deepest <= 7


def test_an_asynchronous_iterable_is_read(queue: Queue, hosts: str) -> None:
    """With progress, as of any other."""
    told: list[tuple[int, int | None]] = []

    async def items() -> AsyncIterator[Any]:
        for number in range(50):
            await asyncio.sleep(0)
            yield jobs.add, (number, 0), {}

    found = asyncio.run(queue.aenqueue_many(items(), on_progress=lambda *progress: told.append(progress)))
    assert ids_of(on_topic(hosts, queue.topic)) == [job.id for job in found]
    assert told[-1] == (50, None)


def test_many_that_fail_are_told_job_by_job(queue: Queue, hosts: str) -> None:
    """As by ``enqueue_many``."""
    items = [
        Job(id=str(number), func=jobs.echo, args=(b"x" * (2_000_000 if number == 2 else 1),)) for number in range(5)
    ]
    with pytest.raises(EnqueueError) as caught:
        asyncio.run(queue.aenqueue_many(items))
    assert [job.id for job in caught.value.jobs] == ["2"]
    assert ids_of(on_topic(hosts, queue.topic)) == ["0", "1", "3", "4"]


def test_one_queue_serves_loop_after_loop(queue: Queue) -> None:
    """Each loop that ended is forgotten."""
    for _ in range(5):
        assert asyncio.run(queue.aenqueue(jobs.add)).id
    assert len(queue._sender.bridges) == 1


def test_the_users_producer_serves_as_well(topic: str, producer: Callable[..., KafkaProducer]) -> None:
    """Its first lookup of the topic happens in a thread."""
    queue = Queue(topic, producer())
    job, longest = asyncio.run(watched(queue.aenqueue(jobs.add)))
    assert job.topic == topic
    assert longest < BLOCKED


def test_a_closed_queue_says_so(hosts: str) -> None:
    """Also in asyncio code."""
    queue = Queue(f"topic-{uuid.uuid4().hex[:8]}", hosts=hosts)
    queue.close()
    with pytest.raises(EnqueueError, match="is closed"):
        asyncio.run(queue.aenqueue(jobs.add))
    with pytest.raises(EnqueueError, match="is closed"):
        asyncio.run(queue.aenqueue_many([jobs.add]))


def test_a_decorated_function_is_awaited(queue: Queue, hosts: str) -> None:
    """``f.aenqueue`` and ``f.using(…).aenqueue``."""

    @queue.job(timeout=4)
    def double(number: int) -> int:
        return number * 2

    async def work() -> list[Job]:
        return [await double.aenqueue(1), await double.using(timeout=5).aenqueue(2)]

    assert [job.timeout for job in asyncio.run(work())] == [4, 5]
    assert len(on_topic(hosts, queue.topic)) == 2
