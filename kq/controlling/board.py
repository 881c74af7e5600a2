"""The board: a topic ``T.control`` as a table, for those who follow it.

1. ``start`` begins to read, in a thread of the reader's; ``wait_loaded`` tells when all that was there is known.
2. What comes is noted in that thread. Others look at any time.
3. ``close`` ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kafka import KafkaConsumer

from kq.clients import TableReader, settings_for
from kq.controlling.reports import GONE_AFTER
from kq.controlling.seal import Seal
from kq.controlling.wishes import LONGEST_KEY, SUFFIX, Cancels, Wish, unpacked

__all__ = ["Board", "Seen"]

#: Milliseconds that the broker waits for news, which it sends at once: to ask seldom costs less.
_IDLE = {"fetch_max_wait_ms": 1_500}
#: Workers that are remembered at most.
_MOST = 10_000


class Seen(NamedTuple):
    """A report of a worker."""

    value: bytes
    #: By the broker's clock, in Unix milliseconds.
    timestamp: int
    #: When it came, by the monotonic clock; None where it was there before.
    at: float | None

    def age(self, now: float, clock: float) -> float:
        """Return how many seconds old it is.

        :param now: Unix seconds.
        :param clock: The monotonic clock.
        """
        return max(0.0, now - self.timestamp / 1000) if self.at is None else clock - self.at


class Board:
    """What is wished of the workers of a topic, and what these say of themselves.

    :param config: More settings of any Kafka client.
    :param cancels: Where cancelled jobs are noted.
    :param seal: Looks at each record; what it refuses has no effect.
    :param on_change: Called after something was noted, in the reader's thread; it must be quick.
    """

    def __init__(
        self,
        topic: str,
        hosts: str,
        config: Mapping[str, Any],
        *,
        cancels: Cancels | None = None,
        seal: Seal | None = None,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self.cancels = Cancels() if cancels is None else cancels
        #: Groups that are paused; "" stands for all.
        self.pauses: set[str] = set()
        #: Workers that are to stop, and the ping that came last.
        self.stops: set[str] = set()
        self.ping: str | None = None
        self.reports: dict[str, Seen] = {}
        #: The offset of what was noted last.
        self.offset = -1
        self._on_change = on_change
        self._holds = (seal or Seal(topic, None)).holds
        settings = {**settings_for(KafkaConsumer.DEFAULT_CONFIG, config), **_IDLE}
        name, wait = f"{topic}.{SUFFIX}", _IDLE["fetch_max_wait_ms"]
        self._reader = TableReader(hosts, name, self._apply, reset=self._reset, config=settings, poll_ms=wait)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def wait_loaded(self, timeout: float | None = None) -> bool:
        """Return whether all that was there at the start is known, or is within so many seconds."""
        return self._reader.wait_loaded(timeout)

    def close(self) -> None:
        """Read no more."""
        self._reader.close()

    def is_paused(self, group: str) -> bool:
        """Return whether no worker of a group is to start a job."""
        return bool(self.pauses) and ("" in self.pauses or group in self.pauses)

    def present(self, patience: float = GONE_AFTER) -> dict[str, Seen]:
        """Return the last report of each worker that has reported within so many seconds."""
        now, clock = time.time(), time.monotonic()
        return {name: seen for name, seen in list(self.reports.items()) if seen.age(now, clock) <= patience}

    def _reset(self) -> None:
        self.cancels.clear()
        self.offset = -1
        for found in (self.pauses, self.stops, self.reports):
            found.clear()
        self._on_change()

    def _apply(self, record: Any) -> None:
        if self._holds(record):
            self._take(record)
        self.offset = record.offset
        self._on_change()

    def _take(self, record: Any) -> None:
        key, fields = record.key or b"", unpacked(record.key, record.value)
        kind, _, name = key[:LONGEST_KEY].partition(b":")
        if kind == Wish.CANCEL:
            self.cancels.note(key[len(kind) + 1 :], fields, int(time.time() * 1000))
        elif kind == Wish.WORKER:
            self._note_report(name.decode("utf-8", "replace"), record, fields)
        elif kind in (Wish.PAUSE, Wish.STOP):
            named = self.pauses if kind == Wish.PAUSE else self.stops
            (named.discard if fields is None else named.add)(name.decode("utf-8", "replace"))
        elif kind == Wish.PING and fields is not None and self._reader.wait_loaded(0):
            self.ping = str(fields.get("nonce"))[:LONGEST_KEY]

    def _note_report(self, name: str, record: Any, fields: Mapping[str, Any] | None) -> None:
        if fields is None:
            self.reports.pop(name, None)
        elif name in self.reports or len(self.reports) < _MOST:
            at = time.monotonic() if self._reader.wait_loaded(0) else None
            self.reports[name] = Seen(record.value, record.timestamp, at)
