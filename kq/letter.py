"""Dead letters: messages that failed for good, as records of a topic of their own.

1. A worker makes a letter of a message: value and headers as they were, and beside them what became of it.
2. ``parsed`` reads one back. Other programs may write there: every field is checked and bounded, nothing is unpickled.
3. ``original`` is what goes onto the job's topic again; ``marked`` is the letter after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple, get_args

from kq.message import (
    HEADER_AT,
    HEADER_ATTEMPT,
    HEADER_EXPIRES,
    HEADER_RENEWED,
    Headers,
    Message,
    Record,
    attempt_of,
    millis_of,
)

__all__ = [
    "DEAD",
    "REPLAYED_FROM",
    "SUFFIX",
    "DeadLetter",
    "Glance",
    "Reason",
    "glance",
    "letter_id",
    "letter_of",
    "marked",
    "original",
    "parsed",
    "renewed",
    "without_value",
]

#: What the name of the topic has behind the name of the jobs'.
SUFFIX = "dead"
#: Its settings: letters are kept for 30 days, by the time at which they came.
DEAD: Mapping[str, str] = {
    "cleanup.policy": "compact,delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": "2592000000",
}
#: Why a message is dead.
Reason = Literal["invalid", "failure", "timeout", "lost", "poison", "expired"]
REASONS: tuple[Reason, ...] = get_args(Reason)
#: The header of a job that was a letter: its ID.
REPLAYED_FROM = "kq-replayed-from"

#: How the headers begin that the letter has beside the original's.
_PREFIX = "kq-dead-"
_KEY, _TIMESTAMP, _REASON, _ERROR = "kq-dead-key", "kq-dead-timestamp", "kq-dead-reason", "kq-dead-error"
_TRACEBACK, _ATTEMPTS, _ORIGIN = "kq-dead-traceback", "kq-dead-attempts", "kq-dead-origin"
_AT, _WORKER, _VALUE, _REPLAYED = "kq-dead-at", "kq-dead-worker", "kq-dead-value", "kq-dead-replayed"
_GLANCED = frozenset((_ORIGIN, _REASON, _AT, _REPLAYED))
#: What the header says of a value that is not in the letter.
_NULL, _LEFT_OUT = b"null", b"left out"
#: Bytes of the error's text and, from its end, of the traceback.
_LONGEST_ERROR, _LONGEST_TRACEBACK = 1000, 8000
#: Headers of the original that a job which begins anew has not: it may have expired, or would be the fourth attempt.
_NOT_AGAIN = frozenset((HEADER_AT, HEADER_ATTEMPT, HEADER_EXPIRES, HEADER_RENEWED, REPLAYED_FROM))
#: The latest time that a letter can have: the last millisecond of the year 9999.
_LATEST = 253_402_300_799_999


class DeadLetter(NamedTuple):
    """A message that failed for good.

    :param id: ``<topic>-<partition>-<offset>`` of the delivery that was given up.
    :param reason: ``"invalid"``, ``"failure"``, ``"timeout"``, ``"lost"`` (its child died), ``"poison"`` (its runs
        killed the worker) or ``"expired"``.
    :param error: Dotted type and message of the exception, at most 1 kB.
    :param traceback: The end of its traceback, at most 8 kB.
    :param attempts: How many times it was tried.
    :param topic: The topic of the jobs, like ``partition`` and ``offset`` of the delivery that was given up.
    :param at: When it was given up.
    :param worker: Which worker did: host and process ID.
    :param key: The key of the original, raw bytes, or None.
    :param value: The value of the original. None for a tombstone, and where it is left out.
    :param headers: The headers of the original, pairs of (name, value).
    :param timestamp: The original record's timestamp in Unix milliseconds, or None.
    :param replayed_at: When it was put onto its topic again; None if it was not.
    :param is_left_out: The value is too large for the topic of letters: it is at the original's place only.
    """

    id: str
    reason: Reason
    error: str
    traceback: str
    attempts: int
    topic: str
    partition: int
    offset: int
    at: datetime
    worker: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int | None
    replayed_at: datetime | None = None
    is_left_out: bool = False


class Glance(NamedTuple):
    """What a letter is found by; times in Unix milliseconds."""

    id: str
    topic: str
    partition: int
    offset: int
    reason: Reason
    at: int
    replayed: int | None


def letter_id(message: Message) -> str:
    """Return the ID of a message's letter: a repeat of the delivery has the same."""
    return f"{message.topic}-{message.partition}-{message.offset}"


def letter_of(
    topic: str, message: Message, reason: Reason, *, error: str, traceback: str, worker: str, now: int
) -> Record:
    """Return the record of a letter.

    :param topic: The topic of letters.
    :param now: Unix milliseconds.
    """
    own: Headers = [
        (_REASON, reason.encode()),
        (_ERROR, _bytes(error)[:_LONGEST_ERROR]),
        (_TRACEBACK, _bytes(traceback)[-_LONGEST_TRACEBACK:]),
        (_ATTEMPTS, b"%d" % attempt_of(message)),
        (_ORIGIN, _bytes(f"{message.topic}/{message.partition}/{message.offset}")),
        (_AT, b"%d" % now),
        (_WORKER, _bytes(worker)),
    ]
    if message.timestamp is not None:
        own.append((_TIMESTAMP, b"%d" % message.timestamp))
    if message.key is not None:
        own.append((_KEY, message.key))
    if message.value is None:
        own.append((_VALUE, _NULL))
    headers = [header for header in message.headers if not header[0].startswith(_PREFIX)] + own
    return Record(topic, message.value or b"", _bytes(letter_id(message)), headers, None, now)


def without_value(record: Record) -> Record:
    """Return a letter that is small enough for any topic."""
    return record._replace(value=b"", headers=[*record.headers, (_VALUE, _LEFT_OUT)])


def glance(record: Any) -> Glance | None:
    """Return by what a letter is found; None where a record holds none. Much cheaper than to parse it.

    :param record: A ``ConsumerRecord``, or another object with ``key``, ``value`` and ``headers``.
    """
    told: dict[str, bytes] = {name: value or b"" for name, value in record.headers if name in _GLANCED}
    topic, partition, offset = _origin(told.get(_ORIGIN, b""))
    reason, at = _text(told, _REASON), millis_of(told.items(), _AT)
    if not record.key or record.value is None or topic is None or reason not in REASONS or at is None:
        return None
    replayed = millis_of(told.items(), _REPLAYED)
    return Glance(record.key.decode("utf-8", "replace"), topic, partition, offset, reason, at, replayed)


def parsed(record: Any) -> DeadLetter | None:
    """Return the letter of a record; None where it holds none.

    :param record: As for ``glance``.
    """
    seen = glance(record)
    if seen is None:
        return None
    told: dict[str, bytes] = {name: value or b"" for name, value in record.headers}
    return DeadLetter(
        id=seen.id,
        reason=seen.reason,
        error=_text(told, _ERROR)[:_LONGEST_ERROR],
        traceback=_text(told, _TRACEBACK)[-_LONGEST_TRACEBACK:],
        attempts=millis_of(record.headers, _ATTEMPTS) or 1,
        topic=seen.topic,
        partition=seen.partition,
        offset=seen.offset,
        at=_moment(seen.at),
        worker=_text(told, _WORKER),
        key=told.get(_KEY),
        value=None if _VALUE in told else record.value,
        headers=tuple((name, value) for name, value in record.headers if not name.startswith(_PREFIX)),
        timestamp=millis_of(record.headers, _TIMESTAMP),
        replayed_at=None if seen.replayed is None else _moment(seen.replayed),
        is_left_out=told.get(_VALUE) == _LEFT_OUT,
    )


def original(letter: DeadLetter, now: int) -> Headers:
    """Return the headers with which a letter's message begins anew, at its first attempt.

    :param now: Unix milliseconds.
    """
    return [*renewed(letter.headers, now), (REPLAYED_FROM, _bytes(letter.id))]


def renewed(headers: Iterable[tuple[str, bytes]], now: int) -> Headers:
    """Return the headers with which a message begins anew, at its first attempt.

    :param now: Unix milliseconds.
    """
    kept = [header for header in headers if header[0] not in _NOT_AGAIN]
    return [*kept, (HEADER_RENEWED, b"%d" % now)]


def marked(headers: Iterable[tuple[str, bytes]], now: int) -> Headers:
    """Return the headers of a letter's record that is replayed, from those before.

    :param now: Unix milliseconds.
    """
    return [*(header for header in headers if header[0] != _REPLAYED), (_REPLAYED, b"%d" % now)]


def _origin(text: bytes) -> tuple[str | None, int, int]:
    topic, _, rest = text.decode("utf-8", "replace").partition("/")
    partition, _, offset = rest.partition("/")
    if topic and all(number.isascii() and number.isdigit() and len(number) < 20 for number in (partition, offset)):
        return topic, int(partition), int(offset)
    return None, 0, 0


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(min(millis, _LATEST) / 1000, timezone.utc)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _text(told: Mapping[str, bytes], name: str) -> str:
    return told.get(name, b"").decode("utf-8", "replace")
