"""Words: numbers, times and names as people read them. Times are relative; the exact one stands beside."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from markupsafe import Markup

__all__ = ["FILTERS", "counted", "duration", "rate", "short", "when"]

#: Stands for what is not there.
_NOTHING = "–"
#: Units of time, from the largest, and how many seconds each has.
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))
#: The latest time that is one, in Unix seconds: the last second of the year 9999.
_LATEST = 253_402_300_799


def counted(number: float | None) -> str:
    """Return a number with commas, or a dash: ``12,345``."""
    return _NOTHING if number is None else f"{number:,.0f}"


def rate(number: float | None) -> str:
    """Return a number a second: ``0.4``, ``12``, ``1,300``."""
    if number is None:
        return _NOTHING
    return f"{number:.1f}" if 0 < number < 9.95 else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """Return a time in words: ``12 ms``, ``3.4 s``, ``12 min``, ``5 h``, ``2 d``."""
    if seconds is None:
        return _NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return _whole(seconds)


def when(at: datetime | float | None, now: float | None = None) -> Markup | str:
    """Return a time as an element: relative, with the exact one as its title.

    :param at: An aware ``datetime``, or Unix milliseconds.
    :param now: Unix seconds.
    """
    if at is None:
        return _NOTHING
    seconds = at.timestamp() if isinstance(at, datetime) else at / 1000
    moment = datetime.fromtimestamp(min(max(0, seconds), _LATEST), timezone.utc)
    exact = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    passed = (time.time() if now is None else now) - seconds
    words = f"{_whole(passed)} ago" if passed >= 0 else f"in {_whole(-passed)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), exact, words)


def short(text: str | None, longest: int = 80) -> str:
    """Return a text in one line, and no longer than that."""
    line = " ".join((text or _NOTHING).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _whole(seconds: float) -> str:
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


#: What templates use.
FILTERS: dict[str, Any] = {
    "counted": counted,
    "rate": rate,
    "duration": duration,
    "when": when,
    "short": short,
}
