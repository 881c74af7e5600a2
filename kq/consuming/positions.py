"""Positions: where a partition begins and goes on, and what is said of records that are not there any more.

1. ``begin``: an epoch begins where the last commit says, and is sought there, whatever position the client has.
2. Where nothing is committed it begins where this worker was before, by its ``Origin``, or where the client says.
3. Records below the begin of the log were removed before they were read (retention, ``DeleteRecords``): it goes on at
   the begin. A log that ends before the commit lost its end: it goes on where the log was cut, and where nobody can
   tell that, at its end. Both are said.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from kq.clients import kafka_python
from kq.consuming.assignment import Assignment
from kq.consuming.committer import SYNC_COMMIT_TIMEOUT
from kq.consuming.metadata import Progress, decode

__all__ = ["Positions", "differ"]

_logger = logging.getLogger("kq.pump")

_TIMEOUT_MS = SYNC_COMMIT_TIMEOUT * 1000


class Origin(NamedTuple):
    """Where a partition begins of which nothing is committed, if it is still the same topic's."""

    topic_id: UUID | None
    #: None for the begin of the log.
    offset: int | None


class Positions:
    """The positions of one consumer. For the pump's thread; ``note`` is for the listener too."""

    def __init__(self, topic: str, consumer: KafkaConsumer) -> None:
        self._topic = topic
        self.consumer = consumer
        self._origins: dict[int, Origin] = {}

    def topic_id(self) -> UUID | None:
        """Return the topic's ID, by which one that was made anew is told; None while it is unknown."""
        return kafka_python.topic_id(self.consumer, self._topic)

    def note(self, partition: int, topic_id: UUID | None, offset: int | None, *, is_guess: bool = False) -> None:
        """Note where a partition begins if nothing is committed; a guess counts only where nothing else is known."""
        if not (is_guess and partition in self._origins):
            self._origins[partition] = Origin(topic_id, offset)

    def give_back(self, partitions: Collection[int]) -> None:
        """Leave the user's consumer where the next start goes on."""
        owned = self.consumer.assignment()
        for partition in partitions:
            tp, origin = self._tp(partition), self._origins.get(partition)
            if tp in owned and origin is not None and origin.offset is not None:
                self.consumer.seek(tp, origin.offset)
                self.consumer.resume(tp)

    def begin(self, partition: int, topic_id: UUID | None) -> tuple[Progress, int]:
        """Seek to where an epoch begins; return what is known of it, and the leader's epoch of the commit.

        :raises KafkaError: It is not known yet.
        """
        tp, origin = self._tp(partition), self._origins.get(partition)
        committed = self.consumer.committed(tp, metadata=True, timeout_ms=_TIMEOUT_MS)
        progress = None if committed is None else decode(committed.metadata, committed.offset, topic_id)
        if progress is not None and not progress.foreign_topic:
            return self._go_on(tp, progress, committed)
        is_made_anew = progress is not None or (origin is not None and differ(origin.topic_id, topic_id))
        if is_made_anew:
            _logger.warning("Topic %s was made anew since the last commit: partition %s begins anew", *tp)
        if is_made_anew or (origin is not None and origin.offset is None):
            self.consumer.seek_to_beginning(tp)
        elif origin is not None:
            self.consumer.seek(tp, origin.offset)
        self.consumer.resume(tp)
        position = self.consumer.position(tp, timeout_ms=_TIMEOUT_MS)
        if position is None:
            raise KafkaError(f"no position for {tp}")
        self.note(partition, topic_id, position)
        return Progress(position), -1

    def _go_on(self, tp: TopicPartition, progress: Progress, committed: OffsetAndMetadata) -> tuple[Progress, int]:
        """Seek to what was committed, or beside it where the log does not have that any more."""
        begin, end = self._log(tp)
        offset, leader_epoch = progress.watermark, committed.leader_epoch
        kafka_python.seek(self.consumer, tp, offset, leader_epoch)
        self.consumer.resume(tp)
        if offset < begin:
            self.tell_removed(tp.partition, offset, begin, progress.undone_below(begin))
            self.consumer.seek(tp, begin)
            return progress.beyond(begin), leader_epoch
        # this asks the log of the leader's epoch where it was cut, if there was another leader since
        position = self.consumer.position(tp, timeout_ms=_TIMEOUT_MS)
        cut = min(end, offset if position is None else position)
        if cut < offset:
            self.tell_cut(tp.partition, cut, offset, is_guess=leader_epoch < 0 or position is None)
            self.consumer.seek(tp, cut)
            return Progress(cut), -1
        return progress, leader_epoch

    def _log(self, tp: TopicPartition) -> tuple[int, int]:
        """Return the first offset of a partition's log, and the one after the last."""
        if not kafka_python.has_leader(self.consumer, tp):  # to ask would be to wait for one, and others with it
            raise KafkaError(f"{tp} has no leader")
        return self.begins([tp.partition])[tp.partition], self.end(tp.partition)

    def begins(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the first offset that the log of each partition has.

        :raises KafkaError: No answer came.
        """
        tps = [self._tp(partition) for partition in partitions]
        found = self.consumer.beginning_offsets(tps, timeout_ms=_TIMEOUT_MS) if tps else {}
        return {tp.partition: offset for tp, offset in found.items()}

    def end(self, partition: int) -> int:
        """Return the offset after the last one that a partition's log has.

        :raises KafkaError: No answer came.
        """
        tp = self._tp(partition)
        return int(self.consumer.end_offsets([tp], timeout_ms=_TIMEOUT_MS)[tp])

    def cut_of(self, assignment: Assignment, offset: int, *, is_guess: bool) -> int:
        """Seek to where the log was cut under an assignment that the client sent back, say so, and return it.

        What was undone before the cut goes with the old epoch, so the new one begins there.

        :param is_guess: The client may not have known where it was cut, and gone to the begin of the log.
        """
        if is_guess:
            end = min(self.end(assignment.partition), assignment.next)
            offset, is_guess = end, offset != end
        begin = min(offset, assignment.view.watermark)
        self.tell_cut(assignment.partition, offset, assignment.next, is_guess=is_guess)
        self.consumer.seek(self._tp(assignment.partition), begin)
        return begin

    def tell_removed(self, partition: int, offset: int, begin: int, count: int) -> None:
        """Say that records were removed before they were read."""
        _logger.warning(
            "Topic %s, partition %s: the records at offsets %s to %s were removed from the log (retention, "
            "DeleteRecords) before a worker came to them: up to %s jobs never ran",
            *(self._topic, partition, offset, begin - 1, count),
        )

    def tell_cut(self, partition: int, cut: int, offset: int, *, is_guess: bool) -> None:
        """Say that a log lost its end."""
        _logger.error(
            "Topic %s, partition %s: the log was cut at offset %s, and the group had come to %s: a broker lost its "
            "last records. Jobs that stood at %s and later and had not run are missing%s",
            *(self._topic, partition, cut, offset, cut),
            "; where exactly it was cut is not known, so jobs enqueued since then may be passed over" * is_guess,
        )

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)


def differ(topic_id: UUID | None, other: UUID | None) -> bool:
    """Return whether two topics of the same name are known to be different ones."""
    return topic_id is not None and other is not None and topic_id != other
