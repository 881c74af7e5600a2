"""Recording: what a worker sees of each message goes to a message log.

1. In the loop's thread starts are noted, and ends become rows, a turn's at once. To keep messages for another thread
   would cost more: its caches are cold, and the garbage collector would look through them again and again.
2. A start waits for its end for a moment: most jobs are short, and then one row tells of both. Of what runs for longer
   the thread of the store makes a row.
3. At a stop what was put is written, as far as there is time; the worker is known to have ended.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any

from kq.errors import Cancelled, JobExpired
from kq.executors import Finished, explained
from kq.job import INVALID, SUCCESS, TIMEOUT, Outcome
from kq.message import (
    HEADER_ATTEMPT,
    HEADER_FUNC,
    HEADER_ID,
    HEADER_RENEWED,
    HEADER_TASK_TYPE,
    HEADER_TIMESTAMP,
    Message,
    millis_in,
)
from kq.messagelog import MOST_ATTEMPTS, LogStatus, MessageStore, Row, brief, cleaned, position, size_of
from kq.signing import HEADER_SIGNATURE, HEADER_SIGNED_AT
from kq.utils import MASKED, type_name
from kq.working.companions import Companion, Context

__all__ = ["Recording"]

_logger = logging.getLogger("kq.message_log")

#: Seconds that a start waits for its end. With what a recorder takes to write, a start is known within a second.
HOLD = 0.5
#: Characters of a job's ID, of its function's name, of an exception, and of the end of a traceback.
_LONGEST_ID, _LONGEST_NAME, _LONGEST_ERROR, _LONGEST_TRACEBACK, _LONGEST_LOGS = 255, 200, 4_000, 32_000, 64_000
#: What is known to end a job that was called off.
_CANCELLED = "kq.errors.Cancelled"
_EXPIRED, _CANCELLED = type_name(JobExpired), type_name(Cancelled)
_CANCELLED = type_name(Cancelled)
_COMPLETED_FIRST = position("COMPLETED")
#: Headers behind those of a plain job, where it is signed.
_SIGNED = HEADER_SIGNED_AT, HEADER_SIGNATURE
#: Names that are remembered, and rows that are handed on at once.
_MOST_NAMES, _AT_ONCE = 1_000, 64


class Recording(Companion):
    """Writes a message log.

    :param given: Where to; with an address, the store is made, and closed, by this.
    :param has_letters: Whether what fails for good becomes a dead letter.
    """

    def __init__(self, given: MessageStore | str, has_letters: bool) -> None:
        self._given = given
        self._has_letters = has_letters

    def open(self, context: Context) -> None:
        self._store = self._given if isinstance(self._given, MessageStore) else MessageStore(self._given)
        worker = f"{socket.gethostname()}:{os.getpid()}-{os.urandom(3).hex()}"
        mask = MASKED if self._store.mask_arguments or context.hides else None
        self._rows = Rows(worker, self._has_letters, mask, hides_keys=context.hides)
        self._feed = self._store.feed(self._rows.handed_on, worker)

    def on_started_many(self, messages: Sequence[Message]) -> None:
        self._rows.note_starts(messages, int(time.time() * 1000))

    def on_ended(self, ended: Sequence[Finished]) -> None:
        rows = self._rows.of_ends(ended, int(time.time() * 1000))
        self._feed.put(rows, len(rows), sum(map(size_of, rows)))

    def stats(self) -> Mapping[str, float]:
        return {"dropped": self._store.dropped}

    def stop(self, deadline: float) -> None:
        if not self._store.remove(self._feed, deadline - time.monotonic()):
            _logger.error("Not all entries of the message log could be written before the end")
        if self._store is not self._given:
            self._store.close(max(0.0, deadline - time.monotonic()))


class Rows:
    """Makes rows of what a worker sees. Belongs to the loop's thread, but for ``handed_on``.

    :param mask: Stands for what jobs return; None where that may be shown.
    :param hides_keys: Whether keys stay out.
    """

    def __init__(self, worker: str, has_letters: bool, mask: str | None = None, *, hides_keys: bool = False) -> None:
        self._hides_keys = hides_keys
        self._mask = mask
        self._worker = worker
        self._has_letters = has_letters
        #: What has no end, and when it was started, by the identity of its message, oldest first: that of which no row
        #: was made, and that of which one was.
        self._fresh: dict[int, tuple[int, Message]] = {}
        self._told: dict[int, tuple[int, Message]] = {}
        #: Names of functions, as they travel and as text: there are few.
        self._names: dict[bytes, str] = {}

    def note_starts(self, messages: Sequence[Message], now: int) -> None:
        """Note that the jobs of messages have started.

        :param now: Unix milliseconds.
        """
        self._fresh.update(zip(map(id, messages), zip(repeat(now), messages)))  # noqa: B905 - repeat has no end

    def handed_on(self, batches: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Yield rows that were put, and those of what has run for long. From the thread of the store."""
        rows = list[Row]()
        for batch in batches:
            rows += batch
            if len(rows) >= _AT_ONCE:  # a turn of an inline executor has one
                yield rows
                rows = []
        yield rows + self._late_starts(int((time.time() - HOLD) * 1000))

    def _late_starts(self, before: int) -> list[Row]:
        """Return rows of what has run since a time. The loop goes on meanwhile: whoever takes a start has it."""
        rows = []
        with suppress(StopIteration, RuntimeError):  # there is none, or one has come at this moment: next time
            while True:
                name, start = next(iter(self._fresh.items()))
                if start[0] > before:
                    break
                self._told[name] = start
                if self._fresh.pop(name, None) is None:  # it has ended
                    self._told.pop(name, None)
                else:
                    rows.append(self._row(start[1], "IN_PROGRESS", start[0], None))
        return rows

    def _begun(self, message: Message) -> int | None:
        """Forget the start of a message that has ended, and return when it was."""
        found = self._fresh.pop(id(message), None) or self._told.pop(id(message), None)
        return None if found is None else found[0]

    def of_ends(self, ended: Sequence[Finished], now: int) -> list[Row]:
        """Return the rows of ends. Nearly all are plain successes, for which this takes a third of the usual time.

        :param now: Unix milliseconds.
        """
        rows, names = list[Row](), self._names
        for message, job, outcome, why in ended:
            headers = message[6]
            is_plain = outcome is not None and outcome[0] == SUCCESS and outcome[1] is None and not outcome[8]
            if is_plain and (len(headers) == 2 or (len(headers) == 4 and (headers[2][0], headers[3][0]) == _SIGNED)):
                (first, name), (second, func) = headers[:2]
                if first == HEADER_ID and second == HEADER_FUNC and func in names and name.isalnum() and len(name) < 99:
                    topic, partition, offset, key, _, timestamp, _ = message
                    key = None if self._hides_keys else key
                    function, begun = names[func], self._begun(message)
                    rows.append(
                        (
                            *(name.decode(), _COMPLETED_FIRST, "COMPLETED", 1, topic, partition, offset, key),
                            *(function, function, timestamp, begun, now, self._worker),
                        )
                    )
                    continue
            rows.append(self._end(Finished(message, job, outcome, why), now))
        return rows

    def _end(self, one: Finished, now: int) -> Row:
        message, _, outcome, _ = one
        assert outcome is not None
        begun = self._begun(message)
        if outcome.status == SUCCESS:
            row = self._row(message, "COMPLETED", begun, now)
            if outcome.result is None and not outcome.logs:
                return row
            result = None if outcome.result is None else self._mask or brief(outcome.result)
            return (*row, None, result, None, None, _lines(outcome))
        cause = explained(outcome)
        error = f"{cause.kinds[0] if cause.kinds else outcome.status}: {cause.text}"
        traceback = cleaned(outcome.stacktrace or cause.trace or None, _LONGEST_TRACEBACK, end=True)
        row = self._row(message, self._status(outcome, cause.kinds), begun, now)
        return (*row, None, None, cleaned(error, _LONGEST_ERROR), traceback, _lines(outcome))

    def _status(self, outcome: Outcome, kinds: Sequence[str]) -> LogStatus:
        """Return the status of what was no success."""
        if outcome.retry_in is not None:
            return "RETRIED"
        if _CANCELLED in kinds:
            return "CANCELLED"
        if self._has_letters:
            return "DEAD"
        if outcome.status == INVALID:
            return "INVALID"
        if outcome.status == TIMEOUT:
            return "TIMED_OUT"
        if _EXPIRED in kinds:
            return "EXPIRED"
        return "CANCELLED" if _CANCELLED in kinds else "FAILED"

    def _row(self, message: Message, status: LogStatus, begun: int | None, ended: int | None) -> Row:
        topic, partition, offset, key, _, timestamp, headers = message
        key = None if self._hides_keys else key
        attempt, place, told = 1, _COMPLETED_FIRST, dict(headers)
        name, func = told.get(HEADER_ID), told.get(HEADER_FUNC)
        job_id = f"{topic}-{partition}-{offset}" if name is None else _text(name, _LONGEST_ID)
        function = task_type = None if func is None else self._names.get(func) or self._name(func)
        if len(told) > (name is not None) + (func is not None):
            task_type = self._name(told[HEADER_TASK_TYPE]) if HEADER_TASK_TYPE in told else function
            attempt = min(max(1, millis_in(told.get(HEADER_ATTEMPT)) or 1), MOST_ATTEMPTS)
            timestamp = millis_in(told.get(HEADER_TIMESTAMP)) or timestamp
            place = position(status, attempt, millis_in(told.get(HEADER_RENEWED)) or 0)
        elif status != "COMPLETED":
            place = position(status)
        return (
            *(job_id, place, status, attempt, topic, partition, offset, key, task_type, function),
            *(timestamp, begun, ended, self._worker),
        )

    def _name(self, told: bytes) -> str:
        if len(self._names) >= _MOST_NAMES:  # another program's may be endless
            self._names.clear()
        text = self._names[told] = _text(told, _LONGEST_NAME)
        return text


def _lines(outcome: Outcome) -> str | None:
    """Return what a run has logged, as one text; None if that is nothing, or nobody captures it."""
    return cleaned("\n".join(outcome.logs), _LONGEST_LOGS, end=True) if outcome.logs else None


def _text(told: bytes, longest: int) -> str:
    if told.isalnum() and len(told) <= longest:  # as nearly all are: it is clean
        return told.decode()
    text: Any = cleaned(told.decode("utf-8", "replace"), longest)
    return str(text)
