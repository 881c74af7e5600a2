"""Events: what is told of a job in the topic of results, as records and back.

All records of a job have its ID as their key. The header ``kq-event`` says what happened; the value is a pickled result
or exception, or lines of a log. Nothing here unpickles but ``JobEvent.outcome``, which somebody asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from kq.errors import (
    Cancelled,
    ChildTraceback,
    JobExpired,
    JobInvalid,
    JobTimeout,
    KQError,
    RemoteError,
    ResultTooLarge,
    ResultUnreadable,
)
from kq.message import HEADER_ATTEMPT, HEADER_CONTENT_TYPE, Headers, millis_in
from kq.serializers import JSON, JSONSerializer, safe_loads
from kq.utils import safe_str

__all__ = ["FINAL", "RESULTS", "SUFFIX", "JobEvent", "event_of", "headers_of", "too_large", "with_content_type"]

#: What the name of a topic of results ends in, and its settings. By the broker's clock it is known since when to read.
SUFFIX = "results"
RESULTS: Mapping[str, str] = {
    "cleanup.policy": "delete",
    "retention.ms": "86400000",
    "message.timestamp.type": "LogAppendTime",
}
Kind = Literal["started", "progress", "retried", "logs", "finished"]
Final = Literal["success", "failure", "timeout", "invalid", "cancelled", "expired"]
#: Events that are a job's end; the first one counts.
FINAL: tuple[str, ...] = ("success", "failure", "timeout", "invalid", "cancelled", "expired")
_KINDS = {**dict.fromkeys(FINAL, "finished"), **{kind: kind for kind in ("started", "progress", "retried", "logs")}}

#: What happened; what an exception is called, its text, and its traceback; how many bytes a result would have needed,
#: and how many a record may have; of progress, a fraction and a text; and after how many milliseconds a job runs again.
EVENT = "kq-event"
TYPE, TEXT, TRACE = "kq-error-type", "kq-error", "kq-traceback"
SIZE, LIMIT = "kq-size", "kq-limit"
FRACTION, NOTE = "kq-fraction", "kq-note"
DELAY = "kq-delay"
#: Bytes of an exception's text and of a traceback that travel.
_LONGEST_TEXT, _LONGEST_TRACE = 4_000, 16_000

#: What a pickle begins with, and no JSON does; and what reads JSON of which nothing is known.
_PICKLE, _PLAIN = b"\x80", JSONSerializer(())
#: What is raised where a job ended without a value, by its end.
_ERRORS: Mapping[str, type[KQError]] = {
    "timeout": JobTimeout,
    "invalid": JobInvalid,
    "expired": JobExpired,
    "cancelled": Cancelled,
}


class JobEvent(NamedTuple):
    """Something that happened to a job.

    :param id: Job ID.
    :param kind: ``"started"``, ``"progress"``, ``"retried"``, ``"logs"`` or ``"finished"``.
    :param status: Of one that finished: ``"success"``, ``"failure"``, ``"timeout"``, ``"invalid"``, ``"cancelled"`` or
        ``"expired"``; else None.
    :param attempt: The number of the run, from 1.
    :param timestamp: When the broker was told, in Unix milliseconds.
    :param fraction: How far it is, as a fraction of 1; None where that is not known.
    :param text: What it does, for people; of a failure, the exception's text.
    :param lines: Lines that it has logged.
    :param retry_in: Of a failed attempt: seconds until the next one.
    :param error: Of a failure: the dotted name of the exception's class; else None.
    :param traceback: Of a failure: the traceback, as text; else None.
    :param value: The result or the exception, pickled; nothing has unpickled it.
    :param size: Of a result that was too large: bytes that it would have needed; else None.
    :param limit: Bytes that the topic takes; None where that is not known.
    """

    id: str
    kind: Kind
    status: Final | None = None
    attempt: int = 1
    timestamp: int = 0
    fraction: float | None = None
    text: str = ""
    lines: tuple[str, ...] = ()
    retry_in: float | None = None
    error: str | None = None
    traceback: str | None = None
    value: bytes = b""
    size: int | None = None
    limit: int | None = None

    def __repr__(self) -> str:
        fields = zip(type(self).__annotations__, self, strict=True)
        said = {name: value for name, value in fields if value not in (None, "", (), b"")}
        if self.value:
            said["value"] = f"<{len(self.value)} bytes>"
        return f"JobEvent({', '.join(f'{name}={value!r}' for name, value in said.items())})"

    def outcome(self, serializer: JSONSerializer | None = None) -> Any:
        """Return what the job returned; raise what it raised.

        Without a serializer this unpickles a value that is a pickle: only where you trust who may write to the topic.

        :param serializer: Reads the results of jobs as JSON, and nothing is unpickled.
        :raises kq.RemoteError: It raised something that cannot be built again here.
        :raises kq.JobTimeout: It ran longer than it may.
        :raises kq.JobInvalid: Its message held no job that could be run.
        :raises kq.JobExpired: It had not started in time.
        :raises kq.Cancelled: It was cancelled.
        :raises kq.ResultTooLarge: It succeeded; its result is larger than the topic takes.
        :raises kq.ResultUnreadable: It succeeded; its result cannot be unpickled here, or could not be pickled.
        """
        if self.kind != "finished":
            raise KQError(f"job {self.id} has no outcome: it has not finished")
        if self.status == "success":
            return self._result(serializer)
        raise self._exception(serializer)

    def _result(self, serializer: JSONSerializer | None) -> Any:
        if self.size is not None:
            limit = "takes" if self.limit is None else f"takes at most {self.limit} bytes"
            needs = f"its record would have {self.size} bytes"
            raise ResultTooLarge(
                f"the result of job {self.id} is too large: {needs}, and the topic {limit}", *self[12:]
            )
        if not self.value:
            raise ResultUnreadable(f"the result of job {self.id} could not be pickled where it ran: {self.text}")
        try:
            return _read(self.value, serializer)
        except BaseException as error:  # the door of user code: unpickling imports
            why = f"{type(error).__name__}: {safe_str(error)}"
            raise ResultUnreadable(f"the result of job {self.id} cannot be read here: {why}") from error

    def _exception(self, serializer: JSONSerializer | None) -> BaseException:
        known = _ERRORS.get(str(self.status))
        error: Any = None if known is None else known(self.text or f"job {self.id} ended as {self.status}")
        if error is None:
            try:
                error = _read(self.value, serializer) if self.value and serializer is None else None
            except BaseException:  # noqa: BLE001 - the door of user code: the exception is told in words
                error = None
        if not isinstance(error, BaseException):
            error = RemoteError(self.error or "", self.text, self.traceback or "")
        if isinstance(error, RemoteError):
            error.traceback = error.traceback or self.traceback or ""
        if self.traceback:
            BaseException.__setattr__(error, "__cause__", ChildTraceback(self.traceback))
        return error  # type: ignore[no-any-return]


def _read(value: bytes, serializer: JSONSerializer | None) -> Any:
    """Return what a value stands for: a pickle, or JSON. What is JSON is never unpickled."""
    if value[:1] == _PICKLE and serializer is None:
        return safe_loads(value)
    return (serializer or _PLAIN).unpack(value)


def headers_of(
    event: str, *, attempt: int = 1, error: tuple[str, str] | None = None, trace: str = "", **more: object
) -> Headers:
    """Return the headers of an event.

    :param error: The dotted name of an exception's class, and its text.
    :param more: Further headers, by their names without ``kq-``; None for those that are to be left out.
    """
    headers: Headers = [(EVENT, event.encode())]
    if attempt > 1:
        headers.append((HEADER_ATTEMPT, b"%d" % attempt))
    if error is not None:
        kind, text = (part.encode("utf-8", "replace") for part in error)
        headers += [(TYPE, kind), (TEXT, text[:_LONGEST_TEXT])]
    if trace:
        headers.append((TRACE, trace.encode("utf-8", "replace")[-_LONGEST_TRACE:]))
    headers += [
        (f"kq-{name}", str(value).encode("utf-8", "replace")) for name, value in more.items() if value is not None
    ]
    return headers


def with_content_type(headers: Headers, value: bytes) -> Headers:
    """Return the headers of an end with what its value is, where that is JSON."""
    return headers if not value or value[:1] == _PICKLE else [*headers, (HEADER_CONTENT_TYPE, JSON)]


def too_large(headers: Sequence[tuple[str, bytes]], size: int, limit: int | None) -> Headers:
    """Return the headers of an end whose value was too large for the topic."""
    more: Headers = [(SIZE, b"%d" % size), *([] if limit is None else [(LIMIT, b"%d" % limit)])]
    return [*headers, *more]


def event_of(record: Any) -> JobEvent | None:
    """Return what a record of a consumer tells of a job; None where it is another program's."""
    headers = dict(record.headers)
    event = headers.get(EVENT, b"").decode("ascii", "replace")
    kind: Any = _KINDS.get(event)
    if kind is None or record.key is None:
        return None
    value = record.value or b""
    delay = millis_in(headers.get(DELAY))
    return JobEvent(
        id=record.key.decode("utf-8", "replace"),
        kind=kind,
        status=event if kind == "finished" else None,
        attempt=max(1, millis_in(headers.get(HEADER_ATTEMPT)) or 1),
        timestamp=record.timestamp or 0,
        fraction=_fraction(headers.get(FRACTION)),
        text=_text(headers.get(NOTE if kind == "progress" else TEXT)) or "",
        lines=_lines(value) if kind == "logs" else (),
        retry_in=None if delay is None else delay / 1000,
        error=_text(headers.get(TYPE)),
        traceback=_text(headers.get(TRACE)),
        value=value if kind == "finished" else b"",
        size=millis_in(headers.get(SIZE)),
        limit=millis_in(headers.get(LIMIT)),
    )


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


def _fraction(data: bytes | None) -> float | None:
    try:
        fraction = float(data or b"nan")
    except ValueError:  # another program's
        return None
    return fraction if 0 <= fraction <= 1 else None


def _lines(value: bytes) -> tuple[str, ...]:
    try:
        lines = json.loads(value)
    except ValueError:  # another program's
        return ()
    return tuple(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ()
