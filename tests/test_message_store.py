"""The store of the message log: a status never goes back, in whichever order they come, in both databases."""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from helpers import wait_until

import kq
from kq import MessageStore, StoreError
from kq.messagelog import Row, position, schema
from kq.messagelog.rows import merged
from kq.messagelog.store import prune_some
from kq.messagelog.writing import Writer


@pytest.fixture
def store(store_url: str) -> Iterator[MessageStore]:
    with MessageStore(store_url) as made:
        yield made


def row(job_id: str, status: str, attempt: int = 1, at: int = 0, renewed: int = 0, **more: Any) -> Row:
    """Return a row as a queue or a worker makes it.

    :param at: Milliseconds: when the run began, and an end is ten later.
    """
    begun = None if status == "PUBLISHED" else at
    ended = None if status in ("PUBLISHED", "IN_PROGRESS") else at + 10
    given = {"offset": 5, "key": b"k", "function": "jobs.add", "published": 1, "worker": None if begun is None else "w"}
    given |= more
    names = ("arguments", "result", "exception", "traceback", "logs")
    texts = tuple(given.get(name) for name in names)
    return (
        *(job_id, position(status, attempt, renewed), status, attempt, "topic", 0, given["offset"], given["key"]),
        *(given["function"], given["function"], given["published"], begun, ended, given["worker"]),
        *(texts if any(texts) else ()),
    )


def write(store: MessageStore, *rows: Row, seen: dict[str, bool] | None = None, now: float | None = None) -> None:
    """Write rows one after another, as if they came from different programs."""
    writer = Writer(store._engine)
    millis = None if now is None else int(now * 1000)
    for one in rows:
        assert writer.write([one], seen or {}, millis) == 0
    if not rows:
        writer.write([], seen or {}, millis)


def fed(store: MessageStore, rows: Sequence[Row]) -> None:
    feed = store.feed(lambda batches: batches)
    feed.put(rows, len(rows))
    assert store.flush()


# -- a status never goes back ------------------------------------------------------------------------------------------


LIFE = [
    row("j", "PUBLISHED", arguments="1, 2", offset=None),
    row("j", "IN_PROGRESS", 1, 100),
    row("j", "RETRIED", 1, 100, exception="E: no", traceback="T"),
    row("j", "IN_PROGRESS", 2, 200, offset=6),
    row("j", "DEAD", 2, 200, offset=6, exception="E: no", traceback="T", logs="line"),
    row("j", "IN_PROGRESS", 1, 300, renewed=250, offset=7),
    row("j", "COMPLETED", 1, 300, renewed=250, offset=7, result="3"),
]


def last(entry: kq.MessageLog | None) -> tuple[Any, ...]:
    assert entry is not None
    return entry._replace(changed_at=None)[:-2] + entry[-1:]


@pytest.mark.parametrize("upto", range(1, len(LIFE) + 1))
def test_the_order_in_which_statuses_arrive_does_not_matter(store: MessageStore, upto: int) -> None:
    """Each prefix of a life, shuffled and with repeats, tells the same: its last status, and all that is known."""
    chance = random.Random(upto)
    told = set()
    for number in range(12):
        rows = LIFE[:upto] if number == 0 else [*LIFE[:upto], *chance.sample(LIFE[:upto], chance.randrange(upto))]
        if number:
            chance.shuffle(rows)
        name = f"job-{number}"
        write(store, *((name, *one[1:]) for one in rows))
        entry = store.get(name)
        assert entry is not None
        told.add(entry._replace(job_id="", changed_at=None))
    (entry,) = told
    newest = LIFE[upto - 1]
    assert (entry.status, entry.attempt, entry.offset) == (newest[2], newest[3], newest[6])
    assert (entry.arguments, entry.function, entry.key) == ("1, 2", "jobs.add", b"k")
    assert entry.exception == ("E: no" if entry.status in ("RETRIED", "DEAD") else None)
    assert entry.result == ("3" if entry.status == "COMPLETED" else None)


@pytest.mark.parametrize("upto", range(2, len(LIFE) + 1))
def test_rows_are_merged_as_the_database_would(store: MessageStore, upto: int) -> None:
    """What waits in memory, while the database is away, becomes what it would be there."""
    chance = random.Random(upto)
    for number in range(8):
        rows = [*LIFE[:upto], *chance.sample(LIFE[:upto], chance.randrange(upto))]
        chance.shuffle(rows)
        write(store, *((f"apart-{number}", *one[1:]) for one in rows))
        together = rows[0]
        for one in rows[1:]:
            together = merged(together, one)
        write(store, (f"merged-{number}", *together[1:]))
        apart, in_one = (store.get(f"{name}-{number}") for name in ("apart", "merged"))
        assert apart is not None and in_one is not None
        assert in_one._replace(job_id="", changed_at=None) == apart._replace(job_id="", changed_at=None)


def test_of_two_ends_of_one_attempt_the_later_one_stays(store: MessageStore) -> None:
    """A message that ran twice, after a crash, is what became of it the second time."""
    first, second = row("j", "COMPLETED", 1, 100), row("j", "FAILED", 1, 200, exception="E: no")
    for name, rows in {"a": (first, second), "b": (second, first)}.items():
        write(store, *((name, *one[1:]) for one in rows))
        entry = store.get(name)
        assert entry is not None and (entry.status, entry.exception) == ("FAILED", "E: no")


def test_positions_stay_within_63_bits() -> None:
    """Whatever headers another program has written."""
    assert position("DEAD", 10**15, 10**15) < 1 << 63
    assert position("COMPLETED", 2) < position("PUBLISHED", 1, renewed=1)


def test_many_at_once_and_each_is_there(store: MessageStore) -> None:
    """Statements of any number of rows, and both shapes of them."""
    for count in (1, 7, 63, 64, 65, 200):
        rows = [row(f"{count}-{one}", "COMPLETED" if one % 3 else "FAILED", exception=None) for one in range(count)]
        rows = [one if at % 2 else row(one[0], "FAILED", exception="E: x") for at, one in enumerate(rows)]
        fed(store, rows)
    assert store.count() == 1 + 7 + 63 + 64 + 65 + 200
    assert store.count("FAILED", text="e: X") == sum(-(-count // 2) for count in (1, 7, 63, 64, 65, 200))


@pytest.mark.parametrize("bad", [row("bad", "COMPLETED", offset=1 << 70), row("b\ud800d", "COMPLETED")])
def test_a_row_that_no_database_takes_costs_only_itself(store: MessageStore, bad: Row) -> None:
    """The others of its batch are written, and it is counted."""
    fed(store, [row(f"{number}", "COMPLETED") for number in range(50)] + [bad])
    assert store.count() == 50
    assert store.dropped == 1


# -- reading -----------------------------------------------------------------------------------------------------------


def test_entries_are_found_by_each_filter(store: MessageStore) -> None:
    """Alone, and together; the newest change first."""
    write(store, row("old", "COMPLETED", function="jobs.old"), now=1000)
    write(store, row("bad", "FAILED", exception="E: 100% of_it", traceback="Line \\ one"), now=2000)
    write(store, row("run", "IN_PROGRESS"), now=3000)
    names = lambda **filters: [entry.job_id for entry in store.list(**filters)]  # noqa: E731
    assert names() == ["run", "bad", "old"]
    assert names(limit=1, offset=1) == ["bad"]
    assert names(status="FAILED") == ["bad"]
    assert names(status=["FAILED", "COMPLETED"]) == ["bad", "old"]
    assert names(function="jobs.old") == ["old"]
    assert names(topic="topic", since=2000, until=datetime.fromtimestamp(3000, timezone.utc)) == ["bad"]
    assert names(topic="other") == []
    for text in ("100%", "of_it", "line \\", "LINE"):
        assert names(text=text) == ["bad"], text
    for text in ("100_", "nothing"):
        assert names(text=text) == [], text
    assert [entry.job_id for entry in store.search("e: 100", status="FAILED")] == ["bad"]
    assert store.get("none") is None
    entry = store.get("run")
    assert entry is not None and entry.changed_at == datetime.fromtimestamp(3000, timezone.utc)
    assert (store.count(), store.count("FAILED"), store.count(since=2500)) == (3, 1, 1)


def test_wrong_filters_are_said(store: MessageStore) -> None:
    """In words, and nothing is asked of the database."""
    for wrong in ({"status": "DONE"}, {"status": []}, {"since": datetime(2030, 1, 1)}, {"text": ""}, {"until": "now"}):
        with pytest.raises(kq.ArgumentError):
            store.list(**wrong)
    with pytest.raises(kq.ArgumentError, match="count has no filter limit"):
        store.count(limit=5)


def test_an_entry_whose_worker_is_gone_says_so(store: MessageStore) -> None:
    """Killed or ended; one that lives is in progress, and what has ended has nobody to die."""
    now = time.time()
    write(store, row("lost", "IN_PROGRESS", worker="killed"), seen={"killed": False}, now=now - 60)
    write(store, row("left", "IN_PROGRESS", worker="stopped"), seen={"stopped": True}, now=now - 5)
    write(store, row("runs", "IN_PROGRESS", worker="lives"), row("done", "COMPLETED", worker="killed"))
    write(store, seen={"lives": False})
    found = {entry.job_id: entry for entry in store.list()}
    assert {name: entry.worker_died_at is not None for name, entry in found.items()} == {
        "lost": True, "left": True, "runs": False, "done": False
    }  # fmt: skip
    died = found["lost"].worker_died_at
    assert died is not None and abs(died.timestamp() - (now - 60)) < 0.01
    assert found["lost"].state == f"in progress; its worker died at {died.astimezone():%Y-%m-%d %H:%M:%S}"
    assert (found["runs"].state, found["done"].state) == ("in progress", "completed")


def test_tail_shows_what_changes(store: MessageStore) -> None:
    """First the last ones, the oldest of them first; then each change once."""
    for number in range(5):
        write(store, row(f"{number}", "IN_PROGRESS"), now=time.time() - 100 + number)
    assert [entry.job_id for entry in store.tail(3, follow=False)] == ["2", "3", "4"]
    seen: list[tuple[str, str]] = []
    following = threading.Thread(
        target=lambda: [
            seen.append((entry.job_id, entry.status)) for entry in itertools.islice(store.tail(1, topic="topic"), 4)
        ]
    )
    following.start()
    wait_until(lambda: seen == [("4", "IN_PROGRESS")])
    write(store, row("4", "COMPLETED"))
    wait_until(lambda: len(seen) == 2)
    write(store, row("new", "PUBLISHED"))
    wait_until(lambda: len(seen) == 3)
    write(store, row("new", "IN_PROGRESS"))
    following.join(10)
    assert seen[1:] == [("4", "COMPLETED"), ("new", "PUBLISHED"), ("new", "IN_PROGRESS")]


def test_prune_removes_what_has_not_changed_for_long(store_url: str) -> None:
    """By hand, and by the store itself; workers that are long gone with it."""
    with MessageStore(store_url, keep=timedelta(hours=1)) as store:
        for hours in (3, 2, 0):
            write(store, row(f"{hours}", "FAILED"), seen={f"w{hours}": True}, now=time.time() - 3600 * hours)
        assert store.prune(timedelta(hours=2.5)) == 1
        assert [entry.job_id for entry in store.list()] == ["0", "2"]
        fed(store, [row("x", "COMPLETED")])
        wait_until(lambda: store.count() == 2)
        assert prune_some(store._engine, 0) == 0
        with store._engine.connect() as connection:
            workers = set(connection.execute(sqlalchemy.select(schema.tables().workers.c.worker)).scalars())
        assert "w3" not in workers or store.prune() == 0
    with MessageStore(store_url, keep=None) as store:
        assert store.prune() == 0


# -- the schema --------------------------------------------------------------------------------------------------------


def test_programs_that_begin_at_once_make_one_schema(store_url: str) -> None:
    """The tables are made once, and all of them can write."""
    stores = [MessageStore(store_url) for _ in range(6)]
    barrier, errors = threading.Barrier(6), list[BaseException]()

    def begin(number: int) -> None:
        barrier.wait()
        try:
            Writer(stores[number]._engine).write([row(f"{number}", "COMPLETED")], {})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert stores[0].count() == 6
    for store in stores:
        store.close()


def test_an_older_schema_is_upgraded_with_what_is_in_it(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, by whoever comes first, to write or to read; an older KQ then says what to do, in one line."""
    with MessageStore(store_url) as store:
        write(store, row("j", "COMPLETED"))

    def add_column(connection: Any) -> None:
        connection.exec_driver_sql(f"ALTER TABLE {schema.NAME} ADD COLUMN more INTEGER")

    with monkeypatch.context() as newer:
        newer.setattr(schema, "STEPS", [*schema.STEPS, add_column])
        with MessageStore(store_url) as store:
            assert store.count() == 1
            with store._engine.connect() as connection:
                assert connection.exec_driver_sql(f"SELECT more FROM {schema.NAME}").scalar() is None
    with MessageStore(store_url) as store:
        for call in (store.list, lambda: Writer(store._engine).write([row("k", "COMPLETED")], {})):
            with pytest.raises(StoreError, match=r"is of version 2, and this KQ knows 1: upgrade KQ$"):
                call()


def test_a_table_of_another_program_is_left_alone(store_url: str) -> None:
    """Whatever it is: it has the name, and no version of ours beside it."""
    with MessageStore(store_url) as store:
        with store._engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE TABLE {schema.NAME} (mine INTEGER)")
        for call in (store.list, lambda: Writer(store._engine).write([row("k", "COMPLETED")], {})):
            with pytest.raises(StoreError, match=f"there is a table {schema.NAME} of another program"):
                call()


def test_a_log_that_is_not_there_is_not_made_by_reading(store_url: str, tmp_path: Path) -> None:
    """A wrong address is said, and leaves no empty file behind."""
    with MessageStore(store_url) as store, pytest.raises(StoreError, match="there is no message log at"):
        store.list()
    assert not (tmp_path / "kq.db").exists()


# -- wrong addresses, and databases that refuse ------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:", 5, ""])
def test_a_wrong_address_is_said_at_once(url: Any) -> None:
    """Before anything is enqueued or run."""
    with pytest.raises(kq.ArgumentError):
        MessageStore(url)
    with pytest.raises(kq.ArgumentError):
        kq.Worker("topic", hosts="127.0.0.1:1", message_log=url)
    with pytest.raises(kq.ArgumentError):
        kq.Queue("topic", hosts="127.0.0.1:1", message_log=url)


@pytest.mark.parametrize("given", [{"keep": 30}, {"keep": timedelta(0)}, {"mask_arguments": "yes"}])
def test_wrong_arguments_are_said(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(kq.ArgumentError, match=next(iter(given))):
        MessageStore(f"sqlite:///{tmp_path}/kq.db", **given)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy, or the driver of PostgreSQL."""
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(kq.MissingExtra, match=r'^PostgreSQL needs psycopg: pip install "psycopg\[binary\]"$'):
        MessageStore("postgresql://user@host/db")
    monkeypatch.setitem(__import__("sys").modules, "sqlalchemy", None)
    with pytest.raises(kq.MissingExtra, match=r'^a message log needs SQLAlchemy: pip install "kq\[log\]"$'):
        MessageStore("sqlite:///kq.db")


def refused(url: str) -> str:
    """Return what a database says that cannot be written to."""
    with MessageStore(url) as store, pytest.raises(StoreError) as caught:
        Writer(store._engine).write([row("j", "FAILED", exception="x" * 1000)] * 1, {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wrong_password_is_said_without_the_password(postgres: Any) -> None:
    said = refused(postgres.url(password="wr0ng-word"))
    assert said.endswith("the password is wrong, or the user")
    assert "wr0ng-word" not in said and "***" in said


def test_a_server_that_is_away_is_said() -> None:
    said = refused("postgresql://kq:s3cret@127.0.0.1:1/log")
    assert "127.0.0.1" in said and "s3cret" not in said


def test_a_file_that_is_read_only_is_said(tmp_path: Path) -> None:
    """Also where the reader may: what is there can be read."""
    path = tmp_path / "kq.db"
    with MessageStore(f"sqlite:///{path}") as store:
        write(store, row("j", "COMPLETED"))
    url = f"sqlite:///file:{path}?mode=ro&uri=true"
    assert refused(url).endswith("it is read-only")
    with MessageStore(url) as store:
        assert store.count() == 1


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database at all, and long enough to be one" * 100)
    assert refused(f"sqlite:///{tmp_path}/text.db").endswith("the file is no SQLite database")
    assert "does its folder exist" in refused(f"sqlite:///{tmp_path}/none/kq.db")


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """What SQLite calls full: no page more."""
    path = tmp_path / "kq.db"
    with MessageStore(f"sqlite:///{path}") as store:
        write(store, row("j", "COMPLETED"))

        @sqlalchemy.event.listens_for(store._engine, "connect")  # type: ignore[untyped-decorator,unused-ignore]
        def limit(connection: sqlite3.Connection, _: Any) -> None:
            connection.execute("PRAGMA max_page_count = 1")

        store._engine.dispose()
        rows = [row(f"{number}", "FAILED", exception="x" * 3000) for number in range(100)]
        with pytest.raises(StoreError, match=r"the disk is full$"):
            Writer(store._engine).write(rows, {})


def test_a_store_cannot_be_pickled_and_hides_its_password() -> None:
    import pickle

    store = MessageStore("postgresql://kq:s3cret@127.0.0.1:1/log")
    assert "s3cret" not in repr(store) + store.url
    with pytest.raises(TypeError, match="a MessageStore cannot be serialized"):
        pickle.dumps(store)


def test_a_child_of_a_fork_writes_for_itself(store_url: str) -> None:
    """It has no thread at first, and the connections are its parent's."""
    with MessageStore(store_url) as store:
        feed = store.feed(lambda batches: batches)
        feed.put([row("parent", "COMPLETED")])
        assert store.flush()
        pid = os.fork()
        if pid == 0:
            feed.put([row("child", "COMPLETED")])
            os._exit(0 if store.flush(20) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        feed.put([row("again", "COMPLETED")])
        assert store.flush()
        assert {entry.job_id for entry in store.list()} == {"parent", "child", "again"}
