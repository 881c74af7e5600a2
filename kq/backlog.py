"""The backlog: messages that were polled and have not started, and which of them may start next.

1. Messages are added in the order of their offsets. Those that must wait for one another share a *lane*.
2. ``take`` gives the oldest message whose lane is free; its lane is then taken until ``done``.
3. When a partition is revoked, what waits of it is dropped.

A message that is suspected of killing workers is added with ``alone=True``: it is given out only while nothing else
runs, and nothing else starts beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Literal

from kq.message import Message

__all__ = ["PARTITION_BYTES", "PARTITION_COUNT", "TOTAL_BYTES", "TOTAL_COUNT", "Backlog", "Ordering"]

Ordering = Literal["key", "partition", "none"]

#: Messages of one partition in hand before it is paused: two full polls, so that hands are never empty.
PARTITION_COUNT = 1000
#: Messages of all partitions in hand before all are paused.
TOTAL_COUNT = 4000
#: Bytes of one partition in hand before it is paused: sixteen records of the broker's default size limit.
PARTITION_BYTES = 16 * 1024 * 1024
#: Bytes of all partitions in hand before all are paused.
TOTAL_BYTES = 64 * 1024 * 1024


class Backlog:
    """What waits to be started. Not for use by more than one thread.

    :param ordering: ``"key"``: messages of one partition with the same key start one at a time, in order.
        ``"partition"``: all messages of a partition do. ``"none"``: any message may start at any time.
    """

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._ready: deque[Message] = deque()
        self._ready_alone: deque[Message] = deque()
        #: Lane -> what waits behind its first message, which is ready or running. A lane that is here is taken.
        self._lanes: dict[Hashable, deque[Message]] = {}
        self._suspects: set[Message] = set()
        self._alone: Message | None = None
        self._count = 0
        self._running = 0

    def __len__(self) -> int:
        return self._count

    @property
    def running(self) -> int:
        """How many messages were taken and are not done."""
        return self._running

    def add(self, message: Message, *, alone: bool = False) -> None:
        """Add a message that was polled.

        :param alone: Start it only while nothing else runs.
        """
        self._count += 1
        if alone:
            self._suspects.add(message)
        lane = self._lane(message)
        if lane is not None and lane in self._lanes:
            self._lanes[lane].append(message)
            return
        if lane is not None:
            self._lanes[lane] = deque()
        (self._ready_alone if alone else self._ready).append(message)

    def take(self) -> Message | None:
        """Return the next message that may start, or None if there is none at present."""
        if self._ready_alone:
            return self._take_alone()
        if self._alone is not None or not self._ready:
            return None
        self._count -= 1
        self._running += 1
        return self._ready.popleft()

    def _take_alone(self) -> Message | None:
        if self._running:
            return None
        self._count -= 1
        self._running += 1
        self._alone = self._ready_alone.popleft()
        self._suspects.discard(self._alone)
        return self._alone

    def done(self, message: Message) -> None:
        """Free the lane of a message that was taken: the next of its lane may start."""
        self._running -= 1
        if message is self._alone:
            self._alone = None
        lane = self._lane(message)
        waiting = None if lane is None else self._lanes.get(lane)
        if waiting:
            first = waiting.popleft()
            # it is older than what was polled since
            (self._ready_alone if first in self._suspects else self._ready).appendleft(first)
        elif lane is not None:
            self._lanes.pop(lane, None)

    def drop(self, partition: int) -> int:
        """Drop what waits of a partition and return how many messages that were.

        The lanes of what runs stay taken: should the partition come back, its messages wait for those runs.
        """
        before = self._count
        for ready in (self._ready, self._ready_alone):
            dropped = [message for message in ready if message.partition == partition]
            kept = [message for message in ready if message.partition != partition]
            ready.clear()
            ready.extend(kept)
            for message in dropped:
                self._forget(message)
        for waiting in self._lanes.values():
            if waiting and waiting[0].partition == partition:
                self._count -= len(waiting)
                self._suspects.difference_update(waiting)
                waiting.clear()
        return before - self._count

    def _forget(self, message: Message) -> None:
        lane = self._lane(message)
        if lane is not None:
            self._count -= len(self._lanes.pop(lane))
        self._suspects.discard(message)
        self._count -= 1

    def _lane(self, message: Message) -> Hashable | None:
        if self._ordering == "partition":
            return message.partition
        if self._ordering == "key" and message.key:
            return message.partition, message.key
        return None
