"""When schedules run: intervals, cron lines through both changes of daylight saving time, and what is caught up on."""

from __future__ import annotations

import math
import sys
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import kq
from kq.scheduling.schedule import run_id
from kq.scheduling.when import runs_until, when_of

HOUR = 3_600_000
BERLIN = ZoneInfo("Europe/Berlin")


def millis(*time: int, zone: Any = timezone.utc) -> int:
    return int(datetime(*time, tzinfo=zone).timestamp() * 1000)


def days(line: str, first: int, last: int) -> list[str]:
    """Return the runs of a cron line in Berlin, in its local time."""
    runs = kq.Cron(line, "Europe/Berlin", "all").last_until(last, first, 1_000)
    return [datetime.fromtimestamp(run / 1000, BERLIN).isoformat() for run in runs]


def test_an_interval_keeps_its_phase() -> None:
    """From its start, or from one interval after it was scheduled, whenever it is looked at."""
    assert [kq.Every(60).next_after(now, 5) for now in (5, 60_004, 60_005, 180_000)] == [
        60_005,
        60_005,
        120_005,
        180_005,
    ]
    start = datetime(2030, 1, 1, tzinfo=timezone.utc)
    every = kq.Every(timedelta(hours=1), start)
    assert every.next_after(0, 5) == millis(2030, 1, 1)
    assert every.next_after(millis(2030, 1, 1, 7, 30), 5) == millis(2030, 1, 1, 8)
    assert kq.Every(0.5, 0).next_after(10_100, 0) == 10_500


def test_a_cron_line_runs_in_its_time_zone() -> None:
    """Names, steps, ranges and the last day of a month."""
    after = millis(2030, 1, 31, 11, 30)
    assert kq.Cron("*/5 * * * *").next_after(after, 0) == millis(2030, 1, 31, 11, 35)
    assert kq.Cron("0 9 * * mon-fri", "Europe/Berlin").next_after(after, 0) == millis(2030, 2, 1, 8)
    assert kq.Cron("0 0 L * *").next_after(after, 0) == millis(2030, 2, 28)


def test_the_spring_change_skips_nothing() -> None:
    """A fixed time in the gap runs right after it; an hourly line has 23 runs that day."""
    first, last = millis(2026, 3, 28, 12, zone=BERLIN), millis(2026, 3, 30, 12, zone=BERLIN)
    assert days("30 2 * * *", first, last) == ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    assert len(days("0 * * * *", millis(2026, 3, 29, zone=BERLIN), millis(2026, 3, 29, 23, 30, zone=BERLIN))) == 23


def test_the_autumn_change_repeats_nothing() -> None:
    """A fixed time that comes twice runs once; an hourly line has 25 runs that day."""
    first, last = millis(2026, 10, 24, 12, zone=BERLIN), millis(2026, 10, 26, 12, zone=BERLIN)
    assert days("30 2 * * *", first, last) == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
    assert len(days("0 * * * *", millis(2026, 10, 25, zone=BERLIN), millis(2026, 10, 25, 23, 30, zone=BERLIN))) == 25


@pytest.mark.parametrize("when", [kq.Every(60, 0), kq.Cron("* * * * *")])
@pytest.mark.parametrize(("catch_up", "runs"), [("latest", [100]), ("none", [100]), ("all", [96, 97, 98, 99, 100])])
def test_an_outage_is_caught_up_on(when: Any, catch_up: Any, runs: list[int]) -> None:
    """Five minutes, and ten seconds after the last of them."""
    when = type(when)(*list(vars(when).values())[:2], catch_up)
    now = 100 * 60_000 + 10_000
    assert runs_until(when, 95 * 60_000, 0, now) == [run * 60_000 for run in runs]
    assert runs_until(when, 100 * 60_000, 0, now) == []


def test_none_means_none() -> None:
    """A run that is missed by more than another owner needs to take over is over."""
    every = kq.Every(3600, 0, "none")
    assert runs_until(every, HOUR, 0, 2 * HOUR + 29_000) == [2 * HOUR]
    assert runs_until(every, HOUR, 0, 2 * HOUR + 31_000) == []


@pytest.mark.parametrize("when", [kq.Every(1, 0, "all"), kq.Cron("* * * * *", catch_up="all")])
def test_all_are_a_thousand_at_most(when: Any) -> None:
    """The latest of them, also after a year."""
    now = millis(2030, 1, 1)
    runs = runs_until(when, millis(2029, 1, 1), 0, now)
    assert (len(runs), runs[-1]) == (1_000, now)


def test_a_run_has_its_time_in_its_id() -> None:
    """In UTC; milliseconds only where there are some."""
    assert run_id("n", millis(2030, 1, 31, 12)) == "n@2030-01-31T12:00:00Z"
    assert run_id("n", millis(2030, 1, 31, 12) + 500) == "n@2030-01-31T12:00:00.500Z"


@pytest.mark.parametrize("when", [kq.Every(1.5), kq.Every(60, 5.5, "all"), kq.Cron("0 0 * * *", "Asia/Tokyo", "none")])
def test_plain_data_and_back(when: Any) -> None:
    """As it goes through Kafka."""
    assert when_of(when.spec()) == when


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: kq.Cron("61 * * * *"), "'61' in field 1 is no minute"),
        (lambda: kq.Cron("0 0 * * fry"), "'fry' in field 5 is no day-of-week"),
        (lambda: kq.Cron("0 0 31 2 *"), "'31' in field 3 is no day-of-month"),
        (lambda: kq.Cron("* * * *"), "must have five fields: minute hour day-of-month month day-of-week"),
        (lambda: kq.Cron("0 * * * * *"), "must have five fields"),
        (lambda: kq.Cron(5), "line must be a str"),
        (lambda: kq.Cron("* * * * *", "Europe/Berlim"), "unknown time zone 'Europe/Berlim'"),
        (lambda: kq.Cron("* * * * *", "../etc"), "unknown time zone"),
        (lambda: kq.Cron("* * * * *", None), "unknown time zone None"),
        (lambda: kq.Cron("* * * * *", catch_up="some"), 'catch_up must be "latest", "none" or "all"'),
        (lambda: kq.Every(0), "seconds must be 0.1 or greater"),
        (lambda: kq.Every(-1), "seconds must be 0 or greater"),
        (lambda: kq.Every(math.nan), "seconds must be 0 or greater"),
        (lambda: kq.Every("1"), "seconds must be an int, a float or a timedelta"),
        (lambda: kq.Every(1, datetime(2030, 1, 1)), "start must be an aware datetime"),
        (lambda: kq.Every(1, catch_up=True), "catch_up must be"),
    ],
)
def test_what_is_no_schedule_is_refused(make: Any, error: str) -> None:
    """With the place and the reason."""
    with pytest.raises(kq.ArgumentError, match=error):
        make()


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """That says what to install."""
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(kq.MissingExtra, match=r'^kq.Cron needs cronsim: pip install "kq\[cron\]"$'):
        kq.Cron("* * * * *")
