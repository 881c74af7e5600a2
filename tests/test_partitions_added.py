"""Partitions that are added to a topic while a queue is in use can be enqueued to at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import jobs
import pytest
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewPartitions

from kq import EnqueueError, Job, Queue


def grow(admin: KafkaAdminClient, topic: str, partitions: int) -> None:
    """Add partitions to a topic, and return when each has a leader."""
    admin.create_partitions({topic: NewPartitions(partitions)})

    def is_there() -> bool:
        (described,) = admin.describe_topics([topic])
        leaders = [partition["leader_id"] for partition in described["partitions"]]
        return len(leaders) == partitions and min(leaders) >= 0

    wait_until(is_there)


WAYS: dict[str, Callable[[Queue], Job]] = {
    "enqueue": lambda queue: queue.using(partition=3).enqueue(jobs.add, 1, 2),
    "enqueue_many": lambda queue: queue.using(partition=3).enqueue_many([jobs.add])[0],
    "aenqueue": lambda queue: asyncio.run(queue.using(partition=3).aenqueue(jobs.add, 1, 2)),
    "aenqueue_many": lambda queue: asyncio.run(queue.aenqueue_many([Job(func=jobs.add, partition=3)]))[0],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_own", [True, False], ids=["own", "injected"])
def test_a_new_partition_is_found(
    way: str, is_own: bool, topic: str, hosts: str, admin: KafkaAdminClient, producer: Callable[..., KafkaProducer]
) -> None:
    """The queue was made, and used, when there was one partition."""
    with Queue(topic, hosts=hosts) if is_own else Queue(topic, producer()) as queue:
        queue.enqueue(jobs.add, 1, 2)
        grow(admin, topic, 4)
        assert WAYS[way](queue).partition == 3


def test_a_partition_that_is_not_there_is_refused(topic: str, hosts: str) -> None:
    """The brokers have been asked again."""
    with Queue(topic, hosts=hosts) as queue:
        queue.enqueue(jobs.add)
        with pytest.raises(EnqueueError, match="Unrecognized partition 3"):
            queue.using(partition=3).enqueue(jobs.add)


def test_many_jobs_for_a_partition_that_is_not_there_are_refused_soon(topic: str, hosts: str) -> None:
    """The brokers are not asked for each of them."""
    items: list[Any] = [Job(func=jobs.add, partition=3) for _ in range(500)]
    with Queue(topic, hosts=hosts) as queue:
        queue.enqueue(jobs.add)
        begun = time.monotonic()
        with pytest.raises(EnqueueError, match="500 of 500 jobs"):
            queue.enqueue_many(items)
        assert time.monotonic() - begun < 20  # 500 questions take 50 s


def test_asking_again_does_not_block_the_loop(topic: str, hosts: str) -> None:
    """Other tasks go on while the brokers are asked."""
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def work(queue: Queue) -> int:
        await queue.aenqueue(jobs.add)
        ticking = asyncio.ensure_future(tick())
        before = turns
        with pytest.raises(EnqueueError, match="Unrecognized partition"):
            await queue.using(partition=3).aenqueue(jobs.add)
        ticking.cancel()
        return turns - before

    with Queue(topic, hosts=hosts) as queue:
        assert asyncio.run(work(queue)) > 5
