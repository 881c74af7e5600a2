"""The commits of a pump: what of its assignments the broker has, and what is on its way there.

1. An assignment is dirty while the worker has published more of it than was committed.
2. One commit is on its way at a time, for all dirty assignments together: every interval, at once where nothing is in
   hand or somebody waits for it, and again soon where one failed.
3. Who waits for a commit, waits for an event, a flush: it is set when all that was published when it was asked for is
   committed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from kq.consuming.assignment import Assignment
from kq.consuming.metadata import METADATA_LIMIT, View, encode

__all__ = ["FATAL", "SYNC_COMMIT_TIMEOUT", "Committer"]

_logger = logging.getLogger("kq.pump")

#: Seconds until a commit without an answer counts as failed.
COMMIT_TIMEOUT = 15.0
#: Seconds after a commit that failed until the next: a broker that is away, or a rebalance, is not over sooner.
COMMIT_RETRY = 0.1
#: Seconds for a commit that must be over before things go on: at an assignment, and at the end.
SYNC_COMMIT_TIMEOUT = 5.0
#: Part of the room for commit metadata beyond which nothing more is polled: what is in hand must still fit.
CROWDED = 0.75

#: Errors that another try does not mend.
FATAL = (
    kafka_errors.AuthorizationError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.InconsistentGroupProtocolError,
    kafka_errors.InvalidGroupIdError,
    kafka_errors.InvalidSessionTimeoutError,
    kafka_errors.KafkaConfigurationError,
    kafka_errors.LogTruncationError,  # comes where auto_offset_reset is "none" only
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedVersionError,
)


class _Commit(NamedTuple):
    """A commit on its way."""

    assignments: dict[Assignment, tuple[View, bool]]
    flushes: list[threading.Event]
    sent: float


class Committer:
    """Commits assignments by one consumer.

    For the pump's thread. The listener calls ``is_dirty`` and ``offset`` too, under the pump's lock; any thread may
    set ``alive``, and read that, ``is_on`` and ``vouched``.

    :param interval: Seconds between commits while there is something to commit; None to commit nothing.
    :param poke: Called from any thread when an answer has come, which the consumer tells of when it is used next.
    """

    def __init__(self, consumer: KafkaConsumer, interval: float | None, poke: Callable[[], None]) -> None:
        self._consumer = consumer
        self._poke = poke
        self.is_on = interval is not None
        self._interval = interval or 0.0
        #: Whether the worker goes on after a commit that is made now; if not, its end is no accident.
        self.alive = True
        #: When a commit was sent that the coordinator answered as to a member.
        self.vouched = 0.0
        #: Set when what was published when they were added is committed.
        self.flushes: list[threading.Event] = []
        self.on_its_way: _Commit | None = None
        self._next = 0.0
        self._retry = 0.0
        self._metadata_limit = METADATA_LIMIT

    def go_on_with(self, consumer: KafkaConsumer) -> None:
        """Commit by another consumer from now on: nothing will be heard of what is on its way by the old one."""
        self._consumer = consumer
        if self.on_its_way is not None:
            self.flushes = self.on_its_way.flushes + self.flushes
            self.on_its_way = None

    def is_dirty(self, assignment: Assignment, *, alive: bool | None = None) -> bool:
        """Return whether there is something of an assignment to commit.

        :param alive: Whether the worker goes on with it afterwards, by default ``self.alive``.
        """
        return self.is_on and assignment.committed != (assignment.view, self.alive if alive is None else alive)

    def offset(self, assignment: Assignment, view: View, *, alive: bool) -> OffsetAndMetadata:
        """Return what is to be committed of an assignment."""
        metadata = encode(view, assignment.topic_id, alive=alive, limit=self._metadata_limit)
        assignment.crowded = len(metadata) > CROWDED * self._metadata_limit
        return OffsetAndMetadata(view.watermark, metadata, assignment.leader_epoch)

    def look(self, assignments: Collection[Assignment], now: float) -> bool:
        """Return whether it is time for a commit; give up one whose answer does not come."""
        if self.on_its_way is not None:
            if now <= self.on_its_way.sent + COMMIT_TIMEOUT:
                return False
            self._ended(self.on_its_way, KafkaError("no answer"))
        if not any(map(self.is_dirty, assignments)):
            self.release()
            return False
        at_rest = not any(assignment.in_hand() or assignment.view.running for assignment in assignments)
        return now >= self._retry and (at_rest or bool(self.flushes) or now >= self._next)

    def send(self, assignments: Iterable[Assignment]) -> None:
        """Send a commit of what is dirty."""
        now, alive = time.monotonic(), self.alive
        dirty = {assignment: (assignment.view, alive) for assignment in assignments if self.is_dirty(assignment)}
        if not dirty:  # the listener has closed what was
            return
        commit = self.on_its_way = _Commit(dirty, self.flushes, now)
        self.flushes = []
        self._next = now + self._interval
        future = self._consumer.commit_async(
            self._offsets(dirty), callback=lambda _, answer: self._ended(commit, answer)
        )
        future.add_both(lambda _: self._poke())

    def _offsets(self, dirty: dict[Assignment, tuple[View, bool]]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {
            assignment.tp: self.offset(assignment, view, alive=alive) for assignment, (view, alive) in dirty.items()
        }

    def _ended(self, commit: _Commit, answer: Any) -> None:
        """Note how a commit ended. The client calls this in a later poll or commit."""
        if commit is not self.on_its_way:
            return
        self.on_its_way = None
        if not isinstance(answer, BaseException):
            self._succeeded(commit.assignments, commit.sent)
            for flush in commit.flushes:
                flush.set()
            return
        self.flushes = commit.flushes + self.flushes
        if isinstance(answer, FATAL):
            raise answer
        self._failed(answer)

    def _succeeded(self, assignments: dict[Assignment, tuple[View, bool]], sent: float) -> None:
        self.vouched = sent
        for assignment, committed in assignments.items():
            assignment.committed = committed

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, kafka_errors.OffsetMetadataTooLargeError):  # this broker allows less than the default
            self._metadata_limit //= 2
        self._retry = time.monotonic() + COMMIT_RETRY
        _logger.debug("A commit failed and is tried again: %s", error)

    def release(self) -> None:
        """Have nobody wait any longer."""
        for flush in self.flushes:
            flush.set()
        self.flushes = []

    def commit_now(self, assignments: Iterable[Assignment]) -> None:
        """Commit and wait for the answer. If that fails, the assignments stay dirty."""
        sent = time.monotonic()
        dirty = {assignment: (assignment.view, self.alive) for assignment in assignments}
        try:
            self._consumer.commit(self._offsets(dirty), timeout_ms=SYNC_COMMIT_TIMEOUT * 1000)
        except FATAL:
            raise
        except KafkaError as error:
            self._failed(error)
        else:
            self._succeeded(dirty, sent)
