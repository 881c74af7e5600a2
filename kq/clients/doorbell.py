"""A doorbell: ends a consumer's poll before its time, from another thread. The client has nothing of the kind."""

from __future__ import annotations

import contextlib
from typing import Any

from kafka.future import Future
from kafka.util import Timer

__all__ = ["Doorbell"]

#: Milliseconds of a poll where the client is another one than was known, and cannot be woken.
_BLIND_MS = 25


class Doorbell:
    """Wakes who polls by it."""

    def __init__(self) -> None:
        self._rung = Future()
        #: Whether it was rung since the last poll began, and the loop of the client that polls.
        self._is_rung = False
        self._net: Any = None

    def ring(self) -> None:
        """End the poll that goes on, or that comes next."""
        self._is_rung = True
        rung, net = self._rung, self._net
        if net is not None and not rung.is_done:
            with contextlib.suppress(Exception):  # the client is closed, or was not this one: nobody polls by it
                net.call_soon_threadsafe(lambda: None if rung.is_done else rung.success(None))

    def poll(self, consumer: Any, timeout_ms: int) -> dict[Any, list[Any]]:
        """Return what ``consumer.poll`` would, or nothing as soon as the bell is rung."""
        fetcher = getattr(consumer, "_fetcher", None)
        waited_on, self._net = getattr(fetcher, "_fetch_futures", None), getattr(fetcher, "_net", None)
        if self._rung.is_done:
            self._rung = Future()
        if self._is_rung:
            self._is_rung, timeout_ms = False, 0
        if waited_on is None or self._net is None or not hasattr(consumer, "_poll_once"):
            return dict(consumer.poll(timeout_ms=min(timeout_ms, _BLIND_MS)))
        if self._rung not in waited_on:  # the poll waits for whichever of these is done first
            waited_on.append(self._rung)
        return dict(consumer._poll_once(Timer(timeout_ms), consumer.config["max_poll_records"]))
