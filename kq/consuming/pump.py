"""The pump: the only user of the Kafka consumer.

1. Its thread polls always, also while jobs run, so that a long job is never the end of a membership.
2. A partition is assigned: the pump reads the last commit, seeks there, and opens a ``Assignment`` for the new epoch.
3. Records go to the worker as events; how much the worker has in hand decides what is paused.
4. What the worker publishes as done, a ``View`` a assignment, is committed, by ``Committer``.
5. A partition is revoked: what is published of it is committed, and the assignment is closed.
6. ``stop`` commits the rest, says in the metadata that this was no accident, and gives the consumer back or closes it.

The pump never runs user code, and nothing here waits for a job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple
from uuid import UUID

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import FencedInstanceIdError, KafkaError
from kafka.structs import MemberState, OffsetAndMetadata

from kq.clients import BusyFirstAssignor, kafka_python
from kq.consuming.assignment import (
    TOTAL_BYTES,
    TOTAL_COUNT,
    Assigned,
    Assignment,
    Event,
    Failed,
    Moved,
    Polled,
    Revoked,
)
from kq.consuming.committer import FATAL, SYNC_COMMIT_TIMEOUT, Committer, Flush
from kq.consuming.metadata import Progress, decode
from kq.consuming.tracker import reopen
from kq.errors import BrokerUnreachable
from kq.message import bytes_of

__all__ = ["Pump"]

_logger = logging.getLogger("kq.pump")

#: Milliseconds of a poll while nothing else is to be done: it returns as soon as there is data, and shorter ones cost
#: more of a core and keep a first join from ever finishing.
IDLE_POLL_MS = 100
#: Seconds between polls while jobs run: short after records came, longer the longer none do. The pump waits on its own
#: inbox meanwhile, so commits and resumes do not wait for that.
BUSY_WAIT = (0.001, 0.02)
#: Seconds that closing an own consumer may take.
CLOSE_TIMEOUT = 5.0
#: Seconds between tries to make an own consumer anew.
REBUILD_WAIT = 2.0


class _Origin(NamedTuple):
    """Where a partition begins of which nothing is committed, if it is still the same topic's."""

    topic_id: UUID | None
    offset: int


class Pump:
    """Polls and commits for one worker, in a thread of its own, between ``start`` and ``stop``.

    :param consumer: The consumer; nobody else uses it meanwhile.
    :param make: Makes another consumer after an unexpected error, and the pump closes what it has; None where the
        consumer is the user's.
    :param commit_interval: Seconds between commits while there is something to commit; None to commit nothing.
    :param wake: Called after events were added to ``events``.
    """

    def __init__(
        self,
        topic: str,
        consumer: KafkaConsumer,
        make: Callable[[], KafkaConsumer] | None,
        commit_interval: float | None,
        wake: Callable[[], None],
    ) -> None:
        self._topic = topic
        self._consumer = consumer
        self._make = make
        self._wake = wake
        self.events: deque[Event] = deque()
        #: When the thread was last seen at work, by the monotonic clock.
        self.heartbeat = time.monotonic()
        self._inbox: SimpleQueue[Flush | None] = SimpleQueue()
        #: Guards what the rebalance listener shares with the thread: assignments, fresh partitions, order of commits.
        self._lock = threading.Lock()
        self._assignments: dict[int, Assignment] = {}
        self._fresh: dict[int, int] = {}
        #: Of partitions of which nothing is committed: what came first, or what was left undone.
        self._origins: dict[int, _Origin] = {}
        #: Partitions that the user's consumer had before: it may be behind messages that nobody processed.
        self._inherited: set[int] = set()
        self._epoch = 0
        self._committer = Committer(topic, consumer, commit_interval, self.poke)
        self._wait = BUSY_WAIT[0]
        self._session = consumer.config["session_timeout_ms"] / 1000
        #: When the coordinator gave partitions to this member.
        self._joined = 0.0
        self._stopping = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="kq-pump", daemon=True)

    # -- for the worker ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Subscribe and begin to poll."""
        self._subscribe()
        self._thread.start()

    def poke(self) -> None:
        """Have the pump look at what was published now."""
        self._inbox.put(None)

    def flush(self, timeout: float) -> bool:
        """Commit what is published, wait for the broker's answer, and return whether it came within the time.

        Where the pump has ended there is nothing to wait for.
        """
        if not self._committer.is_on:
            return True
        flush = Flush()
        self._inbox.put(flush)
        if self._ended:  # it may have looked at its inbox for the last time
            return True
        return flush.done.wait(timeout)

    def is_vouched(self, now: float) -> bool:
        """Return whether the group's coordinator has known this member within the session timeout.

        If not, as after the process was stopped for a while, others may have its partitions: nothing should start
        before the coordinator has answered.
        """
        answered = kafka_python.last_heartbeat(self._consumer)
        if answered is None:
            return True
        return bool(now - max(answered, self._committer.vouched, self._joined) < self._session)

    def expect_end(self) -> None:
        """From now on the end of this process is a stop, whatever runs: no message is to be blamed for it."""
        self._committer.alive = False
        self.poke()

    def stop(self, timeout: float) -> bool:
        """Commit the rest and let the consumer go; return whether that was over within the time."""
        self._committer.alive = False
        self._stopping = True
        self.poke()
        if self._thread.ident is None:  # it was never started
            self._close_own()
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._step_or_rebuild()
            self._finish()
        except Exception as error:  # the door of the thread: the worker must hear of it, whatever it is  # noqa: BLE001
            self._post(Failed(error))
            self._let_go()
        finally:
            self._ended = True
            self.heartbeat = float("inf")  # from now on it stands still for a reason
            self._read_inbox(0)
            self._committer.release()

    def _step_or_rebuild(self) -> None:
        try:
            self._step()
        except FATAL:
            raise
        except Exception as error:
            if self._make is None:
                raise
            _logger.exception("The consumer failed; it is made anew: %s", error)
            self._rebuild()

    def _step(self) -> None:
        self.heartbeat = time.monotonic()
        self._read_inbox(0 if self._is_idle() else self._wait)
        busy = not self._is_idle()
        kafka_python.unpark(self._consumer)
        records = self._consumer.poll(timeout_ms=0 if busy else IDLE_POLL_MS)
        self._check_membership()
        self._check_topic_id()
        self._open_fresh(records)
        self._deliver(records)
        if not (records or busy):
            self._tell_positions()
        has_resumed = self._pause_and_resume()
        if self._committer.is_due(self._held(), time.monotonic()):
            with (
                self._lock
            ):  # a assignment that the listener closes must not be committed after what the listener commits
                self._committer.send(self._assignments.values())
        shortest, longest = BUSY_WAIT
        if has_resumed:  # there is room, and what it is for may have come already
            self._wait = 0.0
        else:
            self._wait = shortest if records else min(longest, max(shortest, self._wait * 2))

    def _is_idle(self) -> bool:
        """Return whether nothing is in hand nor to be committed, or polling matters more, as in a rebalance."""
        if self._stopping or self._committer.is_asked_for:
            return False
        assignments = self._held()
        if not assignments or self._consumer.group_metadata().state != MemberState.STABLE:
            return True
        if self._committer.is_on_its_way:
            return False
        return not any(
            assignment.in_hand() or assignment.view.running or self._committer.is_dirty(assignment)
            for assignment in assignments
        )

    def _held(self) -> list[Assignment]:
        """Return the assignments that are open now: the listener may close some at any moment."""
        return list(self._assignments.values())

    def _read_inbox(self, timeout: float) -> None:
        try:
            item = self._inbox.get(timeout=timeout) if timeout else self._inbox.get_nowait()
            while True:
                if item is not None:
                    self._committer.add(item)
                item = self._inbox.get_nowait()
        except Empty:
            return

    def _post(self, event: Event) -> None:
        self.events.append(event)
        self._wake()

    # -- assignments ---------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        consumer, listener = self._consumer, _Listener(self)
        # to subscribe again to the same topic would do no more than replace the listener, with a warning in the log
        if consumer.subscription() != {self._topic} or not kafka_python.replace_listener(consumer, listener):
            if consumer.subscription() or consumer.assignment():
                consumer.unsubscribe()
            consumer.subscribe([self._topic], listener=listener)
        for assignor in consumer.config["partition_assignment_strategy"]:
            if isinstance(assignor, BusyFirstAssignor):
                assignor.busy = self._busy_partitions
        if consumer.config["auto_offset_reset"] == "earliest":
            self._inherited = {tp.partition for tp in consumer.assignment() if tp.topic == self._topic}
        self.assigned(consumer.assignment())  # a consumer that was here before has no news to tell

    def _busy_partitions(self) -> list[int]:
        return [assignment.partition for assignment in self._held() if assignment.view.running]

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Note new partitions (the listener's side)."""
        with self._lock:
            for tp in partitions:
                if tp.topic == self._topic:  # a user's consumer may come from another topic
                    self._epoch += 1
                    self._fresh[tp.partition] = self._epoch

    def joined(self, partitions: Iterable[TopicPartition]) -> None:
        """Note that the coordinator gave partitions to this member (the listener's side)."""
        self._joined = time.monotonic()
        self.assigned(partitions)

    def revoked(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Close the assignments of partitions and return what is to be committed of them (the listener's side)."""
        offsets = {}
        with self._lock:
            for tp in partitions:
                if tp.topic != self._topic:
                    continue
                self._fresh.pop(tp.partition, None)
                assignment = self._assignments.pop(tp.partition, None)
                if assignment is None:
                    continue
                self._origins[tp.partition] = self._origin(assignment)
                if self._committer.is_dirty(assignment, alive=False):
                    offsets[tp] = self._committer.offset(assignment, assignment.view, alive=False)
                self._post(Revoked(assignment))
        return offsets

    async def give_up(self, partitions: Iterable[TopicPartition]) -> None:
        """Close the assignments of partitions and commit the last of them (the listener's side)."""
        offsets = self.revoked(partitions)
        if not offsets:
            return
        try:
            await self._consumer.commit_async(offsets)
        except KafkaError as error:
            _logger.debug("The commit at the end of an epoch failed: %s", error)

    def _origin(self, assignment: Assignment) -> _Origin:
        return _Origin(assignment.topic_id, assignment.view.watermark if self._committer.is_on else assignment.begin)

    def _open_fresh(self, records: dict[TopicPartition, list[Any]]) -> None:
        """Begin the epochs of new partitions."""
        self._set_aside(records)
        with self._lock:
            fresh = dict(self._fresh)
        opened = []
        until = time.monotonic() + SYNC_COMMIT_TIMEOUT
        for partition, epoch in fresh.items():
            if time.monotonic() > until or self._stopping:  # a broker that does not answer must not end the polling
                break
            if assignment := self._open(partition, epoch):
                opened.append(assignment)
        if opened and self._committer.is_on:
            self._committer.commit_now(opened)

    def _set_aside(self, records: dict[TopicPartition, list[Any]]) -> None:
        """Take out what was polled of new partitions: it came from a position that nobody vouches for."""
        for partition in list(self._fresh):
            if (polled := records.pop(self._tp(partition), None)) and partition not in self._inherited:
                self._origins.setdefault(partition, _Origin(self._topic_id(), polled[0].offset))

    def _open(self, partition: int, epoch: int) -> Assignment | None:
        tp, topic_id = self._tp(partition), self._topic_id()
        if tp not in self._consumer.assignment():
            return None
        try:
            committed = self._consumer.committed(tp, metadata=True, timeout_ms=SYNC_COMMIT_TIMEOUT * 1000)
            progress = self._progress(tp, committed, topic_id)
        except FATAL:
            raise
        except (KafkaError, ValueError) as error:  # tried again after the next poll, or revoked meanwhile
            _logger.debug("Partition %s could not be opened yet: %s", partition, error)
            self._postpone(partition, epoch)
            return None
        with self._lock:
            if self._fresh.get(partition) != epoch:
                return None
            del self._fresh[partition]
            old = self._assignments.pop(partition, None)
            if old is not None:
                self._post(Revoked(old))
            assignment = self._assignments[partition] = Assignment(partition, epoch, topic_id, reopen(progress, epoch))
            self._post(Assigned(assignment, progress))
        return assignment

    def _postpone(self, partition: int, epoch: int) -> None:
        """Let others go first: opening this one may take its time."""
        with self._lock:
            if self._fresh.get(partition) == epoch:
                self._fresh[partition] = self._fresh.pop(partition)

    def _progress(self, tp: TopicPartition, committed: OffsetAndMetadata | None, topic_id: UUID | None) -> Progress:
        """Seek to where an epoch begins, and return what is known of it."""
        origin = self._origins.get(tp.partition)
        is_made_anew = origin is not None and _differ(origin.topic_id, topic_id)
        if committed is not None:
            progress = decode(committed.metadata, committed.offset, topic_id)
            if not progress.foreign_topic:
                self._consumer.seek(tp, committed.offset)
                self._consumer.resume(tp)
                return progress
            is_made_anew = True
        if is_made_anew:
            _logger.warning("Topic %s was made anew since the last commit: partition %s begins anew", *tp)
            self._consumer.seek_to_beginning(tp)
        elif tp.partition in self._inherited:
            self._consumer.seek_to_beginning(tp)
        elif origin is not None:
            self._consumer.seek(tp, origin.offset)
        self._consumer.resume(tp)
        position = self._consumer.position(tp, timeout_ms=SYNC_COMMIT_TIMEOUT * 1000)
        if position is None:
            raise KafkaError(f"no position for {tp}")
        self._inherited.discard(tp.partition)
        self._origins[tp.partition] = _Origin(topic_id, position)
        return Progress(position)

    def _check_topic_id(self) -> None:
        """Begin anew where the topic was deleted and made anew: the offsets in hand are another topic's."""
        topic_id = self._topic_id()
        with self._lock:
            for partition, assignment in self._assignments.items():
                if _differ(assignment.topic_id, topic_id) and partition not in self._fresh:
                    self._epoch += 1
                    self._fresh[partition] = self._epoch
                    self._origins[partition] = self._origin(assignment)

    def _check_membership(self) -> None:
        """Notice another member of this one's name, of whom the client says nothing."""
        if kafka_python.take_up_join(self._consumer):
            return
        is_static = self._consumer.config["group_instance_id"] is not None
        if is_static and kafka_python.is_silent(self._consumer):
            # nothing is said until the next commit: an idle worker would wait for ever
            raise FencedInstanceIdError("another member has this one's group_instance_id")

    def _topic_id(self) -> UUID | None:
        return kafka_python.topic_id(self._consumer, self._topic)

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    # -- records -------------------------------------------------------------------------------------------------------

    def _deliver(self, records: dict[TopicPartition, list[Any]]) -> None:
        for tp, polled in records.items():
            assignment = self._assignments.get(tp.partition)
            if assignment is None:
                continue
            if polled[0].offset < assignment.next:
                self._jumped_back(assignment, polled[0].offset)
                continue
            assignment.next = polled[-1].offset + 1
            assignment.delivered += len(polled)
            assignment.delivered_bytes += bytes_of(polled)
            self._post(Polled(assignment, polled))

    def _jumped_back(self, assignment: Assignment, offset: int) -> None:
        """Begin anew where the client was sent back: the log lost its end, and these offsets are other messages now.

        What was undone before that offset goes with the old epoch, so the new one begins there.
        """
        begin = min(offset, assignment.view.watermark)
        _logger.warning(
            "Partition %s goes on at %s instead of %s: its log was cut", assignment.partition, begin, assignment.next
        )
        self._consumer.seek(self._tp(assignment.partition), begin)
        with self._lock:
            if self._assignments.get(assignment.partition) is not assignment:
                return
            self._epoch += 1
            progress = Progress(begin)
            fresh = Assignment(assignment.partition, self._epoch, assignment.topic_id, reopen(progress, self._epoch))
            self._assignments[assignment.partition] = fresh
        self._post(Revoked(assignment))
        self._post(Assigned(fresh, progress))

    def _tell_positions(self) -> None:
        """Tell the worker where the log ends in records that are not messages, such as transaction markers."""
        for assignment in self._held():
            if assignment.in_hand() or assignment.partition in self._fresh:
                continue
            try:
                position = self._consumer.position(self._tp(assignment.partition), timeout_ms=0)
            except KafkaError:
                continue
            if position is not None and position > assignment.next:
                assignment.next = position
                self._post(Moved(assignment, position))

    def _pause_and_resume(self) -> bool:
        """Pause what is full, resume what is not; return whether anything was resumed."""
        has_resumed = False
        assignments = self._held()
        count = sum(assignment.in_hand() for assignment in assignments)
        size = sum(assignment.in_hand_bytes() for assignment in assignments)
        owned = self._consumer.assignment()
        for assignment in assignments:
            part = assignment.part()
            full = assignment.is_full() or count >= TOTAL_COUNT * part or size >= TOTAL_BYTES * part
            tp = self._tp(assignment.partition)
            if full != assignment.paused and tp in owned:
                (self._consumer.pause if full else self._consumer.resume)(tp)
                assignment.paused = full
                has_resumed = has_resumed or not full
        return has_resumed

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Commit the rest; then close an own consumer, or leave the user's where the next start goes on."""
        deadline = time.monotonic() + SYNC_COMMIT_TIMEOUT
        while dirty := [assignment for assignment in self._held() if self._committer.is_dirty(assignment)]:
            self._committer.commit_now(dirty)
            if time.monotonic() > deadline:
                _logger.warning("The last commit failed: some messages that are done will run again")
                break
            if any(self._committer.is_dirty(assignment) for assignment in dirty):
                # a rebalance must end before a commit can succeed
                self._set_aside(self._consumer.poll(timeout_ms=IDLE_POLL_MS))
        self._committer.release()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            origins = {partition: self._origins[partition] for partition in self._fresh if partition in self._origins}
            origins |= {partition: self._origin(assignment) for partition, assignment in self._assignments.items()}
            self._assignments, self._fresh = {}, {}
        self._close_own()
        if self._make is None:
            self._give_back(origins)

    def _give_back(self, origins: dict[int, _Origin]) -> None:
        """Leave the user's consumer where the next start goes on."""
        owned = self._consumer.assignment()
        for partition, origin in origins.items():
            tp = self._tp(partition)
            if tp in owned:
                self._consumer.seek(tp, origin.offset)
                self._consumer.resume(tp)

    def _close_own(self) -> None:
        if self._make is None:
            return
        try:
            self._consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT * 1000)
        except Exception as error:  # it is thrown away: how it ends matters to nobody  # noqa: BLE001
            _logger.debug("The consumer did not close: %s", error)

    def _rebuild(self) -> None:
        assert self._make is not None
        self.revoked([self._tp(partition) for partition in {*self._assignments, *self._fresh}])
        self._close_own()
        while not self._stopping:
            self.heartbeat = time.monotonic()
            self._read_inbox(REBUILD_WAIT)
            try:
                self._consumer = self._make()
                self._committer.go_on_with(self._consumer)
                self._subscribe()
                return
            except BrokerUnreachable as error:
                _logger.error("%s; trying again", error)


def _differ(topic_id: UUID | None, other: UUID | None) -> bool:
    """Return whether two topics of the same name are known to be different ones."""
    return topic_id is not None and other is not None and topic_id != other


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Hears of rebalances. Runs on the client's I/O thread."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._pump.joined(assigned)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._pump.give_up(revoked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._pump.revoked(lost)  # another worker may have them: no commit
