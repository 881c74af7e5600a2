"""What is committed when a partition goes to another worker, and where a commit is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import jobs
import pytest
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import NodeNotReadyError
from kafka.future import Future

import kq

#: Notices within a second that another member has come.
QUICK = {"heartbeat_interval_ms": 300, "session_timeout_ms": 10_000}


@pytest.fixture
def start(hosts: str) -> Iterator[Callable[..., tuple[kq.Worker, jobs.Calls]]]:
    """Return a function that starts a worker in a thread; all of them end with the test."""
    with ExitStack() as stack:

        def begin(topic: str, **options: Any) -> tuple[kq.Worker, jobs.Calls]:
            calls = jobs.Calls()
            worker = kq.Worker(topic, hosts=hosts, callback=calls, config=QUICK, **options)
            thread = threading.Thread(target=worker.start)
            thread.start()
            stack.callback(thread.join, 30)
            stack.callback(worker.stop)
            return worker, calls

        yield begin


@pytest.fixture
def committed(admin: KafkaAdminClient) -> Callable[[str, int], int | None]:
    """Return a function that tells what the group of a topic has committed of a partition."""

    def ask(topic: str, partition: int) -> int | None:
        found = admin.list_group_offsets(topic)[topic].get(TopicPartition(topic, partition))
        return None if found is None or found.offset < 0 else found.offset

    return ask


def test_a_partition_that_goes_is_committed_first(
    hosts: str, make_topic: Callable[..., str], start: Callable[..., tuple[kq.Worker, jobs.Calls]]
) -> None:
    """Whatever the commit interval is: the new owner repeats nothing that the old one has finished."""
    topic = make_topic(partitions=2)
    go_on, runs = threading.Event(), threading.Event()
    jobs.HOOKS["hold"] = lambda: (runs.set(), go_on.wait(60))
    try:
        with kq.Queue(topic, hosts=hosts) as queue:
            queue.using(partition=1).enqueue(jobs.hook, "hold")
            _, before = start(topic, executor="thread", concurrency=2, commit_interval=1000)
            assert runs.wait(20)  # from here on the worker is not at rest, and its interval is far away
            queue.using(partition=0).enqueue(jobs.add, 1, 2)
            wait_until(lambda: before.results == [3], timeout=20)
            other, after = start(topic)
            wait_until(lambda: set(other.stats().commit_lag) == {0}, timeout=20)
            queue.using(partition=0).enqueue(jobs.add, 3, 4)
            wait_until(lambda: 7 in after.results, timeout=20)
    finally:
        go_on.set()
    assert after.results == [7]


def test_a_commit_that_was_refused_is_made_again(
    queue: kq.Queue,
    start: Callable[..., tuple[kq.Worker, jobs.Calls]],
    committed: Callable[[str, int], int | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the worker goes on: with an interval of 0 the next job waits for it."""
    refused: list[Any] = []
    send = KafkaConsumer.commit_async

    def refuse_twice(self: KafkaConsumer, offsets: Any, callback: Any = None) -> Any:
        if len(refused) == 2:
            return send(self, offsets, callback=callback)
        refused.append(offsets)
        error = NodeNotReadyError("refused by the test")
        callback(offsets, error)
        return Future().failure(error)

    monkeypatch.setattr(KafkaConsumer, "commit_async", refuse_twice)
    seen: list[int | None] = []
    jobs.HOOKS["look"] = lambda: seen.append(committed(queue.topic, 0))
    queue.enqueue(jobs.add, 1, 2)
    queue.enqueue(jobs.hook, "look")
    _, calls = start(queue.topic, commit_interval=0)
    wait_until(lambda: len(calls) == 2, timeout=20)
    assert (len(refused), seen) == (2, [1])
    wait_until(lambda: committed(queue.topic, 0) == 2, timeout=10)
