"""Messages: those that one run of a worker has in hand, from when they are polled until they are done.

1. What is polled waits in the backlog, and is incomplete in the tracker.
2. ``take`` moves what may start now to ``starting``, and to ``running``. A message that may have killed a worker is a
   *suspect*: it runs alone.
3. A run that ended is done, or given up and incomplete, or runs again in place after a pause, its lane closed until
   then.
4. When a partition is revoked, what waits of it is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kq.consuming import Assigned, Assignment, Polled, Tracker
from kq.executors import Finished, unfit
from kq.job import SUCCESS, Outcome
from kq.message import Message, by_partition, bytes_of, messages_from_records
from kq.working.backlog import Backlog, Ordering
from kq.working.brake import Brake
from kq.working.companions import Refusal
from kq.working.reruns import Reruns
from kq.working.settle import not_to_run
from kq.working.state import Tally
from kq.working.verifier import Fault

__all__ = ["Messages"]


class Messages:
    """What one run of a worker has in hand. Belongs to the thread that called ``Worker.start``.

    :param most_deaths: How many runs of a message may end with the death of the whole worker.
    :param poke: Has the pump look at once.
    :param tell: Called with each message that began and has no outcome.
    :param fault: Says of a message before it runs whether it is not to.
    """

    def __init__(
        self,
        ordering: Ordering,
        most_deaths: int,
        brake: Brake,
        tally: Tally,
        poke: Callable[[], object],
        tell: Callable[[Message], object],
        fault: Fault = unfit,
    ) -> None:
        self._most_deaths = most_deaths
        self._brake = brake
        self._tally = tally
        self._poke = poke
        self._tell = tell
        self._fault = fault
        self.tracker = Tracker()
        self.backlog = Backlog(ordering)
        self.reruns = Reruns()
        self.assignments: dict[int, Assignment] = {}
        #: What runs, by the identity of its message, and since when; oldest first.
        self.running: dict[int, tuple[Message, float]] = {}
        #: A message that may have killed a worker, taken out of the backlog.
        self.suspect: Message | None = None
        #: What is about to start, and may wait for the commit that tells of it.
        self.starting: list[Message] = []

    # -- what comes, and goes ------------------------------------------------------------------------------------------

    def assign(self, event: Assigned) -> None:
        """Begin an epoch of a partition."""
        assignment = event.assignment
        self.assignments[assignment.partition] = assignment
        self.tracker.assign(assignment.partition, assignment.epoch, assignment.topic_id, event.progress)

    def add(self, polled: Polled) -> bool:
        """Take in what was polled; return whether some of it is done already."""
        assignment = polled.assignment
        messages = self.tracker.polled_all(assignment.partition, messages_from_records(polled.records))
        self.backlog.add_all(messages)
        if len(messages) == len(polled.records):
            return False
        assignment.take(len(polled.records) - len(messages), bytes_of(polled.records) - bytes_of(messages))
        self._make_room()
        return True

    def revoke(self, assignment: Assignment) -> None:
        """End the epoch of a partition."""
        partition, suspect = assignment.partition, self.suspect
        self.withdraw([message for message in self.starting if message.partition == partition])
        for held in self._brake.drop(partition):
            self.tracker.given_up(held.message)
            self.backlog.done(held.message)
            self._tell(held.message)
        for message in self.reruns.drop(partition):
            self._tally.started -= 1
            self.backlog.done(message)
        if suspect is not None and suspect.partition == partition and id(suspect) not in self.running:
            self.free(suspect)
        self.tracker.revoke(partition)
        self.backlog.drop(partition)
        del self.assignments[partition]

    def _make_room(self) -> None:
        """Have the pump look at once where there is room enough again."""
        if any(assignment.paused and not assignment.is_full() for assignment in self.assignments.values()):
            self._poke()

    # -- starts --------------------------------------------------------------------------------------------------------

    def take(self, room: float, most: float, is_refused: Refusal | None = None) -> tuple[bool, list[Finished]]:
        """Have start what may start now.

        :param room: How many jobs the executor has room for.
        :param most: How many messages may begin at most.
        :param is_refused: Says of a message whether it was cancelled; None where none was.
        :returns: Whether one of the starts is to be committed before it happens; and what is not to run.
        """
        now, most = time.monotonic(), min(room, most)
        if most > 1 and self.suspect is None and self.tracker.is_at_ease() and not self.reruns.is_due(now):
            return False, self._take_many(most, now, is_refused)
        is_careful, refused = False, list[Finished]()
        while len(self.starting) < room and not refused:
            message = self.reruns.take(now) if self.suspect is None else None
            if message is None and len(self.starting) < most:
                message = self._next(is_first=not self.starting)
            if message is None:
                break
            deaths, needs_care = self.tracker.started(message)
            is_careful = is_careful or needs_care
            self._tally.retried += deaths > 0
            self.running[id(message)] = message, now
            if (end := not_to_run(message, deaths, self._most_deaths, self._fault, is_refused)) is not None:
                refused.append(end)
            else:
                self.starting.append(message)
        self._make_room()
        return is_careful, refused

    def _take_many(self, most: float, now: float, is_refused: Refusal | None) -> list[Finished]:
        """Have start what may start now, where each start is like any other; return what is not to run."""
        self.starting = messages = self.backlog.take_many(int(min(most, len(self.backlog))))
        for partition, some in by_partition(messages):
            self.assignments[partition].take(len(some), bytes_of(some))
            self.tracker.started_all(partition, some)
        self._tally.started += len(messages)
        self.running.update([(id(message), (message, now)) for message in messages])
        if is_refused is None:  # mostly: each message comes by here
            refused = [end for message in messages if (end := self._fault(message)) is not None]
        else:
            ends = (not_to_run(message, 0, 1, self._fault, is_refused) for message in messages)
            refused = [end for end in ends if end is not None]
        for one in refused:
            self.starting.remove(one.message)
        self._make_room()
        return refused

    def _next(self, *, is_first: bool) -> Message | None:
        """Return what may begin next. What may have killed a worker runs alone: it waits for what runs, all for it.

        :param is_first: Nothing else is about to start.
        """
        message = self.backlog.take() if self.suspect is None else self.suspect
        if message is None:
            return None
        if message is self.suspect or self.tracker.deliveries(message):
            self.suspect = message
            if self.running or not is_first:
                return None
        self.assignments[message.partition].take(1, len(message.value or b""))
        self._tally.started += 1
        return message

    def withdraw(self, messages: list[Message]) -> None:
        """Have messages not start. Before their epoch ends: they would pass for runs that the next one can adopt."""
        for message in messages:
            self.starting.remove(message)
            self._tally.started -= 1
            self.give_up(message)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def end(self, message: Message) -> None:
        """Note that the run of a message is over."""
        del self.running[id(message)]
        if message is self.suspect:
            self.suspect = None

    def settle_successes(self, finished: list[Finished]) -> list[Finished]:
        """Complete successes of which nobody is told, and return the rest."""
        done = [one.message for one in finished if one.outcome is not None and one.outcome.status == SUCCESS]
        for partition, some in by_partition(done):
            self.tracker.done_all(partition, some)
        for message in done:
            del self.running[id(message)]
        self.backlog.done_all(done)
        self._tally.outcomes[SUCCESS] += len(done)
        return [one for one in finished if one.outcome is None or one.outcome.status != SUCCESS]

    def complete(self, message: Message, outcome: Outcome) -> None:
        """Note that a message is done."""
        self.tracker.done(message)
        self._tally.outcomes[outcome.status] += 1
        self.free(message)

    def run_again(self, message: Message, again: Message, seconds: float) -> None:
        """Have a message whose run is over run again in place, after so many seconds.

        :param again: The same message, with the headers of its next run.
        """
        if self.tracker.again(message, again):
            self.reruns.add(again, time.monotonic() + seconds)
        else:  # its partition is another worker's
            self._tally.started -= 1
            self.free(message)

    def give_up(self, message: Message) -> None:
        """Note that a message has no outcome: it is incomplete, and runs again."""
        del self.running[id(message)]
        self.tracker.given_up(message)
        self.free(message)
        self._tell(message)

    def free(self, message: Message) -> None:
        """Let start what waited for a message."""
        self.backlog.done(message)
        if message is self.suspect:  # it was given up
            self.suspect = None

    # -- figures -------------------------------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Return whether nothing waits to be started."""
        return len(self.backlog) == 0 and self.suspect is None

    def publish(self) -> None:
        """Give the pump what may be committed now."""
        for partition, view in self.tracker.changes().items():
            self.assignments[partition].view = view

    def figures(self) -> dict[str, Any]:
        """Return the worker's figures that are about messages in hand. From any thread."""
        return {"in_flight": len(self.running), "backlog": len(self.backlog), "waiting": len(self.reruns)}
