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
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from kq.consuming import Assigned, Assignment, Drained, Event, Failed, Moved, Polled, Pump, Revoked
from kq.executors import Finished, Run, Setting, cancelled, describe, log_interrupted, log_invalid
from kq.job import SUCCESS
from kq.logs import Router
from kq.message import Message
from kq.working.brake import Brake
from kq.working.companions import Move, Steering
from kq.working.messages import Messages
from kq.working.publisher import Publisher
from kq.working.reporter import Reporter
from kq.working.settings import Plan, Settings
from kq.working.settle import Settled, Settler
from kq.working.state import FORWARD, State, Stats, Tally
from kq.working.stop import Stop
from kq.working.verifier import fault_finder
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
#: States in which jobs start: those that run again in place, when no other may begin.
_STARTING = (State.RUNNING, State.QUIET)
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
        self._publisher: Publisher | None = None
        if plan.companions:
            self._publisher = Publisher(plan.context.hosts, plan.context.config, waker.wake)
        self._brake = Brake(settings.unimportable, settings.logger)
        self._tally = Tally()
        #: Partitions that came or went, of which nobody was told yet.
        self._moves: list[tuple[Move, int]] = []
        limits, fault = (settings.ordering, settings.max_deliveries), fault_finder(settings.signer, settings.logger)
        self._messages = Messages(*limits, self._brake, self._tally, pump.poke, plan.companions.given_up, fault)
        running = self._messages.running
        reporter = Reporter(plan.companions, running) if plan.companions.follow_runs else None
        self._settler = Settler(settings, plan.companions, self._publisher, reporter)
        #: What captures the lines of jobs, where somebody wants them.
        self._router = Router() if settings.most_lines else None
        self.state = State.NEW
        #: The error that ended the pump, or the work.
        self.failure: BaseException | None = None
        self._last_activity = time.monotonic()
        self._is_drained = False
        #: What was cancelled when that was looked at last.
        self._refusals = 0
        self._last_publish = 0.0
        self._unpublished = False
        look = plan.companions.look
        self._watchdog = Watchdog(settings.shutdown_timeout, stop, pump, running, look, reporter)
        #: What companions are to be told of that have ended, this turn.
        self._ended: list[Finished] = []

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
            try:
                self._end()
            finally:
                # what is raised in this thread from outside may fall into the end itself: a consumer that goes on would
                # keep partitions that nobody works on
                if self.state is not State.STOPPED:
                    self._pump.stop(0)
                self._watchdog.stop()
        return self._tally.outcomes.total()

    def stats(self) -> Stats:
        """Return the figures of this moment. From any thread."""
        messages = self._messages
        oldest = next((since for _, since in list(messages.running.values())), None)
        counts = {**messages.figures(), "settling": len(self._settler)}
        return self._tally.stats(self.state, oldest, list(messages.assignments.values()), **counts)

    def _open(self) -> None:
        settings, waker = self._settings, self._waker
        context = self._plan.context
        tell = context.tell if self._publisher is None else self._publisher.tell
        self._plan.companions.open(context._replace(tell=tell, steering=self._steering()))
        asked = settings.deserializer, settings.timeout, settings.logger, settings.callback is not None
        runs: dict[int, Run] | None = {} if self._plan.companions.follow_runs or settings.most_lines else None
        wants = settings.packs, runs, self._router, settings.most_lines
        more = self._plan.companions.wants_errors, self._plan.companions.given, settings.hides_arguments
        setting = Setting(*asked, waker.wake, waker.watch, waker.unwatch, *wants, *more)
        self._executor.open(setting, settings.concurrency)
        self._watchdog.executor = self._executor

    def _steering(self) -> Steering:
        executor = self._executor
        name = type(executor).__name__.removesuffix("Executor").lower()
        hooks = self._waker.wake, self._stop.request, self.stats, self._running, self._cancel
        return Steering(*hooks, executor=name, concurrency=self._settings.concurrency)

    def _running(self) -> list[Run]:
        """Return what runs. From any thread."""
        executor = self._watchdog.executor
        return [] if executor is None else executor.running()

    def _cancel(self, told: Sequence[Message], ended: Sequence[Message]) -> None:
        """Let jobs that run know that they are cancelled, and end some. From any thread."""
        executor = self._watchdog.executor
        if executor is not None:
            executor.tell_cancelled(told)
            executor.terminate(ended)

    def _turn(self) -> None:
        self._take_in()
        if self._plan.companions.refusals() != self._refusals:
            self._withdraw()
        finished = self._executor.finished()
        has_settled = self._settle(finished)
        # also where runs end in each turn, as those of an inline executor do: nothing would be done till there are none
        has_settled = self._complete_acknowledged() or has_settled
        self._tell_of_ends()
        if has_settled and self._plan.commits_each:
            self._commit_each()
        has_started = self._start_jobs()
        if self._unpublished and (not has_started or time.monotonic() - self._last_publish > _PUBLISH_EVERY):
            self._publish()
        if not (has_started or has_settled or self._pump.events):
            now = time.monotonic()
            patience = min(self._settler.patience(now), self._messages.reruns.patience(now))
            self._waker.wait(min(TICK, self._plan.idle_limit, self._executor.patience(), patience))

    def _advance_if_due(self) -> None:
        if self._stop.requests and self.state in (State.RUNNING, State.QUIET):
            self._advance(State.DRAINING)
        elif self._tally.started >= self._plan.max_messages and self.state is State.RUNNING:
            self._advance(State.QUIET)

    def _is_over(self) -> bool:
        if self._messages.running or self._settler:
            return self.state is State.DRAINING and self._watchdog.must_kill(time.monotonic())
        if self._messages.reruns and self.state is not State.DRAINING and self.failure is None:
            return False
        if self.state is not State.RUNNING or self.failure is not None:
            return True
        is_idle = time.monotonic() - self._last_activity >= self._plan.idle_limit
        return self._messages.is_empty() and (is_idle or (self._plan.is_burst and self._is_drained))

    def _advance(self, state: State) -> None:
        assert state in FORWARD[self.state], (self.state, state)
        self.state = state

    def _fail(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self._stop.request()

    # -- events of the pump --------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        events = self._pump.events
        while events or self._moves:
            while events:
                self._take_in_one(events.popleft())
            moves, self._moves = self._moves, []
            for kind, some in groupby(moves, itemgetter(0)):  # hooks may take their time: there may be events again
                self._plan.companions.moved(kind, [partition for _, partition in some])

    def _take_in_one(self, event: Event) -> None:
        if isinstance(event, Polled):
            self._take_in_messages(event)
            self._is_drained = False
        elif isinstance(event, Drained):
            self._is_drained = True
        elif isinstance(event, Assigned):
            self._is_drained = False
            self._messages.assign(event)
            self._moves.append(("assigned", event.assignment.partition))
        elif isinstance(event, Revoked):
            if self._is_open(event.assignment):
                self._messages.revoke(event.assignment)
                self._moves.append(("lost" if event.is_lost else "revoked", event.assignment.partition))
        elif isinstance(event, Moved):
            self._messages.tracker.skipped_to(event.assignment.partition, event.assignment.epoch, event.position)
            self._unpublished = True
        elif isinstance(event, Failed):
            self._fail(event.error)

    def _take_in_messages(self, polled: Polled) -> None:
        if self._is_open(polled.assignment):
            self._last_activity = time.monotonic()
            self._unpublished = self._messages.add(polled) or self._unpublished

    def _is_open(self, assignment: Assignment) -> bool:
        return self._messages.tracker.is_open(assignment.partition, assignment.epoch)

    # -- starts --------------------------------------------------------------------------------------------------------

    def _start_jobs(self) -> bool:
        self._take_in()  # callbacks and commits took their time: partitions may have moved meanwhile
        if self.state not in _STARTING or self._stop.requests or not self._pump.is_vouched(time.monotonic()):
            return False
        companions = self._plan.companions
        if companions.hold():
            return False
        is_careful, refused = self._messages.take(*self._room(), companions.refusal())
        if companions.admit_starts:
            refused += self._refused()
        for one in refused:
            self._report(one)
        if not self._messages.starting:
            return bool(refused)
        self._announce(is_careful or bool(refused))
        if is_careful or refused or companions.admit_starts:  # also a callback takes its time
            self._look_again()
        batch, self._messages.starting = self._messages.starting, []
        if companions.hear_starts:
            companions.started(batch)
        self._executor.start_all(batch)
        self._executor.flush()
        return bool(batch)

    def _refused(self) -> list[Finished]:
        """Ask the companions about what is about to start; return the ends of what they do not want to run."""
        starting, companions = self._messages.starting, self._plan.companions
        refused = [end for message in starting if (end := companions.admitted(message)) is not None]
        for end in refused:
            starting.remove(end.message)
        return refused

    def _withdraw(self) -> None:
        """Let go of what was cancelled after it was handed out, or while it waits to run again."""
        self._refusals = self._plan.companions.refusals()
        is_refused = self._plan.companions.refusal()
        if is_refused is None:
            return
        for message in self._executor.withdraw(is_refused):
            self._report(cancelled(message))
        self._messages.reruns.hasten(is_refused)

    def _room(self) -> tuple[float, float]:
        """Return how many jobs may be started now, and how many of them with messages that have not begun."""
        if self._settler.is_full():
            return 0, 0
        room: float = self._executor.room()
        if self._plan.commits_each:  # none that waits in a child for another, whose end is to be committed first
            room = min(room, self._settings.concurrency - len(self._messages.running) - len(self._settler))
        return room, self._plan.max_messages - self._tally.started

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
            self._messages.withdraw(list(self._messages.starting))

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def _settle(self, finished: list[Finished]) -> bool:
        """Settle runs that have ended; return whether there were any."""
        messages = self._messages
        is_plain = len(finished) > 1 and messages.suspect is None and self._settler.is_silent and not self._brake.is_on
        rest = messages.settle_successes(finished) if is_plain else finished
        if is_plain and self._plan.companions.hear_ends:
            self._ended += finished if not rest else filter(_is_success, finished)
        for one in rest:
            if one.outcome is None:  # ended by a stop: it will run again
                self._interrupt(one)
                continue
            messages.end(one.message)
            (self._sift if self._brake.is_on else self._settle_one)(one)
            # callbacks may be slow, and there may be hundreds: what they were told of is done
            if self._settings.callback is not None and time.monotonic() - self._last_publish > _PUBLISH_EVERY:
                self._publish()
        if finished:
            self._last_activity = time.monotonic()
            self._unpublished = True
        return bool(finished)

    def _sift(self, one: Finished) -> None:
        passed = self._brake.sift(one)
        for each in passed:
            self._settle_one(each)
        if not passed:
            self._messages.tracker.ended(one.message)
        if self._brake.is_pulled():
            self._fail(self._brake.error())

    def _settle_one(self, one: Finished) -> None:
        if one.unimportable is not None:
            log_invalid(self._settings.logger, one.message, *one.unimportable)
        settled = self._settler.settle(one)
        if settled is not None:
            self._go_on(settled)
        elif one.outcome is not None:
            if self._plan.companions.hear_ends:
                self._ended.append(one)
            self._messages.complete(one.message, one.outcome)

    def _go_on(self, settled: Settled) -> None:
        message, outcome, again, waits = settled
        if waits:
            self._messages.tracker.ended(message)
        elif again is not None:
            self._messages.run_again(message, again, outcome.retry_in or 0.0)
        else:
            self._messages.complete(message, outcome)
        if self._plan.companions.hear_ends and not waits:
            self._ended.append(Finished(message, None, outcome))

    def _tell_of_ends(self) -> None:
        if self._ended:
            ended, self._ended = self._ended, []
            self._plan.companions.ended(ended)

    def _complete_acknowledged(self) -> bool:
        """Complete what waited for its records; return whether there was anything."""
        done = self._settler.done(time.monotonic())
        for settled in done:
            self._go_on(settled)
        if done:
            self._last_activity = time.monotonic()
            self._unpublished = True
        return bool(done)

    def _interrupt(self, one: Finished) -> None:
        """Give up what a stop has ended, and name it if it had begun."""
        _, since = self._messages.running[id(one.message)]
        if one.job is not None:
            self._tally.interrupted += 1
            log_interrupted(self._settings.logger, one.message, one.job, time.monotonic() - since)
        self._messages.give_up(one.message)

    def _report(self, refused: Finished) -> None:
        self._settle([refused])
        if self._plan.commits_each:
            self._commit_each()

    # -- commits -------------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        self._messages.publish()
        self._last_publish = time.monotonic()
        self._unpublished = False
        if not (self._messages.running or len(self._messages.backlog)):
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
        for message, since in list(self._messages.running.values()):
            _own_logger.warning("A job could not be ended: %s goes on", describe(message, time.monotonic() - since))
            self._messages.tracker.given_up(message)
            self._tally.interrupted += 1
        self._take_in()
        self._publish()
        if not self._pump.stop(_PUMP_PATIENCE):
            _own_logger.error("The consumer does not end; it is left behind")
        self._take_in()  # its last commit may have failed for good
        self._tell_of_ends()
        self._plan.companions.stop(time.monotonic() + _LAST_PATIENCE)
        if self._publisher is not None:
            self._publisher.close(_LAST_PATIENCE)
        if self._watchdog.executor is not None:
            self._watchdog.executor = None
            self._executor.release()
        if self._router is not None:
            self._router.detach()
        self.state = State.STOPPED


def _is_success(one: Finished) -> bool:
    return one.outcome is not None and one.outcome.status == SUCCESS
