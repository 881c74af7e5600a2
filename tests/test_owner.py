"""Who fires delayed jobs: at their time, each once in an undisturbed run, and never only because a worker died."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jobs
import pytest
from helpers import wait_until
from jobs import Calls
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

import kq
from kq.scheduling import Owner


@contextmanager
def running(topic: str, hosts: str, **options: Any) -> Iterator[Calls]:
    """Run a worker in a thread; give what its callback hears."""
    calls = Calls()
    worker = kq.Worker(topic, hosts=hosts, callback=calls, **options)
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        yield calls
    finally:
        worker.stop()
        thread.join(30)


@contextmanager
def owning(
    topic: str, hosts: str, clock: Callable[[], float] = time.time, **config: Any
) -> Iterator[Owner]:  # fmt: skip
    """Run an owner in a thread."""
    owner, stopping = Owner(topic, hosts, config, clock=clock), threading.Event()
    thread = threading.Thread(target=owner.run, args=(stopping,))
    thread.start()
    try:
        yield owner
    finally:
        stopping.set()
        thread.join(30)
        owner.close()


class Log:
    """What comes to a topic."""

    def __init__(self, topic: str, hosts: str) -> None:
        self.consumer = KafkaConsumer(topic, bootstrap_servers=hosts, auto_offset_reset="earliest", group_id=None)
        self.records: list[Any] = []

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.consumer.close()

    def wait(self, count: int, timeout: float = 30) -> list[Any]:
        wait_until(lambda: self.read() >= count, timeout, message=f"not {count} records")
        return self.records

    def read(self) -> int:
        for polled in self.consumer.poll(50).values():
            self.records += polled
        return len(self.records)

    def ids(self) -> Counter[str]:
        return Counter(dict(record.headers)["kq-id"].decode() for record in self.records)


def names() -> set[str]:
    """Return the names of KQ's threads, and of its clients'."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("Thread-")}


def lateness(record: Any) -> float:
    """Return how late a record was fired, in seconds, by the clock of who fired it."""
    return (record.timestamp - int(dict(record.headers)["kq-at"])) / 1000


def test_a_worker_fires_and_runs_a_delayed_job(topic: str, hosts: str) -> None:
    """The topic of what waits comes into being while the worker runs; the worker notices."""
    with running(topic, hosts) as calls, kq.Queue(topic, hosts=hosts) as queue:
        job = queue.using(delay=6, key=b"k", headers=[("a", b"b")]).enqueue(jobs.add, 1, 2)
        wait_until(lambda: calls, timeout=30)
    (call,) = calls
    assert (call.status, call.result, call.job) == ("success", 3, job)
    headers = dict(call.message.headers)
    assert (call.message.key, headers["a"]) == (b"k", b"b")
    assert "kq-key" not in headers
    assert 0 <= call.message.timestamp - int(headers["kq-at"]) <= 1000


def test_jobs_are_never_early_and_hardly_late(make_topic: Callable[..., str], hosts: str) -> None:
    """Five hundred, due within some seconds; each fired once, in its partition."""
    topic = make_topic(partitions=3)
    with kq.Queue(topic, hosts=hosts) as queue:
        made = [queue.using(delay=3 + number / 200) for number in range(500)]
        queue.using(delay=3600).enqueue(jobs.add)
        with owning(topic, hosts) as owner, Log(topic, hosts) as log:
            ids = [spec.enqueue(jobs.add).id for spec in made]
            records = log.wait(500)
            wait_until(lambda: owner.stats()["pending"] == 1)
            assert log.ids() == Counter(ids)
    late = sorted(map(lateness, records))
    assert late[0] >= 0
    assert late[250] <= 0.1
    assert late[494] <= 0.5


def test_what_was_fired_is_not_fired_again(topic: str, hosts: str) -> None:
    """A tombstone ends it: the next owner finds nothing."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(delay=0.5).enqueue_many([jobs.add] * 20)
        with Log(topic, hosts) as log:
            with owning(topic, hosts):
                log.wait(20)
            with owning(topic, hosts) as owner:
                wait_until(lambda: owner.stats()["partitions"] == 1, timeout=20)
                queue.using(delay=0.1).enqueue(jobs.add)
                log.wait(21)
            assert len(log.ids()) == 21


def test_same_key_and_time_keep_their_order(topic: str, hosts: str) -> None:
    """That of their enqueueing, also where the values are read again."""
    with kq.Queue(topic, hosts=hosts) as queue:
        at = time.time() + 8
        made = queue.using(at=at, key=b"k").enqueue_many([(jobs.echo, (number,)) for number in range(200)])
        with owning(topic, hosts), Log(topic, hosts) as log:
            assert [kq.loads(record.value) for record in log.wait(200)] == made


def test_two_jobs_with_one_id_are_two_jobs(topic: str, hosts: str) -> None:
    """The ID is the caller's, the nonce is ours."""
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(2):
            queue.using(delay=1).enqueue(kq.Job(id="same", func=jobs.add, args=[number]))
        with owning(topic, hosts), Log(topic, hosts) as log:
            assert {kq.loads(record.value).args for record in log.wait(2)} == {(0,), (1,)}


def test_what_expires_before_it_is_due_is_told_of_then(topic: str, hosts: str) -> None:
    """At its expiry, not when it would have been due."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(delay=3600, expires=1).enqueue(jobs.add)
        with running(topic, hosts) as calls:
            wait_until(lambda: calls, timeout=30)
    assert isinstance(calls[0].exception, kq.JobExpired)


def test_foreign_and_damaged_records_hold_back_nothing(
    queue: kq.Queue, hosts: str, client: KafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    """They are skipped, and that is said once."""
    queue.using(delay=1).enqueue(jobs.add)
    later = f"{queue.topic}.later"
    for key, headers in ((b"", []), (b"theirs", []), (b"job:x:1", []), (b"job:y:1", [("kq-at", b"soon")])):
        client.send(later, key=key, value=b"x", headers=headers).get(10)
    client.send(later, key=b"job:z:1", headers=[]).get(10)
    job = queue.using(delay=1).enqueue(jobs.add)
    with owning(queue.topic, hosts), Log(queue.topic, hosts) as log:
        log.wait(2)
    assert log.ids()[str(job.id)] == 1
    assert sum("holds what is no delayed job" in line for line in caplog.messages) == 1


def test_owners_share_the_partitions_and_hand_them_over(make_topic: Callable[..., str], hosts: str) -> None:
    """While owners join and leave, each job is fired; none is early."""
    topic = make_topic(partitions=4)
    with kq.Queue(topic, hosts=hosts) as queue, Log(topic, hosts) as log:
        ids = [queue.using(delay=2 + number / 40).enqueue(jobs.add).id for number in range(400)]
        with owning(topic, hosts) as first:
            wait_until(lambda: first.stats()["partitions"] == 4, timeout=20)
            with owning(topic, hosts) as second:
                wait_until(lambda: second.stats()["partitions"] == 2, timeout=20)
                assert first.stats()["partitions"] == 2
            log.wait(400)
            wait_until(lambda: first.stats()["pending"] == 0, timeout=20)
    assert set(log.ids()) == set(ids)
    assert log.ids().total() == 400
    assert min(map(lateness, log.records)) >= 0


def test_a_topic_that_refuses_holds_jobs_and_loses_none(topic: str, hosts: str, admin: Any) -> None:
    """Deleted when they are due, they come when it is there again."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(delay=3).enqueue_many([jobs.add] * 5)
    with owning(topic, hosts) as owner:
        wait_until(lambda: owner.stats()["pending"] == 5, timeout=20)
        admin.delete_topics([topic])
        time.sleep(4)  # the moment when they are due is the point
        wait_until(lambda: topic not in admin.list_topics())
        admin.create_topics([NewTopic(topic, 1, 1)])
        with Log(topic, hosts) as log:
            log.wait(5, 60)
            wait_until(lambda: owner.stats()["pending"] == 0)


def test_a_topic_without_delays_pays_nothing(queue: kq.Queue, hosts: str) -> None:
    """No thread of the timekeeper, no client, no group, no topic, no header."""
    with running(queue.topic, hosts) as calls:
        queue.enqueue(jobs.add, 1, 2)
        wait_until(lambda: calls)
        threads = names()
        with running(queue.topic, hosts, later=False):
            wait_until(lambda: sum(thread.name == "kq-pump" for thread in threading.enumerate()) == 2)
            assert names() == threads
    assert {name for name, _ in calls[0].message.headers} == {"kq-id", "kq-func"}


def test_a_worker_that_takes_no_part_fires_nothing(topic: str, hosts: str) -> None:
    """``later=False``."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(delay=0.2).enqueue(jobs.add, 1, 2)
        with running(topic, hosts, later=False) as calls:
            queue.using(delay=6).enqueue(jobs.add)
            queue.enqueue(jobs.add)
            wait_until(lambda: calls)
            assert "kq-Timekeeper" not in names()


def test_a_consumer_of_ones_own_takes_part_with_hosts(
    topic: str, hosts: str, consumer: Callable[..., KafkaConsumer]
) -> None:
    """``later="host:port"``."""
    calls = Calls()
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(delay=0.2).enqueue(jobs.add, 1, 2)
    worker = kq.Worker(topic, consumer(topic), callback=calls, later=hosts)
    assert worker.start(max_messages=1) == 1
    assert calls[0].result == 3


@pytest.mark.parametrize("later", [1, None, "", b"x", " , "])
def test_later_is_checked(later: Any) -> None:
    """True, False or hosts."""
    with pytest.raises(kq.ArgumentError, match=r"later must be True, False or hosts|hosts must be"):
        kq.Worker("topic", hosts="127.0.0.1:1", later=later)


def test_committed_is_nothing(topic: str, hosts: str) -> None:
    """A partition is read from its start by each owner: the group has no offsets that could hide an entry."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(delay=0.1).enqueue(jobs.add)
        with owning(topic, hosts), Log(topic, hosts) as log:
            log.wait(1)
    with KafkaConsumer(bootstrap_servers=hosts, group_id=f"{topic}.later") as consumer:
        assert consumer.committed(TopicPartition(f"{topic}.later", 0)) is None
