"""The loop: one ``Worker.start()``, from its first poll to its last commit.

1. Take in what the pump has: partitions that come and go, and messages, which go to tracker and backlog.
2. Settle what has finished: the callback is told, companions answer, and then the message is done.
3. Look at the news again, for callbacks take their time, and start what may start. After an unclean end of another
   worker, starts are committed before they happen.
4. Publish what is done to the pump, and wait.
5. On a stop, or when enough messages were processed, nothing more is started; what runs may finish until the deadline,
   and is killed then. The executor is closed, the last commit is made, and the partitions are let go.

A watchdog thread looks at the clock meanwhile, because the thread of the loop may be in a job or a callback.
"""

from __future__ import annotations

import logging
import time

from kq.consuming import Assigned, Assignment, Drained, Event, Failed, Moved, Polled, Pump, Revoked, Tracker
from kq.executors import Finished, Setting, describe, expired, log_interrupted, log_invalid
from kq.job import SUCCESS, Outcome
from kq.message import Message, by_partition, bytes_of, messages_from_records
from kq.working.backlog import Backlog
from kq.working.brake import Brake
from kq.working.publisher import Publisher
from kq.working.settings import Plan, Settings
from kq.working.settle import Settler, not_to_run
from kq.working.state import FORWARD, State, Stats, Tally
from kq.working.stop import Stop
from kq.working.waker import Waker
from kq.working.watchdog import TICK, Watchdog

__all__ = ["Loop"]

_own_logger = logging.getLogger("kq.loop")

#: Seconds that a start waits for the commit that tells of it, before it goes on without.
_CAREFUL_PATIENCE = 5.0
#: Seconds that the pump may take to end: a commit, a close, and a broker that answers neither.
_PUMP_PATIENCE = 15.0
#: Seconds that records may take to be acknowledged, and companions to end, at the end.
_LAST_PATIENCE = 5.0
#: Seconds between looks at what may be published while jobs come and go without a pause.
_PUBLISH_EVERY = 0.005


class Loop:
    """One run of a worker. Everything here but ``stats`` belongs to the thread that called ``Worker.start``."""

    def __init__(self, settings: Settings, plan: Plan, stop: Stop, waker: Waker, pump: Pump) -> None:
        self._settings = settings
        self._plan = plan
        self._stop = stop
        self._waker = waker
        self._pump = pump
        self._executor = settings.executor
        self._tracker = Tracker()
        self._backlog = Backlog(settings.ordering)
        self._publisher: Publisher | None = None
        if plan.companions:
            self._publisher = Publisher(plan.context.hosts, plan.context.config, waker.wake)
        self._brake = Brake(settings.unimportable, settings.logger)
        self._settler = Settler(settings, plan.companions, self._publisher)
        self._assignments: dict[int, Assignment] = {}
        #: What runs, and since when; oldest first.
        self._running: dict[int, tuple[Message, float]] = {}
        #: A message that may have killed a worker, taken out of the backlog: it runs alone.
        self._suspect: Message | None = None
        #: What is about to start, and waits for the commit that tells of it.
        self._starting: list[Message] = []
        self._tally = Tally()
        self.state = State.NEW
        #: The error that ended the pump, or the work.
        self.failure: BaseException | None = None
        self._last_activity = time.monotonic()
        self._is_drained = False
        self._last_publish = 0.0
        self._unpublished = False
        self._watchdog = Watchdog(settings.shutdown_timeout, stop, pump, self._running, plan.companions.look)

    def run(self) -> int:
        """Work until there is a reason to end; return how many messages were processed."""
        self._watchdog.start()
        try:
            self._open()
            self._advance(State.RUNNING)
            self._pump.start()
            while not self._is_over():
                self._turn()
                self._advance_if_due()
            if self._brake.held and not self._stop.requests:
                self._fail(self._brake.error())
        finally:
            self._end()
            self._watchdog.stop()
        return self._tally.outcomes.total()

    def stats(self) -> Stats:
        """Return the figures of this moment. From any thread."""
        oldest = next((since for _, since in list(self._running.values())), None)
        counts = {"in_flight": len(self._running), "backlog": len(self._backlog), "settling": len(self._settler)}
        return self._tally.stats(self.state, oldest, list(self._assignments.values()), **counts)

    def _open(self) -> None:
        settings, waker = self._settings, self._waker
        self._plan.companions.open(self._plan.context)
        asked = settings.deserializer, settings.timeout, settings.logger, settings.callback is not None
        self._executor.open(Setting(*asked, waker.wake, waker.watch, waker.unwatch), settings.concurrency)
        self._watchdog.executor = self._executor

    def _turn(self) -> None:
        self._take_in()
        finished = self._executor.finished()
        has_settled = self._settle(finished)
        # also where runs end in each turn, as those of an inline executor do: nothing would be done till there are none
        has_settled = self._complete_acknowledged() or has_settled
        if has_settled and self._plan.commits_each:
            self._commit_each()
        has_started = self._start_jobs()
        if self._unpublished and (not has_started or time.monotonic() - self._last_publish > _PUBLISH_EVERY):
            self._publish()
        if not (has_started or has_settled or self._pump.events):
            patience = self._settler.patience(time.monotonic())
            self._waker.wait(min(TICK, self._plan.idle_limit, self._executor.patience(), patience))

    def _advance_if_due(self) -> None:
        if self._stop.requests and self.state in (State.RUNNING, State.QUIET):
            self._advance(State.DRAINING)
        elif self._tally.started >= self._plan.max_messages and self.state is State.RUNNING:
            self._advance(State.QUIET)

    def _is_over(self) -> bool:
        if self._running or self._settler:
            return self.state is State.DRAINING and self._watchdog.must_kill(time.monotonic())
        if self.state is not State.RUNNING or self.failure is not None:
            return True
        is_empty = len(self._backlog) == 0 and self._suspect is None
        idle = time.monotonic() - self._last_activity
        return is_empty and (idle >= self._plan.idle_limit or (self._plan.is_burst and self._is_drained))

    def _advance(self, state: State) -> None:
        assert state in FORWARD[self.state], (self.state, state)
        self.state = state

    def _fail(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self._stop.request()

    # -- events of the pump --------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        events = self._pump.events
        while events:
            self._take_in_one(events.popleft())

    def _take_in_one(self, event: Event) -> None:
        if isinstance(event, Polled):
            self._take_in_messages(event)
            self._is_drained = False
        elif isinstance(event, Drained):
            self._is_drained = True
        elif isinstance(event, Assigned):
            self._is_drained = False
            assignment = event.assignment
            self._assignments[assignment.partition] = assignment
            self._tracker.assign(assignment.partition, assignment.epoch, assignment.topic_id, event.progress)
        elif isinstance(event, Revoked):
            self._revoke(event.assignment)
        elif isinstance(event, Moved):
            self._tracker.skipped_to(event.assignment.partition, event.assignment.epoch, event.position)
            self._unpublished = True
        elif isinstance(event, Failed):
            self._fail(event.error)

    def _take_in_messages(self, polled: Polled) -> None:
        assignment, tracker, backlog = polled.assignment, self._tracker, self._backlog
        if not tracker.is_open(assignment.partition, assignment.epoch):
            return
        self._last_activity = time.monotonic()
        messages = tracker.polled_all(assignment.partition, messages_from_records(polled.records))
        backlog.add_all(messages)
        if len(messages) < len(polled.records):
            assignment.take(len(polled.records) - len(messages), bytes_of(polled.records) - bytes_of(messages))
            self._unpublished = True
            self._make_room()

    def _revoke(self, assignment: Assignment) -> None:
        partition = assignment.partition
        if not self._tracker.is_open(partition, assignment.epoch):
            return
        self._withdraw([message for message in self._starting if message.partition == partition])
        for held in self._brake.drop(partition):
            self._tracker.given_up(held.message)
            self._backlog.done(held.message)
        suspect = self._suspect
        if suspect is not None and suspect.partition == partition and id(suspect) not in self._running:
            self._free(suspect)
        self._tracker.revoke(partition)
        self._backlog.drop(partition)
        del self._assignments[partition]

    def _make_room(self) -> None:
        """Have the pump look at once where there is room enough again."""
        if any(assignment.paused and not assignment.is_full() for assignment in self._assignments.values()):
            self._pump.poke()

    # -- starts --------------------------------------------------------------------------------------------------------

    def _start_jobs(self) -> bool:
        self._take_in()  # callbacks and commits took their time: partitions may have moved meanwhile
        if self.state is not State.RUNNING or self._stop.requests or not self._pump.is_vouched(time.monotonic()):
            return False
        is_careful = self._take_jobs(self._room())
        if not self._starting:
            return False
        self._announce(is_careful)
        if is_careful:
            self._look_again()
        batch, self._starting = self._starting, []
        if self._plan.companions:
            for message in batch:
                self._plan.companions.started(message)
        self._executor.start_all(batch)
        self._executor.flush()
        return bool(batch)

    def _room(self) -> float:
        """Return how many jobs may be started now."""
        if self._settler.is_full():
            return 0
        room = min(self._executor.room(), self._plan.max_messages - self._tally.started)
        if self._plan.commits_each:  # none that waits in a child for another, whose end is to be committed first
            room = min(room, self._settings.concurrency - len(self._running) - len(self._settler))
        return room

    def _take_jobs(self, room: float) -> bool:
        """Take out of the backlog what starts now; return whether one of the starts is to be committed before."""
        if room > 1 and self._suspect is None and self._tracker.is_at_ease():
            return self._take_many(room)
        now, is_careful = time.monotonic(), False
        while len(self._starting) < room and (message := self._next(is_first=not self._starting)) is not None:
            self._assignments[message.partition].take(1, len(message.value or b""))
            deaths, needs_care = self._tracker.started(message)
            is_careful = is_careful or needs_care
            self._tally.started += 1
            self._tally.retried += deaths > 0
            self._running[id(message)] = message, now
            if (refused := not_to_run(message, deaths, self._settings.max_deliveries)) is not None:
                self._report(refused)
                break  # the callback has taken its time
            self._starting.append(message)
        self._make_room()
        return is_careful

    def _take_many(self, room: float) -> bool:
        """Take out of the backlog what starts now, where each start is like any other; return as ``_take_jobs``."""
        self._starting = messages = self._backlog.take_many(int(min(room, len(self._backlog))))
        for partition, some in by_partition(messages):
            self._assignments[partition].take(len(some), bytes_of(some))
            self._tracker.started_all(partition, some)
        self._tally.started += len(messages)
        now = time.monotonic()
        self._running.update([(id(message), (message, now)) for message in messages])
        refused = [one for message in messages if (one := expired(message)) is not None]
        for one in refused:
            self._starting.remove(one.message)
            self._report(one)
        self._make_room()
        return bool(refused)  # the callback has taken its time

    def _next(self, *, is_first: bool) -> Message | None:
        """Return what may start next. What may have killed a worker runs alone: it waits for what runs, all for it.

        :param is_first: Nothing else is about to start.
        """
        if self._suspect is None:
            message = self._backlog.take()
            if message is None or not self._tracker.deliveries(message):
                return message
            self._suspect = message
        return self._suspect if is_first and not self._running else None

    def _announce(self, is_careful: bool) -> None:
        """Publish what starts before it starts: an inline job may take hours; a careful start is committed first."""
        self._unpublished = True
        if self._settings.concurrency == 1 or is_careful:
            self._publish()
        if is_careful and not self._pump.flush(_CAREFUL_PATIENCE):
            _own_logger.warning("A job starts though its start could not be committed")

    def _look_again(self) -> None:
        """Start nothing after a wait that may start no more: partitions may have moved, or the membership is lost."""
        self._take_in()
        while not (self._pump.is_vouched(time.monotonic()) or self._stop.requests):
            self._waker.wait(TICK)
            self._take_in()
        if self._stop.requests:
            self._withdraw(list(self._starting))

    def _withdraw(self, messages: list[Message]) -> None:
        """Have messages not start. Before their epoch ends: they would pass for runs that the next one can adopt."""
        for message in messages:
            self._starting.remove(message)
            self._tally.started -= 1
            self._give_up(message)

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def _settle(self, finished: list[Finished]) -> bool:
        """Settle runs that have ended; return whether there were any."""
        is_plain = len(finished) > 1 and self._suspect is None and self._settler.is_silent and not self._brake.is_on
        for one in self._settle_successes(finished) if is_plain else finished:
            message = one.message
            if one.outcome is None:  # ended by a stop: it will run again
                self._interrupt(one)
                continue
            del self._running[id(message)]
            if message is self._suspect:
                self._suspect = None
            (self._sift if self._brake.is_on else self._settle_one)(one)
            # callbacks may be slow, and there may be hundreds: what they were told of is done
            if self._settings.callback is not None and time.monotonic() - self._last_publish > _PUBLISH_EVERY:
                self._publish()
        if finished:
            self._last_activity = time.monotonic()
            self._unpublished = True
        return bool(finished)

    def _settle_successes(self, finished: list[Finished]) -> list[Finished]:
        """Settle successes of which nobody is told, and return the rest."""
        done = [one.message for one in finished if one.outcome is not None and one.outcome.status == SUCCESS]
        for partition, some in by_partition(done):
            self._tracker.done_all(partition, some)
        for message in done:
            del self._running[id(message)]
        self._backlog.done_all(done)
        self._tally.outcomes[SUCCESS] += len(done)
        return [one for one in finished if one.outcome is None or one.outcome.status != SUCCESS]

    def _sift(self, one: Finished) -> None:
        passed = self._brake.sift(one)
        for each in passed:
            self._settle_one(each)
        if not passed:
            self._tracker.ended(one.message)
        if self._brake.is_pulled():
            self._fail(self._brake.error())

    def _settle_one(self, one: Finished) -> None:
        message, _, outcome, why = one
        assert outcome is not None
        if why is not None:
            log_invalid(self._settings.logger, message, *why)
        if self._settler.settle(one):
            self._complete(message, outcome)
        else:
            self._tracker.ended(message)

    def _complete_acknowledged(self) -> bool:
        """Complete what waited for its records; return whether there was anything."""
        done = self._settler.done(time.monotonic())
        for message, outcome in done:
            self._complete(message, outcome)
        if done:
            self._last_activity = time.monotonic()
            self._unpublished = True
        return bool(done)

    def _complete(self, message: Message, outcome: Outcome) -> None:
        self._tracker.done(message)
        self._tally.outcomes[outcome.status] += 1
        self._free(message)

    def _interrupt(self, one: Finished) -> None:
        """Give up what a stop has ended, and name it if it had begun."""
        _, since = self._running[id(one.message)]
        if one.job is not None:
            self._tally.interrupted += 1
            log_interrupted(self._settings.logger, one.message, one.job, time.monotonic() - since)
        self._give_up(one.message)

    def _give_up(self, message: Message) -> None:
        """Note that a message has no outcome: it is incomplete, and runs again."""
        del self._running[id(message)]
        self._tracker.given_up(message)
        self._free(message)

    def _free(self, message: Message) -> None:
        """Let start what waited for a message."""
        self._backlog.done(message)
        if message is self._suspect:  # it was given up
            self._suspect = None

    def _report(self, refused: Finished) -> None:
        self._settle([refused])
        if self._plan.commits_each:
            self._commit_each()

    # -- commits -------------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        for partition, view in self._tracker.changes().items():
            self._assignments[partition].view = view
        self._last_publish = time.monotonic()
        self._unpublished = False
        if not (self._running or len(self._backlog)):
            self._pump.poke()  # at rest: it is committed at once

    def _commit_each(self) -> None:
        self._publish()
        while not (self._pump.flush(TICK) or self._stop.requests):
            pass

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        try:
            if self._watchdog.executor is not None:
                self._executor.close()
                self._settle(self._executor.finished())
                self._await_acknowledgements()
        finally:  # whatever is wrong with it, a consumer that goes on would keep partitions that nobody works on
            self._let_go()

    def _await_acknowledgements(self) -> None:
        self._publish()  # this process may be ended meanwhile
        deadline = time.monotonic() + _LAST_PATIENCE
        while self._settler and time.monotonic() < deadline:
            if not self._complete_acknowledged():
                self._waker.wait(min(TICK, self._settler.patience(time.monotonic())))
        if count := len(self._settler):
            _own_logger.warning("Records of %d messages were not acknowledged: their jobs run again", count)

    def _let_go(self) -> None:
        for message, since in list(self._running.values()):
            _own_logger.warning("A job could not be ended: %s goes on", describe(message, time.monotonic() - since))
            self._tracker.given_up(message)
            self._tally.interrupted += 1
        self._take_in()
        self._publish()
        if not self._pump.stop(_PUMP_PATIENCE):
            _own_logger.error("The consumer does not end; it is left behind")
        self._take_in()  # its last commit may have failed for good
        self._plan.companions.stop(time.monotonic() + _LAST_PATIENCE)
        if self._publisher is not None:
            self._publisher.close(_LAST_PATIENCE)
        if self._watchdog.executor is not None:
            self._watchdog.executor = None
            self._executor.release()
        self.state = State.STOPPED
