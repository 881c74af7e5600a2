"""The loop: one ``Worker.start()``, from its first poll to its last commit.

1. Take in what the pump has: partitions that come and go, and messages, which go to tracker and backlog.
2. Start what may start. After an unclean end of another worker, starts are committed before they happen.
3. Settle what has finished: tell the callback; only then is the message done.
4. Publish what is done to the pump, and wait.
5. On a stop, or when enough messages were processed, nothing more is started; what runs may finish until the deadline,
   and is killed then. Executor and pump are closed, and the last commit is made.

A watchdog thread looks at the clock meanwhile, because the thread of the loop may be inside an inline job.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kq.consuming import Assigned, Assignment, Event, Failed, Moved, Polled, Pump, Revoked, Tracker
from kq.errors import PoisonMessage
from kq.executors import Executor, Finished, Setting
from kq.job import FAILURE, INVALID, TIMEOUT, Outcome, Status
from kq.message import Message, bytes_of, job_from_headers, message_from_record
from kq.utils import safe_str
from kq.working.backlog import Backlog, Ordering
from kq.working.stop import KILL, Stop, Waker

__all__ = ["Loop", "Plan", "State", "Stats"]

_own_logger = logging.getLogger("kq.loop")

#: Seconds between looks at the clock: for an idle limit, a deadline, a pump that stands still.
_TICK = 0.2
#: Seconds that a start waits for the commit that tells of it, before it goes on without.
_CAREFUL_PATIENCE = 5.0
#: Seconds that the pump may take to end: a commit, a close, and a broker that answers neither.
_PUMP_PATIENCE = 15.0
#: Seconds without a sign of the pump after which that is said aloud: longer than any wait of its own.
_STALLED_AFTER = 30.0
#: Seconds after which a job that was to be killed and still runs is named in the log.
_STUBBORN_AFTER = 1.0
#: Seconds between looks at what may be published while jobs come and go without a pause.
_PUBLISH_EVERY = 0.005


class State(enum.Enum):
    """What a worker is doing."""

    #: It was made and not started.
    NEW = "new"
    #: It polls and starts jobs.
    RUNNING = "running"
    #: It starts nothing more, and keeps its partitions while what runs finishes.
    QUIET = "quiet"
    #: As QUIET, with a deadline after which what runs is killed.
    DRAINING = "draining"
    #: ``start`` has returned.
    STOPPED = "stopped"


FORWARD: Mapping[State, tuple[State, ...]] = {
    State.NEW: (State.RUNNING,),
    State.RUNNING: (State.QUIET, State.DRAINING, State.STOPPED),
    State.QUIET: (State.DRAINING, State.STOPPED),
    State.DRAINING: (State.STOPPED,),
    State.STOPPED: (),
}


class Plan(NamedTuple):
    """What one ``start`` is to do: the settings of the worker and the arguments of ``start``."""

    logger: logging.Logger
    deserialize: Callable[[bytes], Any]
    callback: Callable[..., Any] | None
    #: Whether the callback is KQ 2.x's, with six arguments.
    takes_message: bool
    timeout: float | int | None
    concurrency: int
    ordering: Ordering
    #: Whether each job is committed before the next one starts.
    commits_each: bool
    shutdown_timeout: float
    max_deliveries: int
    max_messages: float
    #: Seconds without a message after which the loop ends.
    idle_limit: float


class Stats(NamedTuple):
    """Figures of a worker, at one moment, since its last ``start``."""

    state: State
    #: Jobs that were handed out and have not ended: with processes, also short ones that wait for their child.
    in_flight: int = 0
    #: Messages that were polled and have not started.
    backlog: int = 0
    #: Messages processed, whatever their outcome.
    done: int = 0
    failed: int = 0
    timed_out: int = 0
    invalid: int = 0
    #: Messages that ran again because a worker died while they ran.
    retried: int = 0
    #: Partition -> offsets from what is committed to what was polled.
    commit_lag: Mapping[int, int] = {}
    #: Seconds since the oldest job that runs was started; None if none runs.
    oldest: float | None = None


class Loop:
    """One run of a worker. Everything here but ``watch`` belongs to the thread that called ``Worker.start``."""

    def __init__(self, plan: Plan, executor: Executor, stop: Stop, waker: Waker) -> None:
        self._plan = plan
        self._executor = executor
        self._stop = stop
        self._waker = waker
        self._tracker = Tracker()
        self._backlog = Backlog(plan.ordering)
        self._assignments: dict[int, Assignment] = {}
        #: What runs, and since when; oldest first.
        self._running: dict[int, tuple[Message, float]] = {}
        self._started = 0
        self._retried = 0
        self._outcomes: Counter[Status] = Counter()
        self.state = State.NEW
        #: The error that ended the pump.
        self.failure: BaseException | None = None
        self._last_activity = time.monotonic()
        self._last_publish = 0.0
        self._unpublished = False
        self._is_open = False
        #: When it was first seen that what runs must end, or the last job that does not was named.
        self._kill_since: float | None = None

    def run(self, pump: Pump) -> int:
        """Work until there is a reason to end; return how many messages were processed."""
        self._pump = pump
        watchdog = _Watchdog(self.watch)
        watchdog.start()
        try:
            self._open_executor()
            self._advance(State.RUNNING)
            pump.start()
            while not self._is_over():
                self._turn()
        finally:
            self._end()
            watchdog.stop()
        return self._outcomes.total()

    def stats(self) -> Stats:
        """Return the figures of this moment. From any thread."""
        oldest = next(iter(list(self._running.values())), None)
        assignments = list(self._assignments.values())
        return Stats(
            state=self.state,
            in_flight=len(self._running),
            backlog=len(self._backlog),
            done=self._outcomes.total(),
            failed=self._outcomes[FAILURE],
            timed_out=self._outcomes[TIMEOUT],
            invalid=self._outcomes[INVALID],
            retried=self._retried,
            commit_lag={assignment.partition: assignment.commit_lag() for assignment in assignments},
            oldest=None if oldest is None else time.monotonic() - oldest[1],
        )

    def _open_executor(self) -> None:
        plan, waker = self._plan, self._waker
        wants_outcome = plan.callback is not None
        setting = Setting(
            plan.deserialize, plan.timeout, plan.logger, wants_outcome, waker.wake, waker.watch, waker.unwatch
        )
        self._executor.open(setting, plan.concurrency)
        self._is_open = True

    def _turn(self) -> None:
        self._take_in()
        finished = self._executor.finished()
        self._settle(finished)
        if finished and self._plan.commits_each:
            self._commit_each()
        started = self._start_jobs()
        if self._unpublished and (not started or time.monotonic() - self._last_publish > _PUBLISH_EVERY):
            self._publish()
        if not (started or finished or self._pump.events):
            self._waker.wait(min(_TICK, self._plan.idle_limit, self._executor.patience()))

    def _is_over(self) -> bool:
        if self._stop.requests and self.state in (State.RUNNING, State.QUIET):
            self._advance(State.DRAINING)
        if self._started >= self._plan.max_messages and self.state is State.RUNNING:
            self._advance(State.QUIET)
        if self._backlog.running:
            return self.state is State.DRAINING and self._must_kill(time.monotonic())
        if self.state is not State.RUNNING or self.failure is not None:
            return True
        return len(self._backlog) == 0 and time.monotonic() - self._last_activity >= self._plan.idle_limit

    def _advance(self, state: State) -> None:
        assert state in FORWARD[self.state], (self.state, state)
        self.state = state

    # -- events of the pump --------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        events = self._pump.events
        while events:
            self._take_in_one(events.popleft())

    def _take_in_one(self, event: Event) -> None:
        if isinstance(event, Polled):
            self._take_in_messages(event)
        elif isinstance(event, Assigned):
            assignment = event.assignment
            self._assignments[assignment.partition] = assignment
            self._tracker.assign(assignment.partition, assignment.epoch, assignment.topic_id, event.progress)
        elif isinstance(event, Revoked):
            self._revoke(event.assignment)
        elif isinstance(event, Moved):
            self._tracker.skipped_to(event.assignment.partition, event.assignment.epoch, event.position)
            self._unpublished = True
        elif isinstance(event, Failed):
            self.failure = event.error
            self._stop.request()

    def _take_in_messages(self, polled: Polled) -> None:
        assignment, tracker, backlog = polled.assignment, self._tracker, self._backlog
        if not tracker.is_open(assignment.partition, assignment.epoch):
            return
        self._last_activity = time.monotonic()
        messages = tracker.polled_all(assignment.partition, list(map(message_from_record, polled.records)))
        for message in messages:
            backlog.add(message, alone=tracker.deliveries(message) > 0)
        if len(messages) < len(polled.records):
            assignment.taken += len(polled.records) - len(messages)
            assignment.taken_bytes += bytes_of(polled.records) - bytes_of(messages)
            self._unpublished = True
            self._make_room()

    def _revoke(self, assignment: Assignment) -> None:
        if self._tracker.is_open(assignment.partition, assignment.epoch):
            self._tracker.revoke(assignment.partition)
            self._backlog.drop(assignment.partition)
            del self._assignments[assignment.partition]

    def _make_room(self) -> None:
        """Have the pump look at once where there is room enough again."""
        if any(assignment.paused and not assignment.is_full() for assignment in self._assignments.values()):
            self._pump.poke()

    # -- starts --------------------------------------------------------------------------------------------------------

    def _start_jobs(self) -> bool:
        if self.state is not State.RUNNING or self._stop.requests or not self._pump.is_vouched(time.monotonic()):
            return False
        room = min(self._executor.room(), self._plan.max_messages - self._started)
        if self._plan.commits_each:  # none that waits in a child for another, whose end is to be committed first
            room = min(room, self._plan.concurrency - len(self._running))
        batch, careful = self._take_jobs(room)
        if batch:
            self._announce(careful)
            now = time.monotonic()
            for message in batch:
                self._running[id(message)] = message, now
                self._executor.start(message)
            self._executor.flush()
        return bool(batch)

    def _take_jobs(self, room: float) -> tuple[list[Message], bool]:
        """Take out of the backlog what starts now; return whether one of these starts is to be committed first."""
        backlog, tracker, assignments = self._backlog, self._tracker, self._assignments
        batch, careful, taken = [], False, 0
        while taken < room and (message := backlog.take()) is not None:
            taken += 1
            assignment = assignments.get(message.partition)
            if assignment is not None:
                assignment.taken += 1
                assignment.taken_bytes += len(message.value or b"")
            deaths, is_careful = tracker.started(message)
            careful = careful or is_careful
            self._retried += deaths > 0
            if deaths >= self._plan.max_deliveries:
                self._report_poison(message, deaths)
            else:
                batch.append(message)
        self._started += taken
        if taken:
            self._make_room()
        return batch, careful

    def _announce(self, careful: bool) -> None:
        """Publish what starts before it starts: an inline job may take hours; a careful start is committed first."""
        self._unpublished = True
        if self._plan.concurrency == 1 or careful:
            self._publish()
        if careful and not self._pump.flush(_CAREFUL_PATIENCE):
            _own_logger.warning("A job starts though its start could not be committed")

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def _settle(self, finished: list[Finished]) -> None:
        if not finished:
            return
        for message, job, outcome in finished:
            del self._running[id(message)]
            if outcome is None:  # ended by a stop: it is incomplete and will run again
                self._tracker.given_up(message)
            else:
                self._tell(outcome, message, job)
                self._tracker.done(message)
                self._outcomes[outcome.status] += 1
            self._backlog.done(message)
            # callbacks may be slow, and there may be hundreds: what they were told of is done
            if self._plan.callback is not None and time.monotonic() - self._last_publish > _PUBLISH_EVERY:
                self._publish()
        self._last_activity = time.monotonic()
        self._unpublished = True

    def _tell(self, outcome: Outcome, message: Message, job: Any) -> None:
        plan = self._plan
        if plan.callback is None or (outcome.status == INVALID and not plan.takes_message):
            return
        plan.logger.info("Executing callback ...")
        try:
            if plan.takes_message:
                plan.callback(outcome.status, message, job, outcome.result, outcome.exception, outcome.stacktrace)
            else:
                plan.callback(outcome.status, job, outcome.result, outcome.exception, outcome.stacktrace)
        except BaseException as error:  # the door of the user's hook: it is told of, and changes nothing
            plan.logger.exception("Callback raised an exception: %s", safe_str(error))

    def _report_poison(self, message: Message, deaths: int) -> None:
        where = f"message {message.offset} of partition {message.partition} of topic {message.topic}"
        error = PoisonMessage(f"{where} was not run again: {deaths} of its runs ended with the death of the worker")
        _own_logger.error("%s", error)
        self._running[id(message)] = message, time.monotonic()
        outcome = Outcome(FAILURE, None, error, f"{type(error).__module__}.PoisonMessage: {error}\n")
        self._settle([Finished(message, job_from_headers(message), outcome)])

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
        while not (self._pump.flush(_TICK) or self._stop.requests):
            pass

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        try:
            if self._is_open:
                self._executor.close()
                self._settle(self._executor.finished())
        finally:  # whatever is wrong with it, a consumer that goes on would keep partitions that nobody works on
            self._let_go()

    def _let_go(self) -> None:
        for message, _ in self._running.values():
            _own_logger.warning(
                "The job of message %s of partition %s goes on: it could not be ended", *message[2:0:-1]
            )
            self._tracker.given_up(message)
        self._take_in()
        self._publish()
        if not self._pump.stop(_PUMP_PATIENCE):
            _own_logger.error("The consumer does not end; it is left behind")
        if self._is_open:
            self._executor.release()
        self.state = State.STOPPED

    # -- the watchdog's thread -----------------------------------------------------------------------------------------

    def watch(self, now: float) -> None:
        """Look at the clock: kill what must end, and say aloud where the pump stands still."""
        self._stop.look()
        if self._stop.requests:
            self._pump.expect_end()
        if self._must_kill(now):
            self._executor.kill()
            self._name_stubborn(now)
        if now - self._pump.heartbeat > _STALLED_AFTER and self.failure is None and self.state is not State.STOPPED:
            _own_logger.error("The consumer has not polled for %.0f s; its partitions may be lost", _STALLED_AFTER)
            self._pump.heartbeat = now  # said again after as long

    def _must_kill(self, now: float) -> bool:
        since = self._stop.since
        if since is None:
            return False
        return self._stop.requests >= KILL or now >= since + self._plan.shutdown_timeout

    def _name_stubborn(self, now: float) -> None:
        if self._kill_since is None:
            self._kill_since = now
        if now - self._kill_since > _STUBBORN_AFTER:
            self._kill_since = now + _STALLED_AFTER
            for message, _ in list(self._running.values()):
                where = (message.offset, message.partition)
                _own_logger.warning("The job of message %s of partition %s does not let itself be ended", *where)


class _Watchdog:
    """Calls a function every tick, from a thread of its own."""

    def __init__(self, watch: Callable[[float], None]) -> None:
        self._watch = watch
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kq-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_TICK):
            self._watch(time.monotonic())
