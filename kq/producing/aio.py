"""Waiting for records in asyncio code: no call blocks the event loop.

1. What the client would wait for, a connection or the topic's partitions, is awaited in a thread before ``send``.
2. ``wait`` is ``Delivery.wait`` for this loop. The client completes a future in its own thread. That thread puts it
   into a deque and wakes the loop once for all that come until the loop looks: thousands of awaits share few wake-ups.
3. A cancelled await leaves nothing behind but its record, which goes its way.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from typing import Any

from kafka.errors import KafkaError, KafkaTimeoutError

from kq.errors import KQError
from kq.job import EnqueuedJob, Job
from kq.message import Record
from kq.producing.delivery import Delivery, EnqueueError, Sent
from kq.producing.window import WINDOW_BYTES, WINDOW_COUNT, Window

__all__ = ["Bridge"]

#: Seconds that ``pump`` works before other tasks of the loop have their turn: short beside what a person notices.
_SLICE = 0.002


class Bridge:
    """One event loop's way to one delivery. Belongs to the loop's thread, but for ``_arrive``."""

    def __init__(self, delivery: Delivery, loop: asyncio.AbstractEventLoop) -> None:
        self._delivery = delivery
        self._loop = loop
        self._arrived: deque[asyncio.Future[None]] = deque()
        self._is_woken = False
        self._preparing: asyncio.Future[None] | None = None
        self._count = 0
        self._bytes = 0
        #: Who waits for room, in order.
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def deliver(self, job: Job, record: Record) -> Sent:
        """Send a record, and return it when the broker has acknowledged it."""
        deadline = self._delivery.deadline()
        while self._is_full() or not self._delivery.is_ready(job.partition):
            await self._within(deadline, self._prepared(job, deadline), job)
            await self._within(deadline, self._room(), job)
        self._count += 1
        self._bytes += len(record.value)
        try:
            return await self._send(job, record, deadline)
        finally:
            self._count -= 1
            self._bytes -= len(record.value)
            self._admit()

    async def _within(self, deadline: float, waiting: Coroutine[Any, Any, None], job: Job) -> None:
        """Wait for what comes before a record is sent, but not longer than its call may take."""
        if deadline == float("inf"):
            await waiting
            return
        try:
            await asyncio.wait_for(waiting, max(0.0, deadline - time.monotonic()))
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise self._delivery.refused(
                job, KafkaTimeoutError("enqueue_timeout was over before it was sent")
            ) from error

    async def pump(
        self,
        jobs: AsyncIterable[EnqueuedJob],
        prepare: Callable[[Job], Awaitable[None]],
        make: Callable[[Job], Record],
        window: Window,
    ) -> None:
        """Send many records, within the window's bounds, while other tasks have their turn.

        :param prepare: Awaited before ``make``, which must not block.
        """
        until = time.perf_counter() + _SLICE
        async for job in jobs:
            await self._add(job, prepare, make, window)
            while window.must_wait and window.oldest:
                await self._hear(window, window.oldest)
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + _SLICE

    async def drain(self, window: Window) -> None:
        """Wait until there is a verdict on every record, and raise unless each was acknowledged."""
        while window.oldest:
            await self._hear(window, window.oldest)
        window.check()

    async def _hear(self, window: Window, oldest: Sent) -> None:
        await self.wait(oldest)
        window.take()

    async def _add(
        self,
        job: EnqueuedJob,
        prepare: Callable[[Job], Awaitable[None]],
        make: Callable[[Job], Record],
        window: Window,
    ) -> None:
        try:
            if not window.is_broken:
                await prepare(job)
                await self._prepared(job, self._delivery.deadline())
        except EnqueueError as error:
            window.refuse(job, error)
        else:
            window.add(job, make)

    async def _send(self, job: Job, record: Record, deadline: float) -> Sent:
        sent = self._delivery.send(job, record, deadline)
        await self.wait(sent)
        if error := self._delivery.verdict(sent):
            raise error
        return sent

    async def _prepared(self, job: Job, deadline: float) -> None:
        """Return when ``send`` has nothing to wait for; all tasks share one thread for that."""
        while not self._delivery.is_ready(job.partition):
            if self._preparing is None:
                self._preparing = self._loop.run_in_executor(None, self._delivery.prepare, job.partition, deadline)
                self._preparing.add_done_callback(self._has_prepared)
            try:
                await asyncio.shield(self._preparing)
            except (KafkaError, KQError, ValueError) as error:
                raise self._delivery.refused(job, error) from error

    def _has_prepared(self, preparing: asyncio.Future[None]) -> None:
        self._preparing = None
        if not preparing.cancelled():
            preparing.exception()  # seen: those who waited may all have been cancelled

    # -- answers -------------------------------------------------------------------------------------------------------

    async def wait(self, sent: Sent) -> None:
        """Return when there is an answer to a record, or none will come; see :meth:`Delivery.wait`."""
        if not sent.future.is_done:
            await self._arrival(sent)
        if not sent.is_acknowledged:
            await self._loop.run_in_executor(None, self._delivery.recover, sent)

    async def _arrival(self, sent: Sent) -> None:
        waiter = self._loop.create_future()
        sent.future.add_both(functools.partial(self._arrive, waiter))
        timer = self._loop.call_later(self._delivery.left(sent), _release, waiter)
        try:
            await waiter
        finally:
            timer.cancel()

    def _arrive(self, waiter: asyncio.Future[None], _: object) -> None:
        """Note an answer, in the client's thread."""
        self._arrived.append(waiter)
        if self._is_woken:  # set before the loop looks into the deque: this one is seen, too
            return
        self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    def _wake(self) -> None:
        self._is_woken = False
        while self._arrived:
            _release(self._arrived.popleft())

    # -- room ----------------------------------------------------------------------------------------------------------

    async def _room(self) -> None:
        """Return when there is room for one more record on its way."""
        while self._is_full():
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._admit()  # the room was perhaps meant for this one
                raise

    def _is_full(self) -> bool:
        return self._count >= WINDOW_COUNT or self._bytes >= WINDOW_BYTES

    def _admit(self) -> None:
        while self._waiting and not self._is_full():
            _release(self._waiting.popleft())


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
