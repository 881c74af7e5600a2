"""The inside of kafka-python, as of 3.0.12: what KQ must look at, and what it mends, where the public face has no way.

Each release of the client is to be compared with this, and each mend can go with a release that does it itself.

1. Under ``python -O`` the client's reading of answers is mended when this is imported; it understands no broker else.
2. ``hush_closes``: that a client was closed in the middle of something is no error.
3. ``take_up_join``: a join that a poll ended in the middle of is taken up again.
4. ``unpark``: records that were set aside while their partition was paused are given out after it was resumed.
5. ``ask_again``: what a producer knows of its topics' partitions is brought up to date.
6. ``last_heartbeat``, ``is_silent``, ``topic_id``, ``replace_listener``: what it knows, and does not tell.

Where a consumer of other make has no such parts, they do nothing and know nothing. The thread that polls calls them.
"""

from __future__ import annotations

import logging
import threading
from typing import Any
from uuid import UUID

from kafka import KafkaConsumer, KafkaProducer
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import Cancelled
from kafka.structs import MemberState

__all__ = [
    "ask_again",
    "hush_closes",
    "is_silent",
    "last_heartbeat",
    "replace_listener",
    "take_up_join",
    "topic_id",
    "unpark",
]


def hush_closes() -> None:
    """Keep out of the log, for good, that a client was closed while it asked for metadata: it calls that an error."""
    logging.getLogger("kafka.cluster").addFilter(_is_no_close)


def _is_no_close(record: logging.LogRecord) -> bool:
    return not (isinstance(record.args, tuple) and any(isinstance(arg, Cancelled) for arg in record.args))


def ask_again(producer: KafkaProducer, timeout: float) -> None:
    """Have a producer ask the brokers which partitions its topics have, and return when it knows, or after a time."""
    answered = threading.Event()
    metadata: Any = getattr(producer, "_metadata", None)
    if metadata is not None:
        metadata.request_update().add_both(lambda _: answered.set())
        answered.wait(timeout)


def take_up_join(consumer: KafkaConsumer) -> bool:
    """Have the next poll go on with a join that has not ended; return whether there is one.

    Where it was not the coordinator that asked for a join, the client forgets one that a poll ends in the middle of:
    the member would wait for its partitions, without a heartbeat, for ever.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is None or not coordinator.rejoining:
        return False
    with coordinator._lock:
        if coordinator.rejoining:
            coordinator.rejoin_needed = True
    return True


def unpark(consumer: KafkaConsumer) -> None:
    """Have the next poll give out records of a partition that was paused, and resumed, after they had come.

    The client sets them aside while the partition is paused, and takes them up again only while it has no records at
    hand at all, which it has from its first ones on: read to their end, they still stand there. Until the next pause
    of another partition the one that was resumed is neither read nor fetched.
    """
    fetcher: Any = getattr(consumer, "_fetcher", None)
    for tp, parked in list(getattr(fetcher, "_paused_partition_records", {}).items()):
        if consumer._subscription.is_paused(tp):
            continue
        # they change places, so that none waits for long; at no moment is one in neither, or it were fetched again
        current = fetcher._next_partition_records
        if current:
            fetcher._paused_partition_records[current.topic_partition] = current
        fetcher._next_partition_records = parked
        del fetcher._paused_partition_records[tp]
        return


def last_heartbeat(consumer: KafkaConsumer) -> float | None:
    """Return when the coordinator last answered a heartbeat, by the monotonic clock; None where nobody knows."""
    heartbeat = getattr(getattr(consumer, "_coordinator", None), "heartbeat", None)
    return getattr(heartbeat, "last_receive", None)


def is_silent(consumer: KafkaConsumer) -> bool:
    """Return whether a member of a group sends no heartbeats, and means to go on so: another has its name."""
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is None or coordinator.state != MemberState.STABLE:
        return False
    return not (getattr(coordinator, "_heartbeat_enabled", True) or coordinator.need_rejoin())


def topic_id(consumer: KafkaConsumer, topic: str) -> UUID | None:
    """Return the ID of a topic, by which one that was made anew is told from the old one; None while it is unknown."""
    lookup = getattr(getattr(consumer, "_cluster", None), "topic_id", None)
    return None if lookup is None else lookup(topic)


def replace_listener(consumer: KafkaConsumer, listener: AsyncConsumerRebalanceListener) -> bool:
    """Have another listener hear of rebalances, the subscription unchanged; return whether that is possible."""
    state: Any = getattr(consumer, "_subscription", None)
    if not hasattr(state, "rebalance_listener"):
        return False
    state.rebalance_listener = listener
    return True


if not __debug__:
    # a byte of every answer is read inside an assertion: without assertions all that follows is read one byte off
    from kafka.protocol.schemas.fields.codecs import UnsignedVarInt32
    from kafka.protocol.schemas.fields.codecs.tagged_fields import TaggedFields

    def _read_no_tags(_cls: type, data: Any) -> None:
        UnsignedVarInt32.decode(data)

    TaggedFields.decode_empty = classmethod(_read_no_tags)
