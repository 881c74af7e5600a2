"""Control on a real Kafka: pauses, stops, and what workers say of themselves."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import journal as journals
import pytest
from helpers import at_work, wait_until
from jobs import Calls
from journal import QUICK, Journal
from kafka import KafkaAdminClient, KafkaProducer
from test_retries import records

import kq
from kq.controlling import Wish, key_of, parsed


@pytest.fixture
def control(topic: str, hosts: str) -> Iterator[kq.Control]:
    """Return what steers the workers of a new topic."""
    with kq.Control(topic, hosts) as made:
        yield made


def worker_of(control: kq.Control, callback: Any = None, **options: Any) -> kq.Worker:
    """Return a worker that takes part."""
    return kq.Worker(control.topic, hosts=control.hosts, callback=callback, control=True, **options)


# -- pauses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, "first"])
def test_a_pause_lasts_until_it_is_resumed(
    control: kq.Control, queue: kq.Queue, group: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """What runs finishes, the partitions stay, the log says so; a worker that starts meanwhile waits, too."""
    caplog.set_level(logging.INFO, "kq.control")
    paused, other = Calls(), Calls()
    options = {"group": "first", "executor": "thread", "concurrency": 2}
    worker = worker_of(control, paused, **options)
    with at_work(worker_of(control, other, group="second")):
        with at_work(worker):
            queue.enqueue(time.sleep, 2.0)
            wait_until(lambda: worker.stats().in_flight == 1, timeout=20)
            wait_until(control.workers, timeout=10)
            control.pause(group)
            wait_until(lambda: "is paused for group first" in caplog.text, timeout=5)
            queue.enqueue(abs, -1)
            wait_until(lambda: len(paused) == 1, timeout=10)
            wait_until(lambda: worker.stats().backlog == 1, timeout=10)
            (shown,) = (one for one in control.workers() if one.group == "first")
            assert (shown.state, shown.partitions) == ("paused", (0,))
        assert control.pauses() == [group]
        again = worker_of(control, paused, **options)
        with at_work(again):
            wait_until(lambda: again.stats().backlog == 1, timeout=20)
            if group is not None:
                wait_until(lambda: len(other) == 2, timeout=20)
            control.resume("unknown")
            assert control.pauses() == [group]
            assert len(paused) == 1
            control.resume(group)
            wait_until(lambda: len(paused) == len(other) == 2, timeout=10)
            assert control.pauses() == []


@pytest.mark.long
def test_a_pause_survives_a_restart_of_everything(kafka: kq.LocalKafka, control: kq.Control, queue: kq.Queue) -> None:
    """Of the broker too, while no worker is there; and one that is at work meanwhile stays paused."""
    control.pause()
    kafka.terminate()
    kafka.restart()
    queue.enqueue(abs, -1)
    calls = Calls()
    worker = worker_of(control, calls)
    with at_work(worker):
        wait_until(lambda: worker.stats().backlog == 1, timeout=60)
        wait_until(lambda: [one.state for one in control.workers()] == ["paused"], timeout=30)
        kafka.kill()
        kafka.restart()
        queue.enqueue(abs, -1)
        wait_until(lambda: worker.stats().backlog == 2, timeout=60)
        assert control.pauses() == [None]
        assert not calls
        control.resume()
        wait_until(lambda: len(calls) == 2, timeout=60)


def test_resume_without_a_group_ends_every_pause(control: kq.Control) -> None:
    """Each that there is, also of a group alone; where nothing is paused there is no topic either."""
    control.resume()
    with KafkaAdminClient(bootstrap_servers=control.hosts) as admin:
        assert f"{control.topic}.control" not in admin.list_topics()
    for group in (None, "a", "b"):
        control.pause(group)
    assert control.pauses() == [None, "a", "b"]
    control.resume("a")
    assert control.pauses() == [None, "b"]
    control.resume()
    assert control.pauses() == []


# -- stops ------------------------------------------------------------------------------------------------------------


def test_one_worker_of_three_hands_over_without_a_repeat(
    make_topic: Callable[..., str], hosts: str, journal: Journal
) -> None:
    """It finishes what it runs; the other two have all the rest."""
    topic = make_topic(6)
    with kq.Queue(topic, hosts=hosts) as queue, kq.Control(topic, hosts) as control:
        workers = [worker_of(control, executor="thread", concurrency=2, config=QUICK) for _ in range(3)]
        threads = [threading.Thread(target=worker.start) for worker in workers]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: [len(one.partitions) for one in control.workers()] == [2, 2, 2], timeout=60)
            queue.enqueue_many((journals.work, (journal.path, number, 0.02)) for number in range(400))
            wait_until(lambda: len(journal.names("end")) > 30, timeout=30)
            chosen = control.workers()[1].id
            assert control.shutdown(chosen) == [chosen]
            wait_until(lambda: sum(thread.is_alive() for thread in threads) == 2, timeout=20)
            wait_until(lambda: len(control.workers()) == 2, timeout=3)
            wait_until(lambda: len(journal.names("end")) == 400, timeout=60)
            with pytest.raises(kq.KQError, match=f"no worker '{chosen}' on topic"):
                control.shutdown(chosen)
            assert len(control.shutdown()) == 2
            wait_until(lambda: not any(thread.is_alive() for thread in threads), timeout=30)
            assert control.shutdown() == []
        finally:
            for worker in workers:
                worker.stop()
            for thread in threads:
                thread.join(30)
    assert set(journal.count("start").values()) == {1}
    assert len({worker.stats().done for worker in workers}) > 1


@pytest.mark.long
def test_a_million_jobs_leave_the_control_topic_small(
    control: kq.Control, queue: kq.Queue, hosts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cancels of jobs that never were besides; and what reports cost is no part of the drain that counts."""
    for number in range(100):
        control.cancel(f"job-{number}")
    for _ in range(20):
        queue.enqueue_many((int, ()) for _ in range(50_000))
    worker = worker_of(control)
    begun, before = time.monotonic(), time.process_time()
    assert worker.start(max_messages=1_000_000) == 1_000_000
    seconds, busy = time.monotonic() - begun, time.process_time() - before
    kept = records(hosts, f"{control.topic}.control")
    size = sum(len(record.key) + len(record.value or b"") for record in kept)
    with capsys.disabled():
        print(f"\n1,000,000 jobs in {seconds:.0f} s ({busy:.0f} s of a core), {len(kept)} records of {size} bytes")
    assert size < 2_000_000


# -- reports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_what_is_said_of_running_jobs_is_true(
    control: kq.Control, queue: kq.Queue, journal: Journal, executor: Any
) -> None:
    """As the jobs themselves wrote it down; a worker is there within three seconds, and gone when it has stopped."""
    begun = time.time()
    many = 1 if executor == "inline" else 2
    with at_work(worker_of(control, executor=executor, concurrency=many)):
        (one,) = wait_until(control.workers, timeout=10)
        jobs = [queue.enqueue(journals.work, journal.path, number, 5.0) for number in range(3)]
        wait_until(lambda: len(journal.names("start")) == many, timeout=20)

        def is_told() -> bool:
            told = {run.id for run in control.workers()[0].running}
            return told == {jobs[int(name)].id for name in journal.names("start") - journal.names("end")} != set()

        wait_until(is_told, timeout=4.5)
        (one,) = control.workers()
    assert re.fullmatch(rf".+-{os.getpid()}-[0-9a-f]{{4}}", one.id)
    assert (one.pid, one.group, one.version) == (os.getpid(), control.topic, kq.__version__)
    assert (one.executor, one.concurrency, one.partitions, one.state) == (executor, many, (0,), "running")
    assert begun <= one.since.timestamp() <= one.seen.timestamp() + 1
    assert one.stats["done"] == 0
    assert {(run.call, run.attempt) for run in one.running} == {("journal.work", 1)}
    assert begun < min(run.started.timestamp() for run in one.running) < time.time()
    assert wait_until(lambda: not control.workers(), timeout=6)


def test_a_killed_worker_is_dropped_and_its_report_removed(
    control: kq.Control, hosts: str, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds after its last report; another worker writes the tombstone."""
    monkeypatch.setattr("kq.working.agent._SWEEP_EVERY", 0.5)
    monkeypatch.setattr("kq.working.agent._LEFT_AFTER", 3.0)
    with journals.WorkerProcess(journal, control.topic, hosts, control=True):
        (killed,) = wait_until(control.workers, timeout=30)
        begun = time.monotonic()
    wait_until(lambda: not control.workers(), timeout=14)
    assert time.monotonic() - begun > 6
    with at_work(worker_of(control)):
        wait_until(lambda: [one.id for one in control.workers()] != [killed.id], timeout=10)
        key = key_of(Wish.WORKER, killed.id)
        wait_until(lambda: records_of(hosts, control.topic, key)[-1] is None, timeout=20)


def records_of(hosts: str, topic: str, key: bytes) -> list[bytes | None]:
    return [record.value for record in records(hosts, f"{topic}.control") if record.key == key]


def test_a_worker_that_ends_leaves_nothing_behind(control: kq.Control, hosts: str) -> None:
    """Its report has a tombstone, and so has the wish that it stops."""
    thread = threading.Thread(target=(worker := worker_of(control)).start)
    thread.start()
    try:
        (one,) = wait_until(control.workers, timeout=20)
        control.shutdown(one.id)
        thread.join(20)
        assert not thread.is_alive()
    finally:
        worker.stop()
    for kind in (Wish.WORKER, Wish.STOP):
        assert records_of(hosts, control.topic, key_of(kind, one.id))[-1] is None


def test_a_ping_is_answered_by_all_that_are_there(control: kq.Control) -> None:
    """Long before the next report is due; nobody answers where nobody is."""
    assert control.ping(0.1) == {}
    with at_work(worker_of(control)), at_work(worker_of(control, group="other")):
        wait_until(lambda: len(control.workers()) == 2, timeout=20)
        for _ in range(3):
            answers = control.ping(5)
            assert answers.keys() == {one.id for one in control.workers()}
            assert max(answers.values()) < 1.5
    assert control.ping(0.1) == {}


def test_what_others_write_is_no_report(control: kq.Control, client: KafkaProducer) -> None:
    """Each field is checked; what is none is passed over, and nothing is unpickled."""
    control.cancel("nobody")
    odd = (
        b'{"host": 7, "pid": "x", "since": 1e300, "partitions": [true, -1, "a"], "stats": {"a": [], "done": 1},'
        b' "running": [[1, 2, "x", -4], "y", {}], "concurrency": 1e400, "state": null}'
    )
    for name, value in (("odd", odd), ("junk", b"\x80\x04."), ("list", b"[1]"), ("large", b"x" * 300_000)):
        client.send(f"{control.topic}.control", value, key=key_of(Wish.WORKER, name))
    client.send(f"{control.topic}.control", b"{}", key=key_of(Wish.PING))
    client.flush()
    (one,) = wait_until(control.workers, timeout=10)
    assert (one.id, one.host, one.pid, one.partitions, one.stats) == ("odd", "", 0, (0, 0, 0), {"done": 1})
    assert [(run.id, run.call, run.attempt) for run in one.running] == [(None, None, 1)] * 3
    assert parsed("a", b"null", 0) is None


def test_a_worker_without_control_says_nothing(queue: kq.Queue, hosts: str) -> None:
    """No thread, no topic."""
    queue.enqueue(abs, -1)
    with at_work(kq.Worker(queue.topic, hosts=hosts, callback=(calls := Calls()))):
        wait_until(lambda: len(calls) == 1, timeout=20)
        names = {thread.name for thread in threading.enumerate()}
        assert not any("Agent" in name or name.endswith(f"{queue.topic}.control") for name in names)
    with KafkaAdminClient(bootstrap_servers=hosts) as admin:
        assert f"{queue.topic}.control" not in admin.list_topics()
    with kq.Control(queue.topic, hosts) as control:
        assert (control.workers(), control.pauses(), control.shutdown()) == ([], [], [])


def test_bad_names_are_refused(control: kq.Control) -> None:
    """Groups and workers are str; nothing is written for others."""
    for call in (control.pause, control.resume, control.shutdown):
        for bad in ("", 7, "x" * 501):
            with pytest.raises(kq.ArgumentError):
                call(bad)
    with pytest.raises(kq.KQError, match="there are: none"):
        control.shutdown(uuid.uuid4().hex)


def test_lag_tells_how_far_a_group_is(make_topic: Callable[..., str], hosts: str) -> None:
    """By partition: the end, what is committed, and how old the first message is that is not."""
    topic = make_topic(3)
    with kq.Queue(topic, hosts=hosts) as queue, kq.Control(topic, hosts) as control:
        assert control.lag() == dict.fromkeys(range(3), (0, None, 0, None))
        begun = time.time()
        queue.using(partition=0).enqueue_many([(abs, (-1,))] * 5)
        queue.using(partition=1).enqueue_many([(abs, (-1,))] * 2)
        with at_work(kq.Worker(topic, hosts=hosts, group="g", callback=(calls := Calls()))):
            wait_until(lambda: len(calls) == 7, timeout=20)
            control.pause("g")
        queue.using(partition=1).enqueue_many([(abs, (-1,))] * 3)
        lag = control.lag("g")
        assert (lag[0], lag[2].lag) == ((5, 5, 0, None), 0)
        assert lag[1][:3] == (5, 2, 3)
        assert lag[1].behind is not None and 0 <= lag[1].behind <= time.time() - begun + 1
        assert [one.lag for one in control.lag("unknown").values()] == [5, 5, 0]
    with kq.Control("no-such-topic-here", hosts) as none, pytest.raises(kq.KQError, match="there is no topic no-such"):
        none.lag()
