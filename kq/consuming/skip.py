"""Skip: a stopped group goes on after a message that cannot be read, or that is not to run.

1. The message is read. Where that fails, its whole batch is what cannot be read, and all of it is skipped.
2. The commit moves past it. What was done beyond it stays done; while anything before it is not done, it is refused.
"""

from __future__ import annotations

import time

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata

from kq.clients import kafka_python
from kq.consuming.metadata import Progress, decode, encode
from kq.consuming.tracker import reopen
from kq.errors import KQError

__all__ = ["skip"]

#: Seconds that a broker may take to give the message.
_READ_TIMEOUT = 10.0
#: What a group with members answers to somebody else's commit.
_HAS_MEMBERS = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


def skip(consumer: KafkaConsumer, topic: str, partition: int, offset: int) -> int:
    """Commit past a message for the consumer's group; return where the group goes on.

    :param consumer: A consumer with the group's ID and nothing assigned.
    :raises kq.KQError: It is not to be skipped, or the group has members.
    """
    tp = TopicPartition(topic, partition)
    if partition not in consumer.partitions_for_topic(topic):
        raise KQError(f"topic {topic} has no partition {partition}")
    consumer.assign([tp])
    (begin,), (end,) = consumer.beginning_offsets([tp]).values(), consumer.end_offsets([tp]).values()
    if not begin <= offset < end:
        raise KQError(f"partition {partition} of topic {topic} has no offset {offset}: it has {begin} to {end - 1}")
    committed = consumer.committed(tp, metadata=True) or OffsetAndMetadata(begin, "", -1)
    topic_id = kafka_python.topic_id(consumer, topic)
    progress = decode(committed.metadata, committed.offset, topic_id)
    _check(progress, max(begin, progress.watermark), offset)
    after = min(int(end), _end_of(consumer, tp, offset))
    text = encode(reopen(progress.beyond(after), 0), topic_id, alive=False)
    try:
        consumer.commit({tp: OffsetAndMetadata(after, text, committed.leader_epoch)})
    except _HAS_MEMBERS as error:
        group = consumer.config["group_id"]
        raise KQError(f"group {group} is at work: stop its workers, skip, and start them again") from error
    return after


def _check(progress: Progress, begin: int, offset: int) -> None:
    """Refuse to skip what is done, and what has something undone before it: that would be skipped too."""
    if offset < begin or (offset < progress.top and offset not in progress.incomplete):
        raise KQError(f"offset {offset} is done: the group goes on at {begin}")
    undone = progress.undone_below(offset) - progress.undone_below(begin)
    if undone > 0:
        raise KQError(f"up to {undone} messages before offset {offset} are not done: the group is at {begin}")


def _end_of(consumer: KafkaConsumer, tp: TopicPartition, offset: int) -> int:
    """Return the offset after a message, or after its batch if that cannot be read."""
    kafka_python.mend(consumer)
    consumer.seek(tp, offset)
    deadline = time.monotonic() + _READ_TIMEOUT
    while time.monotonic() < deadline:
        records = consumer.poll(timeout_ms=200, max_records=1)
        if fault := kafka_python.take_faults(consumer).get(tp):
            return fault.next
        if records:
            return offset + 1
    raise KQError(f"the broker did not give offset {offset} within {_READ_TIMEOUT:g} s")
