"""Companions: how a capability joins a worker, and what a worker tells it.

1. ``open`` is called before anything is polled. What it raises ends ``Worker.start``: better than to find out at night.
2. ``on_started`` and ``on_settled`` are called for each message, ``on_started_many`` and ``on_ended`` for many at once.
   What ``on_settled`` returns is published; the message is done when all of it is acknowledged.
3. ``stop`` is called when the last outcome is settled, with the time by which it must return.

The loop knows this protocol and none of the capabilities. It calls them in the thread that called ``Worker.start``, so
none of these may take long.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from kq.clients import denied
from kq.executors import Finished, Run
from kq.job import SUCCESS, Outcome
from kq.message import Message, Record
from kq.signing import Signer

__all__ = ["Companion", "Companions", "Context", "Move", "Refusal", "Steering", "ThreadedCompanion", "prepare_soon"]

_logger = logging.getLogger("kq.companions")

#: What became of partitions: ``"lost"`` are those that others may have had already, so that nothing was committed.
Move = Literal["assigned", "revoked", "lost"]
#: Seconds until a companion's thread that failed is started again, at first and at most; each failure doubles it.
RESTART_WAIT = (1.0, 30.0)


#: Says of a message whether its job was cancelled.
Refusal = Callable[[Message], bool]


class Steering(NamedTuple):
    """What a companion may have the loop do. From any thread."""

    #: Look at once whether there is something to do.
    wake: Callable[[], object] = lambda: None
    #: Stop, as ``Worker.stop`` does.
    stop: Callable[[], object] = lambda: None
    #: Return the worker's figures, and what it runs.
    stats: Callable[[], Any] = lambda: None
    running: Callable[[], list[Run]] = list
    #: Let jobs that run know that they are cancelled; and end some.
    cancel: Callable[[Sequence[Message], Sequence[Message]], object] = lambda told, ended: None
    #: Where jobs run, and how many at once.
    executor: str = ""
    concurrency: int = 1


class Context(NamedTuple):
    """What a companion is told of its worker."""

    topic: str
    group: str
    hosts: str
    #: Settings that a client needs to get to these brokers.
    config: Mapping[str, Any]
    #: Asks the brokers, without waiting, whether there is a topic; the answer comes on another thread.
    ask_for: Callable[[str, Callable[[bool], None]], None] = lambda topic, answer: None
    #: Publishes a record of a companion that nothing waits for, in its order with that companion's others. From any
    #: thread. Where it cannot be published soon, it is dropped.
    tell: Callable[[Companion, Record], None] = lambda companion, record: None
    #: Signs what the worker publishes, and has verified what it is made of.
    signer: Signer | None = None
    #: Whether arguments, results and keys stay out of what companions write.
    hides: bool = False
    #: What a companion may have the loop do.
    steering: Steering = Steering()

    def signed(self, purpose: str, record: Record) -> Record:
        """Return a record as it is to be published: with a signature, if the worker signs."""
        return record if self.signer is None else self.signer.sign(purpose, record, int(time.time() * 1000))


class Companion:
    """A capability of a worker. A subclass overrides what it needs."""

    #: Whether ``on_settled`` is to be called for successes, too.
    answers_success = True
    #: Whether exceptions are to come from children, though no callback asks for them.
    wants_errors = False

    def open(self, context: Context) -> None:
        """Make ready.

        :raises kq.KQError: It cannot work like this; ``Worker.start`` raises it.
        """

    def on_moved(self, kind: Move, partitions: Sequence[int]) -> None:
        """Note that partitions came or went."""

    def admit(self, message: Message) -> Finished | None:
        """Return the end of a message that is not to be run; None to have it run.

        It may take its time: afterwards the worker looks again whether the job may start.
        """
        return None

    def given(self, message: Message) -> Any:
        """Return the job of a message that is to run and whose value is none, as ``Setting.given`` has it, or None.

        From any thread, and more than once, between ``admit`` and the end of the run.
        """

    def holds(self) -> bool:
        """Return whether no job is to start at present; asked before each start."""
        return False

    def refusal(self) -> Refusal | None:
        """Return what says of a message whether its job was cancelled; None where none was."""
        return None

    @property
    def refusals(self) -> int:
        """A number that is another one as soon as something more is cancelled."""
        return 0

    def on_started(self, message: Message) -> None:
        """Note that the job of a message is handed to the executor."""

    def on_started_many(self, messages: Sequence[Message]) -> None:
        """Note that the jobs of messages are handed to the executor: all of a turn. The list stays as it is."""

    def on_ended(self, ended: Sequence[Finished]) -> None:
        """Note what became of messages that are done, or run again in place: all of a turn. The list stays as it is.

        For those that answer with nothing: it costs nearly nothing for each message, and needs no publisher.
        """

    def on_given_up(self, message: Message) -> None:
        """Note that a message which was admitted has no outcome: it runs again, here or elsewhere."""

    def on_begun(self, message: Message, since: float) -> None:
        """Note that a job is running; not told of runs that are over in a moment. From any thread, as the next two.

        :param since: The monotonic clock, when it began.
        """

    def on_progress(self, message: Message, fraction: float | None, text: str) -> None:
        """Note what a running job says of how far it is, several times a second at most, and the last one always.

        :param fraction: A fraction of 1, or None.
        """

    def on_logs(self, message: Message, lines: Sequence[str]) -> None:
        """Note lines that a job has logged, where these are captured."""

    def judge(self, message: Message, outcome: Outcome) -> tuple[Outcome, Message | None]:
        """Return a failed outcome as all are to hear of it, and what runs again in place; None for nothing.

        The callback has been told. Where this raises, it is called again after a pause.
        """
        return outcome, None

    def on_settled(self, message: Message, outcome: Outcome) -> Iterable[Record]:
        """Return the records that are to be published before the message is done.

        The callback has been told. Where this raises, the message stays undone and this is called again after a pause.
        """
        return ()

    def on_refused(self, message: Message, record: Record, error: BaseException) -> Record | None:
        """Return what to publish in place of a record that was refused; None to try the same again after a pause."""
        return None

    def prepare(self, topic: str) -> None:
        """Have a topic that records are to go to, on a thread that may wait. Called again after a refusal.

        :raises Exception: It cannot be had; the records are refused for now.
        """

    def look(self, now: float) -> None:
        """Look whether there is something to begin, several times a second, on the watchdog's thread. Must not wait.

        :param now: The monotonic clock.
        """

    def stats(self) -> Mapping[str, float]:
        """Return figures of this moment, by their names. From any thread."""
        return {}

    def stop(self, deadline: float) -> None:
        """End, by a time of the monotonic clock at the latest."""


def prepare_soon(companion: Companion, topic: str, what: str, then: Callable[[], object] = lambda: None) -> None:
    """Have a topic before it is needed, in a thread of its own: who may not make it should know at the start.

    :param what: What would go there, for the warning where it cannot be had. It is tried again when it is needed.
    :param then: Called when it is there.
    """

    def prepare() -> None:
        try:
            companion.prepare(topic)
        except Exception as error:  # noqa: BLE001 - the door of a capability
            _logger.warning("%s have no topic yet: %s", what, error)
        else:
            then()

    threading.Thread(target=prepare, name=f"kq-prepare-{topic}", daemon=True).start()


class ThreadedCompanion(Companion):
    """A companion with a thread of its own, which is started again when it fails."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"kq-{type(self).__name__}", daemon=True)

    def run(self, stopping: threading.Event) -> None:
        """Work until ``stopping`` is set, with clients of its own, which it closes. Called again where it raises."""
        raise NotImplementedError

    def open(self, context: Context) -> None:
        self.context = context
        self.begin()

    @property
    def is_stopping(self) -> bool:
        """Whether the thread is to end."""
        return self._stopping.is_set()

    def rouse(self) -> None:
        """Have the thread look whether it is to end, where it waits for something else."""

    @property
    def has_begun(self) -> bool:
        """Whether the thread was started, or is not to be."""
        return self._thread.ident is not None or self._stopping.is_set()

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, deadline: float) -> None:
        self._stopping.set()
        self.rouse()
        if self._thread.ident is None:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            _logger.error("%s does not end; it is left behind", type(self).__name__)

    def _run(self) -> None:
        wait, longest = RESTART_WAIT
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                self.run(self._stopping)
                return
            except Exception as error:  # noqa: BLE001 - the door of the thread: it must not end in silence
                if time.monotonic() - begun > longest:  # it had worked
                    wait = RESTART_WAIT[0]
                self._complain(error, wait)
            self._stopping.wait(wait)
            wait = min(wait * 2, longest)

    def _complain(self, error: Exception, wait: float) -> None:
        name, reason = type(self).__name__, denied(error)
        if reason is None:
            _logger.exception("%s failed; it is started again in %g s", name, wait)
        else:
            _logger.error("%s failed; it is started again in %g s: %s", name, wait, reason)


class Companions:
    """All companions of one worker."""

    def __init__(self, companions: Iterable[Companion] = ()) -> None:
        self._all = list(companions)
        self._open: list[Companion] = []
        #: Those that hear of starts, and those that answer to outcomes: the others cost nothing there.
        self._hearing = [one for one in self._all if type(one).on_started is not Companion.on_started]
        self._answering = [one for one in self._all if type(one).on_settled is not Companion.on_settled]
        self._hearing_many = [one for one in self._all if type(one).on_started_many is not Companion.on_started_many]
        self._recording = [one for one in self._all if type(one).on_ended is not Companion.on_ended]
        self._judging = [one for one in self._all if type(one).judge is not Companion.judge]
        self._admitting = [one for one in self._all if type(one).admit is not Companion.admit]
        self.hear_starts, self.admit_starts = bool(self._hearing or self._hearing_many), bool(self._admitting)
        self.hear_ends = bool(self._recording)
        self.wants_errors = any(one.wants_errors for one in self._all)
        self._holding = [one for one in self._all if type(one).holds is not Companion.holds]
        self._refusing = [one for one in self._all if type(one).refusal is not Companion.refusal]
        hooks = ("on_begun", "on_progress", "on_logs")
        self._following = [
            one for one in self._all if any(getattr(type(one), n) is not getattr(Companion, n) for n in hooks)
        ]
        #: Whether any of them hears of jobs while they run.
        self.follow_runs = bool(self._following)
        self._answering_success = [one for one in self._answering if one.answers_success]
        self.answers_success = bool(self._answering_success)

    def __bool__(self) -> bool:
        """Return whether one of them answers to outcomes."""
        return bool(self._answering)

    def look(self, now: float) -> None:
        """Have all that are open look around. From the watchdog's thread."""
        for companion in list(self._open):
            companion.look(now)

    def open(self, context: Context) -> None:
        """Make all ready; raise what one of them raises."""
        for companion in self._all:
            companion.open(context)
            self._open.append(companion)

    def hold(self) -> bool:
        """Return whether no job is to start at present."""
        return any(one.holds() for one in self._holding)

    def refusal(self) -> Refusal | None:
        """Return what says of a message whether its job was cancelled; None where none was."""
        several = [refusal for one in self._refusing if (refusal := one.refusal()) is not None]
        if len(several) > 1:
            return lambda message: any(is_refused(message) for is_refused in several)
        return several[0] if several else None

    def refusals(self) -> int:
        """Return a number that is another one as soon as something more is cancelled."""
        return sum(one.refusals for one in self._refusing)

    @property
    def given(self) -> Callable[[Message], Any] | None:
        """What returns the job of a message whose value is none; None where all values are jobs."""
        return next((one.given for one in self._all if type(one).given is not Companion.given), None)

    def moved(self, kind: Move, partitions: Sequence[int]) -> None:
        """Tell all that partitions came or went."""
        for companion in self._open:
            companion.on_moved(kind, partitions)

    def admitted(self, message: Message) -> Finished | None:
        """Return the end of a message that one of them does not want to run; None where none of them minds."""
        for companion in self._admitting:
            try:
                end = companion.admit(message)
            except Exception:  # the door of a capability: the job matters more
                _logger.exception("%s failed before the start of message %s", type(companion).__name__, message[:3])
            else:
                if end is not None:
                    return end
        return None

    def given_up(self, message: Message) -> None:
        """Tell those that admit messages that one of them has no outcome."""
        for companion in self._admitting:
            companion.on_given_up(message)

    def started(self, messages: Sequence[Message]) -> None:
        """Tell all that jobs start. One that fails is said aloud, and holds back nothing."""
        for companion in self._hearing_many:
            try:
                companion.on_started_many(messages)
            except Exception:  # the door of a capability: the jobs matter more
                _logger.exception("%s failed at the start of messages", type(companion).__name__)
        for companion, message in itertools.product(self._hearing, messages if self._hearing else ()):
            try:
                companion.on_started(message)
            except Exception:  # the door of a capability: the job matters more
                _logger.exception("%s failed at the start of message %s", type(companion).__name__, message[:3])

    def begun(self, message: Message, since: float) -> None:
        """Tell those who follow runs that one goes on."""
        self._tell_followers("on_begun", message, since)

    def progressed(self, message: Message, fraction: float | None, text: str) -> None:
        """Tell those who follow runs how far one is."""
        self._tell_followers("on_progress", message, fraction, text)

    def logged(self, message: Message, lines: Sequence[str]) -> None:
        """Tell those who follow runs what one has logged."""
        self._tell_followers("on_logs", message, lines)

    def _tell_followers(self, hook: str, message: Message, *args: Any) -> None:
        for companion in self._following:
            try:
                getattr(companion, hook)(message, *args)
            except Exception:  # the door of a capability: the job matters more
                _logger.exception("%s failed in %s of message %s", type(companion).__name__, hook, message[:3])

    def ended(self, ended: Sequence[Finished]) -> None:
        """Tell all what became of messages. One that fails is said aloud, and holds back nothing."""
        for companion in self._recording:
            try:
                companion.on_ended(ended)
            except Exception:  # the door of a capability: the messages are done
                _logger.exception("%s failed at the end of messages", type(companion).__name__)

    def judged(self, message: Message, outcome: Outcome) -> tuple[Outcome, Message | None]:
        """Return an outcome as all are to hear of it, and what runs again in place."""
        again = None
        if outcome.status == SUCCESS:
            return outcome, None
        for companion in self._judging:
            outcome, again = companion.judge(message, outcome)
        return outcome, again

    def answers(self, message: Message, outcome: Outcome) -> list[tuple[Companion, Record]]:
        """Return what all of them answer to an outcome, each record with its companion."""
        answering = self._answering_success if outcome.status == SUCCESS else self._answering
        return [(companion, record) for companion in answering for record in companion.on_settled(message, outcome)]

    def stats(self) -> dict[str, Mapping[str, float]]:
        """Return the figures of each, by the name of its class. From any thread."""
        return {type(companion).__name__: companion.stats() for companion in self._all}

    def stop(self, deadline: float) -> None:
        """End those that were opened, the last one first."""
        while self._open:
            companion = self._open.pop()
            try:
                companion.stop(deadline)
            except Exception:  # the door of a capability: the others are to end as well
                _logger.exception("%s failed to stop", type(companion).__name__)
