"""Records that were removed from the log before a worker came to them are said, and only those."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable

import pytest
from helpers import at_work, wait_until
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

import kq


def enqueue(hosts: str, topic: str, count: int) -> None:
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue_many([(operator.neg, (number,)) for number in range(count)])


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [record.getMessage() for record in caplog.records if record.name == "kq.pump"]
    return [text for text in texts if "were removed" in text]


def test_what_was_removed_while_no_worker_ran_is_said(
    hosts: str, topic: str, admin: KafkaAdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Committed at 2 and removed up to 5: a warning names topic, partition, offsets and number."""
    enqueue(hosts, topic, 2)
    offsets: list[int] = []
    worker = kq.Worker(topic, hosts=hosts, callback=lambda _, message, *rest: offsets.append(message.offset))
    assert worker.start(max_messages=2) == 2
    enqueue(hosts, topic, 5)
    admin.delete_records({TopicPartition(topic, 0): 5})
    assert worker.start(max_messages=2) == 2
    assert offsets == [0, 1, 5, 6]
    (text,) = said(caplog)
    assert text.startswith(f"Topic {topic}, partition 0: the records at offsets 2 to 4 were removed")
    assert text.endswith("up to 3 jobs never ran")


_started, _go_on = threading.Event(), threading.Event()


def wait() -> None:
    _started.set()
    assert _go_on.wait(30)


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_what_is_removed_under_a_worker_is_said_and_the_rest_runs(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer], admin: KafkaAdminClient,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, reset: str,
) -> None:  # fmt: skip
    """A position that falls below the log goes on at its begin, also where the client alone would go to the end."""
    monkeypatch.setattr("kq.consuming.assignment.PARTITION_COUNT", 5)
    _started.clear(), _go_on.clear()
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(wait)
        for number in range(19):  # a batch each, and a fetch brings one batch
            queue.enqueue(operator.neg, number)
    other = consumer()
    other.commit({TopicPartition(topic, 0): OffsetAndMetadata(0, "", -1)})
    other.close()
    client = consumer(topic, auto_offset_reset=reset, max_partition_fetch_bytes=1)
    offsets: list[int] = []
    worker = kq.Worker(topic, client, lambda _, message, *rest: offsets.append(message.offset))
    with at_work(worker):
        assert _started.wait(30)
        wait_until(lambda: worker.stats().commit_lag.get(0, 0) >= 5, timeout=30)
        admin.delete_records({TopicPartition(topic, 0): 15})
        _go_on.set()
        wait_until(lambda: offsets[-5:] == [15, 16, 17, 18, 19], timeout=30)
    (text,) = said(caplog)
    before = len(offsets) - 5
    assert offsets[:before] == list(range(before))
    assert f"offsets {before} to 14 were removed" in text


def test_gaps_of_transactions_are_no_loss(
    hosts: str, topic: str, producer: Callable[..., KafkaProducer], caplog: pytest.LogCaptureFixture
) -> None:
    """Markers and aborted jobs leave gaps between offsets; nothing is said of them."""
    client = producer(transactional_id=f"tx-{topic}", retry_backoff_ms=10)
    client.init_transactions()
    value = kq.dumps(kq.Job("id", 0, topic, operator.neg, (1,), {}))
    offsets: list[int] = []
    worker = kq.Worker(topic, hosts=hosts, callback=lambda _, message, *rest: offsets.append(message.offset))
    with at_work(worker):
        for number, is_kept in enumerate((True, False, True)):
            client.begin_transaction()
            client.send(topic, value).get(10)
            client.commit_transaction() if is_kept else client.abort_transaction()
            wait_until(lambda number=number: offsets == [0, 4][: number // 2 + 1], timeout=30)
    assert said(caplog) == []
