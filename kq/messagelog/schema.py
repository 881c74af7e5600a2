"""The tables of the message log, in SQLite or PostgreSQL, by SQLAlchemy.

1. ``open_engine`` connects nothing yet. What is wrong with the address, or not installed, it says at once.
2. ``make`` makes the tables, or upgrades those of an older KQ, step by step. ``check`` looks whether they are there.
3. Whatever a database says becomes one line: ``explained``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from kq.errors import ArgumentError, MissingExtra, StoreError

__all__ = [
    "NAME",
    "check",
    "explained",
    "literal",
    "make",
    "open_engine",
    "reading",
    "shown",
    "sqlalchemy",
    "statements_of",
    "tables",
    "tidy",
]

#: Name of the table of entries; those of the others begin with it.
NAME = "kq_message_log"
#: Seconds that a connection, or a lock that another process holds, is waited for.
PATIENCE = 5
#: What SQLite is told of each connection. Readers and the writer do not wait for each other; a power failure may cost
#: the last second, a crash nothing; pages go from the log into the file 16 MB at a time.
_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=4000", "cache_size=-16000")
#: Makes two programs that start at once make the tables one after the other.
_LOCK = 0x6B71_6C6F_67


def sqlalchemy() -> Any:
    """Return SQLAlchemy.

    :raises kq.MissingExtra: It is not installed.
    """
    try:
        found = import_module("sqlalchemy")
    except ImportError as error:
        raise MissingExtra('a message log needs SQLAlchemy: pip install "kq[log]"') from error
    if not hasattr(found, "Uuid"):  # it is new in SQLAlchemy 2
        raise MissingExtra(f'a message log needs SQLAlchemy 2, not {found.__version__}: pip install "kq[log]"')
    return found


@cache
def tables() -> Any:
    """Return the tables: ``.log``, ``.workers`` and ``.schema``."""
    sa = sqlalchemy()
    known = sa.MetaData()
    millis = sa.BigInteger
    known.log = sa.Table(
        NAME,
        known,
        sa.Column("job_id", sa.String(255), primary_key=True),
        # where the status stands among all of its message: ``entries.position``
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer),
        sa.Column("offset", sa.BigInteger),
        sa.Column("key", sa.LargeBinary),
        *(sa.Column(name, sa.Text) for name in ("task_type", "function", "arguments")),
        *(sa.Column(name, millis) for name in ("published", "started", "ended")),
        sa.Column("changed", millis, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("worker", "result", "exception", "traceback", "logs")),
    )
    _index(known.log)
    known.workers = sa.Table(
        f"{NAME}_worker",
        known,
        sa.Column("worker", sa.String(255), primary_key=True),
        sa.Column("seen", millis, nullable=False),
        sa.Column("ended", millis),
    )
    known.schema = sa.Table(f"{NAME}_schema", known, sa.Column("version", sa.Integer, nullable=False))
    return known


def _index(log: Any) -> None:
    """Give the table of entries its indexes.

    Nearly all entries end as COMPLETED, which no index of statuses need find: so most rows cost two entries.
    """
    sa, changed = sqlalchemy(), log.c.changed
    bad, failed = log.c.status != literal("COMPLETED"), log.c.exception.is_not(None)
    sa.Index(f"{NAME}_changed", changed, log.c.topic)  # by which entries of a rare topic are found without the others
    sa.Index(f"{NAME}_function", log.c.function, changed)
    sa.Index(f"{NAME}_status", log.c.status, changed, sqlite_where=bad, postgresql_where=bad)
    sa.Index(f"{NAME}_exception", changed, sqlite_where=failed, postgresql_where=failed)


def _make_first(connection: Any) -> None:
    log, workers = tables().log, tables().workers
    log.create(connection)
    workers.create(connection)


#: What makes the schema of one version of that before it, from nothing on. Steps are added, and never changed.
STEPS: list[Callable[[Any], None]] = [_make_first]


class Statements(NamedTuple):
    """What makes the tables, for who has a connection of its own."""

    #: The table that is there if all are.
    name: str
    make: list[str]


def statements_of(dialect: str) -> Statements:
    """Return the statements that make the tables.

    :param dialect: ``"sqlite"`` or ``"postgresql"``.
    """
    sa, found = sqlalchemy(), tables()
    spoken = import_module(f"sqlalchemy.dialects.{dialect}").dialect()
    made = []
    for table in (found.log, found.workers, found.schema):
        made.append(str(sa.schema.CreateTable(table).compile(dialect=spoken)))
        made += [str(sa.schema.CreateIndex(index).compile(dialect=spoken)) for index in table.indexes]
    return Statements(found.schema.name, [*made, f"INSERT INTO {found.schema.name} (version) VALUES ({len(STEPS)})"])


def open_engine(url: str) -> Any:
    """Return an engine for a database; nothing is connected yet.

    :raises kq.ArgumentError: It is no address of a database that this is for.
    :raises kq.MissingExtra: What is needed to speak with it is not installed.
    """
    sa = sqlalchemy()
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError, TypeError):
        raise ArgumentError('a message log needs an address such as "sqlite:///kq.db"') from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql", "postgres"):
        raise ArgumentError(f"a message log is kept in SQLite or PostgreSQL, not in {backend}")
    if backend == "sqlite":
        return _open_sqlite(sa, parsed)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    arguments = {"connect_timeout": PATIENCE, "application_name": "kq"}
    try:
        return sa.create_engine(parsed, connect_args=arguments, pool_size=2, pool_pre_ping=True)
    except ImportError as error:
        raise MissingExtra('PostgreSQL needs psycopg: pip install "psycopg[binary]"') from error


def _open_sqlite(sa: Any, parsed: Any) -> Any:
    if parsed.database in (None, "", ":memory:"):
        raise ArgumentError('a message log needs a file, such as "sqlite:///kq.db"')
    engine = sa.create_engine(parsed, connect_args={"timeout": PATIENCE})

    @sa.event.listens_for(engine, "connect")  # type: ignore[untyped-decorator,unused-ignore]
    def set_up(connection: Any, _record: Any) -> None:
        for pragma in _PRAGMAS:
            try:
                connection.execute(f"PRAGMA {pragma}")
            except engine.dialect.dbapi.Error:  # of a file that is read-only, or none: what comes next says so
                return

    return engine


def make(engine: Any) -> None:
    """Make the tables, or upgrade them.

    :raises kq.StoreError: They are another program's, or a newer KQ's, or the database refuses.
    """
    with explained(engine), engine.begin() as connection:
        if _version(engine, connection) == len(STEPS):
            return
        is_sqlite = engine.dialect.name == "sqlite"  # another program may be at it, too: one waits for the other
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_sqlite else f"SELECT pg_advisory_xact_lock({_LOCK})")
        version = _version(engine, connection)
        for step in STEPS[version:]:
            step(connection)
        schema = tables().schema
        schema.create(connection, checkfirst=True)
        connection.execute(schema.delete())
        connection.execute(schema.insert().values(version=len(STEPS)))


def check(engine: Any) -> None:
    """Look whether the tables are there, to be read.

    :raises kq.StoreError: They are not, or another program's, or of another version.
    """
    database = engine.url.database
    is_file = engine.dialect.name == "sqlite" and not database.startswith("file:")
    if is_file and not Path(database).exists():
        raise StoreError(f"there is no message log at {shown(engine)}: what has message_log=… makes it")
    with explained(engine), engine.connect() as connection:
        version = _version(engine, connection)
    if not version:
        raise StoreError(f"there is no message log at {shown(engine)}: what has message_log=… makes it")
    if version < len(STEPS):
        make(engine)


def _version(engine: Any, connection: Any) -> int:
    """Return the version of the schema, 0 where there is none.

    :raises kq.StoreError: It is newer than this KQ, or the table is another program's.
    """
    sa = sqlalchemy()
    has_log = sa.inspect(connection).has_table(NAME)
    # this one last: somebody may make both between the two questions
    if sa.inspect(connection).has_table(f"{NAME}_schema"):
        version = int(connection.execute(tables().schema.select()).scalar() or 0)
        if version > len(STEPS):
            told = f"is of version {version}, and this KQ knows {len(STEPS)}: upgrade KQ"
            raise StoreError(f"the message log at {shown(engine)} {told}")
        return version
    if has_log:
        raise StoreError(f"at {shown(engine)} there is a table {NAME} of another program")
    return 0


def shown(engine: Any) -> str:
    """Return the address of a database, without its password."""
    return str(engine.url.render_as_string(hide_password=True))


def literal(text: str) -> Any:
    """Return a text as it stands in a statement: an index of some rows is used where its condition stands verbatim."""
    return sqlalchemy().literal_column(f"'{text}'")


@contextmanager
def reading(engine: Any) -> Iterator[Any]:
    """Give a connection to read with."""
    with explained(engine), engine.connect() as connection:
        yield connection


@contextmanager
def explained(engine: Any) -> Iterator[None]:
    """Have what a database refuses raised as a :class:`kq.StoreError` of one line."""
    try:
        yield
    except sqlalchemy().exc.SQLAlchemyError as error:
        raise StoreError(f"message log at {shown(engine)}: {tidy(engine, error)}") from error


#: What databases say, and what that means.
_MEANINGS = {
    "database or disk is full": "the disk is full",
    "No space left on device": "the disk is full",
    "readonly database": "it is read-only",
    "read-only transaction": "it is read-only",
    "unable to open database file": "the file cannot be opened: does its folder exist, and may it be written to?",
    "file is not a database": "the file is no SQLite database",
    "password authentication failed": "the password is wrong, or the user",
    "database is locked": f"another program has held its lock for {PATIENCE} s",
}


def tidy(engine: Any, error: BaseException) -> str:
    """Return what a database said in one line, without the password."""
    said = " ".join(str(getattr(error, "orig", None) or error).split())
    meaning = next((meaning for words, meaning in _MEANINGS.items() if words in said), None)
    if meaning is not None:
        return meaning
    secret = engine.url.password
    return said[:500] if not secret else said[:500].replace(str(secret), "***")
