"""Owners that are killed, at any line: nothing is lost, nothing is early, and repeats have the same ID."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jobs
import owner_program
import pytest
from helpers import wait_until
from test_owner import Log, lateness

import kq

PROGRAM = Path(owner_program.__file__)


@contextmanager
def process(topic: str, hosts: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run an owner in a process; give it when it has loaded its partitions."""
    command = [sys.executable, str(PROGRAM), topic, hosts, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            started.stdout.readline()
            yield started
        finally:
            started.terminate()


def late(records: list[Any]) -> list[float]:
    """Return how late the first firing of each job was, ascending."""
    firsts: dict[bytes, float] = {}
    for record in records:
        firsts.setdefault(dict(record.headers)["kq-id"], lateness(record))
    return sorted(firsts.values())


def test_a_death_between_produce_and_tombstone_loses_nothing(
    topic: str, hosts: str, request: pytest.FixtureRequest
) -> None:
    """At each line: every job comes, and not more often than there were deaths, with the same ID."""
    rounds = 51 if request.config.getoption("--long") else 3
    moments = random.Random(11)
    with kq.Queue(topic, hosts=hosts) as queue, Log(topic, hosts) as log:
        for number in range(rounds):
            point = owner_program.POINTS[number % 3]
            queue.using(delay=0.2).enqueue_many([jobs.add] * 20)
            with process(topic, hosts, point, str(moments.randint(1, 15))) as owner:
                assert owner.wait(40) == -9
        with process(topic, hosts):
            total = rounds * 20
            wait_until(lambda: log.read() and len(log.ids()) == total, timeout=60)
            time.sleep(1)  # what comes twice comes now
            log.read()
    assert len(log.ids()) == total
    assert max(log.ids().values()) <= rounds + 1
    assert late(log.records)[0] >= 0


def test_the_next_owner_takes_over_from_a_dead_one(make_topic: Callable[..., str], hosts: str, request: Any) -> None:
    """Killed at the third second of ten: outside the take-over jobs are late by milliseconds, and none is lost."""
    topic, total = make_topic(partitions=3), 1000 if request.config.getoption("--long") else 300
    with kq.Queue(topic, hosts=hosts) as queue, Log(topic, hosts) as log:
        queue.using(delay=3600).enqueue(jobs.add)  # there is something to own
        with process(topic, hosts) as first, process(topic, hosts):
            begun = time.time()
            numbers = [5 + 10 * number / total for number in range(total)]
            ids = [queue.using(at=begun + seconds).enqueue(jobs.add).id for seconds in numbers]
            time.sleep(max(0.0, begun + 8 - time.time()))
            first.kill()
            killed = time.time() * 1000
            wait_until(lambda: log.read() and len(log.ids()) == total, timeout=60)
    assert set(log.ids()) == set(ids)
    assert log.ids().total() <= total + 50
    assert late(log.records)[0] >= 0
    assert max(late(log.records)) <= 6 + 5  # the session timeout, and a rebalance with its loading
    calm = [record for record in log.records if not -500 <= record.timestamp - killed <= 12_000]
    assert late(calm)[int(len(calm) * 0.98)] <= 0.25


@pytest.mark.long
def test_workers_that_come_and_go_lose_nothing(make_topic: Callable[..., str], hosts: str) -> None:
    """Three join and two leave, one of them by kill -9, while a thousand jobs are due: each comes, at its time."""
    topic = make_topic(partitions=8)  # each of four has some
    with kq.Queue(topic, hosts=hosts) as queue, Log(topic, hosts) as log, ExitStack() as stack:
        queue.using(delay=3600).enqueue(jobs.add)  # there is something to own
        first = stack.enter_context(process(topic, hosts))
        begun = time.time()
        ids = [queue.using(at=begun + 5 + number / 40).enqueue(jobs.add).id for number in range(1000)]
        changes: list[tuple[float, float]] = []
        for moment, act, seconds in (
            (6, lambda: stack.enter_context(process(topic, hosts)), 1),
            (10, lambda: stack.enter_context(process(topic, hosts)), 1),
            (14, first.terminate, 2),
            (18, stack.enter_context(process(topic, hosts)).kill, 6 + 5),  # session timeout, rebalance and loading
        ):
            time.sleep(max(0.0, begun + moment - time.time()))
            change = time.time() - 0.5
            act()
            changes.append((change * 1000, (time.time() + seconds) * 1000))
        wait_until(lambda: log.read() and len(log.ids()) == 1000, timeout=60)
    assert set(log.ids()) == set(ids)
    assert log.ids().total() <= 1000 + 50
    assert late(log.records)[0] >= 0
    calm = [record for record in log.records if not any(from_ <= record.timestamp <= to for from_, to in changes)]
    assert len(calm) > 200
    assert late(calm)[int(len(calm) * 0.99)] <= 0.25


@pytest.mark.long
def test_a_restart_of_the_broker_loses_nothing(kafka: kq.LocalKafka, make_topic: Callable[..., str]) -> None:
    """While jobs are due."""
    topic, hosts = make_topic(partitions=3), kafka.hosts
    with kq.Queue(topic, hosts=hosts) as queue, ExitStack() as stack:
        queue.using(delay=3600).enqueue(jobs.add)
        stack.enter_context(process(topic, hosts))
        begun = time.time()
        made = [queue.using(at=begun + 5 + number / 100) for number in range(1000)]
        ids = [spec.enqueue(jobs.add).id for spec in made]
        time.sleep(max(0.0, begun + 8 - time.time()))
        kafka.kill()
        kafka.restart()
        with Log(topic, hosts) as log:
            wait_until(lambda: log.read() and len(log.ids()) == 1000, timeout=90)
    assert set(log.ids()) == set(ids)
    assert late(log.records)[0] >= 0


@pytest.mark.long
def test_a_hundred_thousand_that_wait_are_cheap(make_topic: Callable[..., str], hosts: str) -> None:
    """A hundred thousand pending jobs: at most 30 MB and 10 s, measured by the benchmark in a process of its own."""
    topic = make_topic(partitions=4)
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(delay=3600).enqueue_many([jobs.add] * 100_000)
    program = PROGRAM.parent.parent / "benchmarks" / "delays.py"
    command = [sys.executable, str(program), "load", topic, hosts, "100000"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    seconds, megabytes = float(told.split("loaded in ")[1].split(" s")[0]), float(told.split(", ")[-1].split(" MB")[0])
    assert (seconds <= 10, megabytes <= 30) == (True, True), told


@pytest.mark.long
def test_ten_thousand_in_one_second_are_fired_within_three(make_topic: Callable[..., str], hosts: str) -> None:
    """Also where their values are read again."""
    topic = make_topic(partitions=4)
    with kq.Queue(topic, hosts=hosts) as queue:
        at = time.time() + 70
        queue.using(at=at).enqueue_many([jobs.add] * 10_000)
        with process(topic, hosts), Log(topic, hosts) as log:
            log.wait(10_000, 90)
    assert late(log.records)[-1] <= 3
