"""Time limits hold whatever the loop does; and while it is away nothing of the user's runs."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jobs
import odd_jobs
import process_jobs
import pytest
from helpers import wait_until
from journal import Journal, note
from journal import work as noted
from process_bench import PATIENCE, Bench, statuses

import kq
from kq import ProcessExecutor, Queue

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


@contextmanager
def watched(bench: Bench) -> Iterator[None]:
    """Have a thread look after the executor, as the watchdog does."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            bench.executor.watch(time.monotonic())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def begin(bench: Bench, *messages: Any) -> None:
    """Start messages as soon as there is room for them, and ask for nothing more."""
    wait_until(lambda: bench.executor.finished() == [] and bench.executor.room() >= len(messages), PATIENCE)
    for message in messages:
        bench.executor.start(message)
    bench.executor.flush()


@pytest.mark.parametrize("wait", ["callback", "commit"])
def test_a_limit_holds_while_the_loop_is_in_a_wait(
    wait: str,
    queue: Queue,
    work: Callable[..., jobs.Calls],
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a slow callback, or for a broker that does not answer a commit."""
    waits: list[float] = []

    def wait_once(*_: object) -> bool:
        if not waits:
            waits.append(time.monotonic())
            time.sleep(4)
        return True

    queue.enqueue(process_jobs.nap, 0.3)
    queue.using(timeout=1).enqueue(noted, journal.path, "too long", 3)
    if wait == "callback":
        calls = work(2, wait_once)
    else:
        monkeypatch.setattr("kq.consuming.pump.Pump.flush", wait_once)
        calls = work(2, commit_interval=0)
    assert calls.statuses == ["success", "timeout"]
    assert (journal.count("start"), journal.count("end")) == ({"too long": 1}, {})


def test_a_job_whose_time_is_up_is_killed_without_the_loop(journal: Journal) -> None:
    """Though it resists; and its child is replaced, and runs what waited."""
    with Bench(ProcessExecutor(kill_grace=0.2), 1) as bench, watched(bench):
        late, rest = bench.message(process_jobs.endure, journal.path, "resists", timeout=0.3), []
        begin(bench, late)
        (entry,) = wait_until(lambda: list(journal.entries()), PATIENCE)
        wait_until(lambda: not process_jobs.exists(entry.pid), 10)
        rest = [bench.message(noted, journal.path, number) for number in range(3)]
        for message in rest:
            bench.executor.start(message)
        bench.executor.flush()
        wait_until(lambda: len(journal.names("end")) == 3, 30)
        assert statuses(bench.executor.finished())[0] == "timeout"


def test_a_loop_that_is_away_keeps_no_child_waiting(journal: Journal) -> None:
    """What it logs is read meanwhile, and handed to the loggers when the loop is back."""
    lines: list[threading.Thread] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(threading.current_thread())  # type: ignore[method-assign]
    logging.getLogger("shop").addHandler(handler)
    try:
        with Bench(ProcessExecutor()) as bench, watched(bench):
            begin(bench, bench.message(odd_jobs.log_much, journal.path, 5_000_000))
            wait_until(lambda: journal.count("end"), 30)
            assert lines == []
            finished = wait_until(bench.executor.finished, 30)
    finally:
        logging.getLogger("shop").removeHandler(handler)
    assert (statuses(finished), len(lines), set(lines)) == (["success"], 5000, {threading.current_thread()})


def test_nothing_is_unpickled_before_the_loop_asks(journal: Journal) -> None:
    """Neither a result nor a job for the callback."""
    threads: list[str] = []

    def deserialize(value: bytes) -> Any:
        if os.getpid() == pid:
            threads.append(threading.current_thread().name)
        return kq.loads(value)

    pid = os.getpid()
    with Bench(ProcessExecutor(), deserialize=deserialize) as bench, watched(bench):
        begin(bench, bench.message(process_jobs.give_traced, journal.path))
        wait_until(lambda: len(bench.executor._outcomes), 30)
        assert (threads, [entry for entry in journal.entries() if entry.pid == pid]) == ([], [])
        assert statuses(bench.executor.finished()) == ["success"]
        assert threads == [threading.current_thread().name]
        assert [entry.word for entry in journal.entries() if entry.pid == pid] == ["unpickled"]


def test_a_look_gives_way_to_the_loop() -> None:
    """It waits for nothing."""
    with Bench(ProcessExecutor()) as bench, bench.executor._lock:
        begun = time.monotonic()
        bench.executor.watch(begun)
        assert time.monotonic() - begun < 1


def test_what_ends_the_worker_is_told_to_the_loop() -> None:
    """Children that fail to start are seen by the watchdog's thread first, which goes on."""
    with Bench(ProcessExecutor(on_start=process_jobs.start_badly)) as bench:
        for _ in range(200):
            bench.executor.watch(time.monotonic())
            if bench.executor.patience() == 0:
                break
            time.sleep(0.05)
        with pytest.raises(Exception, match="fail to start"):
            bench.executor.finished()


def test_a_question_changes_nothing(journal: Journal) -> None:
    """``room`` and ``patience`` may be asked at any time, any number of times; only ``flush`` gives jobs a place."""
    with Bench(ProcessExecutor(on_start=functools.partial(note, journal.path, "started", "child")), 2) as bench:
        wait_until(lambda: bench.executor.finished() == [] and journal.count("started")["child"] == 2, PATIENCE)
        for _ in range(50):
            bench.executor.finished()
            time.sleep(0.01)
        before = {name: repr(value) for name, value in vars(bench.executor).items()}
        assert len({bench.executor.room() for _ in range(3)}) == 1
        bench.executor.patience()
        assert {name: repr(value) for name, value in vars(bench.executor).items()} == before
