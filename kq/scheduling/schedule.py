"""Schedules: their records in ``T.later``, and what of one is to run when.

1. A program writes the definition, key ``schedule:<name>``: the job without an ID, and in a header when it runs.
2. The owner writes what it has fired last, key ``fired:<name>``. Neither overwrites what the other knows.
3. A run is an ordinary job with the ID ``<name>@<due>``: a second firing of it is recognizable.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from kq.message import HEADER_AT, HEADER_EXPIRES, HEADER_ID, HEADER_KEY, HEADER_PARTITION, HEADER_TIMESTAMP, Record
from kq.scheduling.when import Cron, Every, runs_until, when_of

__all__ = [
    "FIRED",
    "HEADER_SCHEDULE",
    "SCHEDULE",
    "Plan",
    "Schedule",
    "definition",
    "fired_of",
    "fired_value",
    "plan_of",
    "run_id",
]

#: How the keys of definitions, and of what was fired last, begin.
SCHEDULE, FIRED = b"schedule:", b"fired:"
#: When a schedule runs, and what it calls: JSON.
HEADER_SCHEDULE = "kq-schedule"
#: Headers of a definition that are not a run's.
_OF_DEFINITION = (HEADER_SCHEDULE, HEADER_KEY, HEADER_PARTITION)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Schedule(NamedTuple):
    """A schedule, as :meth:`kq.Queue.schedules` tells of it.

    :param name: Its name.
    :param when: When it runs.
    :param call: What it calls, as text.
    :param next_due: When it runs next; an aware ``datetime``, or None where it never does.
    :param last_fired: The run that was fired last; an aware ``datetime``, None if there was none.
    """

    name: str
    when: Every | Cron
    call: str
    next_due: datetime | None
    last_fired: datetime | None


class Plan:
    """A schedule of which the owner knows all."""

    __slots__ = ("call", "expires", "held_until", "is_in_flight", "last", "name", "next", "record", "since", "when")

    def __init__(self, name: str, record: Any, told: dict[str, Any]) -> None:
        self.name = name
        self.record = record
        self.when = when_of(told["when"])
        self.call = str(told["call"])
        self.since = int(told["since"])
        #: Milliseconds after its time that a run expires; None where it does not.
        self.expires = None if told["expires"] is None else int(told["expires"])
        self.last = 0
        self.is_in_flight = False
        #: After a refusal: when it is tried again.
        self.held_until = 0
        self.next = self.when.next_after(self.since, self.since)

    def look(self) -> int:
        """Return when there is something to fire, in Unix milliseconds."""
        return max(self.next, self.held_until)

    def note_fired(self, due: int) -> None:
        """Note a run that was fired."""
        if due > self.last:
            self.last = due
            self.next = self.when.next_after(max(self.last, self.since), self.since)

    def due(self, now: int) -> int | None:
        """Return the run that is to be fired now; None if there is none. Runs that are not caught up on are over."""
        if self.is_in_flight or self.look() > now:
            return None
        runs = runs_until(self.when, self.last, self.since, now)
        if not runs:
            self.next = self.when.next_after(now, self.since)
            return None
        return runs[0]

    def run(self, topic: str, due: int, now: int) -> Record:
        """Return the record of a run."""
        told = dict(self.record.headers)
        number = told.get(HEADER_PARTITION, b"")
        partition = int(number) if number.isdigit() and len(number) < 10 else self.record.partition
        headers = [(HEADER_ID, run_id(self.name, due).encode()), (HEADER_AT, b"%d" % due)]
        headers.append((HEADER_TIMESTAMP, b"%d" % now))
        if self.expires is not None:
            headers.append((HEADER_EXPIRES, b"%d" % (due + self.expires)))
        headers += [header for header in self.record.headers if header[0] not in _OF_DEFINITION]
        return Record(topic, self.record.value, told.get(HEADER_KEY), headers, partition, now)

    def as_schedule(self) -> Schedule:
        """Return it as a user sees it."""
        return Schedule(
            self.name, self.when, self.call, _datetime(self.next), _datetime(self.last) if self.last else None
        )


def plan_of(record: Any) -> Plan | None:
    """Return the plan that a definition makes; None where another program has written something else."""
    told = dict(record.headers).get(HEADER_SCHEDULE, b"")
    try:
        return Plan(record.key[len(SCHEDULE) :].decode(), record, json.loads(told))
    except Exception:  # noqa: BLE001 - it may be anything, of a later release for instance: it is skipped, and said
        return None


def fired_of(record: Any) -> tuple[str, int] | None:
    """Return of which schedule a record tells which run was fired last; None where it does not."""
    try:
        return record.key[len(FIRED) :].decode(), int(json.loads(record.value)["due"])
    except Exception:  # noqa: BLE001 - another program's: it is skipped, and said
        return None


def fired_value(due: int) -> bytes:
    """Return what says that a run was fired."""
    return json.dumps({"due": due}).encode()


def definition(when: Every | Cron, call: str, since: int, expires: int | None) -> tuple[str, bytes]:
    """Return the header that makes a record a definition."""
    told = {"when": when.spec(), "call": call, "since": since, "expires": expires}
    return HEADER_SCHEDULE, json.dumps(told).encode()


def run_id(name: str, due: int) -> str:
    """Return the ID of a run: ``name@2030-01-31T12:00:00Z``, with milliseconds only where there are some."""
    time = _EPOCH + timedelta(milliseconds=due)
    text = time.isoformat(timespec="milliseconds" if due % 1000 else "seconds")
    return f"{name}@{text.removesuffix('+00:00')}Z"


def _datetime(millis: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=millis)
    except OverflowError:
        return None
