"""Cancels on a real Kafka: a job that has not started never runs, and is told of once."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cancel_jobs
import journal as journals
import pytest
import retry_jobs
from helpers import at_work, wait_until
from jobs import Calls
from journal import Journal
from kafka import KafkaAdminClient, KafkaProducer
from test_retries import records

import kq
from kq import Retry
from kq.controlling import Cancels, Wish, key_of, packed

EXECUTORS = ["inline", "thread", "process"]


@pytest.fixture
def control(topic: str, hosts: str) -> Iterator[kq.Control]:
    """Return what steers the workers of a new topic."""
    with kq.Control(topic, hosts) as made:
        yield made


def cancelled(calls: Calls) -> Counter[str | None]:
    """Return how often each job was told to be cancelled."""
    return Counter(call.job.id for call in calls if isinstance(call.exception, kq.Cancelled))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_cancelled_while_nobody_is_there_never_runs(
    topic: str, hosts: str, executor: Any, control: kq.Control, journal: Journal
) -> None:
    """Every tenth of those that wait in the topic, all that are delayed, and all that wait for a retry: told once."""
    calls = Calls()
    options: dict[str, Any] = {"executor": executor, "concurrency": 1 if executor == "inline" else 2, "results": True}
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results:
        failing = queue.using(retry=Retry(3, delay=60)).enqueue_many(
            (retry_jobs.fail_and_tell, (journal.path, f"failing-{number}")) for number in range(20)
        )
        with at_work(kq.Worker(topic, hosts=hosts)):
            wait_until(lambda: len(journal.names("run")) == 20, timeout=40)
            wait_until(lambda: len(records(hosts, f"{topic}.later")) == 20, timeout=20)
        delayed = queue.using(delay=60).enqueue_many([(journals.work, (journal.path, "delayed"))] * 20)
        waiting = queue.enqueue_many((journals.work, (journal.path, number)) for number in range(1000))
        chosen = [*failing, *delayed, *waiting[::10]]
        for job in chosen:
            control.cancel(job)
        worker = kq.Worker(topic, hosts=hosts, callback=calls, **options)
        with at_work(worker):
            wait_until(lambda: len(cancelled(calls)) == len(chosen), timeout=40)
            wait_until(lambda: worker.stats().done == len(calls) == 1000 + 40, timeout=40)
            assert cancelled(calls) == dict.fromkeys((job.id for job in chosen), 1)
            with pytest.raises(kq.Cancelled, match="was cancelled before it started"):
                results.get(waiting[0], timeout=20)
            assert {results.status(job) for job in (failing[0], delayed[0], waiting[0])} == {"cancelled"}
    assert journal.count("start") == {str(number): 1 for number in range(1000) if number % 10}
    assert set(journal.count("run").values()) == {1}
    assert Counter(call.status for call in calls) == {"failure": 140, "success": 900}


def test_one_that_waits_behind_a_long_job_in_its_child_does_not_start(
    queue: kq.Queue, hosts: str, control: kq.Control, journal: Journal, tmp_path: Path
) -> None:
    """A child has some more jobs than the one that it runs; these are taken back."""
    calls = Calls()
    with at_work(kq.Worker(queue.topic, hosts=hosts, executor="process", callback=calls, control=True)):
        # all at once, and short ones first, so that many are given to it at once
        wanted: list[Any] = [(journals.work, (journal.path, "short"))] * 200
        wanted.append((cancel_jobs.until_open, (journal.path, str(gate := tmp_path / "gate"))))
        wanted += [(journals.work, (journal.path, f"behind-{number}")) for number in range(20)]
        long, *behind = queue.enqueue_many(wanted)[200:]
        wait_until(lambda: "long" in journal.names("start"), timeout=30)
        for job in behind:
            control.cancel(job)
        try:
            # those that the child had are told of, mostly all; by then the worker knows of every one
            with contextlib.suppress(AssertionError):
                wait_until(lambda: len(cancelled(calls)) == 20, timeout=3)
            assert long.id not in {call.job.id for call in calls if call.job is not None}
        finally:
            gate.touch()
        wait_until(lambda: len(cancelled(calls)) == 20, timeout=30)
    assert journal.names("start") == {"short", "long"}


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_retry_in_place_is_told_of_at_once(
    queue: kq.Queue, hosts: str, executor: Any, control: kq.Control, journal: Journal
) -> None:
    """What waits behind it in its lane goes on."""
    calls = Calls()
    policy = Retry(3, delay=600, ordered=True)
    with at_work(kq.Worker(queue.topic, hosts=hosts, executor=executor, callback=calls, control=True)):
        job = queue.using(retry=policy, key=b"k").enqueue(retry_jobs.fail_and_tell, journal.path, "one")
        queue.using(key=b"k").enqueue(journals.work, journal.path, "two")
        wait_until(lambda: len(calls) == 1, timeout=20)
        control.cancel(job.id)
        wait_until(lambda: journal.names("end") == {"two"}, timeout=10)
    assert [type(call.exception) for call in calls] == [retry_jobs.Flaky, kq.Cancelled, type(None)]
    assert journal.count("run") == {"one": 1}


def test_a_job_whose_attempt_fails_after_the_cancel_has_no_other(
    queue: kq.Queue, hosts: str, control: kq.Control, journal: Journal
) -> None:
    """The one that runs is not disturbed; the next, which is due in ten minutes, is told of at once."""
    calls = Calls()
    with at_work(kq.Worker(queue.topic, hosts=hosts, executor="thread", callback=calls, control=True)):
        job = queue.using(retry=Retry(3, delay=600)).enqueue(retry_jobs.fail_slowly, 2.0)
        wait_until(lambda: f"{queue.topic}.control" in _topics(hosts), timeout=10)
        control.cancel(job)
        wait_until(lambda: len(calls) == 2, timeout=20)
    assert [type(call.exception) for call in calls] == [retry_jobs.Flaky, kq.Cancelled]


def _topics(hosts: str) -> set[str]:
    with KafkaAdminClient(bootstrap_servers=hosts) as admin:
        return set(admin.list_topics())


def test_a_worker_makes_no_topic_and_notices_one_that_comes(
    queue: kq.Queue, hosts: str, control: kq.Control, journal: Journal
) -> None:
    """One that is not asked to take part has no topic made; within seconds it knows what is wished."""
    calls = Calls()
    with at_work(kq.Worker(queue.topic, hosts=hosts, callback=calls)):
        queue.enqueue(journals.work, journal.path, "first")
        wait_until(lambda: len(calls) == 1, timeout=20)
        assert f"{queue.topic}.control" not in _topics(hosts)
        control.cancel(uuid.uuid4().hex)  # nobody knows it
        long = queue.enqueue(journals.work, journal.path, "long", 8.0)
        job = queue.enqueue(journals.work, journal.path, "never")
        control.cancel(job)
        wait_until(lambda: len(calls) == 3, timeout=20)
    assert cancelled(calls) == {job.id: 1}
    assert journal.names("start") == {"first", "long"}
    assert long.id in {call.job.id for call in calls}


def test_a_worker_that_takes_no_part_knows_of_no_cancel(
    queue: kq.Queue, hosts: str, control: kq.Control, journal: Journal
) -> None:
    """But one that the owner of a delay has marked it does not run."""
    job, delayed = queue.enqueue(journals.work, journal.path, "runs"), queue.using(delay=30).enqueue(print)
    control.cancel(job)
    control.cancel(delayed)
    calls, others = Calls(), Calls()
    worker = kq.Worker(queue.topic, hosts=hosts, callback=calls)
    other = kq.Worker(queue.topic, hosts=hosts, group="other", callback=others, control=False, later=False)
    with at_work(other), at_work(worker):
        wait_until(lambda: len(calls) == len(others) == 2, timeout=40)
    assert cancelled(calls) == {job.id: 1, delayed.id: 1}
    assert cancelled(others) == {delayed.id: 1}


def test_a_cancelled_job_is_no_dead_letter(queue: kq.Queue, hosts: str, control: kq.Control) -> None:
    """Somebody wanted it so; and a policy has it run no second time."""
    job = queue.using(retry=Retry(3, delay=0)).enqueue(print)
    control.cancel(job)
    worker = kq.Worker(queue.topic, hosts=hosts, dead_letters=True, callback=(calls := Calls()))
    with at_work(worker):
        wait_until(lambda: len(calls) == 1, timeout=30)
        queue.enqueue(retry_jobs.wrong)
        wait_until(lambda: kq.DeadLetters(queue.topic, hosts).count() == 1, timeout=20)
    assert [type(call.exception) for call in calls] == [kq.Cancelled, ValueError]


def test_a_cancel_is_forgotten_with_the_jobs(make_topic: Callable[..., str], hosts: str, journal: Journal) -> None:
    """It is remembered for as long as the topic keeps records."""
    topic = make_topic(retention_ms=2000)
    with kq.Control(topic, hosts) as control, kq.Queue(topic, hosts=hosts) as queue:
        job = queue.enqueue(journals.work, journal.path, "runs")
        begun = time.time()
        control.cancel(job)
        (record,) = records(hosts, f"{topic}.control")
        until = json.loads(record.value)["until"]
        assert begun + 2 <= until / 1000 <= time.time() + 2
        wait_until(lambda: time.time() * 1000 > until)
        with at_work(kq.Worker(topic, hosts=hosts)):
            wait_until(lambda: journal.names("end") == {"runs"}, timeout=20)


def test_what_others_write_cancels_nothing(
    queue: kq.Queue, hosts: str, control: kq.Control, client: KafkaProducer, journal: Journal
) -> None:
    """No record ends a worker, and no value is unpickled."""
    control.cancel("nobody")
    job = queue.enqueue(journals.work, journal.path, "runs")
    key = key_of(Wish.CANCEL, str(job.id))
    for value in (b"", b"{", b"[]", b"null", b"[" * 100_000, b"x" * 500_000, b"\x80\x04."):
        client.send(f"{queue.topic}.control", value, key=key)
    client.send(f"{queue.topic}.control", b"{}", key=b"cancel:" + b"x" * 2000)
    client.flush()
    with at_work(kq.Worker(queue.topic, hosts=hosts)):
        wait_until(lambda: journal.names("end") == {"runs"}, timeout=20)


def test_bad_arguments_are_refused(control: kq.Control, topic: str) -> None:
    """Nothing is written for what is no job of this topic; a topic that is not there is said to be none."""
    for bad in (None, 7, b"id", "", "x" * 501, kq.Job(), kq.Job(id="a", topic="another")):
        with pytest.raises(kq.ArgumentError):
            control.cancel(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be serialized"):
        control.__reduce__()
    with kq.Control("no-such-topic-here", control.hosts) as other, pytest.raises(kq.KQError, match="no-such-topic"):
        other.cancel("a")
    assert repr(control) == f"Control(hosts={control.hosts}, topic={topic})"


def test_cancels_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten; what is over is, too."""
    monkeypatch.setattr("kq.controlling.wishes._MOST", 3)
    cancels = Cancels()
    news = cancels.follow()
    for number in range(5):
        cancels.note(b"%d" % number, {"until": 1000 + number, "terminate": number == 4}, now=1000 if number else 0)
    assert (list(cancels.ids), list(cancels.terminated), cancels.count) == ([b"2", b"3", b"4"], [b"4"], 5)
    assert list(news) == [b"0", b"1", b"2", b"3", b"4"]
    assert cancels.over(1003) == [b"2", b"3"]
    cancels.note(b"4", None, now=0)
    assert (cancels.ids, cancels.terminated, cancels.count) == ({}, set(), 5)
    assert packed(until=None, terminate=True) == b'{"terminate": true}'


# -- what runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("executor", "seconds"), [("inline", 3), ("thread", 3), ("process", 4), ("stubborn", 4)])
def test_a_job_that_runs_is_terminated(
    queue: kq.Queue, hosts: str, control: kq.Control, journal: Journal, executor: Any, seconds: float
) -> None:
    """It is a failure with Cancelled, told once, and has no retry; the next job runs."""
    calls = Calls()
    job = {"stubborn": cancel_jobs.swallow}.get(executor, cancel_jobs.wait)
    where = kq.ProcessExecutor(kill_grace=1.0) if executor in ("process", "stubborn") else executor
    worker = kq.Worker(queue.topic, hosts=hosts, executor=where, callback=calls, results=True, control=True)
    with queue.collect() as results, at_work(worker):
        long = queue.using(retry=Retry(3, delay=0)).enqueue(job, journal.path, 40.0)
        wait_until(lambda: journal.names("start") == {"long"}, timeout=20)
        control.terminate(long)
        begun = time.monotonic()
        queue.enqueue(journals.work, journal.path, "next")
        wait_until(lambda: len(calls) == 2, timeout=30)
        assert time.monotonic() - begun < seconds
        with pytest.raises(kq.Cancelled, match="while it ran"):
            results.get(long, timeout=20)
        assert results.status(long) == "cancelled"
    assert [type(call.exception) for call in calls] == [kq.Cancelled, type(None)]
    assert calls[0].job.id == long.id
    assert journal.names("end") == {"next"}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_job_may_ask_whether_it_is_cancelled(
    queue: kq.Queue, hosts: str, control: kq.Control, journal: Journal, executor: Any
) -> None:
    """In each executor, and in a thread of its own; the one that runs after it is not."""
    calls = Calls()
    with at_work(kq.Worker(queue.topic, hosts=hosts, executor=executor, callback=calls, control=True)):
        job = queue.enqueue(cancel_jobs.until_cancelled, journal.path)
        wait_until(lambda: journal.names("start") == {"asking"}, timeout=20)
        control.cancel(job)
        wait_until(lambda: len(calls) == 1, timeout=10)
        queue.enqueue(cancel_jobs.is_cancelled)
        wait_until(lambda: len(calls) == 2, timeout=10)
    assert (calls[0].status, type(calls[0].exception)) == ("failure", kq.Cancelled)
    assert calls[1].result is False


def test_terminating_what_waits_is_cancelling_it(queue: kq.Queue, hosts: str, control: kq.Control) -> None:
    """And of what has ended, or is not known, nothing comes."""
    calls = Calls()
    with at_work(kq.Worker(queue.topic, hosts=hosts, callback=calls, control=True)):
        over = queue.enqueue(abs, -1)
        wait_until(lambda: len(calls) == 1, timeout=20)
        control.terminate(over)
        control.terminate("nobody")
        waiting = queue.using(delay=60).enqueue(abs, -2)
        control.terminate(waiting)
        wait_until(lambda: len(calls) == 2, timeout=20)
        queue.enqueue(abs, -3)
        wait_until(lambda: len(calls) == 3, timeout=20)
    assert [call.status for call in calls] == ["success", "failure", "success"]
    assert cancelled(calls) == {waiting.id: 1}
