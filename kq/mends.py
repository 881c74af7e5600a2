"""What kafka-python 3.0.12 leaves undone, done from outside. Each of these can go with a release that does it itself.

1. Under ``python -O`` its reading of answers is mended when this is imported; it understands no broker otherwise.
2. ``hush_closes``: that a client was closed in the middle of something is no error.
3. ``take_up_join``: a join that a poll ended in the middle of is taken up again.
4. ``unpark``: records that were set aside while their partition was paused are given out after it was resumed.

The last two are for the thread that polls, and do nothing where a client has no such parts.
"""

from __future__ import annotations

import logging
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import Cancelled

__all__ = ["hush_closes", "take_up_join", "unpark"]


def hush_closes() -> None:
    """Keep out of the log, for good, that a client was closed while it asked for metadata: it calls that an error."""
    logging.getLogger("kafka.cluster").addFilter(_is_no_close)


def _is_no_close(record: logging.LogRecord) -> bool:
    return not (isinstance(record.args, tuple) and any(isinstance(arg, Cancelled) for arg in record.args))


def take_up_join(consumer: KafkaConsumer) -> bool:
    """Have the next poll go on with a join that has not ended; return whether there is one.

    Where it was not the coordinator that asked for a join, the client forgets one that a poll ends in the middle of:
    the member would wait for its partitions, without a heartbeat, for ever.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is None or not coordinator.rejoining:
        return False
    with coordinator._lock:
        coordinator.rejoin_needed = coordinator.rejoin_needed or coordinator.rejoining
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


if not __debug__:
    # a byte of every answer is read inside an assertion: without assertions all that follows is read one byte off
    from kafka.protocol.schemas.fields.codecs import UnsignedVarInt32
    from kafka.protocol.schemas.fields.codecs.tagged_fields import TaggedFields

    def _read_no_tags(_cls: type, data: Any) -> None:
        UnsignedVarInt32.decode(data)

    TaggedFields.decode_empty = classmethod(_read_no_tags)
