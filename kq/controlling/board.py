"""The board: a topic ``T.control`` as a table, for those who follow it.

1. ``start`` begins to read, in a thread of the reader's; ``wait_loaded`` tells when all that was there is known.
2. What comes is noted in that thread. Others look at any time.
3. ``close`` ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaConsumer

from kq.clients import TableReader, settings_for
from kq.controlling.wishes import SUFFIX, Cancels, Wish, unpacked

__all__ = ["Board"]


class Board:
    """What is wished of the workers of a topic.

    :param config: More settings of any Kafka client.
    :param cancels: Where cancelled jobs are noted.
    :param on_change: Called after something was noted, in the reader's thread; it must be quick.
    """

    def __init__(
        self,
        topic: str,
        hosts: str,
        config: Mapping[str, Any],
        *,
        cancels: Cancels | None = None,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self.cancels = Cancels() if cancels is None else cancels
        self._on_change = on_change
        settings = settings_for(KafkaConsumer.DEFAULT_CONFIG, config)
        self._reader = TableReader(hosts, f"{topic}.{SUFFIX}", self._apply, reset=self._reset, config=settings)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def wait_loaded(self, timeout: float | None = None) -> bool:
        """Return whether all that was there at the start is known, or is within so many seconds."""
        return self._reader.wait_loaded(timeout)

    def close(self) -> None:
        """Read no more."""
        self._reader.close()

    def _reset(self) -> None:
        self.cancels.clear()

    def _apply(self, record: Any) -> None:
        key = record.key or b""
        if key.startswith(Wish.CANCEL):
            self.cancels.note(key[len(Wish.CANCEL) :], unpacked(key, record.value), int(time.time() * 1000))
        self._on_change()
