"""What kafka-python 3.0.12 leaves undone in a consumer, done from outside. Each of these can go with a release that
does it itself.

1. ``take_up_join``: a join that a poll ended in the middle of is taken up again.
2. ``unpark``: records that were set aside while their partition was paused are given out after it was resumed.

Both are for the thread that polls, and do nothing where a client has no such parts.
"""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer

__all__ = ["take_up_join", "unpark"]


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
