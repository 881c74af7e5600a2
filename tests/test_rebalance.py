"""Partitions that come and go: nothing is lost, order is kept, and no commit goes back."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from helpers import wait_until
from journal import QUICK, Journal, WorkerProcess, work
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

import kq


class CommitWatch:
    """Watches the committed offsets of a group, and remembers every step back."""

    def __init__(self, hosts: str, topic: str, partitions: int) -> None:
        self._consumer = KafkaConsumer(bootstrap_servers=hosts, group_id=topic, enable_auto_commit=False)
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self._highest: dict[TopicPartition, int] = {}
        self.steps_back: list[tuple[int, int, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> CommitWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._consumer.close()

    def total(self) -> int:
        return sum(self._highest.values())

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            for tp in self._partitions:
                offset = self._consumer.committed(tp) or 0
                if offset < self._highest.get(tp, 0):
                    self.steps_back.append((tp.partition, self._highest[tp], offset))
                self._highest[tp] = offset


@pytest.mark.parametrize("eager", [False, pytest.param(True, marks=pytest.mark.long)], ids=["cooperative", "eager"])
def test_workers_that_come_and_go_lose_nothing_and_keep_order(
    hosts: str, make_topic: Callable[..., str], journal: Journal, request: pytest.FixtureRequest, eager: bool
) -> None:
    """Four workers join and leave every 2 s; per key the first runs are in order, and commits never go back."""
    seconds = 60 if request.config.getoption("--long") else 12
    topic = make_topic(partitions=6)
    total = seconds * 25
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(total):
            queue.using(key=b"%d" % (number % 12)).enqueue(work, journal.path, f"{number % 12}:{number}", 0.05)
    workers: list[WorkerProcess] = []
    options: dict[str, Any] = {"eager": eager, "executor": "thread", "concurrency": 4}
    try:
        with CommitWatch(hosts, topic, 6) as watch:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                workers.append(WorkerProcess(journal, topic, hosts, **options))
                time.sleep(2)  # the rhythm of the storm
                if len(workers) > 4:
                    assert workers.pop(0).terminate() == 0
            wait_until(lambda: len(journal.names("end")) == total, timeout=90)
            wait_until(lambda: watch.total() == total, timeout=15)
        for worker in workers:
            assert worker.terminate() == 0
    finally:
        for worker in workers:
            worker.__exit__()
    assert watch.steps_back == []
    assert _first_starts_out_of_order(journal) == []


def _first_starts_out_of_order(journal: Journal) -> list[tuple[str, int, int]]:
    last: dict[str, int] = {}
    seen: set[str] = set()
    wrong = []
    for entry in sorted(journal.entries()):
        if entry.word != "start" or entry.name in seen:
            continue
        seen.add(entry.name)
        key, number = entry.name.split(":")
        if int(number) < last.get(key, -1):
            wrong.append((key, last[key], int(number)))
        last[key] = int(number)
    return wrong


@pytest.mark.long
def test_long_jobs_never_leave_the_group(
    hosts: str,
    admin: KafkaAdminClient,
    make_topic: Callable[..., str],
    journal: Journal,
    request: pytest.FixtureRequest,
) -> None:
    """Jobs longer than the poll interval: each runs once, and no generation passes until a third worker joins."""
    seconds = 20 if request.config.getoption("--long") else 9
    topic = make_topic(partitions=4)
    config = {**QUICK, "max_poll_interval_ms": 6000}
    with ExitStack() as stack:
        workers = [stack.enter_context(WorkerProcess(journal, topic, hosts, config=config)) for _ in range(2)]
        wait_until(lambda: _sizes(admin, topic) == [2, 2], timeout=30)
        with kq.Queue(topic, hosts=hosts) as queue:
            for number in range(4):
                queue.using(partition=number).enqueue(work, journal.path, number, seconds)
        wait_until(lambda: len(journal.names("start")) == 2, timeout=20)
        before = [worker.generations for worker in workers]
        time.sleep(7)  # longer than the poll interval: that is the claim
        assert [worker.generations for worker in workers] == before
        workers.append(stack.enter_context(WorkerProcess(journal, topic, hosts, config=config)))
        wait_until(lambda: _sizes(admin, topic) == [1, 1, 2], timeout=10)
        wait_until(lambda: len(journal.names("success")) == 4, timeout=60)
        assert [worker.terminate() for worker in workers] == [0, 0, 0]
    assert {str(number): 1 for number in range(4)} == journal.count("start")


def _sizes(admin: KafkaAdminClient, group: str) -> list[int]:
    """Return how many partitions each member of a group has, ascending."""
    members = admin.describe_groups([group])[group]["members"]
    return sorted(
        sum(len(topic["partitions"]) for topic in (member["member_assignment"] or {}).get("assigned_partitions", []))
        for member in members
    )


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_zombie_changes_nothing(hosts: str, make_topic: Callable[..., str], journal: Journal) -> None:
    """A worker stopped beyond its session, with a full backlog, starts no stale job and moves no commit."""
    topic = make_topic(partitions=2)
    total = 60
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(total):
            queue.using(partition=number % 2).enqueue(work, journal.path, number, 0.25)
    with CommitWatch(hosts, topic, 2) as watch, WorkerProcess(journal, topic, hosts) as zombie:
        wait_until(lambda: len(journal.names("end")) >= 4, timeout=20)
        zombie.process.send_signal(signal.SIGSTOP)
        with WorkerProcess(journal, topic, hosts) as heir:
            wait_until(lambda: len(journal.names("end")) == total, timeout=60)
            wait_until(lambda: watch.total() == total, timeout=10)
            starts_before = _starts(journal, zombie.pid)
            zombie.process.send_signal(signal.SIGCONT)
            wait_until(lambda: zombie.generations >= 2, timeout=20)
            # the job that ran when it was stopped ends; a second one may have been started before it heard
            assert _starts(journal, zombie.pid) - starts_before <= 1
            assert heir.terminate() == 0
        assert zombie.terminate() == 0
    assert watch.steps_back == []
    assert watch.total() == total


def _starts(journal: Journal, pid: int) -> int:
    return sum(1 for entry in journal.entries() if entry.word == "start" and entry.pid == pid)
