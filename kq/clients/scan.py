"""A scan: what a topic holds at this moment, record by record, once; the memory that it takes does not grow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from kq.clients import kafka_python
from kq.errors import KQError

__all__ = ["LOOKING", "ends_of", "scan"]

#: Settings of a consumer that looks at what is there: it is in no group, and makes no topic.
LOOKING: Mapping[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}

#: Milliseconds of a poll, and until the broker has told where a log begins and ends.
_POLL_MS, _ASK_MS = 250, 10_000
#: Seconds without a record after which a topic counts as unreadable.
_PATIENCE = 30.0


def ends_of(consumer: KafkaConsumer, topic: str) -> dict[int, int]:
    """Return the end of each partition; nothing where there is no such topic."""
    tps = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    return {tp.partition: end for tp, end in consumer.end_offsets(tps, timeout_ms=_ASK_MS).items()} if tps else {}


def scan(consumer: KafkaConsumer, topic: str, spans: Mapping[int, tuple[int, int]]) -> Iterator[Any]:
    """Yield the records of some partitions of a topic.

    :param consumer: It is in no group, and used for nothing else meanwhile.
    :param spans: Partition -> the first offset, and the one behind the last.
    :raises kq.KQError: The brokers do not answer.
    """
    left = {TopicPartition(topic, number): end for number, (begin, end) in spans.items() if begin < end}
    kafka_python.mend(consumer)
    consumer.assign(list(left))
    consumer.resume(*left)  # what a scan before this one paused
    begins = consumer.beginning_offsets(list(left), timeout_ms=_ASK_MS) if left else {}
    for tp in left:
        consumer.seek(tp, max(begins[tp], spans[tp.partition][0]))
    deadline = time.monotonic() + _PATIENCE
    while left := {tp: end for tp, end in left.items() if (consumer.position(tp, timeout_ms=_ASK_MS) or 0) < end}:
        consumer.pause(*(consumer.assignment() - set(left)))
        polled = consumer.poll(timeout_ms=_POLL_MS)
        for tp, records in polled.items():
            yield from (record for record in records if record.offset < left.get(tp, 0))
        for tp, fault in kafka_python.take_faults(consumer).items():  # what is damaged is passed over
            consumer.seek(tp, fault.next)
        if polled:
            deadline = time.monotonic() + _PATIENCE
        elif time.monotonic() > deadline:
            raise KQError(f"topic {topic} could not be read: nothing came for {_PATIENCE:g} s")
