"""The pump: the only user of the Kafka consumer.

1. Its thread polls always, also while jobs run, so that a long job is never the end of a membership.
2. A partition is assigned: an ``Assignment`` is made, opened once the ``Feed`` has sought where the last commit says.
3. Records go to the worker as events, by the feed; how much the worker has in hand decides what is paused.
4. What the worker publishes as done, a ``View`` an assignment, is committed, by ``Committer``.
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
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any
from uuid import UUID

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import FencedInstanceIdError, KafkaError
from kafka.structs import MemberState, OffsetAndMetadata

from kq.clients import BusyFirstAssignor, kafka_python
from kq.consuming.assignment import Assigned, Assignment, Drained, Event, Failed, Revoked
from kq.consuming.committer import FATAL, SYNC_COMMIT_TIMEOUT, Committer
from kq.consuming.feed import Feed, Origin, differ
from kq.consuming.metadata import Progress
from kq.consuming.presence import Presence
from kq.errors import BrokerUnreachable

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


class Pump:
    """Polls and commits for one worker, in a thread of its own, between ``start`` and ``stop``.

    :param consumer: The consumer; nobody else uses it meanwhile.
    :param make: Makes another consumer after an unexpected error, and the pump closes what it has; None where the
        consumer is the user's.
    :param commit_interval: Seconds between commits while there is something to commit; None to commit nothing.
    :param wake: Called after events were added to ``events``.
    :param tells_end: Whether the worker is told when nothing is left.
    """

    def __init__(
        self,
        topic: str,
        consumer: KafkaConsumer,
        make: Callable[[], KafkaConsumer] | None,
        commit_interval: float | None,
        wake: Callable[[], None],
        *,
        tells_end: bool = False,
    ) -> None:
        self._topic = topic
        self._consumer = consumer
        self._make = make
        self._wake = wake
        self.events: deque[Event] = deque()
        #: When the thread was last seen at work, by the monotonic clock.
        self.heartbeat = time.monotonic()
        self._inbox: SimpleQueue[threading.Event | None] = SimpleQueue()
        #: Guards what the rebalance listener shares with the thread: assignments, origins, order of commits.
        self._lock = threading.Lock()
        #: Also those that are not open yet.
        self._assignments: dict[TopicPartition, Assignment] = {}
        self._epoch = 0
        self._committer = Committer(consumer, commit_interval, self.poke)
        self._feed = Feed(consumer, self._post)
        self._presence = Presence(time.monotonic())
        self._tells_end = tells_end
        self._wait = BUSY_WAIT[0]
        self._session = consumer.config["session_timeout_ms"] / 1000
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
        flush = threading.Event()
        self._inbox.put(flush)
        if self._ended:  # it may have looked at its inbox for the last time
            return True
        return flush.wait(timeout)

    def is_vouched(self, now: float) -> bool:
        """Return whether the coordinator was asked, and knew this member, within the session timeout.

        If not, as after the process was stopped for a while, others may have its partitions: nothing should start
        before the coordinator has answered.
        """
        answered = kafka_python.last_heartbeat(self._consumer)
        if answered is None:
            return True
        return bool(now - max(answered, self._committer.vouched) < self._session)

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
        except BaseException as error:  # the door of the thread: the worker must hear of it, whatever it is  # noqa: BLE001
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
        self._feed.note_faults(self._held())  # before more are open: those are sought anew
        self._check_membership()
        self._check_topic_id()
        self._open_fresh(records)
        self._begin_anew(self._feed.deliver(self._held(), records))
        if not (records or busy):
            self._begin_anew(self._feed.tell_positions(self._held()))
            if self._tells_end and self._is_drained():
                self._post(Drained())
        self._presence.look(self._consumer, self._committer.vouched, time.monotonic())
        has_resumed = self._feed.pause_and_resume(self._held())
        self._commit_if_due()
        shortest, longest = BUSY_WAIT
        if has_resumed:  # there is room, and what it is for may have come already
            self._wait = 0.0
        else:
            self._wait = shortest if records else min(longest, max(shortest, self._wait * 2))

    def _is_drained(self) -> bool:
        """Return whether nothing is left of what this member has, and it has what it gets."""
        held = self._held()
        is_stable = self._consumer.group_metadata().state == MemberState.STABLE
        is_stable = is_stable and len(held) == len(self._assignments) and not any(map(self._committer.is_dirty, held))
        return self._feed.is_drained(held, is_stable=is_stable)

    def _begin_anew(self, cuts: Iterable[tuple[Assignment, int]]) -> None:
        """Begin another epoch where a log lost its end: from there on its offsets are other messages now."""
        for assignment, begin in cuts:
            with self._lock:
                if self._assignments.get(assignment.tp) is assignment:
                    fresh, progress = self._renew(assignment.tp), Progress(begin)
                    fresh.open(assignment.topic_id, progress, assignment.leader_epoch)
                    self._post(Assigned(fresh, progress))

    def _commit_if_due(self) -> None:
        if self._committer.look(self._held(), time.monotonic()):
            with self._lock:  # what the listener closes must not be committed after what the listener commits
                self._committer.send(self._held())

    def _is_idle(self) -> bool:
        """Return whether nothing is in hand nor to be committed, or polling matters more, as in a rebalance."""
        if self._stopping or self._committer.flushes:
            return False
        assignments = self._held()
        if not assignments or self._consumer.group_metadata().state != MemberState.STABLE:
            return True
        return self._committer.on_its_way is None and not any(
            assignment.in_hand() or assignment.view.running or self._committer.is_dirty(assignment)
            for assignment in assignments
        )

    def _held(self) -> list[Assignment]:
        """Return the assignments that are open now: the listener may close some at any moment."""
        return [assignment for assignment in list(self._assignments.values()) if assignment.is_open]

    def _read_inbox(self, timeout: float) -> None:
        with suppress(Empty):
            item = self._inbox.get(timeout > 0, timeout)
            while True:
                if item is not None:
                    self._committer.flushes.append(item)
                item = self._inbox.get_nowait()

    def _post(self, event: Event) -> None:
        self.events.append(event)
        self._wake()

    # -- assignments ---------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        consumer, listener = self._consumer, _Listener(self)
        kafka_python.mend(consumer)
        # to subscribe again to the same topic would do no more than replace the listener, with a warning in the log
        if consumer.subscription() != {self._topic} or not kafka_python.replace_listener(consumer, listener):
            if consumer.subscription() or consumer.assignment():
                consumer.unsubscribe()
            consumer.subscribe([self._topic], listener=listener)
        for assignor in consumer.config["partition_assignment_strategy"]:
            if isinstance(assignor, BusyFirstAssignor):
                assignor.busy = self._busy_partitions
        if consumer.config["auto_offset_reset"] == "earliest":
            # what the user's consumer had before: it may be behind messages that nobody processed
            for tp in consumer.assignment():
                self._feed.origins[tp] = Origin(None, None)
        self.assigned(consumer.assignment())  # a consumer that was here before has no news to tell

    def _busy_partitions(self) -> list[int]:
        return [assignment.partition for assignment in self._held() if assignment.view.running]

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Note new partitions (the listener's side)."""
        with self._lock:
            for tp in partitions:
                if tp.topic == self._topic:  # a user's consumer may come from another topic
                    self._renew(tp)

    def _renew(self, tp: TopicPartition) -> Assignment:
        """Begin another epoch of a partition; the lock is held."""
        old = self._assignments.pop(tp, None)
        if old is not None and old.is_open:
            self._note_origin(old)
            self._post(Revoked(old))
        self._epoch += 1
        new = self._assignments[tp] = Assignment(tp, self._epoch)
        return new

    def revoked(
        self, partitions: Iterable[TopicPartition], *, are_lost: bool = False
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Close the assignments of partitions and return what is to be committed of them (the listener's side)."""
        offsets = {}
        with self._lock:
            for tp in partitions:
                assignment = self._assignments.pop(tp, None)
                if assignment is None or not assignment.is_open:
                    continue
                self._note_origin(assignment)
                if self._committer.is_dirty(assignment, alive=False):
                    offsets[tp] = self._committer.offset(assignment, assignment.view, alive=False)
                self._post(Revoked(assignment, are_lost))
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

    def _note_origin(self, assignment: Assignment) -> None:
        offset = assignment.view.watermark if self._committer.is_on else assignment.begin
        self._feed.origins[assignment.tp] = Origin(assignment.topic_id, offset)

    def _open_fresh(self, records: dict[TopicPartition, list[Any]]) -> None:
        """Begin the epochs of new partitions."""
        until = time.monotonic() + SYNC_COMMIT_TIMEOUT
        opened = set()
        for assignment in self._set_aside(records):
            if time.monotonic() > until or self._stopping:  # a broker that does not answer must not end the polling
                break
            if self._open(assignment):
                opened.add(assignment)
        # that took its time: what was revoked meanwhile is another's, and may have been committed further there
        still = [assignment for assignment in self._held() if assignment in opened]
        if still and self._committer.is_on:
            self._committer.commit_now(still)

    def _set_aside(self, records: dict[TopicPartition, list[Any]]) -> list[Assignment]:
        """Take out what was polled of new partitions: it came from a position that nobody vouches for."""
        fresh = [assignment for assignment in list(self._assignments.values()) if not assignment.is_open]
        for assignment in fresh:
            if polled := records.pop(assignment.tp, None):
                origin = Origin(self._topic_id(), polled[0].offset)
                self._feed.origins.setdefault(assignment.tp, origin)
        return fresh

    def _open(self, assignment: Assignment) -> bool:
        tp, topic_id = assignment.tp, self._topic_id()
        if tp not in self._consumer.assignment():
            return False
        try:
            progress, leader_epoch = self._feed.begin(tp, topic_id)
        except FATAL:
            raise
        except (KafkaError, KeyError, ValueError) as error:  # tried again after the next poll, or revoked meanwhile
            _logger.debug("Partition %s could not be opened yet: %s", tp.partition, error)
            self._postpone(assignment)
            return False
        with self._lock:
            if self._assignments.get(tp) is not assignment:
                return False
            assignment.open(topic_id, progress, leader_epoch)
            self._post(Assigned(assignment, progress))
        self._feed.tell_opened(tp, progress, self._session)
        return True

    def _postpone(self, assignment: Assignment) -> None:
        """Let others go first: opening this one may take its time."""
        with self._lock:
            if self._assignments.get(assignment.tp) is assignment:
                self._assignments[assignment.tp] = self._assignments.pop(assignment.tp)

    def _topic_id(self) -> UUID | None:
        return kafka_python.topic_id(self._consumer, self._topic)

    def _check_topic_id(self) -> None:
        """Begin anew where the topic was deleted and made anew: the offsets in hand are another topic's."""
        topic_id = self._topic_id()
        with self._lock:
            for assignment in self._held():
                if differ(assignment.topic_id, topic_id):
                    self._renew(assignment.tp)

    def _check_membership(self) -> None:
        """Notice another member of this one's name, of whom the client says nothing."""
        if kafka_python.take_up_join(self._consumer):
            return
        is_static = self._consumer.config["group_instance_id"] is not None
        if is_static and kafka_python.is_silent(self._consumer):
            # nothing is said until the next commit: an idle worker would wait for ever
            raise FencedInstanceIdError("another member has this one's group_instance_id")

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Commit the rest; then close an own consumer, or leave the user's where the next start goes on."""
        deadline = time.monotonic() + SYNC_COMMIT_TIMEOUT
        while dirty := [assignment for assignment in self._held() if self._committer.is_dirty(assignment)]:
            self._committer.commit_now(dirty)
            if time.monotonic() > deadline:
                if any(assignment.has_news() for assignment in dirty):
                    _logger.warning("The last commit failed: some messages that are done will run again")
                break
            if any(self._committer.is_dirty(assignment) for assignment in dirty):
                # a rebalance must end before a commit can succeed
                self._set_aside(self._consumer.poll(timeout_ms=IDLE_POLL_MS))
        self._committer.release()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            held, self._assignments = self._assignments, {}
            for assignment in held.values():
                if assignment.is_open:
                    self._note_origin(assignment)
        self._close_own()
        if self._make is None:
            self._feed.give_back(held)

    def _close_own(self) -> None:
        if self._make is not None:
            kafka_python.throw_away(self._consumer, CLOSE_TIMEOUT * 1000)

    def _rebuild(self) -> None:
        assert self._make is not None
        self.revoked(list(self._assignments))
        self._close_own()
        is_told = False
        while not self._stopping:
            self.heartbeat = time.monotonic()
            self._read_inbox(REBUILD_WAIT)
            try:
                self._consumer = self._feed.consumer = self._make()
                self._committer.go_on_with(self._consumer)
                self._subscribe()
                return
            except BrokerUnreachable as error:
                _logger.log(logging.DEBUG if is_told else logging.ERROR, "%s; trying again", error)
                is_told = True


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Hears of rebalances. Runs on the client's I/O thread."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._pump.assigned(assigned)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._pump.give_up(revoked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._pump.revoked(lost, are_lost=True)  # another worker may have them: no commit
