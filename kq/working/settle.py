"""Settling: the way from an outcome to a message that is done.

1. The callback is told. What it raises is logged, and changes nothing.
2. The companions answer to the outcome with records.
3. The records are published. Many are on their way at once, and those of one message wait for no other's.
   Where the message is to run again in place, nothing waits for them.
4. When all of a message's records are acknowledged it is done: only now may the watermark pass it.

Without companions a message is done as soon as the callback has returned.
"""

from __future__ import annotations

import contextlib
import logging
import time
from heapq import heappop, heappush
from typing import Any, NamedTuple

from kq.errors import PoisonMessage
from kq.executors import Caller, Finished, cancelled, told
from kq.job import FAILURE, INVALID, SUCCESS, Outcome
from kq.message import Message, job_from_headers
from kq.working.companions import RESTART_WAIT, Companions, Refusal
from kq.working.publisher import Publisher
from kq.working.reporter import Reporter
from kq.working.settings import Settings
from kq.working.verifier import Fault

__all__ = ["Settled", "Settler", "not_to_run"]

_logger, _loop_logger = logging.getLogger("kq.companions"), logging.getLogger("kq.loop")

#: Messages that were told and are not done, beyond which no job is started: they are in memory, and would run again.
MOST_MESSAGES = 2000


class Settled(NamedTuple):
    """What becomes of a message whose run ended."""

    message: Message
    outcome: Outcome
    #: The same message as it runs again in place; None if it does not.
    again: Message | None = None
    #: Whether it is not done before something is published.
    waits: bool = False


class Settler:
    """Settles the outcomes of one worker. Belongs to the thread that called ``Worker.start``.

    :param publisher: None where there are no companions.
    :param reporter: None where nobody follows runs.
    """

    def __init__(
        self,
        settings: Settings,
        companions: Companions,
        publisher: Publisher | None,
        reporter: Reporter | None = None,
    ) -> None:
        self._reporter = reporter
        self._settings = settings
        self._companions = companions
        self._publisher = publisher
        #: Ends a fork that a callback leaves behind.
        self._caller = Caller()
        #: What was told and is not done, by the identity of its message.
        self._outcomes: dict[int, Outcome] = {}
        #: Heap of what a companion failed to answer to: when to ask again, a number that tells those of one time apart,
        #: the pause, and the message.
        self._unanswered: list[tuple[float, int, float, Message]] = []

    def __len__(self) -> int:
        return len(self._outcomes)

    @property
    def is_silent(self) -> bool:
        """Whether nobody is told of a success, and nobody answers to it."""
        return self._settings.callback is None and not self._companions.answers_success

    def is_full(self) -> bool:
        """Return whether no more jobs should start before some messages are done."""
        return len(self) >= MOST_MESSAGES or (self._publisher is not None and self._publisher.is_full())

    def patience(self, now: float) -> float:
        """Return the seconds after which ``done`` has something to do, though nothing woke the worker."""
        if self._publisher is None:
            return float("inf")
        asked = self._unanswered[0][0] - now if self._unanswered else float("inf")
        return max(0.0, min(asked, self._publisher.patience(now)))

    def settle(self, finished: Finished) -> Settled | None:
        """Tell the callback of a run that ended with an outcome; return what becomes of its message, None for done."""
        message, job, outcome, _ = finished
        assert outcome is not None
        self._tell(outcome, message, job)
        if self._reporter is not None:
            self._reporter.ended(message, outcome)
        if self._publisher is None or (outcome.status == SUCCESS and not self._companions.answers_success):
            return None
        self._outcomes[id(message)] = outcome
        return self._answer(message, RESTART_WAIT[0])

    def done(self, now: float) -> list[Settled]:
        """Return what has become of messages that waited when they were settled, and wait no more."""
        if self._publisher is None or not (self._outcomes or self._publisher):
            return []
        acknowledged = [message for message in self._publisher.acknowledged(now) if id(message) in self._outcomes]
        settled = [Settled(message, self._outcomes.pop(id(message))) for message in acknowledged]
        while self._unanswered and self._unanswered[0][0] <= now:
            _, _, wait, message = heappop(self._unanswered)
            settled.append(self._answer(message, min(wait * 2, RESTART_WAIT[1])))
        return [one for one in settled if not one.waits]

    def _tell(self, outcome: Outcome, message: Message, job: Any) -> None:
        callback, takes_message = self._settings.callback, self._settings.takes_message
        if callback is None or (outcome.status == INVALID and not takes_message):
            return
        self._log(logging.INFO, "Executing callback ...")
        try:
            with self._caller:
                if takes_message:
                    callback(outcome.status, message, job, outcome.result, outcome.exception, outcome.stacktrace)
                else:
                    callback(outcome.status, job, outcome.result, outcome.exception, outcome.stacktrace)
        except BaseException as error:  # the door of the user's hook: it is logged, and changes nothing  # noqa: BLE001
            hides = self._settings.hides_arguments
            self._log(logging.ERROR, "Callback raised an exception: %s", told(error, hides), exc_info=not hides)

    def _log(self, level: int, line: str, *args: object, exc_info: bool = False) -> None:
        """Log; a filter or handler of the program that raises costs its line, but no outcome."""
        with contextlib.suppress(Exception):
            self._settings.logger.log(level, line, *args, exc_info=exc_info)

    def _answer(self, message: Message, wait: float) -> Settled:
        """Publish what the companions answer to an outcome; return what becomes of its message."""
        assert self._publisher is not None
        outcome = self._outcomes[id(message)]
        try:
            outcome, again = self._companions.judged(message, outcome)
            records = self._companions.answers(message, outcome)
        except Exception:  # the door of a capability: the message stays undone, which is better than to lose its answer
            _logger.exception("Message %s of partition %s is not done: a companion failed", message[2], message[1])
            heappush(self._unanswered, (time.monotonic() + wait, id(message), wait, message))
            return Settled(message, outcome, waits=True)
        if records:
            # of what runs again in place another object is the source, for whose end nobody asks
            self._publisher.publish(message if again is None else message._replace(), records)
            if self._settings.callback is not None:  # the next one's callback may take long
                self._publisher.flush()
        if records and again is None:
            self._outcomes[id(message)] = outcome
            return Settled(message, outcome, waits=True)
        del self._outcomes[id(message)]
        return Settled(message, outcome, again)


def not_to_run(
    message: Message, deaths: int, most_deaths: int, fault: Fault, is_refused: Refusal | None = None
) -> Finished | None:
    """Return the end of a message that is not run: its runs kept killing the worker, or it has a fault. Else None.

    :param is_refused: Says whether it was cancelled; None where none was.
    """
    if is_refused is not None and is_refused(message):
        return cancelled(message)
    return _poisoned(message, deaths) if deaths >= most_deaths else fault(message)


def _poisoned(message: Message, deaths: int) -> Finished:
    where = f"message {message.offset} of partition {message.partition} of topic {message.topic}"
    error = PoisonMessage(f"{where} was not run again: {deaths} of its runs ended with the death of the worker")
    _loop_logger.error("%s", error)
    outcome = Outcome(FAILURE, None, error, f"{type(error).__module__}.PoisonMessage: {error}\n")
    return Finished(message, job_from_headers(message), outcome)
