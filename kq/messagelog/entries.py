"""Entries of the message log: what they tell, and which of two statuses is the later one.

1. Queue and workers write what they see of a message, each by itself, and in any order.
2. A status has a *position*. The one with the higher position stays: so the order in which they arrive does not matter.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple, get_args

__all__ = ["MOST_ATTEMPTS", "STATUSES", "LogStatus", "MessageLog", "position"]

#: What is known of a message. From ``RETRIED`` it goes on, with the next attempt; the others behind ``IN_PROGRESS`` are
#: an end.
LogStatus = Literal[
    "PUBLISHED", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMED_OUT", "INVALID", "RETRIED", "DEAD", "CANCELLED", "EXPIRED"
]
STATUSES: tuple[LogStatus, ...] = get_args(LogStatus)
#: Within one attempt: it was published, it began, it ended.
_RANKS = {"PUBLISHED": 0, "IN_PROGRESS": 1}
_ENDED = 2
#: Bits of a position that tell of rank and attempt; and what stands before them at most, for all to be 63 bits.
_RANK_BITS, _ATTEMPT_BITS, _MOST_RENEWED = 2, 16, (1 << 44) - 1
#: Attempts beyond which they are told apart no more: another program may write any number.
MOST_ATTEMPTS = (1 << _ATTEMPT_BITS) - 1


class MessageLog(NamedTuple):
    """What became of one message; a repeat is another attempt of the same entry.

    :param job_id: ID of the job; ``<topic>-<partition>-<offset>`` of a message that has none.
    :param status: ``"PUBLISHED"``, ``"IN_PROGRESS"``, ``"COMPLETED"``, ``"FAILED"``, ``"TIMED_OUT"``, ``"INVALID"``,
        ``"RETRIED"`` (another attempt follows), ``"DEAD"`` (a dead letter holds it), ``"CANCELLED"`` or ``"EXPIRED"``.
    :param attempt: The number of its latest run, from 1.
    :param topic: Name of the Kafka topic.
    :param partition: Kafka partition of the latest delivery; None while that is not known.
    :param offset: Offset of the latest delivery; None while that is not known.
    :param key: Kafka message key, raw bytes, or None.
    :param task_type: What a consumer calls the kind of message; the function's name where nothing else is said.
    :param function: Name of the job's function.
    :param arguments: The arguments of the call as text, as far as they are known; None where they are masked.
    :param published_at: When it was enqueued.
    :param started_at: When the latest run began.
    :param ended_at: When the latest run ended.
    :param changed_at: When the store heard of this status.
    :param worker: Which worker runs it, or ran it: host, process ID, and what tells two of one number apart.
    :param worker_died_at: When that worker was last heard of, if it is gone and the message is in progress.
    :param result: What the job returned, as text, where the worker has that: children tell it if there is a callback.
    :param exception: Dotted type and message of the exception.
    :param traceback: The traceback of the exception.
    :param logs: What the job logged.
    """

    job_id: str
    status: LogStatus
    attempt: int = 1
    topic: str = ""
    partition: int | None = None
    offset: int | None = None
    key: bytes | None = None
    task_type: str | None = None
    function: str | None = None
    arguments: str | None = None
    published_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    changed_at: datetime | None = None
    worker: str | None = None
    worker_died_at: datetime | None = None
    result: str | None = None
    exception: str | None = None
    traceback: str | None = None
    logs: str | None = None

    @property
    def state(self) -> str:
        """The status in words: ``in progress; its worker died at 2030-01-31 12:00:00``."""
        words = self.status.lower().replace("_", " ")
        if self.worker_died_at is None:
            return words
        return f"{words}; its worker died at {self.worker_died_at.astimezone():%Y-%m-%d %H:%M:%S}"


def position(status: str, attempt: int = 1, renewed: int = 0) -> int:
    """Return where a status stands among all of its message: a later one is a higher number.

    :param attempt: The number of the run, from 1.
    :param renewed: When the message was put onto its topic anew, with its first attempt to come, in Unix milliseconds;
        0 if it was not.
    """
    begun = min(renewed, _MOST_RENEWED) << _ATTEMPT_BITS | min(attempt, MOST_ATTEMPTS)
    return begun << _RANK_BITS | _RANKS.get(status, _ENDED)
