"""Reports: what workers say of themselves in ``T.control``, every other second.

1. ``report_of`` makes the value of a report, in which lists have a bound.
2. ``parsed`` reads it back. Other programs may write there: each field is checked, and nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from kq.controlling.wishes import packed, unpacked

__all__ = ["GONE_AFTER", "REPORT_EVERY", "RunningJob", "WorkerInfo", "parsed", "report_of"]

#: Seconds between two reports of a worker; and without one, until it counts as gone.
REPORT_EVERY, GONE_AFTER = 2.0, 10.0
#: Running jobs that a report names, the oldest; and characters of any text in it.
_MOST_RUNNING, _LONGEST_TEXT = 100, 300
#: The latest time that is one: the last second of the year 9999.
_LATEST = 253_402_300_799


class RunningJob(NamedTuple):
    """A job that a worker runs.

    :param id: Job ID; None where its message has none.
    :param call: The name of the function, without its arguments; they may hold secrets. None where it is not known.
    :param started: When this attempt began.
    :param attempt: The number of the attempt, from 1.
    """

    id: str | None
    call: str | None
    started: datetime
    attempt: int


class WorkerInfo(NamedTuple):
    """A worker, as it said of itself last.

    :param id: Its name, ``<host>-<pid>-<letters>``; each ``start`` has another.
    :param host: The name of its machine.
    :param pid: Its process there.
    :param group: Its consumer group.
    :param version: The version of KQ.
    :param state: ``"running"``, ``"paused"``, ``"quiet"`` or ``"draining"``.
    :param executor: ``"inline"``, ``"thread"``, ``"process"``, or the name of another one.
    :param concurrency: How many jobs it runs at once.
    :param since: When it was started.
    :param seen: When it reported last.
    :param partitions: The partitions that it has.
    :param stats: Its figures, as :meth:`kq.Worker.stats` has them.
    :param running: What it runs: at most a hundred, the oldest.
    """

    id: str
    host: str
    pid: int
    group: str
    version: str
    state: str
    executor: str
    concurrency: int
    since: datetime
    seen: datetime
    partitions: tuple[int, ...]
    stats: Mapping[str, float]
    running: tuple[RunningJob, ...]


def report_of(
    about: Mapping[str, Any], state: str, figures: Mapping[str, Any], runs: Iterable[RunningJob], pong: str | None
) -> bytes:
    """Return the value of a report.

    :param about: What does not change.
    :param figures: Those of the worker; ``commit_lag`` has its partitions.
    :param pong: What the last ping said.
    """
    runs = sorted(runs, key=lambda run: run.started)[:_MOST_RUNNING]
    running = [[_cut(run.id), _cut(run.call), round(run.started.timestamp(), 3), run.attempt] for run in runs]
    lag = figures.get("commit_lag") or {}
    stats = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
    stats["commit_lag"] = sum(lag.values())
    return packed(**about, state=state, partitions=sorted(lag), stats=stats, running=running, pong=pong)


def parsed(worker_id: str, value: bytes, timestamp: int) -> tuple[WorkerInfo, str | None] | None:
    """Return a worker, and which ping it has heard last; None where this is no report.

    :param timestamp: Of the record, in Unix milliseconds.
    """
    told = unpacked(b"", value)
    if told is None:
        return None
    partitions, stats, running = told.get("partitions"), told.get("stats"), told.get("running")
    info = WorkerInfo(
        id=worker_id[:_LONGEST_TEXT],
        **{name: _text(told.get(name)) for name in ("host", "group", "version", "state", "executor")},
        pid=_whole(told.get("pid")),
        concurrency=_whole(told.get("concurrency")),
        since=_moment(told.get("since")),
        seen=_moment(timestamp / 1000),
        partitions=tuple(map(_whole, partitions)) if isinstance(partitions, list) else (),
        stats=_figures(stats) if isinstance(stats, dict) else {},
        running=tuple(map(_run, running[:_MOST_RUNNING])) if isinstance(running, list) else (),
    )
    return info, _text(told.get("pong")) or None


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:_LONGEST_TEXT]


def _text(told: Any) -> str:
    return told[:_LONGEST_TEXT] if isinstance(told, str) else ""


def _whole(told: Any) -> int:
    return told if isinstance(told, int) and not isinstance(told, bool) and 0 <= told < 1 << 63 else 0


def _moment(told: Any) -> datetime:
    seconds = told if isinstance(told, (int, float)) and 0 <= told <= _LATEST else 0
    return datetime.fromtimestamp(seconds, timezone.utc)


def _figures(told: Mapping[str, Any]) -> dict[str, float]:
    return {name[:_LONGEST_TEXT]: value for name, value in told.items() if isinstance(value, (int, float))}


def _run(told: Any) -> RunningJob:
    job_id, call, started, attempt = told if isinstance(told, list) and len(told) == 4 else (None, None, 0, 1)
    return RunningJob(_text(job_id) or None, _text(call) or None, _moment(started), max(1, _whole(attempt)))
