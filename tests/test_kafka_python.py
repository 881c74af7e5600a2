"""What kafka-python leaves undone is done, with a real consumer on a real Kafka."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from helpers import wait_until
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import Cancelled, NodeNotReadyError

import kq
from kq.clients import BusyFirstAssignor, kafka_python
from kq.consuming.assignment import PARTITION_COUNT


def poll(consumer: KafkaConsumer, count: int) -> dict[TopicPartition, int]:
    """Return how many records a poll gave of each partition; wait for the first."""
    for _ in range(100):
        kafka_python.unpark(consumer)
        if records := consumer.poll(timeout_ms=100, max_records=count):
            return {tp: len(polled) for tp, polled in records.items()}
    return {}


@pytest.mark.parametrize("still_at", [0, 5])
def test_what_came_before_a_pause_is_read_after_it(
    make_topic: Callable[..., str],
    consumer: Callable[..., KafkaConsumer],
    client: KafkaProducer,
    still_at: int,
) -> None:
    """A partition that was paused in the middle of its records goes on, whether another is just being read or not."""
    topic = make_topic(2)
    for number in range(20):
        client.send(topic, value=b"", partition=number % 2)
    client.flush()
    reader = consumer()
    partitions = [TopicPartition(topic, number) for number in range(2)]
    reader.assign(partitions)
    ((paused, _),) = poll(reader, 4).items()
    (other,) = {*partitions} - {paused}
    reader.pause(paused)
    assert {other: 10 - still_at} == poll(reader, 10 - still_at)
    reader.resume(paused)
    left = {paused: 6} | ({other: still_at} if still_at else {})
    while left and (polled := poll(reader, 100)):
        for tp, count in polled.items():
            left[tp] -= count
        left = {tp: count for tp, count in left.items() if count}
    assert left == {}


def test_a_worker_comes_to_the_end_of_what_it_paused(
    make_topic: Callable[..., str], consumer: Callable[..., KafkaConsumer], client: KafkaProducer
) -> None:
    """Two partitions that are full in the middle of what was fetched come to their end once there is room again."""
    topic = make_topic(3)
    counts = [PARTITION_COUNT + 600, PARTITION_COUNT - 300, PARTITION_COUNT + 600]
    jobs = [kq.Job(func=hold, partition=number) for number in range(3) for _ in range(counts[number])]
    kq.Queue(topic, client).enqueue_many(jobs)
    injected = consumer(topic, consumer_timeout_ms=15_000)
    worker = kq.Worker(topic, injected, executor="thread", concurrency=8, logger=logging.getLogger("quiet"))
    releaser = threading.Thread(target=release, args=(worker, 3 * PARTITION_COUNT - 300 - 8))
    releaser.start()
    assert sum(counts) == worker.start(max_messages=sum(counts))
    releaser.join()


_released = threading.Event()


def hold() -> None:
    """Run until as much as a worker takes in hand is there."""
    _released.wait(30)


def release(worker: kq.Worker, full: int) -> None:
    try:
        wait_until(lambda: worker.stats().backlog >= full, 20)
    finally:
        _released.set()


def test_a_client_closed_while_it_asks_for_metadata_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The same line about anything else is."""
    kafka_python.hush()
    caplog.set_level(logging.ERROR, "kafka.cluster")
    for error in (Cancelled(), NodeNotReadyError("metadata")):
        logging.getLogger("kafka.cluster").error("Metadata refresh: failed %s", error)
    assert [str(record.args[0]) for record in caplog.records] == [str(NodeNotReadyError("metadata"))]


def poll_as_the_pump(member: KafkaConsumer) -> Any:
    """Poll as the pump does: left alone, the client may forget a join that a poll ends in the middle of."""
    kafka_python.take_up_join(member)
    return member.poll(timeout_ms=100)


def test_the_answer_to_a_join_vouches_from_when_it_was_asked_for(
    topic: str, consumer: Callable[..., KafkaConsumer]
) -> None:
    """A member is known before its first heartbeat, from before its join was answered."""
    member = consumer(topic)
    kafka_python.mend(member)
    before = time.monotonic()
    wait_until(lambda: poll_as_the_pump(member) or member.assignment(), timeout=20)
    answered = kafka_python.last_heartbeat(member)
    assert answered is not None
    assert before < answered < time.monotonic()


def test_a_users_consumer_is_given_back_as_it_was(topic: str, consumer: Callable[..., KafkaConsumer]) -> None:
    """It raises again what it cannot read, and a thousand starts mend it no more than one."""
    member = consumer(topic)
    for _ in range(1000):
        kafka_python.mend(member)
        assert "_append" in vars(member._fetcher)
        mended = member._coordinator._process_sync_group_response
        kafka_python.give_back(member)
        kafka_python.mend(member)
        assert member._coordinator._process_sync_group_response is mended
        kafka_python.give_back(member)
    assert "_append" not in vars(member._fetcher)


def test_a_late_answer_to_a_heartbeat_is_dated_by_the_question(
    kafka: kq.LocalKafka, topic: str, consumer: Callable[..., KafkaConsumer]
) -> None:
    """Answered only when the broker goes on, a heartbeat vouches from when it was sent."""
    member = consumer(topic, heartbeat_interval_ms=300)
    kafka_python.mend(member)
    heartbeat = member._coordinator.heartbeat
    wait_until(lambda: poll_as_the_pump(member) or heartbeat.last_send > 0, timeout=20)
    kafka.pause()
    try:
        wait_until(lambda: poll_as_the_pump(member) or heartbeat.last_receive < heartbeat.last_send, timeout=20)
        asked = heartbeat.last_send
    finally:
        kafka.resume()
    wait_until(lambda: poll_as_the_pump(member) or kafka_python.last_heartbeat(member) >= asked, timeout=20)
    assert kafka_python.last_heartbeat(member) in (asked, heartbeat.last_send)


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_a_topic_that_is_just_being_made_is_no_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """That it is still not there after some seconds is one."""
    caplog.set_level(logging.ERROR, "kafka.cluster")  # a command that ran in this process has set it higher
    kafka_python.hush()
    now = time.monotonic()
    for passed in (0.0, seconds):
        monkeypatch.setattr(kafka_python.time, "monotonic", lambda passed=passed: now + passed)
        logging.getLogger("kafka.cluster").error("Topic %s not found in cluster metadata", f"new-{seconds}")
    logging.getLogger("kafka.cluster").error("Topic %s is not authorized for this client", f"new-{seconds}")
    texts = [
        f"Topic new-{seconds} {what}" for what in ("not found in cluster metadata", "is not authorized for this client")
    ]
    assert [record.getMessage() for record in caplog.records] == texts[seconds == 0 :]


@pytest.mark.parametrize("is_own", [True, False], ids=["own producer", "the user's"])
def test_the_first_job_of_a_new_topic_logs_no_error(
    hosts: str, producer: Callable[..., KafkaProducer], caplog: pytest.LogCaptureFixture, is_own: bool
) -> None:
    """The broker makes the topic, and all is well."""
    name = f"first-{uuid.uuid4().hex[:12]}"
    queue = kq.Queue(name, hosts=hosts) if is_own else kq.Queue(name, producer())
    with queue:
        queue.enqueue(abs, -1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


class Cluster:
    """What an assignor asks a cluster's metadata."""

    def topics(self) -> set[str]:
        return {"jobs", "others", "more"}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0, 1}


class Member(NamedTuple):
    """A member as the leader of its group sees it."""

    member_id: str
    metadata: Any


@pytest.mark.parametrize("busy", [0, 1])
def test_a_busy_partition_stays_where_the_leader_knows_other_topics(busy: int) -> None:
    """The lowest was moved then, and its running job was repeated elsewhere."""
    owner, comer = BusyFirstAssignor(), BusyFirstAssignor()
    owner.member_assignment = [TopicPartition("jobs", 0), TopicPartition("jobs", 1)]
    owner.busy = lambda: [busy]
    members = [Member("a", owner.metadata(["jobs"])), Member("b", comer.metadata(["jobs"]))]
    for member in members:
        member.metadata.generation_id = -1
    assigned = owner.assign(Cluster(), members)
    assert assigned["a"].assigned_partitions == [("jobs", [busy])]
