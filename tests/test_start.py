"""``start``: again and again, one at a time, and what it commits."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import jobs
import pytest
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

import kq
from kq import Job, KQError, Queue, Worker

#: Calls that are wrong, and what KQ 2.x says of each.


@pytest.fixture
def committed(admin: KafkaAdminClient, group: str) -> Callable[..., int | None]:
    """Return a function that asks the broker what a group has committed."""

    def ask(topic: str, partition: int = 0, of: str = group) -> int | None:
        offsets = admin.list_group_offsets(of)[of]
        found = offsets.get(TopicPartition(topic, partition))
        return None if found is None or found.offset < 0 else found.offset

    return ask


def numbers(queue: Queue, count: int, first: int = 0) -> list[Job]:
    return [queue.enqueue(jobs.add, number, 0) for number in range(first, first + count)]


# -- start, again and again --------------------------------------------------------------------------------------------


def test_each_start_goes_on_with_the_very_next_message(
    queue: Queue, consumer: Callable[..., KafkaConsumer], committed: Callable[..., int | None]
) -> None:
    """It processes exactly as many as asked for, and commits exactly those."""
    numbers(queue, 10)
    calls = jobs.Calls()
    worker = Worker(queue.topic, consumer(), calls)
    done = 0
    for count in (1, 1, 1, 3, 1, 2, 1):
        assert worker.start(max_messages=count) == count
        done += count
        assert calls.results == list(range(done))
        assert committed(queue.topic) == done


def test_each_start_makes_and_closes_a_consumer_with_hosts(
    hosts: str, queue: Queue, committed: Callable[..., int | None]
) -> None:
    """And goes on with the very next message as well."""
    numbers(queue, 4)
    seen: list[Any] = []
    calls = jobs.Calls()

    def callback(*args: Any) -> None:
        calls(*args)
        seen.append(worker.consumer)

    worker = Worker(queue.topic, hosts=hosts, callback=callback)
    assert worker.consumer is None
    assert worker.start(max_messages=1) == 1
    assert worker.consumer is None
    assert worker.start(max_messages=3) == 3
    assert worker.consumer is None
    assert calls.results == [0, 1, 2, 3]
    assert [type(client) for client in seen] == [KafkaConsumer] * 4
    assert len(set(map(id, seen[1:]))) == 1
    assert all(client.config["enable_auto_commit"] is False for client in seen)
    assert committed(queue.topic, of=queue.topic) == 4


def test_starts_go_on_over_many_partitions(
    make_topic: Callable[..., str], client: KafkaProducer, consumer: Callable[..., KafkaConsumer]
) -> None:
    """Nothing is skipped and nothing runs twice."""
    queue = Queue(make_topic(3), client)
    for number in range(12):
        queue.using(partition=number % 3).enqueue(jobs.add, number, 0)
    calls = jobs.Calls()
    worker = Worker(queue.topic, consumer(), calls)
    assert [worker.start(max_messages=count) for count in (1, 4, 1, 6)] == [1, 4, 1, 6]
    assert sorted(calls.results) == list(range(12))


def test_other_workers_go_on_where_one_ended(
    queue: Queue, consumer: Callable[..., KafkaConsumer], committed: Callable[..., int | None]
) -> None:
    """What was polled beyond the limit is left to them."""
    numbers(queue, 3)
    first, calls = consumer(), jobs.Calls()
    assert Worker(queue.topic, first, calls).start(max_messages=1) == 1
    first.close()
    assert Worker(queue.topic, consumer(), calls).start(max_messages=2) == 2
    assert calls.results == [0, 1, 2]


def test_without_commits_a_second_start_repeats(
    queue: Queue, consumer: Callable[..., KafkaConsumer], committed: Callable[..., int | None]
) -> None:
    """As in KQ."""
    numbers(queue, 3)
    calls = jobs.Calls()
    client = consumer()
    worker = Worker(queue.topic, client, calls)
    assert worker.start(max_messages=2, commit_offsets=False) == 2
    assert committed(queue.topic) is None
    client.close()
    assert Worker(queue.topic, consumer(), calls).start(max_messages=3) == 3
    assert calls.results == [0, 1, 0, 1, 2]


def test_without_commits_the_same_worker_repeats(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """Also on a consumer that stays open, from nothing and from a commit."""
    numbers(queue, 3)
    calls = jobs.Calls()
    worker = Worker(queue.topic, consumer(), calls)
    worker.start(max_messages=2, commit_offsets=False)
    worker.start(max_messages=1)
    worker.start(max_messages=2, commit_offsets=False)
    worker.start(max_messages=2)
    assert calls.results == [0, 1, 0, 1, 2, 1, 2]


def test_no_messages_may_be_asked_for(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """Nothing is done then, and the next start does all."""
    numbers(queue, 1)
    worker = Worker(queue.topic, consumer())
    assert worker.start(max_messages=0) == 0
    assert worker.start(max_messages=1) == 1


def test_an_idle_consumer_ends_the_start(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """After ``consumer_timeout_ms`` without a message, and not while a job runs that takes longer."""
    queue.enqueue(jobs.nap, 2.5)
    queue.enqueue(jobs.add, 1, 2)
    calls = jobs.Calls()
    worker = Worker(queue.topic, consumer(consumer_timeout_ms=2000), calls)
    assert worker.start() == 2
    ended = time.monotonic()
    assert worker.start() == 0
    assert time.monotonic() - ended > 1.9


def test_the_consumer_of_the_user_is_never_closed(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """It goes on behind what was processed."""
    numbers(queue, 3)
    client = consumer()
    worker = Worker(queue.topic, client)
    worker.start(max_messages=1)
    assert worker.consumer is client
    del worker
    polled = [record for records in client.poll(10_000).values() for record in records]
    assert [record.offset for record in polled] == [1, 2]


def test_a_consumer_may_be_subscribed_already(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """To this topic, and even have polled: nothing is lost."""
    numbers(queue, 3)
    client = consumer(queue.topic)
    assert wait_until(lambda: client.poll(100), timeout=30)
    calls = jobs.Calls()
    assert Worker(queue.topic, client, calls).start(max_messages=3) == 3
    assert calls.results == [0, 1, 2]


def test_a_consumer_may_be_subscribed_elsewhere(
    queue: Queue, make_topic: Callable[..., str], consumer: Callable[..., KafkaConsumer]
) -> None:
    """The worker is about its own topic."""
    numbers(queue, 1)
    client = consumer(make_topic())
    client.poll(0)
    assert Worker(queue.topic, client).start(max_messages=1) == 1


def test_a_closed_consumer_is_told(topic: str, consumer: Callable[..., KafkaConsumer]) -> None:
    """An error, not silence."""
    client = consumer()
    worker = Worker(topic, client)
    client.close()
    with pytest.raises(KQError, match="its consumer is closed"):
        worker.start(max_messages=1)


def test_a_topic_may_come_later(
    hosts: str, group: str, client: KafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker waits for it, and says so."""
    topic = f"later-{group}"
    calls = jobs.Calls()
    worker = Worker(topic, hosts=hosts, group=group, callback=calls, config={"metadata_max_age_ms": 300})
    thread = threading.Thread(target=worker.start, args=(1,))
    thread.start()
    wait_until(lambda: any("does not exist yet" in text for text in caplog.messages))
    Queue(topic, client).enqueue(jobs.add, 1, 2)
    thread.join(20)
    assert not thread.is_alive()
    assert calls.results == [3]


def test_without_a_broker_start_says_so(hosts: str) -> None:
    """It names the hosts, in a time that can be set."""
    worker = Worker("t", hosts="127.0.0.1:1", config={"bootstrap_timeout_ms": 300})
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a client that does not come to be leaves sockets behind
        with pytest.raises(kq.BrokerUnreachable, match=r"127\.0\.0\.1:1"):
            worker.start()
    assert time.monotonic() - begin < 5


# -- commits -----------------------------------------------------------------------------------------------------------


def test_auto_commit_never_commits_a_job_that_runs(
    queue: Queue, consumer: Callable[..., KafkaConsumer], committed: Callable[..., int | None]
) -> None:
    """The client would: it commits what was polled. Switched off, what is done is committed all the same."""
    seen = []

    def watch() -> None:
        wait_until(lambda: committed(queue.topic) == 1)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:  # ten intervals of the client's own
            seen.append(committed(queue.topic))
            time.sleep(0.05)

    jobs.HOOKS["watch"] = watch
    queue.enqueue(jobs.add, 1, 2)
    queue.enqueue(jobs.hook, "watch")
    queue.enqueue(jobs.add, 1, 2)
    client = consumer(enable_auto_commit=True, auto_commit_interval_ms=100)
    calls = jobs.Calls()
    assert Worker(queue.topic, client, calls).start(max_messages=2) == 2
    assert calls.statuses == ["success", "success"]
    assert set(seen) == {1}
    assert committed(queue.topic) == 2


def test_an_auto_commit_consumer_closed_afterwards_commits_no_more_than_was_done(
    queue: Queue, consumer: Callable[..., KafkaConsumer], committed: Callable[..., int | None]
) -> None:
    """What was polled beyond the limit stays."""
    numbers(queue, 5)
    client = consumer(enable_auto_commit=True, auto_commit_interval_ms=50)
    Worker(queue.topic, client).start(max_messages=2)
    client.close()
    assert committed(queue.topic) == 2


def test_a_commit_interval_of_zero_commits_each_job_before_the_next(
    queue: Queue, consumer: Callable[..., KafkaConsumer], committed: Callable[..., int | None]
) -> None:
    """As KQ did."""
    seen: list[int | None] = []
    jobs.HOOKS["look"] = lambda: seen.append(committed(queue.topic))
    for _ in range(4):
        queue.enqueue(jobs.hook, "look")
    Worker(queue.topic, consumer(), commit_interval=0).start(max_messages=4)
    assert [offset or 0 for offset in seen] == [0, 1, 2, 3]


def test_a_failure_is_done(
    queue: Queue, consumer: Callable[..., KafkaConsumer], committed: Callable[..., int | None]
) -> None:
    """It is told of once and does not run again."""
    queue.enqueue(jobs.fail, "no good")
    queue.enqueue(jobs.leave, 1)
    Worker(queue.topic, consumer()).start(max_messages=2)
    assert committed(queue.topic) == 2


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_a_worker_is_started_once_at_a_time(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """A second start beside it is an error, and does it no harm."""
    errors = []

    def start_again(*args: Any) -> None:
        try:
            worker.start(max_messages=1)
        except KQError as error:
            errors.append(str(error))

    numbers(queue, 2)
    worker = Worker(queue.topic, consumer(), start_again)
    assert worker.start(max_messages=2) == 2
    assert errors == [f"{worker!r} is started already"] * 2


def test_the_state_tells_what_a_worker_does(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """Before, during and after a start."""
    numbers(queue, 2)
    states = []
    worker = Worker(queue.topic, consumer(), lambda *args: states.append(worker.state.value))
    assert worker.state.value == "new"
    worker.start(max_messages=2)
    assert states[0] == "running"
    assert worker.state.value == "stopped"


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_many_jobs_are_done_once_each_and_in_order(
    executor: str, queue: Queue, consumer: Callable[..., KafkaConsumer], committed: Callable[..., int | None]
) -> None:
    """The plain case, by the hundred."""
    count = 300
    for number in range(count):
        queue.producer.send(queue.topic, kq.dumps(Job(str(number), func=jobs.add, args=(number, 0), kwargs={})))
    queue.producer.flush()
    calls = jobs.Calls()
    assert Worker(queue.topic, consumer(), calls, executor=executor).start(max_messages=count) == count
    assert calls.results == list(range(count))
    assert committed(queue.topic) == count
