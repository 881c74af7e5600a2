"""History: what a topic's figures were in the last minutes, and the rates that follow from them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["History", "Point", "Rates"]

#: Points that are kept: five minutes, at one every other second.
_MOST = 150
#: Seconds over which a rate is taken: the last look alone would jump.
_OVER = 10.0


class Point(NamedTuple):
    """Figures of a topic at one time.

    :param at: By the monotonic clock.
    :param end: The sum of the ends of its partitions.
    :param done: The sum of what its groups have committed; None where there is no group.
    :param lag: The messages before all its groups.
    """

    at: float
    end: int
    done: int | None
    lag: int


class Rates(NamedTuple):
    """Messages a second, that came and that were done; None while that is not known."""

    came: float | None = None
    done: float | None = None


class History:
    """The last points of a topic. Belongs to one thread, which gives others tuples."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=_MOST)
        self._rates: deque[Rates] = deque(maxlen=_MOST)

    def add(self, point: Point) -> None:
        """Add a point; of a topic that was made anew the others are forgotten."""
        if self._points and point.end < self._points[-1].end:
            self._points.clear()
            self._rates.clear()
        self._points.append(point)
        self._rates.append(self._rate(point))

    @property
    def rates(self) -> tuple[Rates, ...]:
        """The rates at each point."""
        return tuple(self._rates)

    @property
    def lags(self) -> tuple[int, ...]:
        """The lag at each point."""
        return tuple(point.lag for point in self._points)

    def _rate(self, now: Point) -> Rates:
        before = next(point for point in self._points if point is now or now.at - point.at <= _OVER)
        seconds = now.at - before.at
        if seconds <= 0:
            return Rates()
        done = None if now.done is None or before.done is None else max(0, now.done - before.done) / seconds
        return Rates((now.end - before.end) / seconds, done)
