"""Assignments: what the pump and the loop share of each assigned partition, and what the pump tells the loop.

1. A partition is assigned: an ``Assignment`` is made for its new epoch. It is opened once the last commit was read.
   The loop gets ``Assigned``, ``Polled``, ``Moved`` where the log has gaps, and ``Drained`` if it asked for that.
2. The loop counts the messages that it is through with, and publishes what may be committed as ``view``.
3. The partition is revoked: the epoch ends, and the loop gets ``Revoked``. After ``Failed`` it gets nothing more.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from kafka import TopicPartition

from kq.consuming.metadata import Progress, View
from kq.consuming.tracker import reopen

__all__ = [
    "PARTITION_BYTES",
    "PARTITION_COUNT",
    "TOTAL_BYTES",
    "TOTAL_COUNT",
    "Assigned",
    "Assignment",
    "Drained",
    "Event",
    "Failed",
    "Moved",
    "Polled",
    "Revoked",
]

#: Messages of one partition in hand before it is paused: two full polls, so that hands are never empty.
PARTITION_COUNT = 1000
#: Messages of all partitions in hand before all are paused.
TOTAL_COUNT = 4000
#: Bytes of one partition in hand before it is paused: sixteen records of the broker's default size limit.
PARTITION_BYTES = 16 * 1024 * 1024
#: Bytes of all partitions in hand before all are paused.
TOTAL_BYTES = 64 * 1024 * 1024


class Assignment:
    """One partition in one epoch: what pump and worker share of it. Each field has one writer."""

    def __init__(self, tp: TopicPartition, epoch: int) -> None:
        self.tp = tp
        self.partition: int = tp.partition
        self.epoch = epoch
        self.is_open = False
        self.topic_id: UUID | None = None
        #: Written by the worker: what may be committed.
        self.view = View(0)
        #: Written by the worker: messages, and bytes, that it has in hand no more.
        self.taken = 0
        self.taken_bytes = 0
        #: Written by the pump, like all that follows: messages, and bytes, that went to the worker.
        self.delivered = 0
        self.delivered_bytes = 0
        #: The view, and whether it was a living worker's, that the broker has.
        self.committed: tuple[View, bool] | None = None
        #: The offset where the epoch began, and the one that is expected next.
        self.begin = self.next = 0
        #: In which leader's time the newest record that is known was written; -1 if nobody said.
        self.leader_epoch = -1
        self.paused = False
        self.crowded = False
        #: The offset that cannot be read, when that was said last, and until when it is not tried again.
        self.fault_at = -1
        self.fault_told = self.still_until = 0.0

    def open(self, topic_id: UUID | None, progress: Progress, leader_epoch: int) -> None:
        """Begin the epoch where the last commit says."""
        self.topic_id = topic_id
        self.view = reopen(progress)
        self.begin = self.next = progress.watermark
        self.leader_epoch = leader_epoch
        self.is_open = True

    def part(self) -> float:
        """Return the part of a bound that makes it full: once paused a half, so that it does not flutter."""
        return 0.5 if self.paused else 1.0

    def is_full(self) -> bool:
        """Return whether nothing more of this partition is to be polled, however much there is of others."""
        part = self.part()
        if self.in_hand() >= PARTITION_COUNT * part or self.in_hand_bytes() >= PARTITION_BYTES * part:
            return True
        # the commit metadata is nearly full, and more messages add to it. What the last epoch knew of is polled again
        # first: that adds nothing, and not to poll it would be for ever
        return self.crowded and self.next >= self.view.top

    def in_hand(self) -> int:
        return self.delivered - self.taken

    def in_hand_bytes(self) -> int:
        return self.delivered_bytes - self.taken_bytes

    def take(self, count: int, size: int) -> None:
        """Note, as the worker, that it has so many messages, of so many bytes, in hand no more."""
        self.taken += count
        self.taken_bytes += size

    def has_news(self) -> bool:
        """Return whether anything is done that is not committed."""
        before = View(self.begin) if self.committed is None else self.committed[0]
        known = before.watermark, max(before.watermark, before.top), before.incomplete
        return known != (self.view.watermark, max(self.view.watermark, self.view.top), self.view.incomplete)

    def commit_lag(self) -> int:
        """Return the offsets from what is committed to what was polled."""
        committed = self.committed
        return self.next - (self.begin if committed is None else committed[0].watermark)


class Assigned(NamedTuple):
    """An epoch of a partition begins."""

    assignment: Assignment
    progress: Progress


class Revoked(NamedTuple):
    """An epoch of a partition is over."""

    assignment: Assignment
    #: Whether another worker may have had it already, so that nothing was committed.
    is_lost: bool = False


class Polled(NamedTuple):
    """Records came, ascending by offset."""

    assignment: Assignment
    records: list[Any]


class Moved(NamedTuple):
    """The log holds nothing more below a position."""

    assignment: Assignment
    position: int


class Drained(NamedTuple):
    """Nothing is left of any partition: all was polled, and all that is done is committed."""


class Failed(NamedTuple):
    """The pump has ended by an error that it cannot mend."""

    error: BaseException


Event = Assigned | Revoked | Polled | Moved | Drained | Failed
