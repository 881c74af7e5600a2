"""The message log: what queue and worker write is what happened, and costs jobs nothing."""

from __future__ import annotations

import logging
import operator
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import retry_jobs
from helpers import at_work, wait_until
from kafka import KafkaProducer

import kq
from kq import MessageStore, Queue, Worker

EXECUTORS: dict[str, dict[str, Any]] = {
    "inline": {},
    "thread": {"executor": "thread", "concurrency": 3},
    "process": {"executor": "process", "concurrency": 2},
}


@pytest.fixture
def store(store_url: str) -> Iterator[MessageStore]:
    with MessageStore(store_url) as made:
        yield made


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'kq.db'}"


def entry(store: MessageStore, job_id: str | None) -> kq.MessageLog:
    found = store.get(str(job_id))
    assert found is not None
    return found


@pytest.mark.parametrize("executor", EXECUTORS)
def test_each_message_has_its_entry(topic: str, hosts: str, store: MessageStore, executor: str) -> None:
    """Whatever became of it, in each executor: what the queue knew, and what the worker saw."""
    with Queue(topic, hosts=hosts, message_log=store) as queue:
        good = queue.using(key=b"k").enqueue(operator.add, 1, 2)
        bad = queue.enqueue(jobs.fail, "no such luck")
        late = queue.using(timeout=0.2).enqueue(retry_jobs.stay)
        gone = queue.using(expires=0.001).enqueue(operator.add, 1, 2)
        queue.producer.send(topic, b"not a job").get(10)
        assert store.flush()
        assert {one.status for one in store.list()} == {"PUBLISHED"}
        before = entry(store, good.id)
        assert (before.partition, before.offset, before.arguments, before.attempt) == (0, 0, "1, 2", 1)
        assert (before.key, before.function, before.task_type) == (b"k", "_operator.add", "_operator.add")
    begun = time.time()
    Worker(topic, hosts=hosts, message_log=store, **EXECUTORS[executor]).start(max_messages=5)
    found = {one.job_id: one for one in store.list()}
    assert {name: one.status for name, one in found.items()} == {
        good.id: "COMPLETED", bad.id: "FAILED", late.id: "TIMED_OUT", gone.id: "EXPIRED", f"{topic}-0-4": "INVALID"
    }  # fmt: skip
    done, failed = found[good.id], found[str(bad.id)]
    assert done[:7] == (good.id, "COMPLETED", 1, topic, 0, 0, b"k")
    assert (done.arguments, done.exception, done.traceback) == ("1, 2", None, None)
    assert done.published_at is not None and abs(done.published_at.timestamp() * 1000 - good.timestamp) < 2
    assert done.started_at is not None and done.ended_at is not None
    assert begun - 0.1 <= done.started_at.timestamp() <= done.ended_at.timestamp() <= time.time()
    assert failed.exception == "builtins.ValueError: no such luck"
    assert failed.traceback is not None and failed.traceback.endswith("ValueError: no such luck\n")
    assert failed.arguments == "'no such luck'"
    assert found[str(late.id)].exception == "kq.errors.JobTimeout: the job ran longer than its limit of 0.2 s"
    assert found[str(gone.id)].started_at is None
    assert store.dropped == 0


def test_a_repeat_is_an_attempt_of_the_same_entry(topic: str, hosts: str, store: MessageStore, journal: Any) -> None:
    """It fails twice, becomes a letter, is replayed, and succeeds: one entry, which tells the latest each time."""
    with Queue(topic, hosts=hosts, message_log=store) as queue:
        spec = queue.using(retry=kq.Retry(1, delay=0.1))
        job = spec.enqueue(retry_jobs.fail_and_tell, journal.path, "j", 2)
    options: dict[str, Any] = {"message_log": store, "dead_letters": True}
    Worker(topic, hosts=hosts, **options).start(max_messages=1)
    found = entry(store, job.id)
    assert (found.status, found.attempt, found.offset) == ("RETRIED", 1, 0)
    assert found.exception == "retry_jobs.Flaky: j"
    Worker(topic, hosts=hosts, **options).start(max_messages=1)
    found = entry(store, job.id)
    assert (found.status, found.attempt, found.offset) == ("DEAD", 2, 1)
    kq.DeadLetters(topic, hosts).replay(all=True)
    Worker(topic, hosts=hosts, **options).start(max_messages=1)
    found = entry(store, job.id)
    assert (found.status, found.attempt, found.offset, found.exception) == ("COMPLETED", 1, 2, None)
    assert store.count() == 1


def test_attempts_in_place_are_told_too(topic: str, hosts: str, store: MessageStore, journal: Any) -> None:
    """No record is published for them."""
    with Queue(topic, hosts=hosts) as queue:
        policy = kq.Retry(2, delay=0.05, ordered=True)
        job = queue.using(key=b"k", retry=policy).enqueue(retry_jobs.fail_and_tell, journal.path, "j", 2)
    Worker(topic, hosts=hosts, message_log=store).start(max_messages=1)
    found = entry(store, job.id)
    assert (found.status, found.attempt, found.offset) == ("COMPLETED", 3, 0)


def test_a_delayed_job_is_published_without_a_place(topic: str, hosts: str, store: MessageStore) -> None:
    """It has none on its topic, until it is due."""
    with Queue(topic, hosts=hosts, message_log=store) as queue:
        job = queue.using(delay=0.5).enqueue(operator.neg, 1)
        assert store.flush()
        assert entry(store, job.id)[1:6] == ("PUBLISHED", 1, topic, None, None)
    Worker(topic, hosts=hosts, message_log=store).start(max_messages=1)
    found = entry(store, job.id)
    assert found[1:6] == ("COMPLETED", 1, topic, 0, 0)
    assert found.published_at is not None and abs(found.published_at.timestamp() * 1000 - job.timestamp) < 2


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("mask", [False, True])
def test_what_jobs_return_is_shown_where_the_worker_has_it(
    topic: str, hosts: str, url: str, executor: str, mask: bool
) -> None:
    """Children tell it if there is a callback; it stays out where arguments do."""
    with Queue(topic, hosts=hosts) as queue:
        made = [queue.enqueue(operator.add, 1, 2), queue.enqueue(jobs.echo), queue.enqueue(jobs.make_unprintable)]
        none = queue.enqueue(jobs.say, "nothing is returned")
        long = queue.enqueue(operator.mul, "x", 10_000)
    calls = jobs.Calls()
    with MessageStore(url, mask_arguments=mask) as store:
        Worker(topic, hosts=hosts, callback=calls, message_log=store, **EXECUTORS[executor]).start(max_messages=5)
        shown = [entry(store, job.id).result for job in made]
        assert shown == (["***"] * 3 if mask else ["3", "((), {})", "<unprintable Unprintable>"])
        assert entry(store, none.id).result is None
        assert mask or len(entry(store, long.id).result or "") <= 2_000


async def _enqueue(queue: Queue) -> list[kq.Job]:
    return [await queue.aenqueue(operator.neg, 3), *await queue.aenqueue_many([(operator.neg, (4,))])]


def test_each_way_to_enqueue_is_told(topic: str, hosts: str, url: str) -> None:
    """One and many, with asyncio or without; arguments stay out where that is asked for."""
    import asyncio

    with MessageStore(url, mask_arguments=True) as store:
        with Queue(topic, hosts=hosts, message_log=store) as queue:
            made = [queue.enqueue(operator.neg, 1), *queue.enqueue_many([(operator.neg, (2,))])]
            made += asyncio.run(_enqueue(queue))
        assert {one.job_id: (one.offset, one.arguments) for one in store.list()} == {
            job.id: (offset, "***") for offset, job in enumerate(made)
        }


def test_what_was_not_enqueued_has_no_entry(topic: str, hosts: str, url: str) -> None:
    """Nor has a schedule, which is no job."""
    with MessageStore(url) as store:
        with Queue(topic, hosts=hosts, message_log=store) as queue:
            queue.enqueue(operator.neg, 1)
            with pytest.raises(kq.EnqueueError):
                queue.using(partition=7).enqueue(operator.neg, 2)
            queue.schedule("often", kq.Every(3600), operator.neg, 3)
        assert [one.arguments for one in store.list()] == ["1"]


def test_a_job_that_runs_is_in_progress_within_a_second(topic: str, hosts: str, store: MessageStore) -> None:
    """And completed when it has ended."""
    with Queue(topic, hosts=hosts) as queue:
        job = queue.enqueue(jobs.hook, "wait")
    end = threading.Event()
    jobs.HOOKS["wait"] = lambda: end.wait(30)
    worker = Worker(topic, hosts=hosts, message_log=store, executor="thread")
    with at_work(worker):
        wait_until(lambda: worker.stats().in_flight, timeout=20)
        begun = time.monotonic()
        wait_until(lambda: _status(store, job.id) == "IN_PROGRESS")
        assert time.monotonic() - begun < 2  # a second, on a machine that has nothing else to do
        assert entry(store, job.id).state == "in progress"
        end.set()
        wait_until(lambda: _status(store, job.id) == "COMPLETED")


def _status(store: MessageStore, job_id: str) -> str | None:
    try:
        found = store.get(job_id)
    except kq.StoreError:  # it is not made yet
        return None
    return None if found is None else found.status


def test_stores_that_a_queue_or_a_worker_makes_are_closed_with_it(topic: str, hosts: str, url: str) -> None:
    """The rest is written, and no thread stays; without a log there is none."""
    before = {thread.name for thread in threading.enumerate()}
    with Queue(topic, hosts=hosts, message_log=url) as queue:
        queue.enqueue(operator.neg, 1)
    worker = Worker(topic, hosts=hosts, message_log=url)
    worker.start(max_messages=1)
    with MessageStore(url) as store:
        assert [one.status for one in store.list()] == ["COMPLETED"]
    assert "kq-message-log" not in {thread.name for thread in threading.enumerate()} - before
    with Queue(topic, hosts=hosts) as queue:
        queue.enqueue(operator.neg, 1)
    plain = Worker(topic, hosts=hosts)
    with at_work(plain):
        wait_until(lambda: plain.stats().done == 1, timeout=20)
        assert "kq-message-log" not in {thread.name for thread in threading.enumerate()} - before


@pytest.mark.parametrize("wrong", ["sqlite:////nowhere/at/all/kq.db", "postgresql://kq:s3cret@127.0.0.1:1/log"])
def test_jobs_go_on_without_the_database(topic: str, hosts: str, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    """Enqueued and run; one line says why there is no log, and the password is not in it."""
    with Queue(topic, hosts=hosts, message_log=wrong) as queue:
        queue.enqueue_many((operator.neg, (number,)) for number in range(100))
        begun = time.monotonic()
        assert Worker(topic, hosts=hosts, message_log=wrong).start(max_messages=100) == 100
        assert time.monotonic() - begun < 30
    lines = [one for one in caplog.records if one.name == "kq.message_log" and "jobs go on" in one.getMessage()]
    assert {one.levelno for one in lines} == {logging.ERROR}
    assert 1 <= len(lines) <= 2  # the queue's, and the worker's
    assert "s3cret" not in caplog.text


def test_a_companion_that_fails_at_ends_takes_nothing_along(
    topic: str, hosts: str, url: str, client: KafkaProducer, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It is said aloud, and jobs are done."""
    Queue(topic, client).enqueue_many([(operator.neg, (1,))] * 20)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("broken")

    for name in ("on_started_many", "on_ended"):
        monkeypatch.setattr(kq.working.Recording, name, fail)
    assert Worker(topic, hosts=hosts, message_log=url, **EXECUTORS["process"]).start(max_messages=20) == 20
    assert {"Recording failed at the start of messages", "Recording failed at the end of messages"} <= set(
        caplog.messages
    )


def test_names_that_other_programs_wrote_are_harmless(topic: str, hosts: str, store: MessageStore) -> None:
    """Too long, with NULs, not UTF-8, and numbers that are none."""
    with Queue(topic, hosts=hosts) as queue:
        value = kq.dumps(kq.Job(id="x", func=operator.neg, args=(1,), kwargs={}))
        headers = [("kq-id", b"a\x00\xff" + b"x" * 5000), ("kq-func", b"\x00" * 900), ("kq-attempt", b"9" * 15)]
        headers += [("kq-renewed", b"9" * 15), ("kq-timestamp", b"-1"), ("kq-task-type", "ä\0".encode())]
        queue.producer.send(topic, value, headers=headers).get(10)
    Worker(topic, hosts=hosts, message_log=store).start(max_messages=1)
    (found,) = store.list()
    assert (found.status, found.task_type) == ("COMPLETED", "ä\\x00")
    assert found.job_id.startswith("a\\x00\ufffdxxx")
    assert len(found.job_id) == 255
