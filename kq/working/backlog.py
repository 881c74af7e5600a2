"""The backlog: messages that were polled and have not started, and which of them may start next.

1. Messages are added in the order of their offsets. Those that must wait for one another share a *lane*.
2. ``take`` gives the message that was added first among those whose lane is free; its lane is taken until ``done``. So
   messages that run one at a time come out as they came in.
3. When a partition is revoked, what waits of it is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import Literal

from kq.message import Message

__all__ = ["Backlog", "Ordering"]

Ordering = Literal["key", "partition", "none"]

_key_of = attrgetter("key")

#: A message behind the number that says when it was added; no two have the same.
_Item = tuple[int, Message]


class Backlog:
    """What waits to be started. Not for use by more than one thread.

    :param ordering: ``"key"``: messages of one partition with the same key start one at a time, in order.
        ``"partition"``: all messages of a partition do. ``"none"``: any message may start at any time.
    """

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        #: Messages that found their lane free, in the order in which they were added.
        self._ready: deque[_Item] = deque()
        #: Heap of messages that were ready later than they were added, because their lane was taken.
        self._freed: list[_Item] = []
        #: Lane -> what waits behind its first message, which is ready or running. A lane that is here is taken.
        self._lanes: dict[Hashable, deque[_Item]] = {}
        self._added = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, message: Message) -> None:
        """Add a message that was polled."""
        self._count += 1
        self._added += 1
        item = (self._added, message)
        lane = self._lane(message)
        if lane is not None:
            if lane in self._lanes:
                self._lanes[lane].append(item)
                return
            self._lanes[lane] = deque()
        self._ready.append(item)

    def add_all(self, messages: Sequence[Message]) -> None:
        """Add messages that were polled, in this order."""
        if self._ordering == "partition" or (self._ordering == "key" and any(map(_key_of, messages))):
            for message in messages:
                self.add(message)
            return
        self._ready.extend(enumerate(messages, self._added + 1))
        self._added += len(messages)
        self._count += len(messages)

    def take(self) -> Message | None:
        """Return the next message that may start, or None if there is none at present."""
        if self._freed and not (self._ready and self._ready[0] < self._freed[0]):
            message = heappop(self._freed)[1]
        elif self._ready:
            message = self._ready.popleft()[1]
        else:
            return None
        self._count -= 1
        return message

    def take_many(self, most: int) -> list[Message]:
        """Return the next messages that may start, so many at most."""
        taken: list[Message] = []
        while self._freed and len(taken) < most and (message := self.take()) is not None:
            taken.append(message)
        count = 0 if self._freed else max(0, min(most - len(taken), len(self._ready)))
        ready = self._ready
        taken += [ready.popleft()[1] for _ in range(count)]
        self._count -= count
        return taken

    def done_all(self, messages: Iterable[Message]) -> None:
        """Free the lanes of messages that were taken."""
        if self._lanes:
            for message in messages:
                self.done(message)

    def done(self, message: Message) -> None:
        """Free the lane of a message that was taken: the next of its lane may start."""
        lane = self._lane(message)
        if lane is None:
            return
        waiting = self._lanes[lane]
        if waiting:
            heappush(self._freed, waiting.popleft())
        else:
            del self._lanes[lane]

    def drop(self, partition: int) -> int:
        """Drop what waits of a partition and return how many messages that were.

        The lanes of what runs stay taken: should the partition come back, its messages wait for those runs.
        """
        before = self._count
        for ready in (self._ready, self._freed):
            dropped = [item[1] for item in ready if item[1].partition == partition]
            kept = [item for item in ready if item[1].partition != partition]
            ready.clear()
            ready.extend(kept)
            for message in dropped:
                self._forget(message)
        heapify(self._freed)
        for waiting in self._lanes.values():
            if waiting and waiting[0][1].partition == partition:
                self._count -= len(waiting)
                waiting.clear()
        return before - self._count

    def _forget(self, message: Message) -> None:
        self._count -= 1
        lane = self._lane(message)
        if lane is not None:
            self._count -= len(self._lanes.pop(lane))

    def _lane(self, message: Message) -> Hashable | None:
        if self._ordering == "partition":
            return message.partition
        if self._ordering == "key" and message.key:
            return message.partition, message.key
        return None
