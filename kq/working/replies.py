"""Replies: what became of each job goes to the topic of results, before its message is done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence

from kafka.errors import MessageSizeTooLargeError

from kq.clients import topics
from kq.errors import Cancelled, JobExpired, KQError
from kq.executors import explained, is_asked, pack_error
from kq.job import FAILURE, SUCCESS, Outcome
from kq.message import HEADER_ID, Headers, Message, Record, attempt_of
from kq.resulting import RESULTS, SUFFIX, headers_of, too_large, with_content_type
from kq.signing import RESULT
from kq.utils import type_name
from kq.working.companions import Companion, Context, prepare_soon

__all__ = ["Replies"]

#: What ends of KQ's own are called.
_ENDS: Mapping[str, str] = {type_name(Cancelled): "cancelled", type_name(JobExpired): "expired"}
#: Bytes that a record needs besides its key, its value and its headers, at least.
_FRAME = 70


class Replies(Companion):
    """Publishes results, and what happens to jobs before they end.

    :param only_asked: Whether only of jobs that were enqueued with ``Queue(results=True)``.
    """

    def __init__(self, *, only_asked: bool) -> None:
        self._only_asked = only_asked
        self._count = self._too_large = 0
        #: Bytes that a record of the topic may have; None while that is not known.
        self._limit: int | None = None

    def open(self, context: Context) -> None:
        self._context = context
        self._topic = f"{context.topic}.{SUFFIX}"
        if context.hosts:  # without a broker, as in tests, there is none to be made
            prepare_soon(self, self._topic, "Results")

    def prepare(self, topic: str) -> None:
        context = self._context
        topics.companion_at(context.hosts, context.config, context.topic, SUFFIX, RESULTS)
        self._limit = topics.limit_at(context.hosts, context.config, topic)

    def on_begun(self, message: Message, since: float) -> None:
        self._tell(message, headers_of("started", attempt=attempt_of(message)))

    def on_progress(self, message: Message, fraction: float | None, text: str) -> None:
        headers = headers_of("progress", attempt=attempt_of(message), fraction=fraction, note=text or None)
        self._tell(message, headers)

    def on_logs(self, message: Message, lines: Sequence[str]) -> None:
        value = json.dumps(lines).encode("ascii", "replace")
        self._tell(message, headers_of("logs", attempt=attempt_of(message)), value)

    def on_settled(self, message: Message, outcome: Outcome) -> Iterable[Record]:
        job_id = self._id(message)
        if job_id is None:
            return ()
        if outcome.retry_in is not None:
            self._tell(message, self._headers(message, outcome, "retried"))
            return ()
        self._count += 1
        if outcome.status == SUCCESS:
            value = outcome.packed or b""
            headers = with_content_type(self._success_headers(message, outcome), value)
            return [self._record(message, job_id, headers, value)]
        packed = outcome.packed
        if packed is None and outcome.status == FAILURE and isinstance(outcome.exception, KQError):
            packed = pack_error(outcome.exception)  # of the worker's own making
        end = next((_ENDS[kind] for kind in explained(outcome).kinds if kind in _ENDS), outcome.status)
        return [self._record(message, job_id, self._headers(message, outcome, end), packed or b"")]

    def on_refused(self, message: Message, record: Record, error: BaseException) -> Record | None:
        if isinstance(error, (AssertionError, ValueError)) and record.partition is not None:
            return record._replace(partition=None)  # the topic of jobs has got more partitions since
        smaller = self._smaller(record, error)
        return None if smaller is None else self._context.signed(RESULT, smaller)

    def _smaller(self, record: Record, error: BaseException) -> Record | None:
        """Return the end of a job that is too large without its value; and if that does not help, in brief."""
        if not isinstance(error, MessageSizeTooLargeError):
            return None
        if not record.value:
            return record._replace(headers=[header for header in record.headers if not header[0].endswith("traceback")])
        self._too_large += 1
        size = _FRAME + len(record.key or b"") + len(record.value)
        size += sum(len(name) + len(value) + 2 for name, value in record.headers)
        return record._replace(value=b"", headers=too_large(record.headers, size, self._limit))

    def stats(self) -> dict[str, float]:
        return {"published": self._count, "too_large": self._too_large}

    def _id(self, message: Message) -> bytes | None:
        """Return the ID of a message's job, if its result is wanted; None for a job that is known by none."""
        if self._only_asked and not is_asked(message):
            return None
        return next((text for name, text in message.headers if name == HEADER_ID), None)

    def _success_headers(self, message: Message, outcome: Outcome) -> Headers:
        attempt = attempt_of(message)
        if outcome.packed is not None and attempt == 1:
            return [_SUCCESS]
        why = None if outcome.packed is not None else ("", outcome.unpacked)
        return headers_of(SUCCESS, attempt=attempt, error=why)

    def _headers(self, message: Message, outcome: Outcome, event: str) -> Headers:
        cause = explained(outcome)
        delay = None if outcome.retry_in is None else int(outcome.retry_in * 1000)
        error = cause.kinds[0] if cause.kinds else "", cause.text
        trace = outcome.stacktrace or cause.trace
        return headers_of(event, attempt=attempt_of(message), error=error, trace=trace, delay=delay)

    def _record(self, message: Message, job_id: bytes, headers: Headers, value: bytes) -> Record:
        # to find a partition by the key would cost as much as all the rest
        record = Record(self._topic, value, job_id, headers, message.partition, int(time.time() * 1000))
        return self._context.signed(RESULT, record)

    def _tell(self, message: Message, headers: Headers, value: bytes = b"") -> None:
        job_id = self._id(message)
        if job_id is not None:
            self._context.tell(self, self._record(message, job_id, headers, value))


(_SUCCESS,) = headers_of(SUCCESS)
