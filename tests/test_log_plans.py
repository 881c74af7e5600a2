"""Reading the message log uses its indexes: what it takes does not grow with what is kept."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy

from kq import MessageStore
from kq.messagelog import position
from kq.messagelog.store import prune_some
from kq.messagelog.writing import Writer
from kq.producing import new_ids

#: Enough for PostgreSQL to prefer an index.
COUNT = 20_000


def fill(store: MessageStore) -> None:
    """Write entries of 20,000 seconds; of twenty one has failed, and one in a thousand is in progress."""
    ids, now, writer = new_ids(256), int(time.time() * 1000), Writer(store._engine)
    for first in range(0, COUNT, 1000):
        rows = []
        for number in range(first, first + 1000):
            status = "IN_PROGRESS" if number % 1000 == 1 else "FAILED" if number % 20 == 0 else "COMPLETED"
            name = f"tasks.step_{number % 50}"
            row = (next(ids), position(status), status, 1, "topic", 0, number, None, name, name, 1, 2, 3, "w")
            is_bad = status == "FAILED"
            rows.append((*row, *(("1", None, f"E: {number}", f"Traceback {number}" * 20, None) if is_bad else ())))
        writer.write(rows, {}, now - (COUNT - first) * 1000)


def plans(store: MessageStore, call: Callable[[], object]) -> list[str]:
    """Return how the database does what a call asks of it, beside the questions about the schema."""
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if re.match(r"\s*(SELECT|DELETE)", statement) and "kq_message_log" in statement:
            statements.append((statement, parameters))

    sqlalchemy.event.listen(store._engine, "before_cursor_execute", note)
    try:
        call()
    finally:
        sqlalchemy.event.remove(store._engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if store._engine.dialect.name == "sqlite" else "EXPLAIN "
    told = []
    with store._engine.connect() as connection:
        for statement, parameters in statements:
            found = connection.exec_driver_sql(explain + statement, parameters)
            told.append("\n".join(" ".join(map(str, line)) for line in found))
    assert told, "nothing was asked of the database"
    return told


#: What is asked, and the index that answers.
QUESTIONS: dict[str, tuple[Callable[[MessageStore], object], str]] = {
    "list": (lambda store: store.list(), "changed"),
    "since": (lambda store: store.list(since=time.time() - 60, until=time.time()), "changed"),
    "tail": (lambda store: list(store.tail(follow=False)), "changed"),
    "status": (lambda store: store.list("IN_PROGRESS"), "status"),
    "count": (lambda store: store.count("FAILED"), "status"),
    "function": (lambda store: store.list(function="tasks.step_7"), "function"),
    "search": (lambda store: store.search("Traceback 400"), "exception"),
    "get": (lambda store: store.get("nobody"), ""),
    "prune": (lambda store: prune_some(store._engine, 1), "changed"),
}


@pytest.fixture
def filled(store_url: str) -> MessageStore:
    store = MessageStore(store_url, keep=None)
    fill(store)
    store.list(limit=1)  # the questions about the schema are asked once
    if store._engine.dialect.name == "postgresql":
        with store._engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE kq_message_log")
    return store


def test_every_question_is_answered_by_an_index(filled: MessageStore) -> None:
    """None reads the whole table."""
    for what, (call, index) in QUESTIONS.items():
        plan = "\n".join(plans(filled, lambda call=call: call(filled)))  # type: ignore[misc]
        of_log = [line for line in plan.splitlines() if "kq_message_log_worker" not in line]
        assert not re.search(r"SCAN kq_message_log\b(?! USING)|Seq Scan on kq_message_log\b", "\n".join(of_log)), plan
        wanted = f"kq_message_log_{index}" if index else r"autoindex_kq_message_log|kq_message_log_pkey"
        assert re.search(wanted, plan), f"{what}: {plan}"
    filled.close()


def test_a_plan_without_an_index_would_be_seen(filled: MessageStore) -> None:
    """The test above can fail."""
    with filled._engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX kq_message_log_function")
        connection.exec_driver_sql("DROP INDEX kq_message_log_changed")
    plan = "\n".join(plans(filled, lambda: filled.list(function="tasks.step_7")))
    assert re.search(r"SCAN kq_message_log\b(?! USING)|Seq Scan on kq_message_log\b", plan), plan
    filled.close()
