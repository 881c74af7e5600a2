"""Each way to enqueue awaits the broker's answer with the same guarantees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import jobs
import pytest
from kafka.future import Future
from test_enqueue import ids_of, on_topic

import kq
from kq import EnqueueError, EnqueueUnknown, Job, Queue

#: Gives up soon, on a broker that stays away for longer.
IMPATIENT = {"delivery_timeout_ms": 2000, "request_timeout_ms": 1000, "max_block_ms": 2000}

WAYS: dict[str, Callable[[Queue, Job], Any]] = {
    "enqueue": lambda queue, job: queue.enqueue(job),
    "enqueue_many": lambda queue, job: queue.enqueue_many([job]),
    "aenqueue": lambda queue, job: asyncio.run(queue.aenqueue(job)),
    "aenqueue_many": lambda queue, job: asyncio.run(queue.aenqueue_many([job])),
}


@pytest.fixture(params=WAYS)
def enqueue(request: pytest.FixtureRequest) -> Callable[[Queue, Job], Any]:
    """Return one way after the other."""
    return WAYS[request.param]


def test_what_is_returned_is_there(enqueue: Callable[..., Any], topic: str, hosts: str) -> None:
    """It is acknowledged, so nobody has to wait for it."""
    with Queue(topic, hosts=hosts) as queue:
        enqueue(queue, Job("mine", func=jobs.add))
        assert ids_of(on_topic(hosts, topic)) == ["mine"]


def test_what_the_broker_refuses_is_told_and_the_next_one_goes(
    enqueue: Callable[..., Any], make_topic: Callable[..., str], hosts: str
) -> None:
    """A refusal ends an own producer; a new one is made."""
    with Queue(make_topic(max_message_bytes=2000), hosts=hosts) as queue:
        with pytest.raises(EnqueueError) as caught:
            enqueue(queue, Job("large", func=jobs.echo, args=(b"x" * 20_000,)))
        assert type(caught.value) is EnqueueError
        assert ([job.id for job in caught.value.jobs], caught.value.unknown) == (["large"], [])
        enqueue(queue, Job("next", func=jobs.add))
        assert ids_of(on_topic(hosts, queue.topic)) == ["next"]


def test_an_answer_that_does_not_come_leaves_it_unknown(
    enqueue: Callable[..., Any], topic: str, kafka: kq.LocalKafka
) -> None:
    """The record was sent, and may be there."""
    with Queue(topic, hosts=kafka.hosts, config=IMPATIENT) as queue:
        queue.enqueue(jobs.add)
        kafka.pause()
        try:
            with pytest.raises(EnqueueUnknown) as caught:
                enqueue(queue, Job("mine", func=jobs.add))
        finally:
            kafka.resume()
        assert ([job.id for job in caught.value.unknown], caught.value.jobs) == (["mine"], [])


def test_a_producer_that_never_tells_is_given_up(
    enqueue: Callable[..., Any], topic: str, hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its patience; the record's outcome is unknown, and the next one goes by a new producer."""
    with Queue(topic, hosts=hosts) as queue:
        queue.enqueue(jobs.add)
        first = queue.producer
        queue._delivery.patience = 0.5
        monkeypatch.setattr(first._sender, "_send_producer_data", lambda: 50)
        with pytest.raises(EnqueueError) as caught:
            enqueue(queue, Job("mine", func=jobs.add))
        assert [job.id for job in caught.value.jobs + caught.value.unknown] == ["mine"]
        assert queue.producer is not first
        enqueue(queue, Job("next", func=jobs.add))


def test_who_gives_up_late_leaves_the_next_producer_alone(topic: str, hosts: str) -> None:
    """Another thread has let go of the silent one before, and records of a third are with its successor."""
    with Queue(topic, hosts=hosts) as queue:
        delivery, job = queue._delivery, queue.enqueue(jobs.add)
        sent = delivery.send(job, queue._sender.record(job, queue._terms))
        delivery.abandon()
        successor = queue.producer
        delivery.recover(sent._replace(future=Future()))
        assert queue.producer is successor
