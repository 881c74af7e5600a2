"""The message store: where the message log is kept, and how it is read."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, NoReturn

from kq.errors import ArgumentError
from kq.messagelog import schema
from kq.messagelog.entries import STATUSES, LogStatus, MessageLog
from kq.messagelog.recorder import Feed, Recorder, RowsOf
from kq.messagelog.writing import Writer

__all__ = ["MessageStore", "check_store"]

#: Seconds without a sign of life after which a worker is gone: several times what it takes to be heard of, and what
#: clocks may differ.
DEAD_AFTER = 30.0
#: Entries that one transaction removes: what others write does not wait for longer.
_AT_ONCE = 2000
#: Seconds between two looks of ``tail``, and by how much what is new may seem to be old: clocks differ.
_LOOK_EVERY, _OVERLAP = 0.5, 2.0
#: Entries that one look of ``tail`` shows at most.
_MOST_SHOWN = 1000
#: Columns that are what an entry has by their names.
_PLAIN = (
    *("job_id", "status", "attempt", "topic", "partition", "offset", "key", "task_type", "function", "arguments"),
    *("worker", "result", "exception", "traceback", "logs"),
)
#: Seconds that ``close`` waits for what is not written yet.
_CLOSING = 5.0

#: ``list`` is a method below.
Entries = list[MessageLog]
Terms = list[Any]


class MessageStore:
    """A message log in a database.

    Queues and workers that are given it write there, in a thread of its own that slows none of them down. The tables
    are made, and upgraded, when something is written. Close it at the end, or use it as a context manager: that writes
    the rest.

    :param url: ``"sqlite:///kq.db"`` or ``"postgresql://user:password@host/name"``, in the words of SQLAlchemy.
    :param mask_arguments: Whether the arguments of calls, and what jobs return, stay out of it: ``***`` stands there.
    :param keep: How long entries are kept after their last change; None for ever.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    :raises kq.MissingExtra: SQLAlchemy, or the driver of the database, is not installed.
    """

    def __init__(
        self,
        url: str = "sqlite:///kq.db",
        mask_arguments: bool = False,
        keep: timedelta | None = timedelta(days=30),
    ) -> None:
        if not isinstance(mask_arguments, bool):
            raise ArgumentError("mask_arguments must be a bool")
        if not (keep is None or (isinstance(keep, timedelta) and keep > timedelta(0))):
            raise ArgumentError("keep must be a timedelta above 0, or None")
        self._engine = schema.open_engine(url)
        self.mask_arguments = mask_arguments
        self.keep = keep
        self._recorder = Recorder(_Keeper(self._engine, self))
        self._is_checked = False

    def __repr__(self) -> str:
        return f"MessageStore({self.url})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MessageStore cannot be serialized; a job that reads the log makes its own")

    def __enter__(self) -> MessageStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The address of the database, without its password."""
        return schema.shown(self._engine)

    @property
    def dropped(self) -> int:
        """How many statuses are lost, because the database was away or too slow: the next one of each job mends it."""
        return self._recorder.dropped

    def feed(self, rows_of: RowsOf, worker: str | None = None) -> Feed:
        """Return what a queue or a worker, of this name, can write with."""
        return self._recorder.feed(rows_of, worker)

    def remove(self, feed: Feed, timeout: float) -> bool:
        """Take no more from a feed; return whether what it had is written within so many seconds."""
        return self._recorder.remove(feed, timeout)

    def flush(self, timeout: float = 10.0) -> bool:
        """Write what was not written yet, and return whether it is, within so many seconds."""
        return self._recorder.flush(timeout)

    def close(self, timeout: float = _CLOSING) -> None:
        """Write the rest, within so many seconds, and let the database go. Closing twice is fine."""
        self._recorder.close(timeout)
        self._engine.dispose()

    # -- reading -------------------------------------------------------------------------------------------------------

    def list(
        self,
        status: LogStatus | Collection[LogStatus] | None = None,
        function: str | None = None,
        *,
        topic: str | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        text: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Entries:
        """Return entries, the one that was changed last first.

        :param status: Only those, one or several.
        :param function: Only those of this function.
        :param topic: Only those of this topic.
        :param since: Only those whose status changed at this time or later: an aware ``datetime``, or Unix seconds.
        :param until: Only those whose status changed before.
        :param text: Only those that have this text in their exception or its traceback.
        :param limit: So many at most.
        :param offset: Pass over so many.
        :raises kq.ArgumentError: An argument has the wrong type or value.
        :raises kq.StoreError: There is no log, or the database refuses.
        """
        where = self._where(status, function, topic, since, until, text)
        log = schema.tables().log
        query = self._query().where(*where).order_by(log.c.changed.desc(), log.c.job_id.desc())
        return self._read(query.limit(limit).offset(offset))

    def search(self, text: str, limit: int = 50, **filters: Any) -> Entries:
        """Return entries that have a text in their exception or its traceback, the last one first.

        :param filters: Those of :meth:`list`.
        """
        return self.list(text=text, limit=limit, **filters)

    def get(self, job_id: str) -> MessageLog | None:
        """Return the entry of a job; None if there is none."""
        found = self._read(self._query().where(schema.tables().log.c.job_id == job_id))
        return found[0] if found else None

    def tail(self, count: int = 10, *, follow: bool = True, **filters: Any) -> Iterator[MessageLog]:
        """Yield the entries that were changed last, the oldest of them first, and then each that changes.

        :param count: With so many it begins.
        :param follow: Go on with what changes, for ever.
        :param filters: Those of :meth:`list`, but for ``offset`` and ``limit``.
        """
        last = time.time()
        known = self.list(**filters, limit=max(count, _MOST_SHOWN))
        shown = {entry.job_id: entry for entry in known}  # those before the first one are no news
        yield from reversed(known[:count])
        while follow:
            time.sleep(_LOOK_EVERY)
            begun = time.time()
            filters["since"] = last - _OVERLAP
            for entry in reversed(self.list(**filters, limit=_MOST_SHOWN)):
                if shown.get(entry.job_id) != entry:
                    shown[entry.job_id] = entry
                    yield entry
            last = begun
            shown = {name: entry for name, entry in shown.items() if _seconds(entry.changed_at) >= last - 2 * _OVERLAP}

    def count(self, status: LogStatus | Collection[LogStatus] | None = None, **filters: Any) -> int:
        """Return how many entries :meth:`list` would return without a limit.

        :param filters: Those of :meth:`list`, but for ``offset`` and ``limit``.
        """
        arguments = {name: filters.pop(name, None) for name in ("function", "topic", "since", "until", "text")}
        if filters:
            raise ArgumentError(f"count has no filter {min(filters)}")
        sa, log = schema.sqlalchemy(), schema.tables().log
        query = sa.select(sa.func.count()).select_from(log).where(*self._where(status, **arguments))
        with self._connection() as connection:
            return int(connection.execute(query).scalar())

    def prune(self, older_than: timedelta | None = None) -> int:
        """Remove entries whose last change is too long ago, and return how many.

        :param older_than: How long; what the store keeps if left out.
        """
        age = self.keep if older_than is None else older_than
        if age is None:
            return 0
        if not isinstance(age, timedelta):
            raise ArgumentError("older_than must be a timedelta")
        before, removed = int((time.time() - age.total_seconds()) * 1000), 0
        self._check()
        while count := prune_some(self._engine, before):
            removed += count
        return removed

    def _query(self) -> Any:
        sa, found = schema.sqlalchemy(), schema.tables()
        worker = found.workers
        joined = found.log.outerjoin(worker, worker.c.worker == found.log.c.worker)
        return sa.select(found.log, worker.c.seen, worker.c.ended.label("gone")).select_from(joined)

    def _where(self, status: Any, function: Any, topic: Any, since: Any, until: Any, text: Any) -> Terms:
        log, terms = schema.tables().log, Terms()
        if status is not None:
            statuses = (status,) if isinstance(status, str) else tuple(status)
            if not statuses or not set(statuses) <= set(STATUSES):
                raise ArgumentError(f"status must be one or several of {', '.join(STATUSES)}")
            terms.append(log.c.status == statuses[0] if len(statuses) == 1 else log.c.status.in_(statuses))
            if "COMPLETED" not in statuses:  # in the words of the index, or SQLite would not use it
                terms.append(log.c.status != schema.literal("COMPLETED"))
        for column, value in ((log.c.function, function), (log.c.topic, topic)):
            if value is not None:
                terms.append(column == value)
        if since is not None:
            terms.append(log.c.changed >= _millis(since, "since"))
        if until is not None:
            terms.append(log.c.changed < _millis(until, "until"))
        if text is not None:
            terms += [log.c.exception.is_not(None), _has(self._engine, log, text)]
        return terms

    def _read(self, query: Any) -> Entries:
        now = time.time() * 1000
        with self._connection() as connection:
            return [_entry(found, now) for found in connection.execute(query).mappings()]

    def _connection(self) -> Any:
        self._check()
        return schema.reading(self._engine)

    def _check(self) -> None:
        if not self._is_checked:
            schema.check(self._engine)
            self._is_checked = True


def check_store(given: Any) -> MessageStore | str | None:
    """Return what was given as a message log; raise :class:`kq.ArgumentError` if it is none."""
    if given is None or isinstance(given, MessageStore):
        return given
    if not isinstance(given, str):
        raise ArgumentError('message_log must be a MessageStore, or an address such as "sqlite:///kq.db"')
    schema.open_engine(given)  # what is wrong with it should be known at once
    return given


class _Keeper(Writer):
    """Writes for a store, and removes what is too old for it. Belongs to the thread of the recorder."""

    def __init__(self, engine: Any, store: MessageStore) -> None:
        super().__init__(engine)
        self._keep = store.keep

    def tidy(self) -> bool:
        """Remove some of what is too old; return whether there may be more."""
        if self._keep is None:
            return False
        before = int((time.time() - self._keep.total_seconds()) * 1000)
        return prune_some(self._engine, before) > 0


def prune_some(engine: Any, before: int) -> int:
    """Remove some of the entries that have not changed since a time; return how many."""
    sa, found = schema.sqlalchemy(), schema.tables()
    log, workers = found.log, found.workers
    old = sa.select(log.c.job_id).where(log.c.changed < before).order_by(log.c.changed).limit(_AT_ONCE)
    with schema.explained(engine), engine.begin() as connection:
        removed = int(connection.execute(log.delete().where(log.c.job_id.in_(old))).rowcount)
        if not removed:
            connection.execute(workers.delete().where(workers.c.seen < before))
    return removed


def _has(engine: Any, log: Any, text: Any) -> Any:
    if not isinstance(text, str) or not text:
        raise ArgumentError("text must be a str, and not an empty one")
    escaped = "".join(f"\\{letter}" if letter in "\\%_" else letter for letter in text)
    columns = (log.c.traceback, log.c.exception)
    if engine.dialect.name == "sqlite":  # whose LIKE takes no notice of the case of ASCII letters
        return schema.sqlalchemy().or_(*(column.like(f"%{escaped}%", escape="\\") for column in columns))
    return schema.sqlalchemy().or_(*(column.ilike(f"%{escaped}%", escape="\\") for column in columns))


def _entry(found: Any, now: float) -> MessageLog:
    """Return what a row tells.

    :param now: Unix milliseconds.
    """
    gone, seen = found["gone"], found["seen"]
    is_lost = found["status"] == "IN_PROGRESS" and seen is not None and (gone or seen < now - DEAD_AFTER * 1000)
    times: dict[str, Any] = {
        f"{name}_at": _moment(found[name]) for name in ("published", "started", "ended", "changed")
    }
    plain = {name: found[name] for name in _PLAIN}
    return MessageLog(**plain | times, worker_died_at=_moment(gone or seen) if is_lost else None)


def _moment(millis: int | None) -> datetime | None:
    return None if millis is None else datetime.fromtimestamp(millis / 1000, timezone.utc)


def _seconds(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()


def _millis(moment: Any, name: str) -> int:
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        return int(moment.timestamp() * 1000)
    if isinstance(moment, (int, float)) and not isinstance(moment, bool) and abs(moment) < 1e11:
        return int(moment * 1000)
    raise ArgumentError(f"{name} must be an aware datetime, or Unix seconds")
