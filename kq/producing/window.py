"""The window: many records on their way at once, and the verdict on each of them.

1. ``add`` sends one more record. While ``must_wait``, the oldest is waited for: the client itself has no bound.
2. ``take`` takes in what the broker has answered since, oldest first.
3. When the last one is in, ``check`` tells job by job what was not delivered, and of what it is not known.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from kafka.errors import InvalidRecordError, InvalidTimestampError, MessageSizeTooLargeError

from kq.job import EnqueuedJob, Job
from kq.message import Record
from kq.producing.delivery import Delivery, EnqueueError, EnqueueUnknown, Sent, describe

__all__ = ["WINDOW_BYTES", "WINDOW_COUNT", "Progress", "Window"]

Progress = Callable[[int, "int | None"], None]

_own_logger = logging.getLogger("kq.window")

#: How many records, and bytes of their values, may be on their way at once: enough for several full batches to each
#: of many partitions, and some 50 MB at most while a broker is away.
WINDOW_COUNT, WINDOW_BYTES = 10_000, 32 * 1024 * 1024
#: Refusals of one record, which say nothing about the next.
_OF_ONE_RECORD = (MessageSizeTooLargeError, InvalidRecordError, InvalidTimestampError, ValueError)


class Window:
    """Many records on their way, in order, and what became of them. One thread, or one event loop, owns it.

    :param on_progress: Called with how many were acknowledged and how many there are, None where that is not known.
    :param note: Called with each record that was acknowledged.
    """

    def __init__(
        self,
        delivery: Delivery,
        on_progress: Progress | None,
        total: int | None,
        note: Callable[[Sent], object] | None = None,
    ) -> None:
        self._delivery = delivery
        self._note_sent = note
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
        self.jobs: list[EnqueuedJob] = []

    def add(self, job: EnqueuedJob, make: Callable[[Job], Record]) -> None:
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
            self._take_while(lambda sent: sent.is_acknowledged)

    def refuse(self, job: EnqueuedJob, error: EnqueueError) -> None:
        """Note one more job that cannot be sent."""
        self.jobs.append(job)
        self._note(job, error)

    @property
    def must_wait(self) -> bool:
        """Whether ``oldest`` is to be waited for before the next record is sent: there is no room, or it failed."""
        is_full = len(self._sent) >= WINDOW_COUNT or self._bytes >= WINDOW_BYTES
        return bool(self._sent) and (is_full or self._sent[0].future.exception is not None)

    @property
    def oldest(self) -> Sent | None:
        """The record that has been on its way for longest; None if there is none."""
        return self._sent[0] if self._sent else None

    def drain(self) -> None:
        """Wait until there is a verdict on every record, and raise unless each was acknowledged."""
        while self._sent:
            self.hear()
        self.check()

    def hear(self) -> None:
        """Wait for the answer to the oldest record."""
        self._delivery.wait(self._sent[0])
        self.take()

    def take(self) -> None:
        """Take the verdicts that are there, after the oldest record was waited for."""
        is_silent = not self._sent[0].future.is_done  # given up: nobody will tell of the others either
        self._take_while(lambda sent: is_silent or sent.future.is_done)

    def _take_while(self, is_ripe: Callable[[Sent], bool]) -> None:
        before = self._done
        while self._sent and is_ripe(self._sent[0]):
            sent = self._sent.popleft()
            self._bytes -= sent.size
            if error := self._delivery.verdict(sent):
                self._note(sent.job, error)
            else:
                self._done += 1
                if self._note_sent is not None:
                    self._note_sent(sent)
        if self._on_progress is not None and self._done > before:
            try:
                self._on_progress(self._done, self._total)
            except Exception:  # the door of the user's hook: it is told of, and changes nothing
                _own_logger.exception("on_progress raised an exception")

    def check(self) -> None:
        """Raise when all is over, unless every record was acknowledged."""
        if not (self._failed or self._unknown):
            return
        jobs = [job for job in self.jobs if id(job) in self._failed]
        unknown = [job for job in self.jobs if id(job) in self._unknown]
        text = f"{len(jobs)} of {len(self.jobs)} jobs were not enqueued on topic {self._delivery.topic}"
        if unknown:
            text += f", {len(unknown)} may or may not be there"
        assert self._cause is not None
        kind = EnqueueError if jobs else EnqueueUnknown
        raise kind(f"{text}: {describe(self._cause)}", jobs, unknown) from self._cause

    def _note(self, job: Job, error: EnqueueError) -> None:
        cause = error.__cause__ or error
        (self._unknown if isinstance(error, EnqueueUnknown) else self._failed).add(id(job))
        self._cause = self._cause or cause
        self.is_broken = self.is_broken or not isinstance(cause, _OF_ONE_RECORD)
