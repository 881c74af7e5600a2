"""How to enqueue: what ``Queue.using`` returns, and what the queue itself uses.

1. A call or a ``Job``, and the terms, become a complete ``Job``; with serializer and headers that becomes a ``Record``.
2. The record is sent, and waited for: by ``Delivery.wait``, or by ``Bridge.wait`` in asyncio code.
3. ``enqueue`` does so with one record at a time; ``enqueue_many`` has a window of them on their way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from typing import Any, ParamSpec, overload

from kq.errors import ArgumentError
from kq.job import EnqueuedJob, EnqueueItem, Job, masked
from kq.message import (
    HEADER_CONTENT_TYPE,
    HEADER_EXPIRES,
    HEADER_ID,
    HEADER_REPLY,
    HEADER_RETRY,
    Headers,
    Record,
    job_headers,
)
from kq.producing.aio import Bridge
from kq.producing.calls import Terms, job_of_call, job_of_item
from kq.producing.delivery import Delivery, Sent
from kq.producing.ids import new_ids
from kq.producing.later import Later
from kq.producing.window import Progress, Window
from kq.serializers import content_type_of
from kq.signing import JOB, LATER, Signer
from kq.utils import safe_str

__all__ = ["EnqueueSpec", "Sender", "now_millis"]

P = ParamSpec("P")

#: How many IDs are made at once where many jobs are enqueued.
_IDS_AHEAD = 256


class Sender:
    """What all specs of a queue share: how records are made, and the ways to send them."""

    def __init__(
        self,
        delivery: Delivery,
        later: Later,
        serializer: Callable[[Job], bytes],
        logger: logging.Logger,
        signer: Signer | None = None,
        *,
        wants_results: bool = False,
        hides: bool = False,
    ) -> None:
        self.delivery = delivery
        self.later = later
        self.serializer = serializer
        self.bridges: dict[asyncio.AbstractEventLoop, Bridge] = {}
        self.signer = signer
        #: Called with each record that was acknowledged; None if nobody asks.
        self.note: Callable[[Sent], object] | None = None
        self._logger = logger
        #: Whether arguments and keys stay out of lines.
        self._hides = hides
        content = content_type_of(serializer)
        self._content: Headers = [] if content is None else [(HEADER_CONTENT_TYPE, content)]
        #: Headers of all jobs.
        self._marks: Headers = [(HEADER_REPLY, b"1")] if wants_results else []

    def record(self, job: Job, terms: Terms) -> Record:
        """Return what goes to Kafka of a job."""
        if self._logger.isEnabledFor(logging.INFO):
            where = {"job_id": job.id, "topic": terms.topic}
            shown = masked(job) if self._hides else job
            self._logger.info("Enqueueing %s ...", safe_str(shown), extra=where)
        assert job.timestamp is not None
        value = self.serializer(job)
        if not isinstance(value, bytes):
            raise ArgumentError(f"serializer must return bytes, not {type(value).__name__}")
        headers = job_headers(job, value) + self._content
        due, expires = terms.times(job)
        if expires is not None:
            headers.append((HEADER_EXPIRES, b"%d" % expires))
        headers += self._policy(job, terms)
        headers += self._marks + terms.headers
        if due is not None and (expires is None or expires > job.timestamp):  # what has expired is to be told of now
            return self._signed(LATER, self.later.record(job, value, headers, due), job.timestamp)
        record = Record(terms.topic, value, job.key or None, headers, job.partition, job.timestamp)
        return self._signed(JOB, record, job.timestamp)

    def _signed(self, purpose: str, record: Record, now: int) -> Record:
        return record if self.signer is None else self.signer.sign(purpose, record, now)

    def template(self, job: Job, terms: Terms) -> tuple[bytes, Headers]:
        """Return value and headers that the runs of a schedule share: they have no ID yet."""
        value = self.serializer(job._replace(id=None, timestamp=None))
        headers = [header for header in job_headers(job) if header[0] != HEADER_ID]
        return value, headers + self._content + self._policy(job, terms) + self._marks + terms.headers

    def _policy(self, job: Job, terms: Terms) -> Headers:
        """Return the header of a job's retry policy, and have the topic where it may wait: now is the time to fail."""
        if terms.retry is None:
            return []
        if terms.retry.waits:
            self.later.prepare(job)
        return [(HEADER_RETRY, terms.retry.header)]

    async def prepare(self, job: Job, terms: Terms) -> None:
        """Do in a thread what ``record`` would have to wait for."""
        waits = terms.times(job)[0] is not None or (terms.retry is not None and terms.retry.waits)
        if waits and not self.later.is_ready:
            await asyncio.get_running_loop().run_in_executor(None, self.later.prepare, job)

    def bridge(self) -> Bridge:
        """Return the way of the event loop that runs here to the delivery."""
        loop = asyncio.get_running_loop()
        bridge = self.bridges.get(loop)
        if bridge is None:
            for other in [other for other in list(self.bridges) if other.is_closed()]:
                self.bridges.pop(other, None)
            bridge = self.bridges[loop] = Bridge(self.delivery, loop)
        return bridge


class EnqueueSpec:
    """How to enqueue: a queue, and what was given to :meth:`Queue.using`."""

    __slots__ = ("_sender", "_terms")

    def __init__(self, sender: Sender, terms: Terms) -> None:
        self._sender = sender
        self._terms = terms

    @overload
    def enqueue(self, obj: Job, /) -> EnqueuedJob: ...

    @overload
    def enqueue(self, obj: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> EnqueuedJob: ...

    def enqueue(self, obj: Callable[..., Any] | Job, /, *args: Any, **kwargs: Any) -> EnqueuedJob:
        """Enqueue a function call or a job; see :meth:`Queue.enqueue`."""
        job = job_of_call(self._terms, now_millis(), new_ids(), obj, args, kwargs)
        delivery = self._sender.delivery
        sent = delivery.send(job, self._record(job))
        delivery.wait(sent)
        if error := delivery.verdict(sent):
            raise error
        if self._sender.note is not None:
            self._sender.note(sent)
        return job

    def enqueue_many(self, jobs: Iterable[EnqueueItem], *, on_progress: Progress | None = None) -> list[EnqueuedJob]:
        """Enqueue many function calls or jobs; see :meth:`Queue.enqueue_many`."""
        window = self._window(jobs, on_progress)
        try:
            for job in self._jobs(jobs):
                window.add(job, self._record)
                while window.must_wait:
                    window.hear()
        except Exception:  # of the user's iterable: what it gave so far gets its verdict
            window.drain()
            raise
        window.drain()
        return window.jobs

    @overload
    async def aenqueue(self, obj: Job, /) -> EnqueuedJob: ...

    @overload
    async def aenqueue(self, obj: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> EnqueuedJob: ...

    async def aenqueue(self, obj: Callable[..., Any] | Job, /, *args: Any, **kwargs: Any) -> EnqueuedJob:
        """Enqueue a function call or a job in asyncio code; see :meth:`Queue.aenqueue`."""
        job = job_of_call(self._terms, now_millis(), new_ids(), obj, args, kwargs)
        await self._prepare(job)
        sent = await self._sender.bridge().deliver(job, self._record(job))
        if self._sender.note is not None:
            self._sender.note(sent)
        return job

    async def aenqueue_many(
        self, jobs: Iterable[EnqueueItem] | AsyncIterable[EnqueueItem], *, on_progress: Progress | None = None
    ) -> list[EnqueuedJob]:
        """Enqueue many function calls or jobs in asyncio code; see :meth:`Queue.aenqueue_many`."""
        window, bridge = self._window(jobs, on_progress), self._sender.bridge()
        try:
            await bridge.pump(self._jobs_async(jobs), self._prepare, self._record, window)
        except Exception:  # of the user's iterable: what it gave so far gets its verdict
            await bridge.drain(window)
            raise
        await bridge.drain(window)
        return window.jobs

    def _window(self, jobs: Any, on_progress: Progress | None) -> Window:
        if not (on_progress is None or callable(on_progress)):
            raise ArgumentError("on_progress must be a callable")
        if not isinstance(jobs, (Iterable, AsyncIterable)):
            raise ArgumentError("jobs must be an iterable of jobs, callables and (function, args, kwargs)")
        total = len(jobs) if isinstance(jobs, Sized) else None
        return Window(self._sender.delivery, on_progress, total, self._sender.note)

    def _jobs(self, items: Iterable[Any]) -> Iterator[EnqueuedJob]:
        ids = new_ids(_IDS_AHEAD)
        for number, item in enumerate(items):
            yield self._job(number, ids, item)

    async def _jobs_async(self, items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[EnqueuedJob]:
        if not isinstance(items, AsyncIterable):
            for job in self._jobs(items):
                yield job
            return
        number, ids = 0, new_ids(_IDS_AHEAD)
        async for item in items:
            yield self._job(number, ids, item)
            number += 1

    def _job(self, number: int, ids: Iterator[str], item: Any) -> EnqueuedJob:
        try:
            return job_of_item(self._terms, now_millis(), ids, item)
        except ArgumentError as error:
            raise ArgumentError(f"jobs[{number}]: {error}; what stands before it is enqueued") from None

    async def _prepare(self, job: Job) -> None:
        await self._sender.prepare(job, self._terms)

    def _record(self, job: Job) -> Record:
        assert job.func is not None
        return self._sender.record(job, self._terms.with_those_of(job.func))


def now_millis() -> int:
    """Return the time as it goes onto the wire: Unix milliseconds."""
    return int(time.time() * 1000)
