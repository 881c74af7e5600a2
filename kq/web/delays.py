"""What waits for a topic: its delayed jobs by due time, and its schedules.

The topic ``T.later`` is read once, and followed. A delayed job takes 36 bytes; what is shown of it is read from its
place.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from kafka import KafkaConsumer

from kq.clients import TableReader, settings_for
from kq.message import HEADER_ATTEMPT, HEADER_FUNC, HEADER_ID, millis_of
from kq.producing import SUFFIX
from kq.scheduling import Part, Schedule
from kq.web.single import SingleReader

__all__ = ["DelayIndex", "Delayed"]

#: Milliseconds that the broker waits for news, which it sends at once.
_IDLE = {"fetch_max_wait_ms": 1_500}
#: Characters of a name.
_LONGEST = 200


class Delayed(NamedTuple):
    """A job that waits: when it is due in Unix milliseconds, its ID and function as headers have them, its attempt."""

    due: int
    id: str
    function: str
    attempt: int


class DelayIndex:
    """What waits for one topic. One thread writes, any looks up.

    :param config: More settings of any Kafka client.
    """

    def __init__(self, topic: str, hosts: str, config: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        self._parts: dict[int, Part] = {}
        self.name = f"{topic}.{SUFFIX}"
        settings = {**settings_for(KafkaConsumer.DEFAULT_CONFIG, config), **_IDLE}
        wait = _IDLE["fetch_max_wait_ms"]
        self._reader = TableReader(hosts, self.name, self._apply, reset=self._reset, config=settings, poll_ms=wait)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def close(self) -> None:
        """Read no more."""
        self._reader.close()

    def count(self) -> int:
        """Return how many jobs wait."""
        with self._lock:
            return sum(map(len, self._parts.values()))

    def schedules(self) -> tuple[Schedule, ...]:
        """Return the schedules, by their names."""
        with self._lock:
            plans = [plan.as_schedule() for part in self._parts.values() for plan in part.plans.values()]
        return tuple(sorted(plans, key=lambda plan: plan.name))

    def soonest(self, count: int, reader: SingleReader) -> list[Delayed]:
        """Return the jobs that are due next, in order, so many at most.

        :param reader: Reads what is told of each.
        :raises kq.KQError: The brokers do not answer.
        """
        with self._lock:
            due = [(when, number, at) for number, part in self._parts.items() for when, at in part.soonest(count)]
        found = []
        for when, number, offset in sorted(due)[:count]:
            record = reader.read(self.name, number, offset)
            if record is not None:
                told = dict(record.headers)
                attempt = millis_of(record.headers, HEADER_ATTEMPT) or 1
                found.append(Delayed(when, _text(told.get(HEADER_ID)), _text(told.get(HEADER_FUNC)), attempt))
        return found

    def _apply(self, record: Any) -> None:
        with self._lock:
            if record.partition not in self._parts:
                self._parts[record.partition] = Part(record.partition, 0)
            self._parts[record.partition].apply(record, 0)

    def _reset(self) -> None:
        with self._lock:
            self._parts.clear()


def _text(told: bytes | None) -> str:
    return (told or b"")[:_LONGEST].decode("utf-8", "replace")
