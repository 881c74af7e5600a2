"""Brokers that go away and come back, under load: workers go on by themselves and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import wait_until
from journal import Journal, WorkerProcess, work

import kq


class Feeder:
    """Enqueues a job every 20 ms until told to end; remembers what was acknowledged."""

    def __init__(self, hosts: str, topic: str, journal: Journal) -> None:
        self.accepted: list[str] = []
        self._queue = kq.Queue(topic, hosts=hosts)
        self._journal = journal
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._feed)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._queue.close(10)

    def _feed(self) -> None:
        number = 0
        while not self._ended.wait(0.02):
            number += 1
            try:
                self._queue.enqueue(work, self._journal.path, number, 0.01)
                self.accepted.append(str(number))
            except kq.EnqueueError:
                continue


@pytest.mark.parametrize("hard", [pytest.param(False, marks=pytest.mark.long), True], ids=["TERM", "KILL"])
def test_workers_survive_a_restart_of_the_broker(
    kafka: kq.LocalKafka, make_topic: Callable[..., str], journal: Journal, hard: bool
) -> None:
    """A broker stopped under load and started again: the same worker processes run every acknowledged job."""
    topic = make_topic(partitions=2)
    options = {"executor": "thread", "concurrency": 4}
    with WorkerProcess(journal, topic, kafka.hosts, **options) as worker:
        with Feeder(kafka.hosts, topic, journal) as feeder:
            wait_until(lambda: len(journal.names("end")) > 20, timeout=30)
            (kafka.kill if hard else kafka.terminate)()
            done = len(journal.names("end"))
            kafka.restart()
            wait_until(lambda: len(journal.names("end")) > done + 20, timeout=40)
        wait_until(lambda: set(feeder.accepted) <= journal.names("end"), timeout=30)
        assert worker.terminate() == 0


@pytest.mark.long
def test_the_death_of_a_leader_is_survived(journal: Journal) -> None:
    """Three nodes, the leader of the partition and of the group killed: jobs go on within 30 s, and none is lost."""
    with kq.LocalKafka(nodes=3) as kafka:
        from kafka import KafkaAdminClient
        from kafka.admin import NewTopic

        with KafkaAdminClient(bootstrap_servers=kafka.hosts) as admin:
            admin.create_topics([NewTopic("replicated", 1, 3)])
            wait_until(lambda: admin.describe_topics(["replicated"])[0]["partitions"], timeout=20)
            leader = admin.describe_topics(["replicated"])[0]["partitions"][0]["leader_id"]
        with WorkerProcess(journal, "replicated", kafka.hosts, executor="thread", concurrency=4) as worker:
            with Feeder(kafka.hosts, "replicated", journal) as feeder:
                wait_until(lambda: len(journal.names("end")) > 20, timeout=40)
                done = len(journal.names("end"))
                killed = time.monotonic()
                kafka.kill(leader)
                wait_until(lambda: len(journal.names("end")) > done + 20, timeout=30)
                assert time.monotonic() - killed < 30
            wait_until(lambda: set(feeder.accepted) <= journal.names("end"), timeout=30)
            assert worker.terminate() == 0


@pytest.mark.long
def test_a_broker_that_is_away_is_two_lines(kafka: kq.LocalKafka, topic: str, journal: Journal, tmp_path: Path) -> None:
    """One when it goes, one with the seconds when it is back; none of the client's, none about commits."""
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [
            sys.executable,
            "-m",
            "kq",
            "worker",
            "--hosts",
            kafka.hosts,
            "--topic",
            topic,
            "--verbose",
            "--inline",
        ]
        worker = subprocess.Popen(command, stderr=file, cwd=Path(__file__).parent)
    try:
        wait_until(lambda: "is assigned" in log.read_text(), timeout=40)
        gone = time.monotonic()
        kafka.terminate()
        wait_until(lambda: "Kafka is away" in log.read_text(), timeout=20)
        wait_until(lambda: time.monotonic() > gone + 10, timeout=11)  # the client would say something meanwhile
        kafka.restart()
        wait_until(lambda: "Kafka is back" in log.read_text(), timeout=40)
        seconds = time.monotonic() - gone
        with kq.Queue(topic, hosts=kafka.hosts) as queue:
            wait_until(lambda: _is_enqueued(queue, journal), timeout=30)
        wait_until(lambda: "1" in journal.names("end"), timeout=40)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
    warnings = [line for line in log.read_text().splitlines() if "[INFO]" not in line]
    assert len(warnings) == 2, warnings
    assert f"[WARNING] Kafka is away: no broker of {kafka.hosts} answers" in warnings[0]
    told = float(warnings[1].partition("Kafka is back after ")[2].removesuffix(" s"))
    assert abs(told - seconds) < 5


@pytest.mark.long
@pytest.mark.parametrize("has_done", [False, True])
def test_a_stop_while_the_broker_is_away_speaks_of_what_was_done_only(
    kafka: kq.LocalKafka, topic: str, journal: Journal, caplog: pytest.LogCaptureFixture, has_done: bool
) -> None:
    """A worker that did nothing since its last commit has nothing that will run again."""
    worker = kq.Worker(topic, hosts=kafka.hosts, executor="thread", concurrency=2)
    thread = threading.Thread(target=worker.start)
    thread.start()
    wait_until(lambda: worker.stats().commit_lag, timeout=40)
    with kq.Queue(topic, hosts=kafka.hosts) as queue:
        queue.enqueue(work, journal.path, "job", 2.0 if has_done else 0.0)
    wait_until(lambda: "job" in journal.names("start" if has_done else "end"), timeout=20)
    if not has_done:
        wait_until(lambda: not any(worker.stats().commit_lag.values()), timeout=20)
    kafka.terminate()
    wait_until(lambda: "job" in journal.names("end"), timeout=20)
    worker.stop()
    thread.join(40)
    assert not thread.is_alive()
    kafka.restart()
    assert ("The last commit failed" in caplog.text) is has_done


def _is_enqueued(queue: kq.Queue, journal: Journal) -> bool:
    try:
        queue.enqueue(work, journal.path, "1")
    except kq.EnqueueError:
        return False
    return True
