"""Writing rows: one upsert for many, by which a status never goes back.

1. Several rows go in one statement. To SQLite each statement is one step without Python's lock, which the thread of
   the worker has meanwhile.
2. A row of a job that has one: what is about the latest status stays or is replaced as a whole, by its position; what
   is the same in all rows is filled in.
3. Where a database refuses a row for what is in it, the others are written without it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from kq.messagelog.rows import FIELDS, FILLED, LATEST, MORE, Row
from kq.messagelog.schema import NAME, explained, make, sqlalchemy, tables

__all__ = ["Writer"]

#: Rows of one statement: as many as fit, then fewer. More than the first make nothing faster.
_SIZES = (128, 16, 1)
#: Rows of one transaction: a reader, or another writer, does not wait for more.
_TRANSACTION = 4096


class Writer:
    """Writes rows. Belongs to one thread."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._is_made = False

    def write(self, rows: Sequence[Row], seen: Mapping[str, bool], now: int | None = None) -> int:
        """Write rows, one a job at most, and return how many were refused for what is in them.

        :param seen: Workers that are there, and whether each has ended.
        :param now: Unix milliseconds; the present if left out.
        :raises kq.StoreError: The database is away, or refuses all of them; some may be written.
        """
        now = int(time.time() * 1000) if now is None else now
        if not self._is_made:
            make(self._engine)
            self._is_made = True
        with explained(self._engine):
            refused = 0
            for begin in range(0, len(rows), _TRANSACTION):
                refused += self._write_some(rows[begin : begin + _TRANSACTION], now)
            if seen:
                with self._engine.begin() as connection:
                    self._note_workers(connection, seen, now)
        return refused

    def forget(self) -> None:
        """Look again whether the tables are there, with a new connection: those before may be another process's."""
        self._is_made = False
        self._engine.dispose(close=False)

    def _write_some(self, rows: Sequence[Row], now: int) -> int:
        errors = sqlalchemy().exc
        try:
            with self._engine.begin() as connection:
                self._execute(connection, rows, now)
        except (errors.DataError, errors.IntegrityError, OverflowError, ValueError):  # of what is in a row
            if len(rows) == 1:
                return 1
            half = len(rows) // 2
            return self._write_some(rows[:half], now) + self._write_some(rows[half:], now)
        return 0

    def _execute(self, connection: Any, rows: Sequence[Row], now: int) -> None:
        for fields in FIELDS, (*FIELDS, *MORE):
            for part in _parts([row for row in rows if len(row) == len(fields)]):
                statement = _upsert(self._engine.dialect.name, fields, len(part))
                connection.exec_driver_sql(statement, _values(self._engine.dialect.name, part, now))

    def _note_workers(self, connection: Any, seen: Mapping[str, bool], now: int) -> None:
        mark = _mark(self._engine.dialect.name)
        statement = (
            f"INSERT INTO {tables().workers.name} (worker, seen, ended) VALUES ({mark}, {mark}, {mark}) "
            "ON CONFLICT (worker) DO UPDATE SET seen = excluded.seen, ended = excluded.ended"
        )
        for worker, has_ended in seen.items():
            connection.exec_driver_sql(statement, (worker, now, now if has_ended else None))


def _parts(rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
    """Yield rows in parts of few different sizes: each size is a statement that the database knows already."""
    begin = 0
    for size in _SIZES:
        while len(rows) - begin >= size:
            yield rows[begin : begin + size]
            begin += size


def _mark(dialect: str) -> str:
    return "?" if dialect == "sqlite" else "%s"


def _values(dialect: str, rows: Sequence[Row], now: int) -> tuple[Any, ...]:
    """Return the values of a statement. SQLite takes the time, which is that of all rows, once: ``?1``."""
    if dialect == "sqlite":
        return now, *itertools.chain.from_iterable(rows)
    return tuple(itertools.chain.from_iterable([(now, *row) for row in rows]))


@cache
def _upsert(dialect: str, fields: tuple[str, ...], count: int) -> str:
    """Return the statement that writes so many rows with these columns, and when that was."""
    columns = ("changed", *fields)
    mark = _mark(dialect)
    values = f"({', '.join(['?1' if dialect == 'sqlite' else mark, *[mark] * len(fields)])})"
    least = "min" if dialect == "sqlite" else "least"
    log, new, old = NAME, "excluded", NAME
    # of two ends of one attempt the later one counts
    time_of = "coalesce({0}.ended, {0}.started, 0)"
    is_newer = f"({new}.position, {time_of.format(new)}) >= ({old}.position, {time_of.format(old)})"
    kept = [f"{name} = CASE WHEN {is_newer} THEN {new}.{name} ELSE {old}.{name} END" for name in map(_quoted, LATEST)]
    kept.append(f"changed = CASE WHEN {is_newer} THEN {new}.changed ELSE {old}.changed END")
    first, second = f"coalesce({new}.started, {old}.started)", f"coalesce({old}.started, {new}.started)"
    kept.append(f"started = CASE WHEN {is_newer} THEN {first} ELSE {second} END")
    told = [f"coalesce({one}.published, {other}.published)" for one, other in ((new, old), (old, new))]
    kept.append(f"published = {least}({', '.join(told)})")
    filled = [f"{name} = coalesce({old}.{name}, {new}.{name})" for name in map(_quoted, FILLED)]
    return (
        f"INSERT INTO {log} ({', '.join(map(_quoted, columns))}) VALUES {', '.join([values] * count)} "
        f"ON CONFLICT (job_id) DO UPDATE SET {', '.join(kept + filled)}"
    )


def _quoted(name: str) -> str:
    return f'"{name}"'
