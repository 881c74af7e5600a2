"""Letters: what failed for good goes to a topic of its own, before its message is done."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping

from kafka.errors import MessageSizeTooLargeError

from kq import signing
from kq.clients import topics
from kq.errors import Cancelled, ChildLost, JobExpired, PoisonMessage
from kq.executors import explained
from kq.job import INVALID, SUCCESS, TIMEOUT, Outcome
from kq.letter import DEAD, SUFFIX, Reason, letter_id, letter_of, without_value
from kq.message import Message, Record
from kq.utils import type_name
from kq.working.companions import Companion, Context, prepare_soon

__all__ = ["Letters"]

_logger = logging.getLogger("kq.dead_letters")

_CANCELLED = type_name(Cancelled)
#: What failures of KQ's own are called.
_REASONS: Mapping[str, Reason] = {
    type_name(ChildLost): "lost",
    type_name(JobExpired): "expired",
    type_name(PoisonMessage): "poison",
}


class Letters(Companion):
    """Publishes dead letters.

    :param topic: Where to; beside the topic of the jobs if left out.
    """

    answers_success = False

    def __init__(self, topic: str | None) -> None:
        self._given = topic
        self._count = 0
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def open(self, context: Context) -> None:
        self._context = context
        self._topic = self._given or f"{context.topic}.{SUFFIX}"
        if context.hosts:  # without a broker, as in tests, there is none to be made
            prepare_soon(self, self._topic, "Dead letters")

    def on_settled(self, message: Message, outcome: Outcome) -> Iterable[Record]:
        if outcome.status == SUCCESS or outcome.retry_in is not None:
            return ()
        cause = explained(outcome)
        if _CANCELLED in cause.kinds:  # somebody wanted it so
            return ()
        self._count += 1
        told = {
            "error": f"{cause.kinds[0] if cause.kinds else outcome.status}: {cause.text}",
            "traceback": outcome.stacktrace or cause.trace,
        }
        now = int(time.time() * 1000)
        letter = letter_of(self._topic, message, _reason(outcome), **told, worker=self._worker, now=now)
        return [self._context.signed(signing.DEAD, letter)]

    def on_refused(self, message: Message, record: Record, error: BaseException) -> Record | None:
        if not isinstance(error, MessageSizeTooLargeError) or not record.value:
            return None
        line = "The letter %s is too large for topic %s, and is written without its value, which stays where it is: %s"
        _logger.error(line, letter_id(message), self._topic, f"partition {message.partition}, offset {message.offset}")
        return self._context.signed(signing.DEAD, without_value(record))

    def prepare(self, topic: str) -> None:
        context = self._context
        topics.companion_at(context.hosts, context.config, context.topic, SUFFIX, DEAD, name=self._given)

    def stats(self) -> dict[str, float]:
        return {"letters": self._count}


def _reason(outcome: Outcome) -> Reason:
    if outcome.status == INVALID:
        return "invalid"
    if outcome.status == TIMEOUT:
        return "timeout"
    return next((_REASONS[kind] for kind in explained(outcome).kinds if kind in _REASONS), "failure")
