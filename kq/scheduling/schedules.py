"""Schedules as programs make, end and list them.

1. ``put`` looks whether there is one of the name. With the same ``when`` it begins when that began: nothing is doubled.
2. ``remove`` writes tombstones; ``all`` reads the topic as a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer

from kq.errors import ArgumentError, SignatureError
from kq.job import Job
from kq.message import Headers, Record
from kq.producing import Delivery, Later
from kq.scheduling.reading import read_parts
from kq.scheduling.schedule import FIRED, SCHEDULE, Plan, Schedule, definition
from kq.scheduling.when import Cron, Every
from kq.signing import LATER, Signer
from kq.utils import call_repr

__all__ = ["Schedules", "check_schedule"]

#: Bytes that a name has at most.
_LONGEST = 200
#: Where a value, or a list of them, would be a page of text.
_LONGEST_CALL = 1_000


def check_schedule(name: object, when: object) -> None:
    """Raise :class:`kq.ArgumentError` where one is of the wrong type or value."""
    if not (isinstance(name, str) and 0 < len(name.encode("utf-8", "replace")) <= _LONGEST and name.isprintable()):
        raise ArgumentError(f"name must be a str of 1 to {_LONGEST} printable characters")
    if not isinstance(when, (Cron, Every)):
        raise ArgumentError('when must be kq.Every(seconds) or kq.Cron("minute hour day month weekday")')


class Schedules:
    """The schedules of one topic.

    :param access: Returns what another client needs to get to the brokers, of the settings that it knows.
    :param signer: Signs what is made; what it does not verify is replaced as if it were not there.
    :param hides: Whether the arguments of calls stay out of what is shown of them.
    """

    def __init__(
        self,
        delivery: Delivery,
        later: Later,
        access: Callable[[Collection[str]], dict[str, Any]],
        signer: Signer | None = None,
        *,
        hides: bool = False,
    ) -> None:
        self._delivery = delivery
        self._signer = signer
        self._hides = hides
        self._later = later
        self._access = access

    @property
    def topic(self) -> str:
        """The topic of the jobs."""
        return self._delivery.topic

    def put(
        self, name: str, when: Cron | Every, job: Job, value: bytes, headers: Headers, expires: int | None
    ) -> Schedule:
        """Make a schedule, or another one of it, and return it when the broker has acknowledged it.

        :param job: What each run is, with an ID for errors.
        :param value: The serialized job, without an ID.
        :param headers: Those of each run, without an ID.
        :param expires: Milliseconds after its time that a run expires.
        """
        self._later.prepare(job)
        old = self._plans().get(name)
        now = int(time.time() * 1000)
        since = now if old is None or old.when.spec() != when.spec() or not self._has_signed(old, now) else old.since
        record = self.record(name, when, job, value, headers, expires, since)
        if old is not None and old.record.partition != record.partition:  # another key: it belongs elsewhere now
            self._end(old)
        self._send(job, record)
        plan = self._plans()[name]
        return plan.as_schedule()

    def record(
        self, name: str, when: Cron | Every, job: Job, value: bytes, headers: Headers, expires: int | None, since: int
    ) -> Record:
        """Return the record of a schedule that was first made at a time, in Unix milliseconds."""
        call = call_repr(job.func, job.args or (), job.kwargs or {}, self._hides)[:_LONGEST_CALL]  # type: ignore[arg-type]
        partition, own = self._later.place(job, name.encode())
        made = [definition(when, call, since, expires), *own, *headers]
        now = int(time.time() * 1000)
        record = Record(self._later.topic, value, SCHEDULE + name.encode(), made, partition, now)
        return record if self._signer is None else self._signer.sign(LATER, record, now)

    def _has_signed(self, plan: Plan, now: int) -> bool:
        try:
            if self._signer is not None:
                self._signer.verify(LATER, plan.record, now, since=now)
        except SignatureError:
            return False
        return True

    def remove(self, name: str) -> bool:
        """End a schedule; return whether there was one."""
        plan = self._plans().get(name)
        if plan is not None:
            self._end(plan)
        return plan is not None

    def all(self) -> list[Schedule]:
        """Return all, by their names."""
        return [plan.as_schedule() for _, plan in sorted(self._plans().items())]

    def _end(self, plan: Plan) -> None:
        producer = self._delivery.producer
        for key in (SCHEDULE, FIRED):
            sent = producer.send(self._later.topic, None, key=key + plan.name.encode(), partition=plan.record.partition)
            sent.get(self._delivery.patience)

    def _send(self, job: Job, record: Record) -> None:
        sent = self._delivery.send(job, record)
        self._delivery.wait(sent)
        if error := self._delivery.verdict(sent):
            raise error

    def _plans(self) -> dict[str, Plan]:
        """Read the topic, and return what is scheduled."""
        known = {**KafkaConsumer.DEFAULT_CONFIG, **KafkaAdminClient.DEFAULT_CONFIG}
        parts = read_parts(self._delivery.topic, self._delivery.hosts, self._access(known))
        return {name: plan for part in parts or () for name, plan in part.plans.items()}
