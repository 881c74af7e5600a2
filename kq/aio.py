"""Waiting for records in asyncio code: no call blocks the event loop.

1. What the client would wait for, a connection or the topic's partitions, is awaited in a thread before ``send``.
2. The client completes a future in its own thread. That thread puts it into a deque and wakes the loop, once for all
   that come until the loop is there: thousands of awaits share few wake-ups.
3. A cancelled await leaves nothing behind but its record, which goes its way.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

from kafka.errors import KafkaError, KafkaTimeoutError

from kq.delivery import WINDOW_BYTES, WINDOW_COUNT, Delivery, EnqueueError, Pipeline, Sent
from kq.errors import KQError
from kq.job import Job
from kq.message import Record

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

    async def deliver(self, job: Job, record: Record) -> None:
        """Send a record, and return when the broker has acknowledged it."""
        await self._room()
        await self._prepared(job)
        self._count += 1
        self._bytes += len(record.value)
        try:
            await self._send(job, record)
        finally:
            self._count -= 1
            self._bytes -= len(record.value)
            self._admit()

    async def pump(
        self, jobs: Iterable[Job] | AsyncIterable[Job], make: Callable[[Job], Record], pipeline: Pipeline
    ) -> None:
        """Send many records, and return when there is a verdict on each."""
