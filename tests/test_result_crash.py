"""Results where things go wrong: a worker killed between a result and its commit, and brokers that go meanwhile."""

from __future__ import annotations

import pickle
import random
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jobs
import pytest
import result_jobs
from helpers import wait_until
from kafka import KafkaAdminClient
from test_results import working
from test_retries import records

import kq

#: Runs a worker that kills itself when so many messages have ended, before the last of them is done. Its result is
#: acknowledged by then.
KILLED = """
import os, signal, sys
import kq
from kq.working.messages import Messages
topic, hosts, count = sys.argv[1:]
complete, left = Messages.complete, [int(count)]
def die(self, message, outcome):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    complete(self, message, outcome)
Messages.complete = die
quick = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 500}
kq.Worker(topic, hosts=hosts, config=quick, results=True, commit_interval=0.02).start()
"""


def test_a_death_between_a_result_and_its_commit(topic: str, hosts: str, request: pytest.FixtureRequest) -> None:
    """Again and again: each job has a result, and the first one counts, whoever asks and when."""
    rounds = 50 if request.config.getoption("--long") else 2
    moments, made, first = random.Random(13), [], {}
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results:
        for _ in range(rounds):
            some = queue.enqueue_many([result_jobs.run_of] * 20)
            made += some
            with jobs.Program(KILLED, topic, hosts, str(moments.randint(1, 19))) as program:
                assert program.process.wait(60) == -signal.SIGKILL
        with working(topic, hosts):
            first = {job.id: results.get(job, timeout=60) for job in made}
            assert len(first) == len(made)
        with kq.Results(topic, hosts) as fresh:
            assert {job.id: fresh.get(job.id, timeout=60) for job in made} == first
            assert fresh.gather(made, timeout=60) == [first[job.id] for job in made]
    told = defaultdict(list)
    for record in records(hosts, f"{topic}.results"):
        told[record.key.decode()].append(pickle.loads(record.value))
    assert {job_id: runs[0] for job_id, runs in told.items()} == first
    assert any(len(runs) > 1 for runs in told.values())  # it was what this is about


@pytest.fixture
def cluster() -> Iterator[kq.LocalKafka]:
    with kq.LocalKafka(nodes=3) as local:
        yield local


@pytest.mark.long
def test_the_leader_of_three_goes_while_somebody_waits(cluster: kq.LocalKafka, tmp_path: Any) -> None:
    gate, topic = tmp_path / "open", "guarded"
    with kq.Queue(topic, hosts=cluster.hosts) as queue, queue.collect() as results:
        queue.ensure_topic(1, replication=3)
        with working(topic, cluster.hosts, "process"):
            assert results.get(queue.enqueue(jobs.add, 1, 1), timeout=60) == 2
            job = queue.enqueue(result_jobs.when_open, str(gate), "there")
            future = results.future(job)
            wait_until(lambda: results.status(job) == "started", timeout=30)
            leader = _leader(cluster.hosts, f"{topic}.results")
            cluster.kill(leader)
            gate.touch()
            assert future.result(120) == "there"
            assert results.get(queue.enqueue(jobs.add, 2, 2), timeout=120) == 4
            cluster.restart(leader)
            assert results.get(job.id, timeout=60) == "there"


def _leader(hosts: str, topic: str) -> int:
    with KafkaAdminClient(bootstrap_servers=hosts) as admin:
        (described,) = admin.describe_topics([topic])
    return int(described["partitions"][0]["leader_id"])


@pytest.mark.long
def test_a_broker_that_is_away_while_jobs_end(kafka: kq.LocalKafka, make_topic: Callable[..., str]) -> None:
    """The results come late, and the jobs are done no sooner."""
    topic = make_topic()
    way = working(topic, kafka.hosts, "process")
    with kq.Queue(topic, hosts=kafka.hosts) as queue, queue.collect() as results, way as worker:
        assert results.get(queue.enqueue(jobs.add, 1, 1), timeout=60) == 2
        made = queue.enqueue_many([(result_jobs.end_at, (0.5,))] * 8)
        waiting = [results.future(job) for job in made]
        kafka.kill()
        wait_until(lambda: worker.stats().settling > 0, timeout=30)
        done = worker.stats().done
        assert done < 9
        kafka.restart()
        assert all(future.result(120) > 0 for future in waiting)
        wait_until(lambda: worker.stats().done == 9, timeout=30)
