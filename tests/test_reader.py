"""A topic as a table: loaded, followed, and held through whatever happens to topic, broker, client and process."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewPartitions
from kafka.errors import KafkaError, TopicAlreadyExistsError

import kq
from kq.clients import TableReader


class Table:
    """What an owner does with a reader: the last value of each key."""

    def __init__(self, hosts: str, topic: str, **options: Any) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.records: list[tuple[bytes, bytes | None]] = []
        self.resets = 0
        self.reader = TableReader(hosts, topic, self.apply, reset=self.reset, **options)

    def apply(self, record: Any) -> None:
        self.records.append((record.key, record.value))
        if record.value is None:
            self.entries.pop(record.key, None)
        else:
            self.entries[record.key] = record.value

    def reset(self) -> None:
        self.resets += 1
        self.entries.clear()


@pytest.fixture
def table(hosts: str) -> Iterator[Callable[..., Table]]:
    """Return a function that makes a table and begins to read it; closed after the test."""
    with ExitStack() as stack:

        def make(topic: str, **options: Any) -> Table:
            made = Table(hosts, topic, **options)
            made.reader.start()
            stack.callback(made.reader.close, 10)
            return made

        yield make


@pytest.fixture
def compacted(make_topic: Callable[..., str]) -> str:
    return make_topic(partitions=2, cleanup_policy="compact")


def put(client: KafkaProducer, topic: str, **entries: str | None) -> None:
    values = {key.encode(): None if value is None else value.encode() for key, value in entries.items()}
    for future in [client.send(topic, key=key, value=value) for key, value in values.items()]:
        future.get(30)


def test_a_table_is_loaded_and_followed(table: Callable[..., Table], compacted: str, client: KafkaProducer) -> None:
    """Loaded means: all that was there at the start is applied, also in partitions where nothing is."""
    put(client, compacted, a="1", b="2", c="3")
    reads = table(compacted)
    assert reads.reader.wait_loaded(20)
    assert reads.entries == {b"a": b"1", b"b": b"2", b"c": b"3"}
    put(client, compacted, b="4")
    wait_until(lambda: reads.entries[b"b"] == b"4")


def test_a_tombstone_is_applied(table: Callable[..., Table], compacted: str, client: KafkaProducer) -> None:
    """As a record without a value."""
    put(client, compacted, a="1")
    put(client, compacted, a=None)
    reads = table(compacted)
    assert reads.reader.wait_loaded(20)
    assert reads.records == [(b"a", b"1"), (b"a", None)]


def test_an_empty_table_is_loaded_at_once(table: Callable[..., Table], compacted: str) -> None:
    """There is nothing to wait for."""
    assert table(compacted).reader.wait_loaded(20)


def test_a_table_is_read_from_a_time(table: Callable[..., Table], compacted: str, client: KafkaProducer) -> None:
    """What is older is not applied, and what comes is."""
    now = int(time.time() * 1000)
    for key, stamp in ((b"old", now - 60_000), (b"new", now)):
        client.send(compacted, key=key, value=b"1", timestamp_ms=stamp).get(30)
    reads = table(compacted, since=now - 1000)
    assert reads.reader.wait_loaded(20)
    put(client, compacted, later="2")
    wait_until(lambda: b"later" in reads.entries)
    assert reads.entries == {b"new": b"1", b"later": b"2"}


def test_markers_at_the_end_do_not_keep_a_table_from_being_loaded(
    table: Callable[..., Table], compacted: str, producer: Callable[..., KafkaProducer]
) -> None:
    """What was aborted is not applied."""
    client = producer(transactional_id=f"tx-{compacted}", retry_backoff_ms=10)
    client.init_transactions()
    for is_kept in (True, False):
        client.begin_transaction()
        client.send(compacted, key=str(is_kept).encode(), value=b"1").get(10)
        client.commit_transaction() if is_kept else client.abort_transaction()
    reads = table(compacted)
    assert reads.reader.wait_loaded(20)
    assert reads.entries == {b"True": b"1"}


def test_a_topic_that_is_not_there_is_waited_for(
    table: Callable[..., Table], admin: KafkaAdminClient, client: KafkaProducer
) -> None:
    """It is not made by that."""
    topic = f"later-{uuid.uuid4().hex[:8]}"
    reads = table(topic)
    assert not reads.reader.wait_loaded(1)
    assert topic not in admin.list_topics()
    admin.create_topics({topic: {"num_partitions": 1}})
    put(client, topic, a="1")
    assert reads.reader.wait_loaded(20)
    wait_until(lambda: reads.entries == {b"a": b"1"})


def test_partitions_that_are_added_are_followed(
    table: Callable[..., Table], compacted: str, admin: KafkaAdminClient, producer: Callable[..., KafkaProducer]
) -> None:
    """From their start."""
    reads = table(compacted, config={"metadata_max_age_ms": 300})
    assert reads.reader.wait_loaded(20)
    admin.create_partitions({compacted: NewPartitions(3)})
    client = producer(metadata_max_age_ms=300)
    wait_until(lambda: client.partitions_for(compacted) == {0, 1, 2}, timeout=20)
    client.send(compacted, key=b"a", value=b"1", partition=2).get(30)
    wait_until(lambda: reads.entries == {b"a": b"1"}, timeout=20)


def test_a_topic_made_anew_is_another_table(
    table: Callable[..., Table], compacted: str, admin: KafkaAdminClient, producer: Callable[..., KafkaProducer]
) -> None:
    """The owner is told to forget the old one, and gets the new one from its start."""
    client = producer(metadata_max_age_ms=300)
    put(client, compacted, a="1", b="2")
    reads = table(compacted, config={"metadata_max_age_ms": 300})
    assert reads.reader.wait_loaded(20)
    admin.delete_topics([compacted])
    wait_until(lambda: compacted not in admin.list_topics(), timeout=20)

    def make() -> bool:
        try:
            return bool(admin.create_topics({compacted: {"num_partitions": 2}}))
        except TopicAlreadyExistsError:  # it is still being deleted, or a client's question had it made
            return compacted in admin.list_topics()

    wait_until(make, timeout=20)
    wait_until(lambda: _has_put(client, compacted), timeout=30)
    wait_until(lambda: reads.entries == {b"c": b"3"}, timeout=30)
    assert reads.resets == 1
    assert reads.reader.wait_loaded(20)


def _has_put(client: KafkaProducer, topic: str) -> bool:
    try:
        put(client, topic, c="3")
    except KafkaError:
        return False
    return True


@pytest.mark.parametrize("hard", [False, pytest.param(True, marks=pytest.mark.long)], ids=["TERM", "KILL"])
def test_a_restart_of_the_broker_is_survived(
    table: Callable[..., Table], compacted: str, kafka: kq.LocalKafka, client: KafkaProducer, hard: bool
) -> None:
    """It goes on by itself, and nothing is applied twice."""
    put(client, compacted, a="1")
    reads = table(compacted)
    assert reads.reader.wait_loaded(20)
    (kafka.kill if hard else kafka.terminate)()
    kafka.restart()
    wait_until(lambda: _has_put(client, compacted), timeout=30)
    wait_until(lambda: b"c" in reads.entries, timeout=30)
    assert reads.records == [(b"a", b"1"), (b"c", b"3")]


def test_a_closed_client_is_made_anew(
    table: Callable[..., Table], compacted: str, client: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on where the old one was."""
    consumers: list[KafkaConsumer] = []
    monkeypatch.setattr("kq.clients.kafka_python.mend", consumers.append)
    put(client, compacted, a="1")
    reads = table(compacted)
    assert reads.reader.wait_loaded(20)
    consumers[0].close()
    put(client, compacted, b="2")
    wait_until(lambda: b"b" in reads.entries, timeout=20)
    assert reads.records == [(b"a", b"1"), (b"b", b"2")]


def test_a_failing_owner_is_told_of_and_the_table_goes_on(
    table: Callable[..., Table], compacted: str, client: KafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    """One record that is not applied does not keep the others."""
    put(client, compacted, a="1")
    reads = table(compacted)
    assert reads.reader.wait_loaded(20)
    reads.entries = None  # type: ignore[assignment]
    put(client, compacted, a="2")
    wait_until(lambda: any("was not applied" in text for text in caplog.messages))
    reads.entries = {}
    put(client, compacted, a="3")
    wait_until(lambda: reads.entries == {b"a": b"3"})


def test_a_codec_that_is_missing_leaves_no_gap(
    table: Callable[..., Table], make_topic: Callable[..., str], client: KafkaProducer,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The table is not loaded before it can be read, and says why."""
    monkeypatch.setattr("kafka.codec.has_gzip", lambda: False)
    topic = make_topic(cleanup_policy="compact", compression_type="gzip")
    put(client, topic, a="1")
    reads = table(topic)
    wait_until(lambda: any("Libraries for gzip" in text for text in caplog.messages))
    assert not reads.reader.wait_loaded(0)
    monkeypatch.setattr("kafka.codec.has_gzip", lambda: True)
    assert reads.reader.wait_loaded(20)
    assert reads.entries == {b"a": b"1"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_told_to_make_its_own(table: Callable[..., Table], compacted: str) -> None:
    """There it has no thread; closing it there is at once over, and the parent's goes on."""
    reads = table(compacted)
    assert reads.reader.wait_loaded(20)
    if (pid := os.fork()) == 0:
        try:
            reads.reader.wait_loaded(0)
        except kq.KQError:
            os._exit(0 if reads.reader.close() else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert reads.reader.wait_loaded(0)


@pytest.mark.parametrize("is_there", [True, False])
def test_closing_is_quick(hosts: str, compacted: str, is_there: bool) -> None:
    """While it follows, and while it waits for a topic or a broker; it is idempotent."""
    reads = Table(hosts if is_there else "127.0.0.1:1", compacted, config={"bootstrap_timeout_ms": 500})
    reads.reader.start()
    assert reads.reader.wait_loaded(20 if is_there else 0.2) is is_there
    began = time.monotonic()
    assert reads.reader.close()
    assert reads.reader.close()
    assert time.monotonic() - began < 1.5
    assert f"kq-reader-{compacted}" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.long
def test_a_large_table_loads_quickly(
    table: Callable[..., Table], compacted: str, client: KafkaProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    """100,000 entries; how long that takes is printed."""
    for number in range(100_000):
        client.send(compacted, key=b"%d" % number, value=b"x" * 200)
    client.flush()
    began, cpu = time.monotonic(), time.process_time()
    reads = table(compacted)
    assert reads.reader.wait_loaded(60)
    with capsys.disabled():
        print(f" 100,000 records in {time.monotonic() - began:.2f} s, {time.process_time() - cpu:.2f} s of a core")
    assert len(reads.entries) == 100_000
