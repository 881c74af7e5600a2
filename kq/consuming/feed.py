"""The feed: where each partition begins, and what polls give to the worker.

1. An epoch begins where the last commit says. Where nothing is committed it begins where this worker was before, by its
   ``Origin``, or where the client says.
2. Records go to the worker as events, in order, and are in hand until the worker has taken them. A partition of which
   there is enough in hand is paused.
3. Records below the begin of the log were removed before they were read: it goes on at the begin. A log that lost its
   end goes on where it was cut, and where nobody can tell that, at its end. Both are said.
4. A partition whose next record cannot be read stands still, loudly, and is tried again now and then; others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from kq.clients import Fault, kafka_python
from kq.consuming.assignment import TOTAL_BYTES, TOTAL_COUNT, Assignment, Event, Moved, Polled
from kq.consuming.committer import SYNC_COMMIT_TIMEOUT
from kq.consuming.metadata import Progress, decode
from kq.message import bytes_of

__all__ = ["Feed", "differ"]

_logger = logging.getLogger("kq.pump")

#: Milliseconds until a broker's answer about a log or a commit counts as missing.
ASK_MS = SYNC_COMMIT_TIMEOUT * 1000
#: Seconds between tries to read what could not be read, and between two words about it.
STILL_WAIT, STILL_TOLD = 10.0, 60.0
#: Seconds that a member of a group without a partition waits for one, before it counts as drained: another that has to
#: give one up hears of that by its next heartbeat.
EMPTY_HANDED = 3.5


class Origin(NamedTuple):
    """Where a partition begins of which nothing is committed, if it is still the same topic's."""

    topic_id: UUID | None
    #: None for the begin of the log.
    offset: int | None


class Feed:
    """The way from one consumer's partitions to the worker. For the pump's thread."""

    def __init__(self, consumer: KafkaConsumer, post: Callable[[Event], None]) -> None:
        self.consumer = consumer
        self._post = post
        self.origins: dict[TopicPartition, Origin] = {}
        #: Since when there is neither a partition nor a rebalance.
        self._empty_since: float | None = None

    # -- where a partition begins --------------------------------------------------------------------------------------

    def begin(self, tp: TopicPartition, topic_id: UUID | None) -> tuple[Progress, int]:
        """Seek to where an epoch begins; return what is known of it, and the leader's epoch of the commit.

        :raises KafkaError: It is not known yet.
        """
        origin = self.origins.get(tp)
        committed = self.consumer.committed(tp, metadata=True, timeout_ms=ASK_MS)
        progress = None if committed is None else decode(committed.metadata, committed.offset, topic_id)
        if progress is not None and not progress.foreign_topic:
            return self._go_on(tp, progress, committed.leader_epoch)
        is_made_anew = progress is not None or (origin is not None and differ(origin.topic_id, topic_id))
        if is_made_anew:
            _logger.warning("Topic %s was made anew since the last commit: partition %s begins anew", *tp)
        if is_made_anew or (origin is not None and origin.offset is None):
            self.consumer.seek_to_beginning(tp)
        elif origin is not None:
            self.consumer.seek(tp, origin.offset)
        self.consumer.resume(tp)
        position = self.consumer.position(tp, timeout_ms=ASK_MS)
        if position is None:
            raise KafkaError(f"no position for {tp}")
        self.origins[tp] = Origin(topic_id, position)
        return Progress(position), -1

    def _go_on(self, tp: TopicPartition, progress: Progress, leader_epoch: int) -> tuple[Progress, int]:
        """Seek to what was committed, or beside it where the log does not have that any more."""
        offset = progress.watermark
        if not kafka_python.has_leader(self.consumer, tp):  # to ask would be to wait for one, and others with it
            raise KafkaError(f"{tp} has no leader")
        begin = self.consumer.beginning_offsets([tp], timeout_ms=ASK_MS)[tp]
        end = self.consumer.end_offsets([tp], timeout_ms=ASK_MS)[tp]
        kafka_python.seek(self.consumer, tp, offset, leader_epoch)
        self.consumer.resume(tp)
        if offset < begin:
            self._tell_removed(tp, offset, begin)
            self.consumer.seek(tp, begin)
            return progress.beyond(begin), leader_epoch
        # the client asks, by the leader's epoch, where the log was cut if there was another leader since
        position = self.consumer.position(tp, timeout_ms=ASK_MS)
        cut = min(end, offset if position is None else position)
        if cut < offset:
            self._tell_cut(tp, cut, offset, is_guess=position is None or leader_epoch < 0)
            self.consumer.seek(tp, cut)
            return Progress(cut), -1
        return progress, leader_epoch

    def tell_opened(self, tp: TopicPartition, progress: Progress, session: float) -> None:
        """Say that a partition is this worker's, and what is known of the one that had it before.

        :param session: The session timeout, in seconds.
        """
        if progress.unclean:
            _logger.warning(
                "Topic %s, partition %s comes from a worker that ended without a stop. Its group noticed that when the "
                "session timeout was over (session_timeout_ms: %g s here). Jobs that ran there run again",
                *(*tp, session),
            )
        else:
            _logger.info("Topic %s, partition %s is assigned, and goes on at offset %s", *tp, progress.watermark)

    def give_back(self, partitions: Iterable[TopicPartition]) -> None:
        """Leave the user's consumer where the next start goes on."""
        kafka_python.give_back(self.consumer)
        owned = self.consumer.assignment()
        for tp in partitions:
            origin = self.origins.get(tp)
            if tp in owned and origin is not None and origin.offset is not None:
                self.consumer.seek(tp, origin.offset)
                self.consumer.resume(tp)

    # -- what polls give -----------------------------------------------------------------------------------------------

    def deliver(
        self, assignments: list[Assignment], records: dict[TopicPartition, list[Any]]
    ) -> Iterator[tuple[Assignment, int]]:
        """Give the worker what was polled; yield assignments whose logs were cut, and where they begin anew."""
        held = {assignment.tp: assignment for assignment in assignments}
        again = self._find_removed({held[tp]: polled[0].offset for tp, polled in records.items() if tp in held})
        for tp, polled in records.items():
            assignment = held.get(tp)
            if assignment is None or assignment in again:
                continue
            if polled[0].offset < assignment.next:
                yield from self._find_cut(assignment, polled[0].offset, polled[0].leader_epoch)
                continue
            assignment.next = polled[-1].offset + 1
            assignment.leader_epoch = polled[-1].leader_epoch
            assignment.delivered += len(polled)
            assignment.delivered_bytes += bytes_of(polled)
            self._post(Polled(assignment, polled))

    def tell_positions(self, assignments: list[Assignment]) -> Iterator[tuple[Assignment, int]]:
        """Tell the worker where the log ends in what is no message (transaction markers, say); yield as ``deliver``."""
        positions = {}
        for assignment in assignments:
            if assignment.in_hand():
                continue
            try:
                position = self.consumer.position(assignment.tp, timeout_ms=0)
            except KafkaError:
                continue
            if position is not None and position > assignment.next:
                positions[assignment] = position
            elif position is not None and position < assignment.next:
                yield from self._find_cut(assignment, position, None)
        again = self._find_removed(positions)
        for assignment, position in positions.items():
            if assignment not in again:
                self._move(assignment, position)

    def is_drained(self, assignments: list[Assignment], *, is_stable: bool) -> bool:
        """Return whether nothing is left of assignments: the logs hold nothing beyond what was polled.

        :param is_stable: They are all that this member gets for now, and have nothing that is not committed.
        """
        if not is_stable or assignments:
            self._empty_since = None
            return is_stable and self._is_at_end(assignments)
        self._empty_since = self._empty_since or time.monotonic()
        return time.monotonic() - self._empty_since > EMPTY_HANDED

    def _is_at_end(self, assignments: list[Assignment]) -> bool:
        nexts = {assignment.tp: assignment.next for assignment in assignments}
        try:
            ends = self.consumer.end_offsets(list(nexts), timeout_ms=ASK_MS)
        except KafkaError:  # nobody can tell now
            return False
        return all(position >= ends[tp] for tp, position in nexts.items())

    def _move(self, assignment: Assignment, position: int) -> None:
        assignment.next = position
        self._post(Moved(assignment, position))

    def _find_removed(self, positions: dict[Assignment, int]) -> set[Assignment]:
        """Say what was removed before it was polled, where positions jumped; return what is polled again.

        Not every gap is a loss: compaction and transaction markers leave some, above the begin of the log.
        """
        jumps = {a.tp: a for a, position in positions.items() if position > a.next}
        try:
            begins = self.consumer.beginning_offsets(list(jumps), timeout_ms=ASK_MS) if jumps else {}
        except KafkaError:  # it is not known yet: they jump once more
            begins = {}
        again = set()
        for tp, assignment in jumps.items():
            begin = begins.get(tp)
            if begin is not None and begin <= assignment.next:
                continue
            if begin is not None:
                self._tell_removed(tp, assignment.next, begin)
                self._move(assignment, begin)
            again.add(assignment)
            self._seek(tp, assignment.next)
        return again

    def _find_cut(
        self, assignment: Assignment, offset: int, leader_epoch: int | None
    ) -> Iterator[tuple[Assignment, int]]:
        """Seek to where the log was cut under an assignment, and yield where it begins anew: at what is undone.

        :param offset: Where the client went: to the cut, or, if it could not ask for that, to the begin of the log.
        :param leader_epoch: Of the record there: a later one than before stands at the cut. None if none has come.
        """
        tp = assignment.tp
        is_guess = leader_epoch is not None and not leader_epoch > assignment.leader_epoch >= 0
        try:
            end = self.consumer.end_offsets([tp], timeout_ms=ASK_MS)[tp]
        except KafkaError:  # it is not known yet: it jumps once more
            self._seek(tp, assignment.next)
            return
        if leader_epoch is None and end > offset:  # a record will come
            return
        cut = min(end, assignment.next) if is_guess else offset
        begin = min(cut, assignment.view.watermark)
        self._tell_cut(tp, cut, assignment.next, is_guess=is_guess)
        self._seek(tp, begin)
        yield assignment, begin

    def _seek(self, tp: TopicPartition, offset: int) -> None:
        with suppress(ValueError):  # the partition went while a broker was asked about it
            self.consumer.seek(tp, offset)

    def _tell_removed(self, tp: TopicPartition, offset: int, begin: int) -> None:
        _logger.warning(
            "Topic %s, partition %s: the records at offsets %s to %s were removed from the log (retention, "
            "DeleteRecords) before a worker came to them: up to %s jobs never ran",
            *(*tp, offset, begin - 1, begin - offset),
        )

    def _tell_cut(self, tp: TopicPartition, cut: int, offset: int, *, is_guess: bool) -> None:
        _logger.error(
            "Topic %s, partition %s: the log was cut at offset %s, and the group had come to %s: a broker lost its "
            "last records. Jobs that stood at %s and later and had not run are missing%s",
            *(*tp, cut, offset, cut),
            "; where exactly it was cut is not known, so jobs enqueued since then may be passed over" * is_guess,
        )

    # -- what is not polled --------------------------------------------------------------------------------------------

    def note_faults(self, assignments: list[Assignment]) -> None:
        """Have partitions stand still whose next record cannot be read, and say so."""
        held, now = {assignment.tp: assignment for assignment in assignments}, time.monotonic()
        for tp, fault in kafka_python.take_faults(self.consumer).items():
            assignment = held.get(tp)
            if assignment is None:  # it is sought anew, and met again
                continue
            assignment.still_until = now + STILL_WAIT
            if assignment.fault_at != fault.offset or now - assignment.fault_told > STILL_TOLD:
                assignment.fault_at, assignment.fault_told = fault.offset, now
                _logger.error("%s", _words(tp, fault, self.consumer.config["group_id"]))

    def pause_and_resume(self, assignments: list[Assignment]) -> bool:
        """Pause what is full, resume what is not; return whether anything was resumed."""
        has_resumed = False
        count = sum(assignment.in_hand() for assignment in assignments)
        size = sum(assignment.in_hand_bytes() for assignment in assignments)
        now = time.monotonic()
        for assignment in assignments:
            part = assignment.part()
            full = assignment.is_full() or count >= TOTAL_COUNT * part or size >= TOTAL_BYTES * part
            full = full or now < assignment.still_until
            if full != assignment.paused:
                with suppress(KeyError):  # the partition has just gone
                    (self.consumer.pause if full else self.consumer.resume)(assignment.tp)
                assignment.paused = full
                has_resumed = has_resumed or not full
        return has_resumed


def differ(topic_id: UUID | None, other: UUID | None) -> bool:
    """Return whether two topics of the same name are known to be different ones."""
    return topic_id is not None and other is not None and topic_id != other


def _words(tp: TopicPartition, fault: Fault, group: str) -> str:
    """Return what to say of a partition that stands still: what is wrong, and what to do."""
    missing = next((codec for codec in ("snappy", "lz4", "zstd") if f" {codec} " in str(fault.error)), None)
    install = f"run pip install 'kafka-python[{missing}]' and restart the worker, or " if missing else ""
    return (
        f"Topic {tp.topic}, partition {tp.partition} stands still at offset {fault.offset}, which cannot be read: "
        f"{type(fault.error).__name__}: {fault.error}. It is tried again every {STILL_WAIT:g} s. To go on, {install}"
        f"stop the workers of the group and skip it: kq skip --group {group} {tp.topic} {tp.partition} {fault.offset}"
    )
