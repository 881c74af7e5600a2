"""Retries on a real Kafka: a failed job runs again when its policy says, and holds up nobody meanwhile."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import jobs
import pytest
import retry_jobs
from helpers import at_work, wait_until
from jobs import Calls
from journal import Journal
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewPartitions

import kq
from kq import Retry
from kq.message import Message, attempt_of
from kq.testing import drain, eager

#: Runs again at once: what is tested is whether, not when.
SOON = Retry(2, delay=0)


def executors() -> list[Any]:
    return ["inline", "thread", "process"]


def runs(calls: Calls, job: kq.Job) -> list[int]:
    """Return the numbers of a job's attempts, in the order in which they were told."""
    return [attempt_of(call.message) for call in calls if call.job.id == job.id]


def records(hosts: str, topic: str) -> list[Any]:
    """Return what a topic with one partition holds."""
    tp = TopicPartition(topic, 0)
    with KafkaConsumer(bootstrap_servers=hosts, auto_offset_reset="earliest") as consumer:
        consumer.assign([tp])
        end, found = consumer.end_offsets([tp])[tp], []
        while consumer.position(tp) < end:
            found += consumer.poll(200).get(tp, [])
        return found


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_job_that_always_fails_runs_four_times_and_holds_up_nobody(topic: str, hosts: str, executor: str) -> None:
    """Fifty behind it in its partition are done within two seconds; the gaps are those of the policy."""
    calls, times = Calls(), []

    def note(*told: Any) -> None:
        calls(*told)
        times.append((told[2].id, time.monotonic()))

    with kq.Queue(topic, hosts=hosts) as queue:
        bad = queue.using(retry=Retry(3, delay=1, jitter=0), key=b"k", headers=[("a", b"b")]).enqueue(retry_jobs.wrong)
        good = queue.using(key=b"k").enqueue_many([jobs.add] * 50)
        worker = kq.Worker(topic, hosts=hosts, callback=note, executor=executor, dead_letters=True)
        with at_work(worker):
            wait_until(lambda: len(calls) >= 51, timeout=20)
            begun = times[0][1]
            assert {call.job.id for call in calls[1:51]} == {job.id for job in good}
            assert times[50][1] - begun <= 2
            wait_until(lambda: runs(calls, bad) == [1, 2, 3, 4], timeout=20)
            wait_until(lambda: worker.stats().settling == 0)
    ends = [moment for job_id, moment in times if job_id == bad.id]
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    assert [wanted - 0.005 <= gap for gap, wanted in zip(gaps, (1, 2, 4), strict=True)] == [True] * 3, gaps
    assert max(gap - wanted for gap, wanted in zip(gaps, (1, 2, 4), strict=True)) < 1.5, gaps
    assert {call.status for call in calls if call.job.id == bad.id} == {"failure"}
    (letter,) = kq.DeadLetters(topic, hosts).iterate()
    assert (letter.attempts, letter.reason, letter.error) == (4, "failure", "builtins.ValueError: wrong for ever")


@pytest.mark.parametrize("executor", executors())
@pytest.mark.parametrize("is_own", [True, False])
def test_each_kind_of_end_in_each_executor(topic: str, hosts: str, executor: str, is_own: bool) -> None:
    """With the job's own policy and with the worker's: how often each runs."""
    calls = Calls()
    policy = Retry(2, delay=0, on=(ConnectionError,), never_on=("builtins.ConnectionAbortedError",))
    expected: dict[Any, int] = {
        retry_jobs.flaky: 3, retry_jobs.flaky_async: 3, retry_jobs.wrong: 1, retry_jobs.give_up: 1,
        retry_jobs.ask_later_async: 3, retry_jobs.stay: 3, jobs.add: 1,
    }  # fmt: skip
    if executor == "process":
        expected[retry_jobs.die] = 3
    with kq.Queue(topic, hosts=hosts, retry=policy if is_own else None) as queue:
        made = {func: queue.using(timeout=0.2 if func is retry_jobs.stay else 0).enqueue(func) for func in expected}
        made["expired"] = queue.using(expires=0.001).enqueue(retry_jobs.flaky)
        options: dict[str, Any] = {} if is_own else {"retry": policy}
        worker = kq.Worker(topic, hosts=hosts, callback=calls, executor=executor, concurrency=1, **options)
        with at_work(worker):
            total = sum(expected.values()) + 1
            wait_until(lambda: len(calls) >= total, timeout=40)
            time.sleep(0.5)  # more than that would be wrong, and comes at once
    told = {func: runs(calls, job) for func, job in made.items()}
    assert told == {func: list(range(1, count + 1)) for func, count in (expected | {"expired": 1}).items()}
    names = {call.job.id: type(call.exception).__name__ for call in calls}
    assert {func: names[job.id] for func, job in made.items()} == {
        **dict.fromkeys((retry_jobs.flaky, retry_jobs.flaky_async), "Flaky"),
        retry_jobs.wrong: "ValueError",
        retry_jobs.give_up: "GiveUp",
        retry_jobs.ask_later_async: "RetryLater",
        retry_jobs.stay: "NoneType",
        jobs.add: "NoneType",
        "expired": "JobExpired",
        **({retry_jobs.die: "ChildLost"} if executor == "process" else {}),
    }


@pytest.mark.parametrize("executor", executors())
def test_exceptions_are_known_without_a_callback(queue: kq.Queue, hosts: str, executor: str, journal: Journal) -> None:
    """No exception crosses from a child then: its names do, with what it asks for."""
    queue.using(retry=Retry(1, delay=0, on=(OSError,))).enqueue(retry_jobs.fail_and_tell, journal.path, "base")
    queue.using(retry=Retry(1, delay=0, on=(ValueError,))).enqueue(retry_jobs.fail_and_tell, journal.path, "other")
    queue.using(retry=1).enqueue(retry_jobs.ask_later, 0)
    with at_work(kq.Worker(queue.topic, hosts=hosts, executor=executor)) as _:
        wait_until(lambda: len(records(hosts, queue.topic)) == 5, timeout=20)
        wait_until(lambda: journal.count("run") == {"base": 2, "other": 1}, timeout=20)


def test_a_job_without_a_policy_fails_once(queue: kq.Queue, hosts: str, admin: KafkaAdminClient) -> None:
    """And has no header, topic or thread more than before."""
    queue.enqueue(retry_jobs.wrong)
    worker = kq.Worker(queue.topic, hosts=hosts)
    with at_work(worker):
        wait_until(lambda: worker.stats().done == 1, timeout=20)
        names = {thread.name for thread in threading.enumerate()}
    assert [name for name in names if name.startswith(("kq-publish", "kq-retries"))] == []
    assert not {f"{queue.topic}.later", f"{queue.topic}.dead"} & set(admin.list_topics())
    (record,) = records(hosts, queue.topic)
    assert [name for name, _ in record.headers] == ["kq-id", "kq-func"]


def test_what_runs_again_is_the_same_message(queue: kq.Queue, hosts: str) -> None:
    """ID, value, key, headers, partition and the time of the job; the number of the attempt is another."""
    job = queue.using(retry=SOON, key=b"k", headers=[("a", b"1"), ("a", b"2")], timeout=9).enqueue(retry_jobs.wrong)
    calls = Calls()
    with at_work(kq.Worker(queue.topic, hosts=hosts, callback=calls)):
        wait_until(lambda: len(calls) == 3, timeout=20)
    messages: list[Message] = [call.message for call in calls]
    assert [(one.key, one.value, one.partition) for one in messages] == [(b"k", messages[0].value, 0)] * 3
    own = [header for header in messages[0].headers if header[0] != "kq-timestamp"]
    for number, one in enumerate(messages[1:], 2):
        added = [("kq-attempt", b"%d" % number), ("kq-timestamp", b"%d" % job.timestamp)]
        assert list(one.headers) == own + added
    assert [call.job for call in calls] == [job] * 3


def test_a_policy_survives_a_delay_and_a_schedule(queue: kq.Queue, hosts: str) -> None:
    """It stands in the header of whatever becomes the job."""
    queue.using(retry=SOON, delay=0.1).enqueue(retry_jobs.wrong)
    queue.using(retry=SOON).schedule("again", kq.Every(3600, start=time.time() + 4), retry_jobs.flaky)
    calls = Calls()
    with at_work(kq.Worker(queue.topic, hosts=hosts, callback=calls)):
        wait_until(lambda: len(calls) == 6, timeout=30)
    assert sorted(attempt_of(call.message) for call in calls) == [1, 1, 2, 2, 3, 3]


def test_a_retry_waits_in_the_companion_topic(queue: kq.Queue, hosts: str) -> None:
    """Under a key that a repeat after a crash would replace, with its key in a header."""
    job = queue.using(retry=Retry(1, delay=3600, jitter=0), key=b"k").enqueue(retry_jobs.wrong)
    before = time.time()
    worker = kq.Worker(queue.topic, hosts=hosts)
    with at_work(worker):
        wait_until(lambda: worker.stats().done == 1, timeout=20)
    (record,) = records(hosts, f"{queue.topic}.later")
    told = dict(record.headers)
    assert record.key == f"job:{job.id}:0-0".encode()
    assert (told["kq-attempt"], told["kq-key"]) == (b"2", b"k")
    assert before + 3600 <= int(told["kq-at"]) / 1000 <= time.time() + 3600


def test_partitions_that_were_added_have_retries_too(
    make_topic: Callable[..., str], hosts: str, admin: KafkaAdminClient
) -> None:
    """``T.later`` has fewer: the job waits in another partition, and runs again in its own."""
    topic, calls = make_topic(), Calls()
    with kq.Queue(topic, hosts=hosts, retry=Retry(1, delay=0.2)) as queue:
        queue.enqueue(jobs.add)  # makes the companion
    admin.create_partitions({topic: NewPartitions(3)})
    with kq.Queue(topic, hosts=hosts, retry=Retry(1, delay=0.2)) as queue:
        job = queue.using(partition=2).enqueue(retry_jobs.wrong)
        with at_work(kq.Worker(topic, hosts=hosts, callback=calls)):
            wait_until(lambda: runs(calls, job) == [1, 2], timeout=40)
    assert {call.message.partition for call in calls if call.job.id == job.id} == {2}


def test_the_topic_is_there_before_the_first_failure(
    make_topic: Callable[..., str], hosts: str, admin: KafkaAdminClient
) -> None:
    """Whoever enqueues with a policy, or runs a worker with one, has it made; nobody waits for it in the night."""
    first, second = make_topic(), make_topic()
    with kq.Queue(first, hosts=hosts) as queue:
        queue.using(retry=3).enqueue(jobs.add)
        assert f"{first}.later" in admin.list_topics()
    with at_work(kq.Worker(second, hosts=hosts, retry=3)):
        wait_until(lambda: f"{second}.later" in admin.list_topics(), timeout=20)


def test_a_worker_with_its_own_consumer_says_that_nobody_fires(
    queue: kq.Queue, consumer: Callable[..., KafkaConsumer], caplog: pytest.LogCaptureFixture
) -> None:
    """And what to do; with ``later`` it fires."""
    queue.using(retry=Retry(1, delay=0.1)).enqueue(retry_jobs.wrong)
    kq.Worker(queue.topic, consumer(queue.topic)).start(max_messages=1)
    assert f"run kq scheduler {queue.topic}" in caplog.text


def test_the_command_line_retries(queue: kq.Queue, hosts: str, tell: Callable[..., Any], journal: Journal) -> None:
    """``kq worker --retry 1 --dead-letters``."""
    with kq.Queue(queue.topic, hosts=hosts) as own:
        own.enqueue(retry_jobs.fail_and_tell, journal.path, "a")
    begun = threading.Thread(
        target=lambda: tell(
            *("worker", "--inline", "--topic", queue.topic, "--retry", "1", "--dead-letters", "--max-messages", "2")
        )
    )
    begun.start()
    begun.join(30)
    assert not begun.is_alive()
    assert journal.count("run") == {"a": 2}
    (letter,) = kq.DeadLetters(queue.topic, hosts).iterate()
    assert letter.attempts == 2


def test_retries_without_a_broker() -> None:
    """``eager`` runs the next attempt when its clock is moved, and keeps what failed for good."""
    with kq.Queue("topic", hosts="127.0.0.1:1", retry=Retry(2, delay=10, jitter=0)) as queue, eager() as ran:
        job = queue.using(key=b"k").enqueue(retry_jobs.flaky)
        assert ([attempt_of(one.message) for one in ran], ran.pending) == ([1], [job])
        ran.advance(10)
        ran.advance(19.5)
        assert len(ran) == 2
        ran.advance(1)
        assert [(one.status, attempt_of(one.message)) for one in ran] == [("failure", n) for n in (1, 2, 3)]
        assert [(one.reason, one.attempts, one.key) for one in ran.letters] == [("failure", 3, b"k")]
        queue.using(retry=0).enqueue(retry_jobs.give_up)
        assert (ran.letters[1].error, ran.pending) == ("kq.errors.GiveUp: never", [])
    with kq.Queue("topic", hosts="127.0.0.1:1") as queue, eager(retry=SOON) as ran:
        queue.enqueue(retry_jobs.flaky)
        assert len(ran) == 3


def test_drain_runs_what_is_due(queue: kq.Queue, hosts: str) -> None:
    """With ``ahead``, what waits for its next attempt too."""
    with kq.Queue(queue.topic, hosts=hosts) as own:
        own.using(retry=Retry(1, delay=60)).enqueue(retry_jobs.flaky)
        assert [one.status for one in drain(own, ahead=120, dead_letters=True)] == ["failure"] * 2
    assert [letter.attempts for letter in kq.DeadLetters(queue.topic, hosts).iterate()] == [2]
