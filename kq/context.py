"""What a job can ask of itself, and tell of itself, while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple

from kq.errors import ArgumentError
from kq.message import HEADER_TIMESTAMP, Message, attempt_of, millis_of

__all__ = [
    *("NO_TIME", "JobContext", "Place", "Report", "Said", "Where"),
    *("ask_too", "current_job", "enter", "leave", "note_cancelled", "progress"),
]


class JobContext(NamedTuple):
    """The run of a job, as :func:`kq.current_job` returns it inside of it.

    :param id: Job ID.
    :param attempt: The number of this run, from 1.
    :param topic: Name of the Kafka topic.
    :param partition: Kafka partition.
    :param offset: Offset in the partition.
    :param key: Kafka message key, raw bytes, or None.
    :param timestamp: When the job was enqueued, in Unix milliseconds.
    :param timeout: How long the run may take, in seconds; 0 means no limit.
    :param deadline: When it must have ended, in Unix seconds; None if there is no limit.
    """

    id: str | None
    attempt: int
    topic: str
    partition: int
    offset: int
    key: bytes | None
    timestamp: int | None
    timeout: float
    deadline: float | None

    def is_cancelled(self) -> bool:
        """Return whether somebody has cancelled the job since it started: a long one may ask, and end by itself.

        It is known within a second where the worker takes part in :class:`kq.Control`.
        """
        place = self.topic, self.partition, self.offset
        return place in _cancelled or any(is_told(place) for is_told in _ears)


#: Where a run's message is: topic, partition and offset.
Place = tuple[str, int, int]
#: The runs of this process that are cancelled, as workers note it; and who else is asked, in a child.
_cancelled: set[Place] = set()
_ears: list[Callable[[Place], bool]] = []


def note_cancelled(places: Iterable[Place], over: Iterable[Place] = ()) -> None:
    """Note runs of this process that are cancelled, and forget some that are over."""
    _cancelled.update(places)
    _cancelled.difference_update(over)


def ask_too(is_told: Callable[[Place], bool]) -> None:
    """Have somebody asked whether a run is cancelled, who is told of it otherwise."""
    _ears.append(is_told)


#: Stands for no timestamp where all are numbers.
NO_TIME = -1
#: What crosses to a child of a job's message: topic, partition, offset, key, when it was enqueued, and the attempt.
Where = tuple[str, int, int, bytes | None, int | None, int]

#: How far a job is: a fraction of 1, or None, and a text.
Said = tuple[float | None, str]


class Report:
    """What a run tells of itself: the job writes, the worker looks now and then, from another thread."""

    __slots__ = ("said",)

    def __init__(self) -> None:
        self.said: Said | None = None

    def tell(self, said: Said) -> None:
        self.said = said


#: The run of this context: its job's ID, its limit, when it began, its message or what crossed of that, and where it
#: reports to, if anybody listens. It is made a ``JobContext`` when somebody asks: few jobs do.
_current: ContextVar[tuple[Any, float, float, Message | Where, Report | None] | None]
_current = ContextVar("kq_current_job", default=None)


def current_job() -> JobContext | None:
    """Return the run of the job that calls this; None outside of one.

    It is known in every executor, in coroutines, and in threads that a job starts with a copy of its context
    (``contextvars.copy_context().run``, ``asyncio.to_thread``).
    """
    run = _current.get()
    if run is None:
        return None
    job_id, timeout, begun, source, _ = run
    topic, partition, offset, key, timestamp, attempt = _where(source) if isinstance(source, Message) else source
    timestamp = None if timestamp == NO_TIME else timestamp
    deadline = time.time() + begun + timeout - time.monotonic() if timeout else None
    return JobContext(job_id, attempt, topic, partition, offset, key, timestamp, timeout, deadline)


def progress(fraction_or_done: float | None, total: float | None = None, text: str = "") -> None:
    """Tell how far the job that calls this is. Cheap enough for the innermost loop.

    It is published several times a second at most, the last one always. Outside of a job, and where the worker
    publishes no results, nothing happens.

    :param fraction_or_done: A fraction of 1; with ``total``, how much is done; None where that is not known.
    :param total: How much there is.
    :param text: What is being done, for people; the first 1,000 bytes count.
    :raises kq.ArgumentError: These are no numbers.
    """
    run = _current.get()
    if run is None or run[4] is None:
        return
    if not isinstance(text, str):
        raise ArgumentError("kq.progress takes a str as its text")
    try:
        fraction = fraction_or_done if total is None or fraction_or_done is None else fraction_or_done / (total or 1)
        fraction = None if fraction is None else 0.0 if not fraction > 0 else 1.0 if fraction > 1 else float(fraction)
    except TypeError:
        raise ArgumentError("kq.progress takes numbers: a fraction of 1, or how much is done and the total") from None
    run[4].tell((fraction, text))


def enter(job_id: Any, timeout: float, begun: float, source: Message | Where, report: Report | None = None) -> None:
    """Note that a job begins in this context.

    :param timeout: Seconds that it may run, 0 for no limit.
    :param begun: When it began, by the monotonic clock.
    :param report: Where it tells how far it is; None if nobody listens.
    """
    _current.set((job_id, timeout, begun, source, report))


def leave() -> None:
    """Note that the job of this context has ended."""
    _current.set(None)


def _where(message: Message) -> Where:
    topic, partition, offset, key, _, timestamp, headers = message
    enqueued = millis_of(headers, HEADER_TIMESTAMP)
    return topic, partition, offset, key, timestamp if enqueued is None else enqueued, attempt_of(message)
