"""Brokers that go away while jobs are enqueued: each job is on the topic, or told of."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jobs
import pytest
from conftest import CLIENT
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.errors import KafkaError, KafkaTimeoutError
from test_enqueue import ids_of, on_topic

import kq
from kq import EnqueueError, EnqueueUnknown, Job, Queue
from kq.clients import kafka_python
from kq.producing import window as window

#: Gives up soon: the broker stays away for longer than this.
IMPATIENT = {"delivery_timeout_ms": 3000, "request_timeout_ms": 1500, "max_block_ms": 2000}


def made(make_topic: Callable[..., str], **options: Any) -> str:
    """Return a new topic, also where the broker has just been restarted."""

    def make() -> str:
        try:
            return make_topic(**options)
        except KafkaError:
            return ""

    return wait_until(make, timeout=30)


def enqueue_while(queue: Queue, items: list[Job], fault: Callable[[], Any], asynchronous: bool) -> EnqueueError:
    """Enqueue many, have something happen when a few thousand are acknowledged, and return the error."""
    reached = threading.Event()

    def progress(done: int, _total: int | None) -> None:
        if done > 2000 and not reached.is_set():
            reached.set()
            fault()

    def enqueue() -> list[Job]:
        if asynchronous:
            return asyncio.run(queue.aenqueue_many(iter(items), on_progress=progress))
        return queue.enqueue_many(iter(items), on_progress=progress)

    with pytest.raises(EnqueueError) as caught:
        enqueue()
    return caught.value


def check(items: list[Job], error: EnqueueError, there: list[str]) -> None:
    """Compare record by record."""
    missing, unknown = [str(job.id) for job in error.jobs], [str(job.id) for job in error.unknown]
    everything = [str(item.id) for item in items]
    assert len(there) == len(set(there))
    assert set(missing) & set(unknown) == set()
    assert set(missing) & set(there) == set()
    assert set(there) | set(missing) | set(unknown) == set(everything)
    order = {job_id: number for number, job_id in enumerate(everything)}
    assert missing == sorted(missing, key=order.__getitem__)


@pytest.mark.parametrize(
    ("injected", "asynchronous"),
    [
        pytest.param(False, False, id="own-threads"),
        pytest.param(True, True, id="injected-asyncio", marks=pytest.mark.long),
        pytest.param(False, True, id="own-asyncio", marks=pytest.mark.long),
        pytest.param(True, False, id="injected-threads", marks=pytest.mark.long),
    ],
)
def test_a_broker_that_stops_in_the_middle_of_many(
    kafka: kq.LocalKafka, make_topic: Callable[..., str], injected: bool, asynchronous: bool
) -> None:
    """Every one of 20,000 jobs is on the topic, or in the error: not delivered, or not known."""
    topic = made(make_topic, partitions=3)
    items = [Job(id=str(number), func=jobs.echo, args=(number, "x" * 300)) for number in range(20_000)]
    config = {**CLIENT, **IMPATIENT}
    producer = KafkaProducer(bootstrap_servers=kafka.hosts, **config) if injected else None
    queue = Queue(topic, producer, hosts=None if injected else kafka.hosts, config=None if injected else config)
    with queue:
        queue.enqueue(Job(id="first", func=jobs.add))
        begin = time.monotonic()
        try:
            error = enqueue_while(queue, items, kafka.kill, asynchronous)
        finally:
            kafka.restart()
        assert time.monotonic() - begin < 40
        assert len(error.jobs) > 5000
        assert len(error.unknown) <= (window.WINDOW_COUNT if injected else 5000)
        assert error.__cause__ is not None
        there = ids_of(on_topic(kafka.hosts, topic))
        there.remove("first")
        check(items, error, there)
        if producer is None:  # the client itself does not always recover; an own one is made anew
            again = wait_until(lambda: _enqueued(queue, error.jobs), timeout=30)
            assert {job.id for job in again} <= set(ids_of(on_topic(kafka.hosts, topic)))
    if producer is not None:
        kafka_python.force_close(producer)  # it may have lost track of a record, and would wait for it


def _enqueued(queue: Queue, jobs_left: list[Job]) -> list[Job]:
    try:
        return queue.enqueue_many(jobs_left)
    except EnqueueError:
        return []


@pytest.mark.long
def test_a_broker_that_stops_for_a_moment_costs_nothing(kafka: kq.LocalKafka, make_topic: Callable[..., str]) -> None:
    """It is back before the client gives up: all 20,000 jobs are there."""
    topic = made(make_topic)

    def fault() -> None:
        kafka.kill()
        threading.Thread(target=kafka.restart).start()

    reached = threading.Event()

    def progress(done: int, _total: int | None) -> None:
        if done > 2000 and not reached.is_set():
            reached.set()
            fault()

    with Queue(topic, hosts=kafka.hosts) as queue:
        found = queue.enqueue_many(((jobs.add, (number, 0), {}) for number in range(20_000)), on_progress=progress)
    assert reached.is_set()
    assert sorted(ids_of(on_topic(kafka.hosts, topic))) == sorted(str(job.id) for job in found)


def test_an_enqueue_that_never_left_is_known_not_to_be_there(
    kafka: kq.LocalKafka, make_topic: Callable[..., str]
) -> None:
    """The broker is away: the record waits in this process until its time is up, so the outcome is certain."""
    topic = made(make_topic)
    with Queue(topic, hosts=kafka.hosts, config=IMPATIENT) as queue:
        queue.enqueue(jobs.add)
        kafka.kill()
        try:
            wait_until(lambda: _kind(queue) is EnqueueError, timeout=30)
        finally:
            kafka.restart()


def _kind(queue: Queue) -> type[BaseException]:
    with pytest.raises(EnqueueError) as caught:
        queue.enqueue(jobs.add)
    assert isinstance(caught.value.__cause__, KafkaTimeoutError)
    return type(caught.value)


def test_a_broker_that_stops_answering_makes_the_outcome_unknown(
    kafka: kq.LocalKafka, make_topic: Callable[..., str]
) -> None:
    """The record was sent and no answer came: it may be there, and after the pause it is."""
    topic = made(make_topic)
    with Queue(topic, hosts=kafka.hosts, config=IMPATIENT) as queue:
        queue.enqueue(jobs.add)
        kafka.pause()
        try:
            with pytest.raises(EnqueueUnknown) as caught:
                queue.enqueue(jobs.add)
        finally:
            kafka.resume()
        assert [job.func for job in caught.value.unknown] == [jobs.add]
        assert caught.value.jobs == []


#: Enqueues 300 MB in values of 10 kB when a file appears; prints how the peak of its memory grew, in kB.
MEMORY = """
import json, operator, os, resource, sys, time
import kq

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

hosts, topic, config, path = sys.argv[1:]
payload = b"x" * 10_000
with kq.Queue(topic, hosts=hosts, config=json.loads(config)) as queue:
    queue.enqueue_many((operator.concat, (payload[:1000], b""), {}) for _ in range(2000))
    print("ready", flush=True)
    while not os.path.exists(path):
        time.sleep(0.01)
    before = peak()
    try:
        queue.enqueue_many((operator.concat, (payload, b""), {}) for _ in range(30_000))
    except kq.EnqueueError as error:
        print(json.dumps([peak() - before, len(error.jobs) + len(error.unknown)]), flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is read in Linux's unit")
@pytest.mark.long
def test_memory_stays_within_its_bound_while_the_broker_is_away(
    kafka: kq.LocalKafka, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    """The window is full and the iterable waits: values do not pile up, and every job is told of."""
    go = tmp_path / "go"
    with jobs.Program(MEMORY, kafka.hosts, made(make_topic), json.dumps(IMPATIENT), str(go)) as program:
        program.wait_for("ready")
        kafka.kill()
        try:
            go.touch()
            assert program.end() == 0, program.text
        finally:
            kafka.restart()
        grown, told = json.loads(program.lines[-1])
    assert told == 30_000
    assert grown < 120_000


def test_a_topic_that_does_not_exist_is_told() -> None:
    """Where brokers make none by themselves; the error says what does."""
    with ExitStack() as stack:
        local = stack.enter_context(kq.LocalKafka(config={"auto.create.topics.enable": "false"}))
        queue = stack.enter_context(Queue("nowhere", hosts=local.hosts, config={"max_block_ms": 1500}))
        with pytest.raises(EnqueueError, match=r"topic nowhere: KafkaTimeoutError.*ensure_topic") as caught:
            queue.enqueue(jobs.add)
        assert type(caught.value) is EnqueueError
        with pytest.raises(EnqueueError, match="3 of 3 jobs were not enqueued"):
            queue.enqueue_many([jobs.add] * 3)
        with pytest.raises(EnqueueError):
            asyncio.run(queue.aenqueue(jobs.add))
        assert queue.ensure_topic() is True
        assert wait_until(lambda: _enqueued(queue, [Job(func=jobs.add)]), timeout=20)


def deny_writes(hosts: str, topic: str) -> None:
    """Have a broker refuse whatever is written to a topic."""
    with KafkaAdminClient(bootstrap_servers=hosts) as admin:
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        for operation in (ACLOperation.WRITE, ACLOperation.DESCRIBE):
            kind = ACLPermissionType.DENY if operation is ACLOperation.WRITE else ACLPermissionType.ALLOW
            admin.create_acls([ACL("User:ANONYMOUS", "*", operation, kind, pattern)])


def test_a_refused_authorization_is_told() -> None:
    """At once, with the broker's word for it; nothing is left in doubt."""
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:nobody",
        "allow.everyone.if.no.acl.found": "true",
    }
    with kq.LocalKafka(config=config) as local:
        Queue("secret", hosts=local.hosts).ensure_topic()
        deny_writes(local.hosts, "secret")
        with Queue("secret", hosts=local.hosts) as queue:
            with pytest.raises(EnqueueError, match="TopicAuthorizationFailed") as caught:
                queue.enqueue(jobs.add)
            assert type(caught.value) is EnqueueError
            with pytest.raises(EnqueueError) as caught:
                asyncio.run(queue.aenqueue_many([jobs.add] * 3))
            assert len(caught.value.jobs) == 3
