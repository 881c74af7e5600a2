"""The message log agrees with the truth: with a file that the jobs write themselves, whatever happens meanwhile."""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import log_jobs
import pytest
from helpers import at_work, wait_until
from journal import Journal, WorkerProcess

import kq
from kq import MessageStore, Queue, Worker

#: Seconds before a death of which a worker may not have told.
UNTOLD = 1.2


def enqueue(queue: Queue, journal: Journal, count: int) -> dict[str, str]:
    """Enqueue jobs of every kind; return the status that each must end with, by its ID."""
    expected: dict[str, str] = {}
    jobs: list[kq.Job] = []
    for number in range(count):
        name = f"job-{number}"
        if number % 50 == 7:
            queue.using(retry=kq.Retry(2, delay=0.2)).enqueue(
                kq.Job(id=name, func=log_jobs.fail_once, args=(journal.path, name))
            )
        elif number % 50 == 19:
            queue.using(delay=0.5).enqueue(kq.Job(id=name, func=log_jobs.succeed, args=(journal.path, name)))
        else:
            func, timeout = {3: (log_jobs.fail, 0.0), 31: (log_jobs.stay, 0.2)}.get(number % 50, (log_jobs.succeed, 0))
            jobs.append(kq.Job(id=name, func=func, args=(journal.path, name), timeout=timeout))
        expected[name] = "DEAD" if number % 50 in (3, 31) else "COMPLETED"
    queue.enqueue_many(jobs)
    return expected


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_the_log_agrees_with_what_the_jobs_wrote_down(
    make_topic: Callable[..., str], hosts: str, store_url: str, journal: Journal, count: int
) -> None:
    """With failures, timeouts, retries, delays, letters, and two workers that are killed.

    Each job has one entry, with its last status; but of what ended in the second before its worker was killed, and did
    not run again, it may be the one before.
    """
    topic = make_topic(4)
    options: dict[str, Any] = {"message_log": store_url, "dead_letters": True, "executor": "process", "concurrency": 2}
    with MessageStore(store_url) as store, Queue(topic, hosts=hosts, message_log=store) as queue:
        expected = enqueue(queue, journal, count)
        deaths = []
        for part in (0.2, 0.5):
            with WorkerProcess(journal, topic, hosts, **options) as worker:
                wait_until(lambda part=part: len(journal.names("end")) > part * count, timeout=120)  # type: ignore[misc]
                worker.kill()
                deaths.append(time.monotonic())
        with WorkerProcess(journal, topic, hosts, **options) as worker:
            wait_until(lambda: journal.names("end") >= set(expected), timeout=240)
            wait_until(lambda: _pending(store, deaths, journal) == set(), timeout=60)
            assert worker.terminate() == 0
        assert store.flush()
        found = {one.job_id: one for one in store.list(limit=count + 10)}
        assert set(found) == set(expected)
        untold = _untold(journal, deaths)
        wrong = {
            name: (found[name].status, status) for name, status in expected.items() if found[name].status != status
        }
        assert {name: told for name, told in wrong.items() if name not in untold} == {}
        assert {told[0] for told in wrong.values()} <= {"PUBLISHED", "IN_PROGRESS", "RETRIED"}
        twice = [name for name, one in found.items() if name.split("-")[1].endswith("07") and one.attempt == 2]
        assert twice  # attempts are told
        assert store.dropped == 0


def _untold(journal: Journal, deaths: list[float]) -> set[str]:
    """Return the jobs whose last run ended in the second before a death."""
    last = {one.name: one.time for one in journal.entries() if one.word == "end"}
    return {name for name, at in last.items() if any(death - UNTOLD < at <= death for death in deaths)}


def _pending(store: MessageStore, deaths: list[float], journal: Journal) -> set[str]:
    """Return the jobs that are to have another status, and none of those that may never have."""
    entries = store.list(["PUBLISHED", "IN_PROGRESS", "RETRIED"], limit=20_000)
    return {one.job_id for one in entries} - _untold(journal, deaths)


@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.long)])
def test_jobs_run_at_full_speed_while_the_database_is_away(
    topic: str, hosts: str, postgres: Any, seconds: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing waits for it; afterwards each job has its status, and what was dropped is counted."""
    url = postgres.make(f"away{seconds}")
    with MessageStore(url) as store, Queue(topic, hosts=hosts, message_log=store) as queue:
        first = queue.enqueue_many((operator.neg, (number,)) for number in range(100))
        worker = Worker(topic, hosts=hosts, message_log=store, executor="process", concurrency=2)
        with at_work(worker):
            wait_until(lambda: worker.stats().done == 100, timeout=30)
            assert store.flush()
            postgres.stop()
            try:
                begun = time.monotonic()
                jobs = queue.enqueue_many((operator.neg, (number,)) for number in range(5000))
                wait_until(lambda: worker.stats().done == 5100, timeout=30)
                took = time.monotonic() - begun
                assert not store.flush(0.5)
                time.sleep(max(0.0, seconds - (time.monotonic() - begun)))
            finally:
                postgres.start()
            assert took < 20  # a second or two, on a machine that has nothing else to do
            assert store.flush(30)
            assert store.count("COMPLETED") + store.dropped >= 5100
            assert store.dropped == 0
            assert {one.job_id for one in store.list(limit=10_000)} == {job.id for job in [*first, *jobs]}
    said = [one.getMessage() for one in caplog.records if one.name == "kq.message_log"]
    assert len([line for line in said if "jobs go on" in line]) == 1  # once a minute
    assert sum("takes entries again" in line for line in said) == 1


def test_what_is_dropped_is_counted_said_and_mended(
    topic: str, hosts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is room for few: of the others nothing is known, until their next status."""
    monkeypatch.setattr("kq.messagelog.recorder.MOST", 50)
    folder = tmp_path / "later"
    with MessageStore(f"sqlite:///{folder}/kq.db") as store:
        with Queue(topic, hosts=hosts, message_log=store) as queue:
            jobs = queue.enqueue_many((operator.neg, (number,)) for number in range(500))
            wait_until(lambda: store.dropped, timeout=20)
            folder.mkdir()
            assert store.flush(30)
        known = store.count()
        assert known + store.dropped == 500
        assert 0 < known < 500
        monkeypatch.undo()
        Worker(topic, hosts=hosts, message_log=store).start(max_messages=500)
        assert {one.job_id for one in store.list("COMPLETED", limit=1000)} == {job.id for job in jobs}
    lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert any(line.endswith(f"statuses dropped so far: {store.dropped}") for line in lines), lines


def test_a_worker_that_was_killed_leaves_word_of_it(
    topic: str, hosts: str, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that ran is in progress, and its worker died; when it runs again it is mended."""
    url = f"sqlite:///{tmp_path}/kq.db"
    with Queue(topic, hosts=hosts) as queue:
        job = queue.using(timeout=60).enqueue(log_jobs.stay, journal.path, "long")
    with MessageStore(url) as store:
        with WorkerProcess(journal, topic, hosts, message_log=url) as worker:
            wait_until(lambda: _is_in_progress(store, job.id), timeout=40)
            worker.kill()
        monkeypatch.setattr("kq.messagelog.store.DEAD_AFTER", 1.0)
        wait_until(lambda: store.list()[0].worker_died_at)
        (found,) = store.list()
        assert found.state.startswith("in progress; its worker died at 2")
        Worker(topic, hosts=hosts, message_log=store, timeout=0.5).start(max_messages=1)
        (found,) = store.list()
        assert (found.status, found.worker_died_at) == ("TIMED_OUT", None)


def _is_in_progress(store: MessageStore, job_id: str) -> bool:
    try:
        found = store.get(job_id)
    except kq.StoreError:  # it is not made yet
        return False
    return found is not None and found.status == "IN_PROGRESS"
