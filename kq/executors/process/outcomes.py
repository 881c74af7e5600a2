"""Outcomes: what children say becomes what the worker is told, in two steps.

1. Frames are taken in at any time, also by the watchdog's thread: the queue of the child is settled, and what there is
   to tell is kept in order.
2. ``take`` gives that to the loop. Only there user code runs: handlers of loggers, the deserializer, and whatever
   unpickling a result calls.

What is kept has a bound: while it is reached, further frames are left in the children's sockets.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, NamedTuple

from kq.context import Said
from kq.errors import ChildLost, JobExpired
from kq.executors.base import Finished, Setting, job_of, terminated, timed_out
from kq.executors.lines import log_executing, log_invalid, log_outcome, log_processing, log_unsent, warn_own
from kq.executors.process.handle import Handle
from kq.executors.process.packing import unpack, unpack_error
from kq.executors.process.protocol import Frame, Result
from kq.executors.running import with_report
from kq.executors.telling import told
from kq.job import FAILURE, INVALID, SUCCESS, Cause, Outcome
from kq.logs import FORMAT
from kq.message import Message, job_from_headers
from kq.serializers import serializer_of
from kq.utils import type_name

__all__ = ["Outcomes"]

#: Bytes of frames that were read and not settled by the loop: room for many small results, or for one that is larger.
ROOM = 32 << 20
#: Bytes of a frame for which room need not be made.
_SMALL = 1 << 16
#: Bytes that it costs to keep a frame beyond its own.
_OVERHEAD = 512
#: Weight of the latest job in the mean.
_LATEST = 0.1
#: What became of a job of which nobody asks for more.
_SUCCESS = Outcome(SUCCESS)
_new = tuple.__new__


class Ran(NamedTuple):
    """What is known of a run, for the log and the callback."""

    job_id: Any
    #: What the job returned, as text.
    text: str = ""
    #: How long it ran, if that is known, and how long it was allowed to.
    seconds: float | None = None
    limit: float = 0
    #: Whether a child could unpickle it.
    is_read: bool = True


#: Something that the loop is to do: a function that adds to what has finished or logs, and its further arguments.
_Step = tuple[Any, ...]


class Outcomes:
    """What the children of one run of a worker have said, and the loop has not taken."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        #: What there is to tell, and how many bytes that has.
        self._steps: deque[tuple[int, _Step]] = deque()
        #: Bytes that were read or have their room; and how many of them the loop has taken, but may hold still.
        self._held = self.in_hand = 0
        #: Seconds of a job, in the mean.
        self.mean = 1.0

    # -- room ----------------------------------------------------------------------------------------------------------

    def has_room(self, child: Handle, *, others_wait: bool = False) -> bool:
        """Make room for the frame that is coming from a child; return False if it is to wait where it is."""
        size = child.incoming()
        if child.reserved or (size <= _SMALL and self._held < ROOM):
            return True
        if others_wait or (self._held and self._held + size > ROOM):
            return False
        child.reserved = size
        self._held += size
        return True

    def forget(self, child: Handle) -> None:
        """Give up the room for a frame that will not come."""
        self._held -= child.reserved
        child.reserved = 0

    def __len__(self) -> int:
        return len(self._steps)

    def release(self) -> None:
        """Note that the loop is done with what it took."""
        self._held -= self.in_hand
        self.in_hand = 0

    def take(self) -> list[_Step]:
        """Return what the loop is to do now: as much as the bound allows, or one thing that is larger."""
        taken: list[_Step] = []
        while self._steps and (not taken or self.in_hand + self._steps[0][0] <= ROOM):
            size, step = self._steps.popleft()
            self.in_hand += size
            taken.append(step)
        return taken

    def _keep(self, size: int, *step: Any) -> None:
        self._held += size
        self._steps.append((size, step))

    # -- what children say ---------------------------------------------------------------------------------------------

    def add(self, child: Handle, size: int, kind: int, *rest: Any) -> None:
        """Take in a frame that tells of jobs."""
        self.forget(child)
        size += _OVERHEAD
        if kind == Frame.DONE:
            self._add_done(child, *rest)
        elif kind == Frame.RESULT:
            self._add_result(child, size, Result(*rest))
        elif kind == Frame.STARTED:
            self._add_start(child, size, *rest)
        elif kind == Frame.LOG:
            self._add_log(child, size, *rest)

    def _add_start(self, child: Handle, size: int, number: int, job_id: Any, text: str) -> None:
        child.job_id, child.text = job_id, text
        if child.first() == number:
            self._keep(size, self._log_start, child.queue[0][1], job_id, text)

    def _add_log(self, child: Handle, size: int, fields: dict[str, Any], number: int, is_for_capture: bool) -> None:
        capture = child.capture(number, self._setting.most_lines) if number else None
        if capture is not None:
            capture.add(_formatter.format(logging.makeLogRecord(fields)))
        if not is_for_capture:
            self._keep(size, _log, fields)

    def _told(self, child: Handle, number: int, said: Said | None, outcome: Outcome) -> Outcome:
        """Return an outcome with what the run told of itself."""
        return with_report(outcome, said, child.capture(number, self._setting.most_lines))

    def _add_done(self, child: Handle, number: int, count: int, seconds: float) -> None:
        self.mean += (1 - (1 - _LATEST) ** count) * (seconds / count - self.mean)
        self.succeed_through(child, number)

    def succeed_through(self, child: Handle, number: int) -> None:
        """Settle what ended without anything to tell, up to a number: it succeeded."""
        # as ``Finished(message, None, _SUCCESS)``, several times faster: this happens to nearly every job
        finished = [_new(Finished, (message, None, _SUCCESS, None)) for message in child.pop_through(number)]
        if finished:
            self._keep(0, list.extend, finished)

    def _add_result(self, child: Handle, size: int, result: Result) -> None:
        self.succeed_through(child, result.number - 1)
        if child.first() != result.number:
            return
        late = child.expired
        if late is not None and late.number == result.number and result.ended > late.deadline:
            return  # the timeout is reported once the child is reaped
        self.mean += _LATEST * (result.ended - result.begun - self.mean)
        told = self._told(child, result.number, result.said, _SUCCESS)
        self._keep(size, self._finish_result, child.pop(), child.job_id, result, told)
        child.job_id, child.text = None, ""

    # -- what became of dead children ----------------------------------------------------------------------------------

    def expire(self, child: Handle) -> None:
        """Settle the first job of a dead child: its time was up, or it was cancelled."""
        late, is_read = child.expired, child.has_read(child.first())
        assert late is not None
        limit = late.deadline - late.since
        ran = Ran(child.job_id, "", time.monotonic() - late.since, limit, is_read)
        end = terminated() if child.kill_reason == "cancelled" else timed_out(limit)
        outcome = self._told(child, late.number, child.said(late.number), end)
        self._keep(0, self._finish, child.pop(), outcome, ran)

    def lose(self, child: Handle, how: str, status: int | None) -> None:
        """Settle the first job of a dead child: it went with the child."""
        number = child.first()
        is_read, message = child.has_read(number), child.pop()
        what = child.text or f"job {job_from_headers(message).id}"
        error = ChildLost(f"the child process {how} while it ran {what}", status)
        outcome = Outcome(FAILURE, None, error, f"kq.errors.ChildLost: {error}\n")
        outcome = self._told(child, number, child.said(number), outcome)
        self._keep(0, self._finish, message, outcome, Ran(child.job_id, is_read=is_read))

    def interrupt(self, child: Handle) -> None:
        """Settle the first job of a dead child: a stop has ended it, and it is to run again."""
        message = child.pop()
        self._keep(0, list.append, Finished(message, job_from_headers(message), None))

    def give_back(self, messages: list[Message]) -> None:
        """Settle what a stop has kept from starting: it is to run again."""
        self._keep(0, list.extend, [Finished(message, None, None) for message in messages])

    # -- for the loop, without the lock --------------------------------------------------------------------------------

    def _log_start(self, finished: list[Finished], message: Message, job_id: Any, text: str) -> None:
        log_processing(self._setting.logger, message)
        log_executing(self._setting.logger, message, job_id, text)

    def _finish_result(
        self, finished: list[Finished], message: Message, job_id: Any, result: Result, told: Outcome
    ) -> None:
        ran = Ran(job_id, result.text, result.ended - result.begun)
        if result.status == INVALID:
            self._finish_invalid(finished, message, result)
        elif result.status == SUCCESS:
            if result.stacktrace:
                log_unsent(message, job_id or job_from_headers(message).id, result.stacktrace)
            self._finish(finished, message, self._unpacked(message, result, told), ran)
        else:
            outcome = self._unpacked(message, result, told)
            is_expired = result.cause is not None and type_name(JobExpired) in result.cause[0]
            self._finish(finished, message, outcome, ran._replace(is_read=not is_expired))

    def _unpacked(self, message: Message, result: Result, told: Outcome) -> Outcome:
        """Return an outcome; what it holds is unpickled only where somebody is told of it."""
        packed, setting = result.packed, self._setting
        serializer = serializer_of(setting.deserialize, message.value)
        kept = packed if isinstance(packed, bytes) else None
        if result.status == SUCCESS:
            thing = unpack(packed, serializer, setting.hides) if setting.wants_outcome else None
            return told._replace(result=thing, packed=kept, unpacked=result.stacktrace)
        wants_error = setting.wants_outcome or setting.wants_errors
        error = unpack_error(result, serializer, setting.hides) if wants_error else None
        trace, cause = result.stacktrace, _cause(result)
        return told._replace(status=FAILURE, exception=error, stacktrace=trace, cause=cause, packed=kept)

    def _finish_invalid(self, finished: list[Finished], message: Message, result: Result) -> None:
        why = (result.text, result.stacktrace)
        invalid = Outcome(INVALID, cause=_cause(result))
        finished.append(Finished(message, None, invalid, why if result.is_unimportable else None))
        log_processing(self._setting.logger, message)
        if not result.is_unimportable:
            log_invalid(self._setting.logger, message, *why, hides=self._setting.hides)

    def _finish(self, finished: list[Finished], message: Message, outcome: Outcome, ran: Ran) -> None:
        finished.append(Finished(message, self._job(message, ran.is_read), outcome))
        if outcome.status != SUCCESS or ran.job_id is not None:
            job_id = job_from_headers(message).id if ran.job_id is None else ran.job_id
            log, hides = self._setting.logger, self._setting.hides
            log_outcome(log, message, job_id, outcome, ran.text, seconds=ran.seconds, limit=ran.limit, hides=hides)

    def _job(self, message: Message, is_read: bool) -> Any:
        """Return the job for the callback: where a child could unpickle it, this process probably can."""
        if not self._setting.wants_outcome:
            return None
        if not is_read:  # the attempt may have been what ended the child
            return job_from_headers(message)
        try:
            return job_of(message, self._setting)
        except BaseException as error:  # the door of user code: unpickling imports  # noqa: BLE001
            warn_own(
                "A job that a child could read cannot be read here: %s: %s",
                type(error).__name__,
                told(error, self._setting.hides),
            )
            return job_from_headers(message)


#: Makes lines of what is captured.
_formatter = logging.Formatter(FORMAT)


def _log(finished: list[Finished], fields: dict[str, Any]) -> None:
    record = logging.makeLogRecord(fields)
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)


def _cause(result: Result) -> Cause | None:
    if result.cause is None:
        return None
    return Cause(*result.cause)._replace(trace=result.stacktrace if result.status == INVALID else "")
