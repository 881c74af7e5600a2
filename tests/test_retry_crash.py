"""Retries and letters where things go wrong: a worker killed at the line, topics that refuse, a broker that goes."""

from __future__ import annotations

import logging
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import jobs
import pytest
import retry_jobs
from helpers import at_work, wait_until
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from test_companions import progress
from test_retries import records

import kq
from kq import DeadLetters, Retry
from kq.clients import topics

#: Runs a worker that kills itself when so many messages have ended, before the last of them is done. What it had to
#: publish of that one is acknowledged.
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
Messages.settle_successes = lambda self, finished: list(finished)
quick = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 500}
kq.Worker(topic, hosts=hosts, config=quick, dead_letters=True, commit_interval=0.02).start()
"""


def attempts(hosts: str, topic: str) -> dict[str, Counter[int]]:
    """Return, of each job, how often each of its attempts stands on the topic."""
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for record in records(hosts, topic):
        told = dict(record.headers)
        found[told["kq-id"].decode()][int(told.get("kq-attempt", b"1"))] += 1
    return found


def test_a_death_between_publishing_and_done_loses_nothing(
    topic: str, hosts: str, request: pytest.FixtureRequest, admin: KafkaAdminClient
) -> None:
    """Again and again: no job is lost, no attempt begins anew, and each message that failed for good is one letter."""
    rounds = 50 if request.config.getoption("--long") else 3
    moments, made = random.Random(12), []
    with kq.Queue(topic, hosts=hosts) as queue:
        for _ in range(rounds):
            for delay in (0, 0.05):
                made += queue.using(retry=Retry(2, delay=delay)).enqueue_many([retry_jobs.wrong] * 5)
            made += queue.enqueue_many([jobs.add] * 2)
            with jobs.Program(KILLED, topic, hosts, str(moments.randint(1, 25))) as program:
                assert program.end() == -signal.SIGKILL, program.text
    worker = kq.Worker(topic, hosts=hosts, dead_letters=True)
    with at_work(worker):
        failed = [job.id for job in made if job.func is retry_jobs.wrong]
        wait_until(lambda: all(3 in counts for counts in map(attempts(hosts, topic).get, failed) if counts), timeout=90)
        end = len(records(hosts, topic))
        wait_until(lambda: progress(admin, topic) == (end, []), timeout=30)
    found = attempts(hosts, topic)
    assert set(found) == {job.id for job in made}
    assert all(set(found[name]) == {1, 2, 3} and found[name][1] == 1 for name in failed)
    assert sum(found[name].total() - 3 for name in failed) <= 60 * rounds  # at most what one commit did not hold
    last = [one.offset for one in records(hosts, topic) if dict(one.headers).get("kq-attempt") == b"3"]
    letters = list(DeadLetters(topic, hosts).iterate())
    assert sorted(letter.offset for letter in letters) == last
    assert {letter.attempts for letter in letters} == {3}


def test_a_topic_that_was_deleted_is_made_again(topic: str, hosts: str, admin: KafkaAdminClient) -> None:
    """What waits in it is gone, as somebody wished; what fails from now on is not."""
    with kq.Queue(topic, hosts=hosts, retry=Retry(1, delay=3600)) as queue:
        worker = kq.Worker(topic, hosts=hosts, later=False)
        queue.enqueue(retry_jobs.wrong)
        with at_work(worker):
            wait_until(lambda: worker.stats().done == 1, timeout=20)
            admin.delete_topics([f"{topic}.later"])
            wait_until(lambda: f"{topic}.later" not in admin.list_topics())
            queue.using(retry=Retry(1, delay=3600, ordered=True)).enqueue(retry_jobs.flaky)
            wait_until(lambda: worker.stats().done == 2, timeout=30)
    (record,) = records(hosts, f"{topic}.later")
    assert dict(record.headers)["kq-func"] == b"retry_jobs.flaky"


def set_limit(admin: KafkaAdminClient, topic: str, limit: int) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(limit)})
    admin.alter_configs([resource])


def test_a_refused_retry_keeps_its_own_job_undone_and_no_other(
    topic: str, hosts: str, admin: KafkaAdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is said once; when the topic is repaired it goes on by itself, within ten seconds."""
    with kq.Queue(topic, hosts=hosts) as queue:
        spec = queue.using(retry=Retry(1, delay=3600))
        spec.enqueue(jobs.add)
        set_limit(admin, f"{topic}.later", 20_000)
        spec.enqueue(retry_jobs.fail_and_tell, "/dev/null", "x" * 50_000)
        queue.enqueue_many([jobs.add] * 20)
        worker = kq.Worker(topic, hosts=hosts)
        with at_work(worker):
            wait_until(lambda: worker.stats().done == 21 and "refuses a record" in caplog.text, timeout=20)
            wait_until(lambda: progress(admin, topic) == (1, list(range(2, 22))), timeout=20)
            set_limit(admin, f"{topic}.later", 1_000_000)
            wait_until(lambda: progress(admin, topic) == (22, []), timeout=10)
    refusals = [line for line in caplog.messages if "refuses a record" in line]
    assert len(refusals) == 1
    assert "MessageSizeTooLarge" in refusals[0]
    assert "takes records again" in caplog.text


def test_a_topic_that_may_not_be_made_is_told_of(
    topic: str, hosts: str, admin: KafkaAdminClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that makes it, once; made by somebody else, all goes on."""
    allowed = topics.companion_at

    def refuse(*_: Any, **__: Any) -> str:
        raise kq.KQError("topic x could not be made; who may, makes it by: kafka-topics.sh --create")

    monkeypatch.setattr(topics, "companion_at", refuse)
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(retry_jobs.wrong)
        queue.enqueue_many([jobs.add] * 5)
    worker = kq.Worker(topic, hosts=hosts, dead_letters=True)
    with at_work(worker):
        wait_until(lambda: worker.stats().done == 5 and "kafka-topics.sh --create" in caplog.text, timeout=20)
        wait_until(lambda: progress(admin, topic) == (0, [1, 2, 3, 4, 5]), timeout=20)
        monkeypatch.setattr(topics, "companion_at", allowed)
        wait_until(lambda: progress(admin, topic) == (6, []), timeout=12)
    told = [line for line in caplog.messages if "kafka-topics.sh --create" in line]
    assert [line.partition(":")[0] for line in told] == [  # at the start, and once when it is needed
        "Dead letters have no topic yet",
        f"Topic {topic}.dead refuses a record, which is tried again; its message stays undone until then",
    ]
    assert [letter.offset for letter in DeadLetters(topic, hosts).iterate()] == [0]


def test_a_worker_whose_retries_have_no_topic_says_so_at_its_start(
    topic: str, hosts: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not in the night in which the first job fails; its jobs run."""

    def refuse(*_: Any, **__: Any) -> str:
        raise kq.KQError("topic x could not be made; who may, makes it by: kafka-topics.sh --create")

    monkeypatch.setattr(topics, "companion_at", refuse)
    worker = kq.Worker(topic, hosts=hosts, retry=3)
    with at_work(worker):
        wait_until(lambda: "Retries have no topic yet" in caplog.text, timeout=20)
    with kq.Queue(topic, hosts=hosts, retry=3) as queue, pytest.raises(kq.EnqueueError, match=r"topics\.sh --create"):
        queue.enqueue(jobs.add)


def test_a_topic_of_large_jobs_has_large_companions(make_topic: Callable[..., str], hosts: str) -> None:
    """What the topic takes can wait, fail, be dead and be replayed."""
    topic = make_topic(max_message_bytes=5_000_000)
    config = {"max_request_size": 6_000_000}
    with kq.Queue(topic, hosts=hosts, config=config, retry=Retry(1, delay=0.1)) as queue:
        job = queue.enqueue(retry_jobs.fail_and_tell, "/dev/null", "x" * 4_990_000)
        worker = kq.Worker(topic, hosts=hosts, dead_letters=True)
        with at_work(worker):
            wait_until(lambda: worker.stats().done == 2, timeout=30)
    letters = DeadLetters(topic, hosts)
    (letter,) = letters.iterate()
    assert (letter.attempts, kq.loads(letter.value or b"").id) == (2, job.id)
    assert letters.replay(all=True) == 1


def test_a_broker_that_goes_takes_no_retry_and_no_letter_along(
    kafka: kq.LocalKafka, make_topic: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """Two hundred jobs fail while it is restarted; each is a letter after its second attempt."""
    topic, hosts = make_topic(), kafka.hosts
    caplog.set_level(logging.CRITICAL, "kq.worker")
    with kq.Queue(topic, hosts=hosts, retry=Retry(1, delay=0.5)) as queue:
        made = queue.enqueue_many([(retry_jobs.fail_slowly, (0.01,))] * 200)
        worker = kq.Worker(topic, hosts=hosts, dead_letters=True)
        with at_work(worker):
            wait_until(lambda: worker.stats().done > 30, timeout=20)
            kafka.restart()
            wait_until(lambda: DeadLetters(topic, hosts).count() >= 200, timeout=90)
            wait_until(lambda: worker.stats().settling == 0, timeout=30)
    letters = list(DeadLetters(topic, hosts).iterate())
    assert {dict(letter.headers)["kq-id"].decode() for letter in letters} == {job.id for job in made}
    assert {letter.attempts for letter in letters} == {2}
