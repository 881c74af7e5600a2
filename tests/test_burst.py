"""``start(burst=True)`` ends when nothing is left, and ``stop(now=True)`` when what runs is ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import jobs
import pytest
from helpers import at_work, wait_until
from journal import Journal, work

import kq


@pytest.mark.parametrize("executor", ["inline", pytest.param("thread", marks=pytest.mark.long), "process"])
def test_it_ends_when_nothing_is_left(
    hosts: str, make_topic: Callable[..., str], journal: Journal, executor: str
) -> None:
    """What waits in any partition, what jobs enqueue meanwhile, and the job that takes its time; then 0."""
    topic = make_topic(partitions=3)
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(60):
            queue.using(partition=number % 3).enqueue(work, journal.path, number)
        queue.using(partition=1).enqueue(work, journal.path, "slow", 1.0)
        worker = kq.Worker(topic, hosts=hosts, executor=executor, concurrency=1 if executor == "inline" else 4)
        assert worker.start(burst=True) == 61
        assert journal.names("end") == {*map(str, range(60)), "slow"}
        assert worker.stats().commit_lag == dict.fromkeys(range(3), 0) or worker.stats().backlog == 0
        begun = time.monotonic()
        assert worker.start(burst=True) == 0
        assert time.monotonic() - begun < 15
        queue.enqueue(work, journal.path, "more")
        assert worker.start(burst=True) == 1


def test_what_it_has_committed_is_not_run_again(hosts: str, topic: str) -> None:
    """It ends after its last commit, not before."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue_many([(max, (1, 2))] * 100)
    assert kq.Worker(topic, hosts=hosts, commit_interval=60).start(burst=True) == 100
    assert kq.Worker(topic, hosts=hosts).start(burst=True) == 0


def test_a_member_without_a_partition_ends_too(hosts: str, topic: str) -> None:
    """Another has the only one, and keeps it: there is nothing for this one."""
    with at_work(kq.Worker(topic, hosts=hosts)):
        assert kq.Worker(topic, hosts=hosts).start(burst=True) == 0


def test_what_comes_meanwhile_is_run_too(hosts: str, topic: str, journal: Journal) -> None:
    """A job that enqueues a job leaves something."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(enqueue_another, hosts, topic, journal.path, 3)
    assert kq.Worker(topic, hosts=hosts).start(burst=True) == 4
    assert journal.names("end") == {"3", "2", "1", "0"}


def enqueue_another(hosts: str, topic: str, path: str, left: int) -> None:
    if left:
        with kq.Queue(topic, hosts=hosts) as queue:
            queue.enqueue(enqueue_another, hosts, topic, path, left - 1)
    work(path, left)


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_stop_now_ends_what_runs(hosts: str, topic: str, executor: str) -> None:
    """At once, or after a warm stop; the job has no outcome, is counted, and runs again."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(jobs.spin, 60)
    told: list[str] = []
    worker = kq.Worker(topic, hosts=hosts, executor=executor, callback=lambda status, *_: told.append(status))
    thread = threading.Thread(target=worker.start)
    thread.start()
    wait_until(lambda: worker.stats().oldest is not None and worker.stats().oldest > 0.5, timeout=40)
    worker.stop()
    wait_until(lambda: worker.state is kq.worker.State.DRAINING, timeout=10)
    worker.stop(now=True)
    thread.join(15)
    assert not thread.is_alive()
    assert (told, worker.stats().interrupted, worker.stats().done) == ([], 1, 0)
