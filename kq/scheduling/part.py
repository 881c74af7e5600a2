"""A part: one partition of ``T.later`` that an owner has, and what is pending there.

1. ``apply`` takes each record in, from the start of the log. Until all is loaded nothing is fired: a tombstone may
   stand further on.
2. What is due before long is *staged*: its record is kept, or read again. ``stage`` says which offsets to read.
3. ``take`` gives the staged records that are due, in order.
4. What is cancelled is due at once: it goes where it is told of.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from heapq import heappop, heappush
from typing import Any

from kq.scheduling.entries import due_of, hash_of, id_of, is_entry, mark_of, mark_of_id
from kq.scheduling.schedule import FIRED, SCHEDULE, Plan, fired_of, plan_of
from kq.scheduling.table import Table

__all__ = ["Part", "Staged"]

#: Milliseconds before it is due that the record of an entry is read again; and up to which one that has just come is
#: kept, so that it need not be read again.
STAGE_AHEAD, KEEP_AHEAD = 2_000, 60_000
#: Entries and bytes of values that are staged in one part at most.
MOST, MOST_BYTES = 10_000, 16 * 1024 * 1024


class Staged:
    """An entry that is due before long."""

    __slots__ = ("due", "hash", "offset", "record", "refusals")

    def __init__(self, due: int, offset: int, hash_: int, record: Any) -> None:
        self.due = due
        self.offset = offset
        self.hash = hash_
        #: None until it was read again.
        self.record = record
        #: How often the topic of the jobs has refused it.
        self.refusals = 0

    @property
    def size(self) -> int:
        return 0 if self.record is None else len(self.record.value or b"")


class Part:
    """What is pending in one partition.

    :param end: The offset that was the end of the log when it was assigned.
    :param cancelled: The IDs of jobs that are cancelled; it may grow from any thread.
    """

    def __init__(self, number: int, end: int, cancelled: Container[bytes] = ()) -> None:
        self.number = number
        self.end = end
        self._cancelled = cancelled
        self.is_loaded = False
        #: Set from any thread when the partition is taken away: from then on nothing is fired.
        self.is_closed = False
        self._table = Table()
        self._staged: dict[int, Staged] = {}
        #: Heap of due time, offset and hash of what is staged, and of what was.
        self._order: list[tuple[int, int, int]] = []
        #: What is to be read again, by its offset.
        self._unread: dict[int, Staged] = {}
        self._bytes = 0
        self.plans: dict[str, Plan] = {}
        #: The last run of each schedule that was fired, in Unix milliseconds; a definition may stand behind it.
        self._fired: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._table) + len(self._staged)

    def apply(self, record: Any, now: int) -> bool:
        """Take in a record; return False where it is no entry.

        :param now: Unix milliseconds.
        """
        if record.key is not None and record.key.startswith((SCHEDULE, FIRED)):
            return self._apply_schedule(record)
        if not is_entry(record.key):
            return False
        hash_ = hash_of(record.key)
        due = None if record.value is None else due_of(record.headers)
        if due is None and record.value is not None:
            return False
        self._unstage(hash_)
        if due is not None and due > now and self.is_cancelled(record):
            due = now
        if due is None:
            self._table.remove(hash_)
        elif self.is_loaded and due <= now + KEEP_AHEAD and self._has_room():
            self._table.remove(hash_)
            self._add(Staged(due, record.offset, hash_, record))
        else:
            self._table.put(due, record.offset, hash_)
        return True

    def _apply_schedule(self, record: Any) -> bool:
        if record.value is None:
            stem, _, name = record.key.partition(b":")
            (self.plans if stem + b":" == SCHEDULE else self._fired).pop(name.decode("utf-8", "replace"), None)
            return True
        if record.key.startswith(FIRED):
            if (fired := fired_of(record)) is not None:
                self.note_fired(*fired)
            return fired is not None
        plan = plan_of(record)
        if plan is not None:
            old = self.plans.get(plan.name)
            plan.is_in_flight = old is not None and old.is_in_flight
            plan.note_fired(self._fired.get(plan.name, 0))
            self.plans[plan.name] = plan
        return plan is not None

    def note_fired(self, name: str, due: int) -> None:
        """Note the run of a schedule that was fired."""
        self._fired[name] = max(due, self._fired.get(name, 0))
        if name in self.plans:
            self.plans[name].note_fired(due)

    def end_run(self, plan: Plan, due: int) -> None:
        """Note a run whose job is on its topic."""
        plan.is_in_flight = False
        if plan.name in self.plans:  # it may have another definition by now
            self.plans[plan.name].is_in_flight = False
        self.note_fired(plan.name, due)

    def runs(self, now: int) -> list[tuple[Plan, int]]:
        """Return the schedules that are to run now, each with the run."""
        return [(plan, due) for plan in self.plans.values() if (due := plan.due(now)) is not None]

    def stage(self, now: int) -> list[int]:
        """Stage what is due before long; return the offsets that are to be read again for it."""
        offsets = []
        while self._has_room() and (first := self._table.first()) is not None and first <= now + STAGE_AHEAD:
            staged = Staged(*self._table.pop(), None)
            self._add(staged)
            self._unread[staged.offset] = staged
            offsets.append(staged.offset)
        return offsets

    def give(self, record: Any) -> None:
        """Take a record that was read again."""
        staged = self._unread.pop(record.offset, None)
        if staged is not None:
            staged.record = record
            self._bytes += staged.size

    def gone(self, offset: int) -> None:
        """Forget an entry whose record is not in the log any more: a newer one has come, or a tombstone."""
        staged = self._unread.get(offset)
        if staged is not None:
            self._unstage(staged.hash)

    def take(self, now: int) -> Staged | None:
        """Take out the next entry if it is due and its record is there; None if not."""
        while self._order:
            due, offset, hash_ = self._order[0]
            staged = self._staged.get(hash_)
            if staged is not None and staged.offset == offset and staged.due == due:
                if due > now or staged.record is None:
                    return None
                self._unstage(hash_)
                if self._is_due(staged, now):
                    heappop(self._order)
                    return staged
            heappop(self._order)
        return None

    def is_cancelled(self, record: Any) -> bool:
        """Return whether the job of a record is cancelled."""
        return bool(self._cancelled) and (job_id := id_of(record)) is not None and job_id in self._cancelled

    def hasten(self, ids: Iterable[bytes], now: int) -> None:
        """Have the entries of some jobs be due now. They are found by half a hash, so others may be among them."""
        marks = set(map(mark_of_id, ids))
        self._table.hasten(marks, now)
        for staged in [one for hash_, one in self._staged.items() if mark_of(hash_) in marks and one.due > now]:
            staged.due = now
            heappush(self._order, (now, staged.offset, staged.hash))

    def _is_due(self, staged: Staged, now: int) -> bool:
        """Return whether an entry is due by its record; one that was hastened for another's sake waits on."""
        due = due_of(staged.record.headers)
        if due is None or due <= now or self.is_cancelled(staged.record):
            return True
        self._table.put(due, staged.offset, staged.hash)
        return False

    def put_back(self, staged: Staged, due: int) -> None:
        """Have an entry that was refused fired again, unless a newer one has come in its place."""
        if staged.hash not in self._staged:
            staged.due = due
            self._add(staged)

    def next_look(self) -> int | None:
        """Return when there is something to stage or to fire, in Unix milliseconds; None if nothing is pending."""
        first = self._table.first()
        times = [] if first is None or not self._has_room() else [first - STAGE_AHEAD]
        if self._order:
            times.append(self._order[0][0])
        times += [plan.look() for plan in self.plans.values() if not plan.is_in_flight]
        return min(times, default=None)

    def next_due(self) -> int | None:
        """Return when the next entry is due; None if there is none."""
        times = [time for time in (self._table.first(), *(staged.due for staged in self._staged.values())) if time]
        return min(times, default=None)

    def soonest(self, count: int) -> list[tuple[int, int]]:
        """Return when the next entries are due, and their offsets, so many at most; of a part that fires nothing."""
        return [(one.due, one.offset) for one in self._table.soonest(count)]

    def _has_room(self) -> bool:
        return len(self._staged) < MOST and self._bytes < MOST_BYTES

    def _add(self, staged: Staged) -> None:
        self._staged[staged.hash] = staged
        self._bytes += staged.size
        heappush(self._order, (staged.due, staged.offset, staged.hash))

    def _unstage(self, hash_: int) -> None:
        staged = self._staged.pop(hash_, None)
        if staged is not None:
            self._bytes -= staged.size
            self._unread.pop(staged.offset, None)
