"""The retrier: has failed jobs run again, as their policy says.

1. ``judge`` decides, for each attempt that failed, whether there is another, and after how many seconds.
2. The message is published again, with the number of the next attempt: to ``T.later``, where it waits until it is due,
   or straight to ``T`` where there is no delay. Only when that is acknowledged is this attempt done.
3. Where the jobs behind it must wait for it, it is not published: it runs again in place, its lane closed until then.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable

from kq import signing
from kq.clients import topics
from kq.errors import Cancelled, ChildLost, GiveUp, JobExpired, PoisonMessage, RetryLater
from kq.executors import explained
from kq.job import INVALID, SUCCESS, TIMEOUT, Outcome
from kq.message import (
    HEADER_AT,
    HEADER_ATTEMPT,
    HEADER_ID,
    HEADER_KEY,
    HEADER_PARTITION,
    HEADER_RETRY,
    HEADER_TIMESTAMP,
    Headers,
    Message,
    Record,
    attempt_of,
    job_from_headers,
    millis_of,
    name_of,
)
from kq.producing import LATER, SUFFIX
from kq.retry import Retry
from kq.utils import type_name
from kq.working.backlog import Ordering
from kq.working.companions import Companion, Context, prepare_soon

__all__ = ["Retrier", "next_run"]

_logger = logging.getLogger("kq.retries")

#: What no policy has run again: it would end the same way.
_FINAL = frozenset(map(type_name, (Cancelled, GiveUp, JobExpired, PoisonMessage)))
_LOST, _ASKED = type_name(ChildLost), type_name(RetryLater)
#: Headers that are about one attempt alone.
_OF_ATTEMPT = frozenset((HEADER_AT, HEADER_ATTEMPT, HEADER_KEY, HEADER_PARTITION, HEADER_TIMESTAMP))


class Retrier(Companion):
    """Publishes what is to run again.

    :param default: For jobs that say nothing themselves.
    :param expect: Called when the first job is about to wait, and its topic comes into being.
    """

    answers_success = False

    def __init__(self, default: Retry | None, ordering: Ordering, expect: Callable[[], object]) -> None:
        self._default = default
        self._ordering = ordering
        self._expect = expect
        self._count = 0
        self._context = Context("", "", "", {})

    def open(self, context: Context) -> None:
        self._context = context
        self._later = f"{context.topic}.{SUFFIX}"
        self._is_expected = False
        if self._default is not None and self._default.waits and self._ordering != "partition":
            prepare_soon(self, self._later, "Retries", self._expect)

    def judge(self, message: Message, outcome: Outcome) -> tuple[Outcome, Message | None]:
        policy = self._policy(message, outcome)
        if policy is None or (seconds := _seconds_until_next(policy, attempt_of(message), outcome)) is None:
            return outcome, None
        again = self._again(message) if self._is_in_place(message, policy) else None
        return outcome._replace(retry_in=seconds), again

    def on_settled(self, message: Message, outcome: Outcome) -> Iterable[Record]:
        if outcome.retry_in is None:
            return ()
        self._count += 1
        self._tell(message, outcome.retry_in)
        policy = self._policy(message, outcome)
        if policy is not None and self._is_in_place(message, policy):
            return ()
        return [self._record(message, outcome.retry_in)]

    def on_refused(self, message: Message, record: Record, error: BaseException) -> Record | None:
        if isinstance(error, (AssertionError, ValueError)) and record.partition:  # T has got more partitions since
            where = (HEADER_PARTITION, b"%d" % message.partition)
            return self._context.signed(signing.LATER, record._replace(partition=0, headers=[where, *record.headers]))
        return None

    def prepare(self, topic: str) -> None:
        if topic == self._later:
            topics.companion_at(self._context.hosts, self._context.config, self._context.topic, SUFFIX, LATER)

    def stats(self) -> dict[str, float]:
        return {"retried": self._count}

    def _tell(self, message: Message, seconds: float) -> None:
        job_id, attempt = job_from_headers(message).id, attempt_of(message) + 1
        where = f"{name_of(message) or 'a function'}, topic {message.topic}, partition {message.partition}"
        line = "Job %s runs again in %.1f s, in attempt %d (%s, offset %d)"
        _logger.info(line, job_id, seconds, attempt, where, message.offset, extra={"job_id": job_id})

    def _policy(self, message: Message, outcome: Outcome) -> Retry | None:
        """Return what holds for a message that failed; None for nothing."""
        if outcome.status in (SUCCESS, INVALID):
            return None
        told = dict(message.headers).get(HEADER_RETRY)
        policy = Retry.from_header(told)
        if told is not None and policy is None:
            _logger.warning("Message %s of partition %s: its retry policy is not understood", message[2], message[1])
        if policy is None:
            policy = self._default
        return Retry() if policy is None and _ASKED in explained(outcome).kinds else policy

    def _is_in_place(self, message: Message, policy: Retry) -> bool:
        """Return whether others must wait for a message's next attempt, and it has a lane in which they do."""
        if self._ordering == "partition":
            return True
        return policy.ordered and self._ordering == "key" and bool(message.key)

    def _again(self, message: Message) -> Message:
        """Return a message as it runs again in place: verified as any other, and perhaps a letter in the end."""
        again = next_run(message)
        if self._context.signer is None:
            return again
        record = Record(again.topic, again.value, again.key, list(again.headers), None, 0)  # type: ignore[arg-type]
        return again._replace(headers=tuple(self._context.signed(signing.JOB, record).headers))

    def _record(self, message: Message, seconds: float) -> Record:
        now, headers = time.time(), _next_headers(message)
        assert message.value is not None
        if not seconds:
            again = Record(message.topic, message.value, message.key, headers, message.partition, int(now * 1000))
            return self._context.signed(signing.JOB, again)
        if not self._is_expected:
            self._is_expected = True
            self._expect()
        headers.insert(0, (HEADER_AT, b"%d" % ((now + seconds) * 1000)))
        if message.key is not None:
            headers.insert(1, (HEADER_KEY, message.key))
        name = b"job:%b:%d-%d" % (dict(message.headers).get(HEADER_ID, b""), message.partition, message.offset)
        record = Record(self._later, message.value, name, headers, message.partition, int(now * 1000))
        return self._context.signed(signing.LATER, record)


def _seconds_until_next(policy: Retry, attempt: int, outcome: Outcome) -> float | None:
    """Return the seconds between an attempt that failed and the next one; None if there is none."""
    cause = explained(outcome)
    if attempt > policy.max or not _FINAL.isdisjoint(cause.kinds) or not _covers(policy, outcome):
        return None
    if cause.delay is not None:
        return cause.delay
    return policy.delay_of(attempt) * random.uniform(1 - policy.jitter, 1 + policy.jitter)


def _covers(policy: Retry, outcome: Outcome) -> bool:
    kinds = explained(outcome).kinds
    if outcome.status == TIMEOUT:
        return policy.timeouts
    if _LOST in kinds:
        return policy.lost
    return _ASKED in kinds or policy.covers(kinds)


def next_run(message: Message) -> Message:
    """Return a message as its next attempt has it."""
    return message._replace(headers=tuple(_next_headers(message)))


def _next_headers(message: Message) -> Headers:
    """Return the headers of a message's next attempt."""
    timestamp = millis_of(message.headers, HEADER_TIMESTAMP)
    kept = [header for header in message.headers if header[0] not in _OF_ATTEMPT]
    headers = [*kept, (HEADER_ATTEMPT, b"%d" % (attempt_of(message) + 1))]
    enqueued = message.timestamp if timestamp is None else timestamp
    return headers if enqueued is None else [*headers, (HEADER_TIMESTAMP, b"%d" % enqueued)]
