"""The feed: what polls give goes to the worker.

1. Records go to the worker as events, in order, and are counted as in hand until the worker has taken them.
2. Where an offset jumps, the log is asked why: what was removed before it was read is said; a log that lost its end
   begins anew; compaction and transaction markers only leave gaps.
3. A partition whose next record cannot be read stands still, loudly, and is tried again now and then; others go on.
4. A partition of which the worker has enough in hand is paused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from kq.clients import Fault, kafka_python
from kq.consuming.assignment import TOTAL_BYTES, TOTAL_COUNT, Assignment, Event, Moved, Polled
from kq.consuming.positions import Positions
from kq.message import bytes_of

__all__ = ["Feed"]

_logger = logging.getLogger("kq.pump")

#: Seconds between tries to read what could not be read, and between two words about it.
STILL_WAIT, STILL_TOLD = 10.0, 60.0


class Feed:
    """The way from the polls of one pump to its worker. For the pump's thread."""

    def __init__(self, topic: str, positions: Positions, post: Callable[[Event], None]) -> None:
        self._topic = topic
        self._positions = positions
        self._post = post

    def deliver(
        self, assignments: list[Assignment], records: dict[TopicPartition, list[Any]]
    ) -> Iterator[tuple[Assignment, int]]:
        """Give the worker what was polled; yield assignments whose logs were cut, and where they begin anew."""
        held = {self._tp(assignment): assignment for assignment in assignments}
        jumps = {held[tp]: polled[0].offset for tp, polled in records.items() if tp in held}
        jumped = self._find_removed(jumps)
        for tp, polled in records.items():
            assignment = held.get(tp)
            if assignment is None or assignment in jumped:
                continue
            if polled[0].offset < assignment.next:
                # a record of a later leader stands at the cut, an older one at the begin of the log
                is_guess = not polled[0].leader_epoch > assignment.leader_epoch >= 0
                yield from self._cut(assignment, polled[0].offset, is_guess=is_guess)
                continue
            self._deliver(assignment, polled)

    def _cut(self, assignment: Assignment, offset: int, *, is_guess: bool) -> Iterator[tuple[Assignment, int]]:
        try:
            yield assignment, self._positions.cut_of(assignment, offset, is_guess=is_guess)
        except (KafkaError, ValueError) as error:  # it is not known yet, or was revoked: it jumps once more
            _logger.debug("Partition %s: %s", assignment.partition, error)

    def _deliver(self, assignment: Assignment, polled: list[Any]) -> None:
        assignment.next = polled[-1].offset + 1
        assignment.leader_epoch = polled[-1].leader_epoch
        assignment.delivered += len(polled)
        assignment.delivered_bytes += bytes_of(polled)
        self._post(Polled(assignment, polled))

    def _find_removed(self, positions: dict[Assignment, int]) -> set[Assignment]:
        """Say what was removed before it was polled, where positions jumped forward; go on at the begin of the log.

        Not every gap is a loss: compaction and transaction markers leave some, above the begin of the log.

        :returns: What is polled again.
        """
        jumps = {assignment for assignment, position in positions.items() if position > assignment.next}
        try:
            begins = self._positions.begins([assignment.partition for assignment in jumps])
        except KafkaError:  # it is not known yet: they jump once more
            begins = None
        again = set()
        for assignment in jumps:
            begin = assignment.next if begins is None else begins[assignment.partition]
            if begins is not None and begin <= assignment.next:
                continue
            again.add(assignment)
            self._seek(assignment, begin)
            if begin > assignment.next:
                self._positions.tell_removed(assignment.partition, assignment.next, begin, begin - assignment.next)
                assignment.next = begin
                self._post(Moved(assignment, begin))
        return again

    def _seek(self, assignment: Assignment, offset: int) -> None:
        try:
            self._positions.consumer.seek(self._tp(assignment), offset)
        except ValueError as error:  # it was revoked this moment
            _logger.debug("Partition %s: %s", assignment.partition, error)

    def tell_positions(self, assignments: list[Assignment]) -> Iterator[tuple[Assignment, int]]:
        """Tell the worker where the log ends in records that are not messages, such as transaction markers.

        Yields assignments whose logs lost their ends, as ``deliver`` does.
        """
        positions = {}
        for assignment in assignments:
            position = None if assignment.in_hand() else self._position(assignment)
            if position is not None and position > assignment.next:
                positions[assignment] = position
            elif position is not None and position < assignment.next:  # records come from there, or it is the end
                yield from self._cut(assignment, position, is_guess=True)
        jumped = self._find_removed(positions)
        for assignment, position in positions.items():
            if assignment not in jumped:
                assignment.next = position
                self._post(Moved(assignment, position))

    def _position(self, assignment: Assignment) -> int | None:
        try:
            position: int | None = self._positions.consumer.position(self._tp(assignment), timeout_ms=0)
        except KafkaError:
            return None
        return position

    def note_faults(self, assignments: list[Assignment]) -> None:
        """Have partitions stand still whose next record cannot be read, and say so."""
        held, now = {self._tp(assignment): assignment for assignment in assignments}, time.monotonic()
        for tp, fault in kafka_python.take_faults(self._positions.consumer).items():
            if (assignment := held.get(tp)) is None:  # it is sought anew, and met again
                continue
            before, assignment.fault = assignment.fault, fault
            assignment.still_until = now + STILL_WAIT
            if before is None or before.offset != fault.offset or now - assignment.fault_told > STILL_TOLD:
                assignment.fault_told = now
                group = self._positions.consumer.config["group_id"]
                _logger.error("%s", _words(self._topic, group, tp.partition, fault))

    def pause_and_resume(self, assignments: list[Assignment]) -> bool:
        """Pause what is full, resume what is not; return whether anything was resumed."""
        has_resumed = False
        count = sum(assignment.in_hand() for assignment in assignments)
        size = sum(assignment.in_hand_bytes() for assignment in assignments)
        owned, now = self._positions.consumer.assignment(), time.monotonic()
        for assignment in assignments:
            part = assignment.part()
            full = assignment.is_full() or count >= TOTAL_COUNT * part or size >= TOTAL_BYTES * part
            full = full or now < assignment.still_until
            tp = self._tp(assignment)
            if full != assignment.paused and tp in owned:
                (self._positions.consumer.pause if full else self._positions.consumer.resume)(tp)
                assignment.paused = full
                has_resumed = has_resumed or not full
        return has_resumed

    def _tp(self, assignment: Assignment) -> TopicPartition:
        return TopicPartition(self._topic, assignment.partition)


def _words(topic: str, group: str, partition: int, fault: Fault) -> str:
    """Return what to say of a partition that stands still: what is wrong, and what to do."""
    error = fault.error
    missing = next((codec for codec in ("snappy", "lz4", "zstd") if f" {codec} " in str(error)), None)
    install = f"run pip install 'kafka-python[{missing}]' and restart the worker, or " if missing else ""
    return (
        f"Topic {topic}, partition {partition} stands still at offset {fault.offset}, which cannot be read: "
        f"{type(error).__name__}: {error}. It is tried again every {STILL_WAIT:g} s. To go on, {install}stop "
        f"the workers of the group and skip it: kq skip --group {group} {topic} {partition} {fault.offset}"
    )
