"""Reruns: messages that run again in place, each at its time. Their lanes are closed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from kq.message import Message

__all__ = ["Reruns"]


class Reruns:
    """What waits for its next attempt. Not for use by more than one thread; times are the monotonic clock's."""

    def __init__(self) -> None:
        #: Heap: when each is due, a number that keeps those of one time in order, and the message.
        self._waiting: list[tuple[float, int, Message]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: Message, due: float) -> None:
        """Add a message."""
        self._added += 1
        heappush(self._waiting, (due, self._added, message))

    def is_due(self, now: float) -> bool:
        """Return whether a message is due."""
        return bool(self._waiting) and self._waiting[0][0] <= now

    def take(self, now: float) -> Message | None:
        """Return the message that was due first, or None if none is due."""
        return heappop(self._waiting)[2] if self._waiting and self._waiting[0][0] <= now else None

    def hasten(self, is_meant: Callable[[Message], bool]) -> None:
        """Have those that are meant be due now."""
        self._waiting = [(0.0 if is_meant(item[2]) else item[0], *item[1:]) for item in self._waiting]
        heapify(self._waiting)

    def patience(self, now: float) -> float:
        """Return the seconds until the next one is due."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else float("inf")

    def drop(self, partition: int) -> list[Message]:
        """Remove the messages of a partition, and return them."""
        dropped = [item[2] for item in self._waiting if item[2].partition == partition]
        self._waiting = [item for item in self._waiting if item[2].partition != partition]
        heapify(self._waiting)
        return dropped
