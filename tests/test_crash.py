"""Workers that are killed: nothing is lost, and how much runs twice is a number."""

from __future__ import annotations

import random
import signal
import time

import pytest
from helpers import deliver, wait_until
from journal import Journal, WorkerProcess, die, work
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

import kq
from kq.consuming.metadata import Progress, decode


def committed(hosts: str, topic: str, partition: int = 0) -> OffsetAndMetadata:
    """Return the last commit of the group that is named like its topic."""
    consumer = KafkaConsumer(bootstrap_servers=hosts, group_id=topic, enable_auto_commit=False)
    try:
        return consumer.committed(TopicPartition(topic, partition), metadata=True)
    finally:
        consumer.close()


def progress(hosts: str, topic: str) -> Progress:
    last = committed(hosts, topic)
    return decode(last.metadata, last.offset, None)


def start_worker(journal: Journal, topic: str, hosts: str) -> WorkerProcess:
    return WorkerProcess(journal, topic, hosts, executor="thread", concurrency=8)


def test_kill_9_at_random_moments_loses_nothing(
    hosts: str, topic: str, journal: Journal, request: pytest.FixtureRequest
) -> None:
    """Rounds of kill -9: every job runs, and repeats in a round are at most what ran or was done uncommitted."""
    rounds = 20 if request.config.getoption("--long") else 3
    moments = random.Random(4)
    total = 40 * rounds
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(total):
            queue.enqueue(work, journal.path, number, 0.02 * (number % 5))
    running = uncommitted = 0
    for _ in range(rounds):
        before = journal.count("start").total()
        with start_worker(journal, topic, hosts) as worker:
            wait_until(lambda: journal.count("start").total() > before + 15, timeout=30)  # noqa: B023
            time.sleep(moments.random() * 0.3)  # the moment is the point: while jobs run and done ones are uncommitted
            worker.kill()
        allowed = _ran_or_done_uncommitted(journal, hosts, topic)
        running, uncommitted = running + allowed[0], uncommitted + allowed[1]
    with start_worker(journal, topic, hosts) as worker:
        wait_until(lambda: len(journal.names("end")) + _poisoned(journal) >= total, timeout=60)
        assert worker.terminate() == 0
    assert journal.count("start").total() - total <= running + uncommitted
    assert running > 0
    assert {str(number) for number in range(total)} == journal.names("start")


def test_who_takes_over_from_a_dead_worker_says_so(hosts: str, topic: str, journal: Journal) -> None:
    """Where it is, and the session timeout that it took to be noticed; not after a stop."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(work, journal.path, 0, 60)
    with WorkerProcess(journal, topic, hosts) as worker:
        wait_until(lambda: "0" in journal.names("start"), timeout=30)
        wait_until(lambda: committed(hosts, topic) is not None and progress(hosts, topic).unclean, timeout=30)
        worker.kill()
    taken = f"Topic {topic}, partition 0 comes from a worker that ended without a stop."
    with WorkerProcess(journal, topic, hosts) as worker:
        wait_until(lambda: journal.count("start")["0"] == 2, timeout=30)
        assert (
            f"{taken} Its group noticed that when the session timeout was over (session_timeout_ms: 6 s" in worker.log
        )
        deliver(worker.pid, signal.SIGTERM)
        worker.terminate()
    with WorkerProcess(journal, topic, hosts) as worker:
        wait_until(lambda: "is assigned, and goes on at" in worker.log, timeout=30)
        assert taken not in worker.log
        deliver(worker.pid, signal.SIGTERM)
        worker.terminate()


def _poisoned(journal: Journal) -> int:
    return len(journal.names("failure"))


def _ran_or_done_uncommitted(journal: Journal, hosts: str, topic: str) -> tuple[int, int]:
    """Return how many jobs were running at the kill, and how many were done since the last commit."""
    starts, ends = journal.count("start"), journal.count("end")
    running = sum(1 for name in starts if starts[name] > ends[name])
    known = progress(hosts, topic)

    def is_committed(offset: int) -> bool:
        return offset < known.watermark or (offset < known.top and offset not in known.incomplete)

    uncommitted = sum(1 for name in ends if not is_committed(int(name)))
    return running, uncommitted


@pytest.mark.long
def test_what_is_done_beyond_a_long_job_does_not_run_again(
    hosts: str, topic: str, journal: Journal, request: pytest.FixtureRequest
) -> None:
    """One partition, 8 at once: job 0 is long, a hundred short ones pass it, and after kill -9 only job 0 repeats."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(work, journal.path, 0, 20 if request.config.getoption("--long") else 7)
        for number in range(1, 101):
            queue.enqueue(work, journal.path, number)
    with start_worker(journal, topic, hosts) as worker:
        wait_until(lambda: journal.names("start"), timeout=20)
        wait_until(lambda: len(journal.names("success")) == 100, timeout=5)
        wait_until(lambda: progress(hosts, topic).top == 101, timeout=5)
        assert committed(hosts, topic).offset == 0
        worker.kill()
    before = journal.count("start")
    with start_worker(journal, topic, hosts) as worker:
        wait_until(lambda: journal.count("start")["0"] == 2, timeout=20)
        wait_until(lambda: "0" in journal.names("end"), timeout=30)
        assert worker.terminate() == 0
    assert journal.count("start") - before == {"0": 1}
    assert committed(hosts, topic).offset == 101


@pytest.mark.parametrize("seconds", [0, pytest.param(0.5, marks=pytest.mark.long)])
def test_a_job_that_kills_its_worker_is_convicted_alone(
    hosts: str, topic: str, journal: Journal, seconds: float
) -> None:
    """Among 20 good jobs, 8 at once, it is started at most 4 times and reported once; the good ones succeed."""
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(20):
            queue.enqueue(work, journal.path, number, 0.02)
            if number == 10:
                bad = queue.enqueue(die, journal.path, "bad", seconds)
    deadline = time.monotonic() + 90
    while not _poisoned(journal) and time.monotonic() < deadline:
        with start_worker(journal, topic, hosts) as worker:
            wait_until(lambda: worker.process.poll() is not None or _poisoned(journal), timeout=30)
            if worker.process.poll() is None:
                wait_until(lambda: len(journal.names("success")) == 20, timeout=20)
                assert worker.terminate() == 0
    assert bad.id is not None
    assert journal.count("start")["bad"] <= 4
    assert journal.count("failure").total() == 1
    assert len(journal.names("success")) == 20


def test_a_stop_counts_against_no_message(hosts: str, topic: str, journal: Journal) -> None:
    """A worker that is killed while it drains leaves no count, and no careful start, behind."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(work, journal.path, "long", 8)
    with start_worker(journal, topic, hosts) as worker:
        wait_until(lambda: "long" in journal.names("start"), timeout=20)
        worker.process.terminate()
        wait_until(lambda: not progress(hosts, topic).unclean, timeout=5)
        worker.kill()
    assert progress(hosts, topic).deliveries == ()
