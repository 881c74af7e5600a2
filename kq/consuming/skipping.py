"""Skip: a stopped group goes on after a message that cannot be read, or that is not to run."""

from __future__ import annotations

import time

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata

from kq.clients import kafka_python
from kq.consuming.metadata import decode, encode
from kq.consuming.tracker import reopen
from kq.errors import KQError

__all__ = ["skip"]

#: Seconds that a broker may take to give the message.
_TIMEOUT = 10.0
#: What a group with members answers to somebody else's commit.
_HAS_MEMBERS = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


def skip(consumer: KafkaConsumer, topic: str, partition: int, offset: int) -> int:
    """Commit past a message, or past its batch if that cannot be read; return where the consumer's group goes on.

    :raises kq.KQError: The group does not stand at that message, or has members.
    """
    tp, group = TopicPartition(topic, partition), consumer.config["group_id"]
    committed = consumer.committed(tp, metadata=True)
    if committed is None or committed.offset != offset:  # what is before it would be skipped too
        at = "no offset" if committed is None else f"offset {committed.offset}"
        raise KQError(f"group {group} is at {at} of partition {partition}: it can skip only what it stands at")
    after = _end_of(consumer, tp, offset)
    topic_id = kafka_python.topic_id(consumer, topic)
    progress = decode(committed.metadata, offset, topic_id).beyond(after)
    text = encode(reopen(progress), topic_id, alive=False)
    try:
        consumer.commit({tp: OffsetAndMetadata(after, text, committed.leader_epoch)})
    except _HAS_MEMBERS as error:
        raise KQError(f"group {group} is at work: stop its workers, skip, and start them again") from error
    return after


def _end_of(consumer: KafkaConsumer, tp: TopicPartition, offset: int) -> int:
    """Return the offset after a message, or after its batch if that cannot be read."""
    kafka_python.mend(consumer)
    consumer.assign([tp])
    consumer.seek(tp, offset)
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        records = consumer.poll(timeout_ms=200, max_records=1)
        if fault := kafka_python.take_faults(consumer).get(tp):
            return min(fault.next, int(consumer.end_offsets([tp])[tp]))
        if records:
            return offset + 1
    raise KQError(f"the broker gave nothing at offset {offset} of partition {tp.partition} within {_TIMEOUT:g} s")
