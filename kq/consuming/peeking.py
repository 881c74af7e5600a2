"""Peeking: the messages that a group has before it, without joining the group and without a commit."""

from __future__ import annotations

import time

from kafka import KafkaConsumer, TopicPartition

from kq.clients import kafka_python
from kq.consuming.metadata import decode
from kq.message import Message, messages_from_records

__all__ = ["peek"]

#: Seconds without a record after which what should be there is given up.
_PATIENCE = 10.0


def peek(consumer: KafkaConsumer, topic: str, count: int) -> list[Message]:
    """Return the next messages that are not done, by partition and offset, so many of each partition at most.

    :param consumer: It has the group's ID, and is used for nothing else.
    """
    kafka_python.mend(consumer)
    consumer.assign([TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())])
    found: list[Message] = []
    for tp in sorted(consumer.assignment()):
        found += _peek_one(consumer, tp, count)
    return found


def _peek_one(consumer: KafkaConsumer, tp: TopicPartition, count: int) -> list[Message]:
    committed = consumer.committed(tp, metadata=True)
    begin = consumer.beginning_offsets([tp])[tp]
    position, done_below, undone = begin, begin, frozenset[int]()
    if committed is not None:
        progress = decode(committed.metadata, committed.offset, kafka_python.topic_id(consumer, tp.topic))
        position, done_below, undone = max(begin, progress.watermark), progress.top, progress.incomplete
        if progress.foreign_topic:  # the topic was made anew: what was committed means nothing
            position, done_below = begin, begin
    end = consumer.end_offsets([tp])[tp]
    consumer.pause(*consumer.assignment())
    consumer.resume(tp)
    consumer.seek(tp, position)
    found: list[Message] = []
    deadline = time.monotonic() + _PATIENCE
    while len(found) < count and position < end and time.monotonic() < deadline:
        kafka_python.unpark(consumer)
        records = consumer.poll(timeout_ms=200).get(tp, [])
        undone_here = [one for one in records if one.offset >= done_below or one.offset in undone]
        found += messages_from_records(undone_here)
        position = consumer.position(tp)
        if fault := kafka_python.take_faults(consumer).get(tp):  # a worker stands still there
            position = fault.next
            consumer.seek(tp, position)
    return found[:count]
