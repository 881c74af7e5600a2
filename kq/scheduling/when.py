"""When a schedule runs: every so many seconds, or by a cron line; and which missed runs are caught up on.

Times are Unix milliseconds here; the present is an argument.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from itertools import takewhile
from typing import Any, Literal
from zoneinfo import ZoneInfo

from kq.errors import ArgumentError, MissingExtra
from kq.producing import LATEST, moment_in, moment_of

__all__ = ["CatchUp", "Cron", "Every", "runs_until", "when_of"]

CatchUp = Literal["latest", "none", "all"]

#: Runs that are caught up on at most.
MOST_MISSED = 1_000
#: Milliseconds by which a run may be late, and is not missed: as long as another owner needs to take over.
GRACE = 30_000
#: Milliseconds before the present in which runs are looked for at first.
_SPAN = 3_600_000
#: The fields of a cron line, in cronsim's words.
_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")


@dataclass(frozen=True)
class Every:
    """Every so many seconds.

    :param seconds: The time between two runs: seconds, at least 0.1, or a ``timedelta``.
    :param start: The first run: an aware ``datetime``, or Unix seconds. If left out, one interval after the first
        ``schedule``.
    :param catch_up: Of the runs that were missed, in an outage say: the ``"latest"``, ``"none"`` or ``"all"``, at most
        1,000.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    seconds: float | int | timedelta
    start: datetime | float | int | None = None
    catch_up: CatchUp = "latest"

    def __post_init__(self) -> None:
        if moment_in(self.seconds, "seconds").value < 100:
            raise ArgumentError("seconds must be 0.1 or greater")
        if self.start is not None:
            moment_of(self.start, "start")
        _check_catch_up(self.catch_up)

    def __str__(self) -> str:
        return f"every {self._interval / 1000:g} s"

    @property
    def _interval(self) -> int:
        return moment_in(self.seconds, "seconds").value

    def spec(self) -> dict[str, Any]:
        """Return it as plain data."""
        start = None if self.start is None else moment_of(self.start, "start").value
        return {"every": self._interval, "start": start, "catch_up": self.catch_up}

    def next_after(self, time: int, since: int) -> int:
        """Return the first run after a time; ``since`` is when it was first scheduled."""
        start = since + self._interval if self.start is None else moment_of(self.start, "start").value
        return start + max(0, (time - start) // self._interval + 1) * self._interval

    def last_until(self, time: int, first: int, count: int) -> list[int]:
        """Return the last runs until a time, ascending; there is a first one, not after that."""
        runs = min(count, (time - first) // self._interval + 1)
        end = time - (time - first) % self._interval
        return [end - back * self._interval for back in reversed(range(runs))]


@dataclass(frozen=True)
class Cron:
    """By a cron line of five fields: names, ranges, lists, steps, and ``L`` for the last day of a month.

    Around a change of daylight saving time it does what Debian's cron does: a fixed time that is skipped runs right
    after the gap, and one that comes twice runs once. It needs the extra ``kq[cron]``.

    :param line: Minute, hour, day of the month, month, day of the week.
    :param timezone: Name of the time zone.
    :param catch_up: As of :class:`kq.Every`.
    :raises kq.ArgumentError: The line has an error, or the time zone is not known.
    :raises kq.MissingExtra: cronsim is not installed.
    """

    line: str
    timezone: str = "UTC"
    catch_up: CatchUp = "latest"

    def __post_init__(self) -> None:
        if not isinstance(self.line, str):
            raise ArgumentError('line must be a str such as "*/5 * * * *"')
        if len(self.line.split()) != len(_FIELDS):
            raise ArgumentError(f"cron line {self.line!r} must have five fields: {' '.join(_FIELDS)}")
        self._zone()
        try:
            self._simulate(datetime(2024, 1, 1, tzinfo=timezone.utc))
        except _cronsim().CronSimError as error:
            raise ArgumentError(f"cron line {self.line!r}: {self._place(str(error))}") from None
        _check_catch_up(self.catch_up)

    def __str__(self) -> str:
        return f"{self.line} ({self.timezone})"

    def spec(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"cron": self.line, "timezone": self.timezone, "catch_up": self.catch_up}

    def next_after(self, time: int, since: int) -> int:
        """Return the first run after a time; the end of all time if there is none."""
        found = next(self._simulate(self._local(time)), None)
        return LATEST if found is None else math.ceil(found.timestamp() * 1000)

    def last_until(self, time: int, first: int, count: int) -> list[int]:
        """Return the last runs until a time, ascending; there is a first one, not after that."""
        span = _SPAN
        while True:  # only forward: backward, changes of daylight saving time give others
            begin = max(first, time - span)
            times = (math.ceil(run.timestamp() * 1000) for run in self._simulate(self._local(begin - 1)))
            runs = list(deque(takewhile(lambda run: run <= time, times), maxlen=count))
            if len(runs) == count or begin == first:
                return runs
            span *= 8

    def _local(self, time: int) -> datetime:
        return datetime.fromtimestamp(time / 1000, self._zone())

    def _simulate(self, begin: datetime) -> Any:
        return _cronsim().CronSim(self.line, begin)

    def _zone(self) -> tzinfo:
        try:
            return ZoneInfo(self.timezone)
        except Exception as error:
            text = f"unknown time zone {self.timezone!r}: a name is such as Europe/Berlin"
            raise ArgumentError(f"{text}; where the system has none, pip install tzdata") from error

    def _place(self, reason: str) -> str:
        """Return what is wrong where."""
        name = reason.removeprefix("Bad ")
        if name not in _FIELDS:
            return reason
        number = _FIELDS.index(name)
        return f"{self.line.split()[number]!r} in field {number + 1} is no {name}"


def runs_until(when: Every | Cron, last: int, since: int, now: int) -> list[int]:
    """Return the runs that are to be fired now, ascending.

    :param last: The last run that was fired; runs until then are over.
    :param since: When it was first scheduled.
    """
    first = when.next_after(max(last, since), since)
    if first > now:
        return []
    count = MOST_MISSED if when.catch_up == "all" else 1
    runs = when.last_until(now, first, count)
    if when.catch_up == "none":
        runs = [run for run in runs if now - run <= GRACE]
    return runs


def when_of(spec: Mapping[str, Any]) -> Every | Cron:
    """Return what plain data says; raise whatever it likes where another program has written them."""
    catch_up = spec["catch_up"]
    if "cron" in spec:
        return Cron(spec["cron"], spec["timezone"], catch_up)
    start = spec["start"]
    return Every(spec["every"] / 1000, None if start is None else start / 1000, catch_up)


def _check_catch_up(catch_up: object) -> None:
    if catch_up not in ("latest", "none", "all"):
        raise ArgumentError('catch_up must be "latest", "none" or "all"')


def _cronsim() -> Any:
    try:
        import cronsim
    except ImportError as error:
        raise MissingExtra('kq.Cron needs cronsim: pip install "kq[cron]"') from error
    return cronsim
