"""Requeueing: the message of an entry of the message log goes onto its topic again.

1. The log holds no payloads: the message is read from its place on the topic, and nothing is unpickled.
2. It is published as it was, to begin with its first attempt again, and says when: so the log tells the run that comes
   from those before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from kq.clients import check_config, check_hosts, connect, ends_of, kafka_python, scan, settings_for
from kq.errors import ArgumentError, KQError
from kq.letter import renewed
from kq.message import HEADER_ID, Record
from kq.messagelog import MessageLog, MessageStore, Row, position
from kq.producing import describe
from kq.signing import JOB, Signer, check_signer

__all__ = ["requeue"]

#: Called with how many are done.
Progress = Callable[[int], object]

_READING: Mapping[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}
_WRITING: Mapping[str, Any] = {
    "acks": "all",
    "allow_auto_create_topics": False,
    "max_block_ms": 10_000,
    "delivery_timeout_ms": 30_000,
    "request_timeout_ms": 10_000,
    "max_request_size": 32 << 20,
    "metrics_enabled": False,
}
#: Seconds that a producer may take to tell of a record, and to close.
_PATIENCE, _CLOSING = 40.0, 10.0


def requeue(
    entries: MessageLog | Iterable[MessageLog],
    hosts: str = "127.0.0.1:9092",
    config: Mapping[str, Any] | None = None,
    *,
    store: MessageStore | None = None,
    signer: Signer | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Put the messages of entries onto their topics again, and return how many.

    They have their key, value and headers; attempts begin at 1, and what had expired expires no more.

    :param entries: Entries of a message log, one or many.
    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param config: More settings for Kafka clients, such as those that get to the brokers.
    :param store: Where to write down that they are published.
    :param signer: Verifies what is on the topic, whatever its age, and signs it anew.
    :param on_progress: Called with how many are done, after each.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    :raises kq.KQError: A message is gone from its topic, or the brokers refuse; those before it are on their topics.
    """
    wanted = [entries] if isinstance(entries, MessageLog) else list(entries)
    if not all(isinstance(entry, MessageLog) for entry in wanted):
        raise ArgumentError("entries must be a MessageLog, or several")
    known = {**KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG}
    signer = check_signer(signer)
    given = check_config(config, known, ("bootstrap_servers", "group_id", "transactional_id"))
    done = 0
    if not wanted:
        return done
    with _clients(check_hosts(hosts), given) as (consumer, producer), _notes(store) as note:
        for done, entry in enumerate(wanted):
            try:
                note(entry, *_publish(producer, entry, _find(consumer, entry), signer))
            except (KafkaError, KQError) as error:
                told = str(error) if isinstance(error, KQError) else describe(error)
                before = f"; {done} before it are on their topics again" if done else ""
                raise KQError(f"job {entry.job_id} is not requeued: {told}{before}") from error
            if on_progress is not None:
                on_progress(done + 1)
    return done + 1


def _find(consumer: KafkaConsumer, entry: MessageLog) -> Any:
    """Return the record of an entry."""
    if entry.partition is None or entry.offset is None:
        raise KQError("where it stands is not known: it waits for its time, or for its worker")
    where = f"topic {entry.topic}, partition {entry.partition}, offset {entry.offset}"
    span = {entry.partition: (entry.offset, entry.offset + 1)}
    is_there = entry.offset < ends_of(consumer, entry.topic).get(entry.partition, 0)
    record = next(scan(consumer, entry.topic, span), None) if is_there else None
    if record is None:
        raise KQError(f"its message is gone from {where}")
    name = dict(record.headers).get(HEADER_ID)
    if name is not None and name.decode("utf-8", "replace") != entry.job_id:
        raise KQError(f"another message stands at {where}")
    return record


def _publish(producer: KafkaProducer, entry: MessageLog, record: Any, signer: Signer | None) -> tuple[Any, int]:
    """Publish a record anew; return where it stands, and when that was."""
    now = int(time.time() * 1000)
    count = len(producer.partitions_for(entry.topic))
    partition = entry.partition if entry.partition is not None and entry.partition < count else None
    made = Record(entry.topic, record.value, record.key, renewed(record.headers, now), partition, now)
    if signer is not None:
        signer.verify(JOB, record, now, since=now)
        made = signer.sign(JOB, made, now)
    sent = producer.send(made.topic, made.value, made.key, made.headers, made.partition)
    return sent.get(_PATIENCE), now


@contextmanager
def _clients(hosts: str, config: Mapping[str, Any]) -> Iterator[tuple[KafkaConsumer, KafkaProducer]]:
    reading = {**settings_for(KafkaConsumer.DEFAULT_CONFIG, config), **_READING}
    writing = {**_WRITING, **settings_for(KafkaProducer.DEFAULT_CONFIG, config)}
    consumer = connect(KafkaConsumer, hosts, reading)
    try:
        producer = connect(KafkaProducer, hosts, writing)
        try:
            yield consumer, producer
        finally:
            producer.close(timeout=_CLOSING)
    finally:
        kafka_python.throw_away(consumer, 1_000)


@contextmanager
def _notes(store: MessageStore | None) -> Iterator[Callable[[MessageLog, Any, int], None]]:
    """Give what writes down that the message of an entry is published."""
    if store is None:
        yield lambda entry, place, now: None
        return
    feed = store.feed(lambda batches: [batches])
    try:
        yield lambda entry, place, now: feed.put(_row(entry, place, now))
    finally:
        store.remove(feed, _CLOSING)


def _row(entry: MessageLog, place: Any, now: int) -> Row:
    return (
        *(entry.job_id, position("PUBLISHED", 1, now), "PUBLISHED", 1, entry.topic, place.partition, place.offset),
        *(entry.key, entry.task_type, entry.function, None, None, None, None),
    )
