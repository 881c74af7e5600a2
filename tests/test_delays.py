"""Delays and expiry on the producing side, and expiry in a worker: what goes onto which topic, and what is refused."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import jobs
import pytest
from helpers import wait_until
from jobs import Calls
from journal import Journal, work
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions

import kq
from kq.message import Message, job_from_headers
from kq.testing import drain, eager

NAIVE = datetime(2030, 1, 1)


def records(hosts: str, topic: str, count: int) -> list[Any]:
    """Return so many records of a topic."""
    with KafkaConsumer(topic, bootstrap_servers=hosts, auto_offset_reset="earliest") as consumer:
        found: list[Any] = []

        def has_all() -> bool:
            for polled in consumer.poll(200).values():
                found.extend(polled)
            return len(found) >= count

        wait_until(has_all, timeout=20)
        return found


def test_a_delayed_job_waits_in_the_companion_topic(queue: kq.Queue, hosts: str) -> None:
    """With its key, its headers and its times; the topic of the jobs stays empty."""
    before = time.time()
    job = queue.using(delay=3600, key=b"k", headers=[("a", b"b")], timeout=5).enqueue(jobs.add, 1, 2)
    (record,) = records(hosts, f"{queue.topic}.later", 1)
    headers = dict(record.headers)
    assert record.key.startswith(f"job:{job.id}:".encode())
    assert kq.loads(record.value) == job
    assert (headers["kq-key"], headers["a"], headers["kq-timeout"]) == (b"k", b"b", b"5")
    assert int(headers["kq-timestamp"]) == job.timestamp
    assert before + 3599 < int(headers["kq-at"]) / 1000 < time.time() + 3601
    tp = TopicPartition(queue.topic, 0)
    with KafkaConsumer(bootstrap_servers=hosts) as consumer:
        assert consumer.end_offsets([tp]) == {tp: 0}


def test_the_companion_topic_is_compacted_and_has_the_brokers_time(queue: kq.Queue, admin: KafkaAdminClient) -> None:
    """It is made by a request, before a producer could have it made otherwise."""
    queue.using(delay=3600).enqueue(jobs.add)
    resource = ConfigResource(ConfigResourceType.TOPIC, f"{queue.topic}.later")
    settings = admin.describe_configs([resource], config_filter="all")["topic"][f"{queue.topic}.later"]
    assert settings["cleanup.policy"]["value"] == "compact"
    assert settings["message.timestamp.type"]["value"] == "LogAppendTime"


def test_a_delayed_job_stands_where_its_key_would(make_topic: Callable[..., str], hosts: str) -> None:
    """In the partition of the same number; a named one wins, and jobs without either are spread by their IDs."""
    topic = make_topic(partitions=5)
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(8):
            queue.using(key=b"key %d" % number).enqueue(jobs.add)
            queue.using(key=b"key %d" % number, delay=3600).enqueue(jobs.add)
        queue.using(partition=3, delay=3600).enqueue(jobs.add, 1)
        queue.using(delay=3600).enqueue_many([jobs.add] * 50)
    direct = {record.key: record.partition for record in records(hosts, topic, 8)}
    waiting = records(hosts, f"{topic}.later", 59)
    keyed = {dict(record.headers).get("kq-key"): record.partition for record in waiting}
    assert {key: keyed[key] for key in direct} == direct
    assert [record.partition for record in waiting if kq.loads(record.value).args == (1,)] == [3]
    assert {record.partition for record in waiting} == set(range(5))


def test_partitions_that_were_added_since_are_named(
    make_topic: Callable[..., str], hosts: str, admin: KafkaAdminClient
) -> None:
    """The companion has fewer: the record says which number it stands for."""
    topic = make_topic()
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(delay=3600).enqueue(jobs.add)
    admin.create_partitions({topic: NewPartitions(3)})
    with kq.Queue(topic, hosts=hosts) as queue:
        wait_until(lambda: len(queue.producer.partitions_for(topic)) == 3)
        queue.using(delay=3600, partition=2).enqueue(jobs.add)
    last = records(hosts, f"{topic}.later", 2)[-1]
    assert (last.partition, dict(last.headers)["kq-partition"]) == (0, b"2")


@pytest.mark.parametrize(
    "when", [{"delay": 0}, {"at": 1}, {"at": datetime(2020, 1, 1, tzinfo=timezone.utc)}, {"delay": timedelta()}]
)
def test_what_is_due_now_goes_straight_to_the_topic(
    queue: kq.Queue, hosts: str, admin: KafkaAdminClient, when: dict[str, Any]
) -> None:
    """No companion topic is made for it."""
    job = queue.using(**when).enqueue(jobs.add, 1)
    (record,) = records(hosts, queue.topic, 1)
    assert kq.loads(record.value) == job
    assert f"{queue.topic}.later" not in admin.list_topics()


def test_all_ways_to_enqueue_take_a_delay(queue: kq.Queue, hosts: str) -> None:
    """One, many, in asyncio code, and by a decorated function, whoever enqueues that."""
    later = queue.using(delay=timedelta(hours=1))
    decorated = queue.job(delay=3600)(jobs.echo)

    async def in_asyncio() -> None:
        await later.aenqueue(jobs.add)
        await later.aenqueue_many([jobs.add, jobs.add])
        await decorated.aenqueue()

    later.enqueue_many([jobs.add, jobs.add])
    asyncio.run(in_asyncio())
    decorated.enqueue()
    queue.enqueue(decorated)
    decorated.using(delay=0).enqueue("now")
    assert len(records(hosts, f"{queue.topic}.later", 8)) == 8
    (direct,) = records(hosts, queue.topic, 1)
    assert kq.loads(direct.value).args == ("now",)


def test_asyncio_code_alone_makes_the_companion_topic(topic: str, hosts: str) -> None:
    """Without blocking the loop: other tasks go on meanwhile."""

    async def main(queue: kq.Queue) -> float:
        longest, enqueueing = 0.0, asyncio.ensure_future(queue.using(delay=3600).aenqueue_many([jobs.add] * 3))
        while not enqueueing.done():
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)
        await enqueueing
        return longest

    with kq.Queue(topic, hosts=hosts) as queue:
        assert asyncio.run(main(queue)) < 0.1
    assert len(records(hosts, f"{topic}.later", 3)) == 3


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"delay": -1}, "delay must be 0 or greater"),
        ({"delay": math.nan}, "delay must be 0 or greater"),
        ({"delay": timedelta(seconds=-1)}, "delay must be 0 or greater"),
        ({"delay": "5"}, "delay must be an int, a float or a timedelta"),
        ({"delay": 1, "at": 1}, "pass delay or at, not both"),
        ({"at": NAIVE}, "at must be an aware datetime.*tzinfo=timezone.utc"),
        ({"at": "tomorrow"}, "at must be an aware datetime, or Unix seconds"),
        ({"at": math.inf}, "before the year 10000"),
        ({"expires": NAIVE}, "expires must be an aware datetime"),
        ({"expires": -1}, "expires must be 0 or greater"),
        ({"expires": "5"}, "expires must be an int, a float, a timedelta or an aware datetime"),
    ],
)
def test_what_is_no_time_is_refused(wrong: dict[str, Any], error: str, producer: Callable[..., KafkaProducer]) -> None:
    """In words that say what to write, wherever it is given."""
    queue = kq.Queue("topic", hosts="127.0.0.1:1")
    for take in (queue.using, queue.job, queue.job(jobs.echo).using):
        with pytest.raises(kq.ArgumentError, match=error):
            take(**wrong)


def test_a_topic_without_a_companion_is_an_enqueue_error(hosts: str) -> None:
    """What the broker says of it is in the error."""
    config = {"allow_auto_create_topics": False, "max_block_ms": 500}
    queue = kq.Queue(f"absent-{uuid.uuid4().hex}", hosts=hosts, config=config)
    with queue, pytest.raises(kq.EnqueueError, match="was not enqueued"):
        queue.using(delay=60).enqueue(jobs.add)


# -- expiry ------------------------------------------------------------------------------------------------------------


def loads_no_trap(value: bytes) -> Any:
    if b"trap" in value:
        raise AssertionError("it was unpickled")
    return kq.loads(value)


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_an_expired_job_is_reported_and_not_unpickled(queue: kq.Queue, hosts: str, executor: str) -> None:
    """The callback is told of a failure with JobExpired, in order with those that run."""
    queue.using(expires=0, timeout=7).enqueue(jobs.add, "trap")
    queue.using(expires=3600).enqueue(jobs.add, 1, 2)
    calls = Calls()
    worker = kq.Worker(queue.topic, hosts=hosts, callback=calls, executor=executor, deserializer=loads_no_trap)
    worker.start(max_messages=2)
    expired, ran = sorted(calls, key=lambda call: call.status)
    assert (expired.status, type(expired.exception), expired.job.timeout) == ("failure", kq.JobExpired, 7)
    assert expired.job.func is None
    assert "JobExpired" in expired.stacktrace
    assert (ran.status, ran.result) == ("success", 3)


def test_a_job_may_expire_in_its_child(queue: kq.Queue, hosts: str, journal: Journal) -> None:
    """Where it waits behind another that was thought to be short."""
    calls = Calls()
    queue.enqueue_many([(jobs.add, (1, 2))] * 200)  # short ones: a child then takes more than one at a time
    queue.enqueue(work, journal.path, "long", 4.0)
    queue.using(expires=3).enqueue_many([(work, (journal.path, f"late {number}")) for number in range(5)])
    kq.Worker(queue.topic, hosts=hosts, callback=calls, executor="process").start(max_messages=206)
    assert Counter(type(call.exception) for call in calls) == {type(None): 201, kq.JobExpired: 5}
    assert not [name for name in journal.names("start") if name.startswith("late")]
    assert {call.job.func for call in calls if call.exception is not None} == {None}


@pytest.mark.parametrize("text", [b"", b"soon", b"-1", b"9" * 30, "²".encode()])
def test_an_expiry_that_is_none_is_ignored(queue: kq.Queue, client: KafkaProducer, hosts: str, text: bytes) -> None:
    """Another program may write anything."""
    job = queue.enqueue(jobs.add, 1, 2)
    client.send(queue.topic, kq.dumps(job), headers=[("kq-expires", text)]).get(10)
    calls = Calls()
    kq.Worker(queue.topic, hosts=hosts, callback=calls).start(max_messages=2)
    assert [call.status for call in calls] == ["success", "success"]


def test_the_jobs_own_timestamp_wins_over_the_records() -> None:
    """Of a job that was delayed the record's is that of its firing."""
    message = Message("t", 0, 0, None, b"", 5, (("kq-timestamp", b"3"),))
    assert job_from_headers(message).timestamp == 3


# -- eager -------------------------------------------------------------------------------------------------------------


def test_eager_has_a_clock_that_a_test_moves() -> None:
    """Delayed jobs run when their time comes, in its order, and the clock shows it."""
    queue = kq.Queue("topic", hosts="127.0.0.1:1")
    with eager() as ran:
        queue.using(delay=20).enqueue(jobs.echo, "second")
        queue.using(delay=10).enqueue(jobs.echo, "first")
        queue.using(at=ran.now + 30).enqueue(jobs.echo, "third")
        assert (len(ran), len(ran.pending)) == (0, 3)
        ran.advance(25)
        assert [one.result[0][0] for one in ran] == ["first", "second"]
        queue.using(delay=1).enqueue(jobs.echo, "between")
        ran.advance(timedelta(seconds=5))
    assert [one.result[0][0] for one in ran] == ["first", "second", "between", "third"]


def test_eager_knows_expiry() -> None:
    """What expires before it is due is told of at its expiry."""
    queue = kq.Queue("topic", hosts="127.0.0.1:1")
    with eager() as ran:
        queue.using(delay=20, expires=10).enqueue(jobs.add)
        ran.advance(10)
    assert [type(one.exception) for one in ran] == [kq.JobExpired]


# -- drain -------------------------------------------------------------------------------------------------------------


def test_drain_runs_what_is_due(queue: kq.Queue) -> None:
    """And leaves what waits, unless the test goes ahead in time; what jobs delay is seen, too."""
    queue.using(delay=0.2).enqueue(jobs.echo, "soon")
    queue.using(delay=60).enqueue(jobs.echo, "in a minute")
    queue.using(delay=3600).enqueue(jobs.echo, "in an hour")
    time.sleep(0.3)  # until it is due
    assert [one.result[0][0] for one in drain(queue)] == ["soon"]
    assert [one.result[0][0] for one in drain(queue, ahead=timedelta(minutes=2))] == ["in a minute"]
    assert drain(queue, ahead=120) == []


def test_drain_runs_schedules_ahead(queue: kq.Queue) -> None:
    """As far as the test goes, and no further."""
    queue.schedule("s", kq.Every(60, catch_up="all"), jobs.add)
    assert len(drain(queue, ahead=190)) == 3


def test_eager_knows_schedules() -> None:
    """Each run comes at its time as the clock is moved, with its ID; the same name stays one schedule."""
    with (
        kq.Queue("topic", hosts="127.0.0.1:1") as queue,
        kq.Queue("other", hosts="127.0.0.1:1") as other,
        eager() as ran,
    ):
        made = queue.using(key=b"k").schedule("tick", kq.Every(60), jobs.add, 1, 2)
        other.schedule("tick", kq.Cron("0 3 * * *"), jobs.add)
        assert [one.name for one in queue.schedules()] == ["tick"]
        assert (made.last_fired, len(ran)) == (None, 0)
        ran.advance(59)
        assert len(ran) == 0
        ran.advance(62)
        assert [(one.result, one.message.key) for one in ran] == [(3, b"k")] * 2
        first = made.next_due
        assert first is not None
        due = [first, first + timedelta(seconds=60)]
        assert [datetime.fromisoformat(one.job.id.removeprefix("tick@").replace("Z", "+00:00")) for one in ran] == due
        assert queue.schedule("tick", kq.Every(60), jobs.add, 3, 4).next_due == first + timedelta(seconds=120)
        ran.advance(60)
        assert ran[-1].result == 7
        assert (queue.unschedule("tick"), queue.unschedule("tick"), queue.schedules()) == (True, False, [])
        count = len(ran)
        ran.advance(timedelta(days=1))
        assert len(ran) == count + 1
        assert ran[-1].message.topic == "other"
