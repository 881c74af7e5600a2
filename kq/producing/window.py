"""The window: many records on their way at once, and the verdict on each of them.

1. ``add`` sends one more record, until the window is full: the client itself has no bound.
2. ``wait``, or in asyncio code ``heard``, takes in what the broker has answered, oldest first.
3. When the last one is in, ``error`` tells job by job what was not delivered, and of what it is not known.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from kafka.errors import InvalidRecordError, InvalidTimestampError, KafkaError, MessageSizeTooLargeError

from kq.job import Job
from kq.message import Record
from kq.producing.delivery import Delivery, EnqueueError, EnqueueUnknown, Sent, describe

__all__ = ["WINDOW_BYTES", "WINDOW_COUNT", "Window"]

_own_logger = logging.getLogger("kq.window")

#: How many records, and bytes of their values, may be on their way at once: enough for several full batches to each
#: of many partitions, and some 50 MB at most while a broker is away.
WINDOW_COUNT, WINDOW_BYTES = 10_000, 32 * 1024 * 1024
#: Refusals of one record, which say nothing about the next.
_OF_ONE_RECORD = (MessageSizeTooLargeError, InvalidRecordError, InvalidTimestampError, ValueError)


class Window:
    """Many records on their way, in order, and what became of them. One thread, or one event loop, owns it.

    :param on_progress: Called with how many were acknowledged and how many there are, None where that is not known.
    """

    def __init__(self, delivery: Delivery, on_progress: Callable[[int, int | None], None] | None, total: int | None):
        self._delivery = delivery
        self._on_progress = on_progress
        self._total = total
        self._sent: deque[Sent] = deque()
        self._bytes = 0
        self._done = 0
        self._failed: set[int] = set()
        self._unknown: set[int] = set()
        self._cause: BaseException | None = None
        #: Whether the next record would fare no better. It is not tried then: where a key is shared, order stays.
        self.is_broken = False
        #: Whether the producer did not even tell of a failure.
        self._is_silent = False
        self.jobs: list[Job] = []

    def add(self, job: Job, make: Callable[[Job], Record]) -> None:
        """Send one more job; what fails is noted."""
        self.jobs.append(job)
        if self.is_broken:
            self._failed.add(id(job))
            return
        try:
            sent = self._delivery.send(job, make(job))
        except EnqueueError as error:
            self._note(job, error)
        except Exception as error:  # noqa: BLE001 - the door of the user's serializer: this job fails, the others go on
            self._failed.add(id(job))
            self._cause = self._cause or error
        else:
            self._sent.append(sent)
            self._bytes += sent.size
            if self._sent[0].future.is_done:
                self.harvest()

    def refuse(self, job: Job, error: EnqueueError) -> None:
        """Note one more job that cannot be sent."""
        self.jobs.append(job)
        self._note(job, error)

    @property
    def is_full(self) -> bool:
        """Whether an answer is to be awaited before the next record is sent."""
        return len(self._sent) >= WINDOW_COUNT or self._bytes >= WINDOW_BYTES

    @property
    def oldest(self) -> Any:
        """The future of the record that has been on its way for longest; None if there is none."""
        return self._sent[0].future if self._sent else None

    @property
    def has_failed(self) -> bool:
        """Whether anything was not acknowledged so far."""
        return bool(self._failed or self._unknown)

    def wait(self) -> None:
        """Wait for the answer to the oldest record."""
        try:
            self._sent[0].future.get(self._delivery.patience)
        except KafkaError:
            pass  # the verdict is in the future
        if not self._sent[0].future.is_done:
            self._delivery.abandon()
        self.heard()
        if self.has_failed:
            self._delivery.let_dead_producer_go()

    def heard(self) -> None:
        """Take the verdicts after the oldest record was waited for with patience."""
        self._is_silent = not self._sent[0].future.is_done
        self.harvest()

    def harvest(self) -> None:
        """Take the verdicts that are there."""
        before = self._done
        while self._sent and (self._sent[0].future.is_done or self._is_silent):
            self._settle(self._sent.popleft())
        if self._on_progress is not None and self._done > before:
            try:
                self._on_progress(self._done, self._total)
            except Exception:  # the door of the user's hook: it is told of, and changes nothing
                _own_logger.exception("on_progress raised an exception")

    def error(self) -> EnqueueError | None:
        """Return what to raise when all is over; None if every record was acknowledged."""
        if not self.has_failed:
            return None
        jobs = [job for job in self.jobs if id(job) in self._failed]
        unknown = [job for job in self.jobs if id(job) in self._unknown]
        text = f"{len(jobs)} of {len(self.jobs)} jobs were not enqueued on topic {self._delivery.topic}"
        if unknown:
            text += f", {len(unknown)} may or may not be there"
        assert self._cause is not None
        kind = EnqueueError if jobs else EnqueueUnknown
        error = kind(f"{text}: {describe(self._cause)}", jobs, unknown)
        error.__cause__ = self._cause
        return error

    def _settle(self, sent: Sent) -> None:
        self._bytes -= sent.size
        future = sent.future
        if future.is_done and future.exception is None:
            self._done += 1
            return
        self._note(sent.job, self._delivery.verdict(sent, future.exception))

    def _note(self, job: Job, error: EnqueueError) -> None:
        cause = error.__cause__ or error
        (self._unknown if isinstance(error, EnqueueUnknown) else self._failed).add(id(job))
        self._cause = self._cause or cause
        self.is_broken = self.is_broken or not isinstance(cause, _OF_ONE_RECORD)
