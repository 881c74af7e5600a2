"""``enqueue_timeout``: no call takes longer, whatever brokers do, and one that is away is not waited for twice."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import wait_until
from kafka import KafkaProducer

import kq

#: Seconds that a call may take, and how late it may be: the machine may be busy.
LIMIT, SLACK = 1.5, 1.0
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def silent() -> Iterator[str]:
    """Give the address of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def enqueue(queue: kq.Queue, *, in_asyncio: bool) -> tuple[BaseException | None, float]:
    """Enqueue one job; return the error, and the seconds that it took."""
    begun = time.monotonic()
    try:
        asyncio.run(_aenqueue(queue)) if in_asyncio else queue.enqueue(max, 1, 2)
    except kq.EnqueueError as error:
        return error, time.monotonic() - begun
    return None, time.monotonic() - begun


async def _aenqueue(queue: kq.Queue) -> None:
    await queue.aenqueue(max, 1, 2)


@pytest.mark.parametrize("value", [0, -1, "5", float("nan")])
def test_a_limit_that_is_none_is_refused(hosts, value):
    """It says what it must be."""
    with pytest.raises(kq.ArgumentError, match="enqueue_timeout must be an int or float above 0"):
        kq.Queue("topic", hosts=hosts, enqueue_timeout=value)


@pytest.mark.parametrize("in_asyncio", [False, True])
@pytest.mark.parametrize("where", ["nowhere", "silent"])
def test_without_a_broker_the_first_call_keeps_to_its_limit_and_the_next_fails_at_once(silent, where, in_asyncio):
    """Whether nobody listens or nobody answers; with the first reason, then with what happened a moment ago."""
    with kq.Queue("topic", hosts=NOWHERE if where == "nowhere" else silent, enqueue_timeout=LIMIT) as queue:
        error, seconds = enqueue(queue, in_asyncio=in_asyncio)
        assert isinstance(error, kq.EnqueueError)
        assert not isinstance(error, kq.EnqueueUnknown)
        assert seconds < LIMIT + SLACK
        error, seconds = enqueue(queue, in_asyncio=in_asyncio)
        assert "a moment ago" in str(error)
        assert seconds < LIMIT / 3


@pytest.mark.parametrize(
    ("is_own", "in_asyncio"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.long),
        pytest.param(False, True, marks=pytest.mark.long),
    ],
)
def test_a_broker_that_stands_still_ends_no_call_late(
    kafka: kq.LocalKafka, topic: str, producer: Callable[..., KafkaProducer], is_own: bool, in_asyncio: bool
) -> None:
    """With a producer of its own or the user's; what was acknowledged is there, and afterwards all goes on."""
    source: dict[str, Any] = {"hosts": kafka.hosts} if is_own else {"producer": producer(max_block_ms=60_000)}
    queue = kq.Queue(topic, **source, enqueue_timeout=LIMIT)
    assert enqueue(queue, in_asyncio=in_asyncio)[0] is None
    kafka.pause()
    try:
        for _ in range(2):
            error, seconds = enqueue(queue, in_asyncio=in_asyncio)
            assert isinstance(error, kq.EnqueueError)
            assert seconds < LIMIT + SLACK
    finally:
        kafka.resume()
    wait_until(lambda: enqueue(queue, in_asyncio=in_asyncio)[0] is None, timeout=40)
    queue.close(10)


def test_while_a_broker_is_away_nobody_waits_but_who_tries(kafka: kq.LocalKafka, topic: str) -> None:
    """Twenty threads in an outage: most calls end at once, and none is late; then it is back."""
    queue = kq.Queue(topic, hosts=kafka.hosts, enqueue_timeout=LIMIT)
    assert enqueue(queue, in_asyncio=False)[0] is None
    kafka.terminate()
    taken: list[float] = []
    try:
        assert enqueue(queue, in_asyncio=False)[0] is not None

        def ask() -> None:
            taken.extend(enqueue(queue, in_asyncio=False)[1] for _ in range(10))

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        kafka.restart()
    assert len(taken) == 200
    assert max(taken) < LIMIT + SLACK
    assert sorted(taken)[150] < LIMIT / 3
    wait_until(lambda: enqueue(queue, in_asyncio=False)[0] is None, timeout=40)
    queue.close(10)


def test_many_jobs_may_take_longer_than_one(hosts, topic):
    """The limit is each record's, not that of the whole call."""
    with kq.Queue(topic, hosts=hosts, enqueue_timeout=0.5) as queue:

        def slowly() -> Iterator[Any]:
            for number in range(4):
                time.sleep(0.3)
                yield max, (number, 1)

        assert len(queue.enqueue_many(slowly())) == 4
