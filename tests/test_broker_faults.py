"""Brokers that go away and come back, under load: workers go on by themselves and nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

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


@pytest.mark.parametrize("hard", [False, True], ids=["TERM", "KILL"])
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
