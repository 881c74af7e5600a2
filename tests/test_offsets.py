"""Offsets that are not what they seem: gaps, resets, topics made anew, foreign metadata."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

import kq
from kq.consuming.metadata import decode


def run(hosts: str, topic: str, count: int, **options: Any) -> list[int]:
    """Run so many messages and return their offsets, in the order in which they were processed."""
    offsets: list[int] = []

    def callback(status: str, message: kq.Message, *rest: Any) -> None:
        offsets.append(message.offset)

    assert kq.Worker(topic, hosts=hosts, callback=callback, **options).start(max_messages=count) == count
    return offsets


def enqueue(hosts: str, topic: str, count: int) -> None:
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(count):
            queue.enqueue(operator.neg, number)


def committed(consumer: Callable[..., KafkaConsumer], topic: str) -> OffsetAndMetadata:
    return consumer(group_id=topic).committed(TopicPartition(topic, 0), metadata=True)


def test_transaction_markers_and_aborted_jobs_do_not_hold_the_watermark(
    hosts: str, topic: str, producer: Callable[..., KafkaProducer], consumer: Callable[..., KafkaConsumer]
) -> None:
    """Jobs of an aborted transaction do not run; markers, also the last one of the log, are passed by the commit."""
    client = producer(transactional_id=f"tx-{topic}", retry_backoff_ms=10)
    client.init_transactions()
    value = kq.dumps(kq.Job("id", 0, topic, operator.neg, (1,), {}))
    for is_kept in (True, False, True):
        client.begin_transaction()
        client.send(topic, value).get(10)
        client.commit_transaction() if is_kept else client.abort_transaction()
    worker = kq.Worker(topic, hosts=hosts)
    offsets: list[int] = []

    def callback(status: str, message: kq.Message, *rest: Any) -> None:
        offsets.append(message.offset)

    worker = kq.Worker(topic, hosts=hosts, callback=callback)
    reader = consumer(group_id=topic)

    import threading

    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        wait_until(lambda: reader.committed(TopicPartition(topic, 0)) == 6, timeout=20)
    finally:
        worker.stop()
        thread.join()
    assert offsets == [0, 4]


def test_offset_0_is_run_once_and_committed_as_1(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer]
) -> None:
    """The first message of a topic is no special case."""
    enqueue(hosts, topic, 1)
    assert run(hosts, topic, 1) == [0]
    assert committed(consumer, topic).offset == 1


@pytest.mark.parametrize("metadata", ["", "somebody's own words", "kq1.", "kq1.AAAA", "kq9." + "A" * 40])
def test_foreign_metadata_is_ignored(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer], metadata: str
) -> None:
    """A commit by another program, or by hand, says where to go on, and nothing else."""
    enqueue(hosts, topic, 3)
    other = consumer(group_id=topic)
    other.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, metadata, -1)})
    other.close()
    assert run(hosts, topic, 2) == [1, 2]


def test_an_offset_that_was_set_back_runs_everything_again(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer]
) -> None:
    """Who sets a group back between two runs wants the jobs again: no done-map stands against that."""
    enqueue(hosts, topic, 4)
    assert run(hosts, topic, 4) == [0, 1, 2, 3]
    other = consumer(group_id=topic)
    other.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, committed(consumer, topic).metadata, -1)})
    other.close()
    assert run(hosts, topic, 3) == [1, 2, 3]


def test_a_topic_made_anew_begins_at_its_beginning(
    hosts: str, topic: str, admin: KafkaAdminClient, consumer: Callable[..., KafkaConsumer]
) -> None:
    """A commit that belongs to a deleted topic of the same name hides no job of the new one."""
    enqueue(hosts, topic, 4)
    assert run(hosts, topic, 4) == [0, 1, 2, 3]
    old = committed(consumer, topic)
    _make_anew(admin, topic)
    enqueue(hosts, topic, 6)
    other = consumer(group_id=topic)
    other.commit({TopicPartition(topic, 0): old})
    other.close()
    assert run(hosts, topic, 6) == [0, 1, 2, 3, 4, 5]


def test_a_topic_made_anew_under_a_running_worker_begins_at_its_beginning(
    hosts: str, topic: str, admin: KafkaAdminClient
) -> None:
    """The worker goes on by itself with the first job of the new topic."""
    import threading

    seen: list[tuple[int, Any]] = []

    def callback(status: str, message: kq.Message, job: kq.Job, result: Any, *rest: Any) -> None:
        seen.append((message.offset, result))

    enqueue(hosts, topic, 4)
    worker = kq.Worker(topic, hosts=hosts, callback=callback, config={"metadata_max_age_ms": 500})
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        wait_until(lambda: len(seen) == 4, timeout=20)
        _make_anew(admin, topic)
        enqueue(hosts, topic, 3)
        wait_until(lambda: len(seen) == 7, timeout=30)
    finally:
        worker.stop()
        thread.join()
    assert seen[4:] == [(0, 0), (1, -1), (2, -2)]


def _make_anew(admin: KafkaAdminClient, topic: str) -> None:
    from kafka.admin import NewTopic

    admin.delete_topics([topic])
    wait_until(lambda: topic not in admin.list_topics(), timeout=20)
    wait_until(lambda: _created(admin, NewTopic(topic, 1, 1)), timeout=20)


def _created(admin: KafkaAdminClient, topic: Any) -> bool:
    from kafka.errors import TopicAlreadyExistsError

    try:
        admin.create_topics([topic])
    except TopicAlreadyExistsError:  # the broker still deletes the old one
        return False
    return True


def test_a_consumer_with_auto_commit_commits_no_job_that_runs(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer]
) -> None:
    """The client's own commits are switched off: what is committed is what is done."""
    import threading

    enqueue(hosts, topic, 2)
    started, go_on = threading.Event(), threading.Event()
    _EVENTS[topic] = started, go_on
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(_wait, topic)
    client = consumer(group_id=topic, enable_auto_commit=True, auto_commit_interval_ms=50)
    worker = kq.Worker(topic, client)
    thread = threading.Thread(target=worker.start, args=(3,))
    thread.start()
    try:
        assert started.wait(20)
        reader = consumer(group_id=topic)
        wait_until(lambda: reader.committed(TopicPartition(topic, 0)) == 2, timeout=10)
        position = client.config["enable_auto_commit"]
        assert position is False
        assert decode("", 2, None).watermark == reader.committed(TopicPartition(topic, 0))
    finally:
        go_on.set()
        thread.join()
    assert reader.committed(TopicPartition(topic, 0)) == 3


_EVENTS: dict[str, Any] = {}


def _wait(topic: str) -> None:
    started, go_on = _EVENTS[topic]
    started.set()
    assert go_on.wait(20)
