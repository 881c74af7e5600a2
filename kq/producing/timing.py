"""When a job is due and when it expires: from what a user gives to Unix milliseconds.

1. ``delay``, ``at`` and ``expires`` are checked where they are given, and kept as a ``Moment`` each.
2. A moment is reckoned from the enqueueing, or it is a time. ``millis`` makes a time of it when there is a job.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from kq.errors import ArgumentError

__all__ = ["LATEST", "Moment", "check_expiry", "due_moment", "moment_in", "moment_of"]

#: The last millisecond that is taken: the end of the year 9999, where ``datetime`` ends too.
LATEST = 253_402_300_799_999


class Moment(NamedTuple):
    """A time, in Unix milliseconds, or so many milliseconds after the enqueueing."""

    value: int
    is_relative: bool

    def millis(self, now: int) -> int:
        """Return the time in Unix milliseconds, for a job that is enqueued now."""
        return min(now + self.value, LATEST) if self.is_relative else self.value


def due_moment(delay: Any, at: Any) -> Moment | None:
    """Return when a job is due; None where nothing is given.

    :raises kq.ArgumentError: Both are given, or one is of the wrong type or value.
    """
    if delay is not None and at is not None:
        raise ArgumentError("pass delay or at, not both")
    if delay is not None:
        return moment_in(delay, "delay")
    return None if at is None else moment_of(at, "at")


def check_expiry(expires: Any) -> Moment | None:
    """Return when a job expires; None where nothing is given."""
    if expires is None:
        return None
    if isinstance(expires, datetime):
        return moment_of(expires, "expires")
    return moment_in(expires, "expires", "an int, a float, a timedelta or an aware datetime")


def moment_in(duration: Any, name: str, kinds: str = "an int, a float or a timedelta") -> Moment:
    """Return the moment that comes so long after the enqueueing; a millisecond that has begun counts whole."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not isinstance(seconds, (int, float)):
        raise ArgumentError(f"{name} must be {kinds}")
    if not 0 <= seconds <= LATEST / 1000:  # neither is what is not a number
        raise ArgumentError(f"{name} must be 0 or greater, and end before the year 10000")
    return Moment(_ceil(seconds), is_relative=True)


def moment_of(time: Any, name: str) -> Moment:
    """Return the moment of an aware datetime, or of Unix seconds."""
    if isinstance(time, datetime):
        if time.utcoffset() is None:
            raise ArgumentError(
                f"{name} must be an aware datetime: say which time zone, as in {name}=datetime(2030, 1, 31, 12, "
                f"tzinfo=timezone.utc) or {name}=local_time.astimezone()"
            )
        time = time.timestamp()
    if not isinstance(time, (int, float)):
        raise ArgumentError(f"{name} must be an aware datetime, or Unix seconds as an int or a float")
    if not -LATEST / 1000 <= time <= LATEST / 1000:
        raise ArgumentError(f"{name} must be Unix seconds before the year 10000")
    return Moment(max(0, _ceil(time)), is_relative=False)


def _ceil(seconds: float) -> int:
    """Return milliseconds, rounded up: never early. What a float has beyond a microsecond is its own noise."""
    return math.ceil(round(seconds * 1000, 3))
