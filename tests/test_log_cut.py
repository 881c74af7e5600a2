"""A broker that lost the last records of its log: the group goes on where the log was cut, and says what is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

import kq

#: Batches of one record each.
COUNT = 20
LOST = 5


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[kq.LocalKafka, Path]]:
    """Return a Kafka of our own, whose files are ours to damage, and its folder."""
    data = tmp_path_factory.mktemp("kafka")
    with kq.LocalKafka(data=data) as kafka:
        yield kafka, data


def enqueue(hosts: str, topic: str, count: int) -> None:
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.ensure_topic()
        for number in range(count):
            queue.enqueue(abs, number)


@contextmanager
def working(hosts: str, topic: str, **options: Any) -> Iterator[list[int]]:
    """Run a worker, and give the offsets that it has processed."""
    offsets: list[int] = []
    worker = kq.Worker(topic, hosts=hosts, callback=lambda _, message, *rest: offsets.append(message.offset), **options)
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        yield offsets
    finally:
        worker.stop()
        thread.join()


def cut(broker: tuple[kq.LocalKafka, Path], topic: str) -> None:
    """Kill the broker, take the last records off a partition's log, and start it again."""
    kafka, data = broker
    kafka.kill()
    (log,) = data.glob(f"node-0/data/{topic}-0/*.log")
    raw, ends = log.read_bytes(), [0]
    while len(raw) >= ends[-1] + 12 and (size := int.from_bytes(raw[ends[-1] + 8 : ends[-1] + 12], "big")):
        ends.append(ends[-1] + size + 12)
    with log.open("r+b") as file:
        file.truncate(ends[-1 - LOST])
    for snapshot in log.parent.glob("*.snapshot"):
        snapshot.unlink()
    kafka.restart()


def errors(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == "kq.pump" and word in record.getMessage()
    ]


def test_a_stopped_group_goes_on_where_the_log_was_cut(
    broker: tuple[kq.LocalKafka, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that was done runs again, and no job that came since the cut is passed over, though its offset was."""
    hosts, topic = broker[0].hosts, "stopped"
    enqueue(hosts, topic, COUNT)
    assert kq.Worker(topic, hosts=hosts).start(max_messages=COUNT) == COUNT
    cut(broker, topic)
    enqueue(hosts, topic, 2)
    with working(hosts, topic) as offsets:
        wait_until(lambda: len(offsets) >= 2, timeout=30)
    assert offsets == [COUNT - LOST, COUNT - LOST + 1]
    (said,) = errors(caplog, "was cut")
    assert f"partition 0: the log was cut at offset {COUNT - LOST}, and the group had come to {COUNT}" in said


@pytest.mark.long
def test_a_running_worker_goes_on_where_the_log_was_cut(
    broker: tuple[kq.LocalKafka, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The same under a worker that runs meanwhile; it says so though no new job has come."""
    hosts, topic = broker[0].hosts, "running"
    enqueue(hosts, topic, COUNT)
    with working(hosts, topic) as offsets:
        wait_until(lambda: len(offsets) == COUNT, timeout=30)
        cut(broker, topic)
        wait_until(lambda: errors(caplog, "was cut"), timeout=30)
        enqueue(hosts, topic, 2)
        wait_until(lambda: len(offsets) >= COUNT + 2, timeout=30)
    assert offsets[COUNT:] == [COUNT - LOST, COUNT - LOST + 1]
    assert len(errors(caplog, "was cut")) == 1


def test_a_commit_that_names_no_leader_goes_on_at_the_end(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer], caplog: pytest.LogCaptureFixture
) -> None:
    """An older worker's commit beyond the end of the log: nothing runs again, and what may be missing is said."""
    enqueue(hosts, topic, 3)
    other = consumer(group_id=topic)
    other.commit({TopicPartition(topic, 0): OffsetAndMetadata(9, "", -1)})
    other.close()
    with working(hosts, topic) as offsets:
        wait_until(lambda: errors(caplog, "was cut"), timeout=30)
        enqueue(hosts, topic, 1)
        wait_until(lambda: offsets, timeout=30)
    assert offsets == [3]
    (said,) = errors(caplog, "was cut")
    assert "jobs enqueued since then may be passed over" in said
