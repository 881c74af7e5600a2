"""Where freezegun stops the time, jobs see that, and KQ and Kafka's client go on."""

from __future__ import annotations

import asyncio
import datetime
import time
import uuid
from collections.abc import Iterator

import jobs
import pytest

from kq import Queue
from kq.testing import drain, eager

freezegun = pytest.importorskip("freezegun")

#: When the time stands still, and as Unix milliseconds.
MOMENT, MILLISECONDS = "2024-01-01", 1_704_067_200_000


def now() -> tuple[str, float]:
    return str(datetime.datetime.now()), time.time()


@pytest.fixture
def queue(hosts: str) -> Iterator[Queue]:
    """Return a queue whose producer is made while the time stands still."""
    with freezegun.freeze_time(MOMENT), Queue(f"topic-{uuid.uuid4().hex[:12]}", hosts=hosts) as queue:
        yield queue


def test_jobs_are_enqueued_while_the_time_stands_still(queue: Queue) -> None:
    """By each way, with the time that the test has set."""
    assert queue.enqueue(jobs.add, 1, 2).timestamp == MILLISECONDS
    assert len(queue.enqueue_many([jobs.add] * 1000)) == 1000
    assert asyncio.run(queue.aenqueue(jobs.add, 1, 2)).timestamp == MILLISECONDS
    assert len(asyncio.run(queue.aenqueue_many([jobs.add] * 1000))) == 1000


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_a_topic_is_drained_while_the_time_stands_still(executor: str, queue: Queue) -> None:
    """By each executor."""
    queue.enqueue_many([(jobs.add, (number, 0)) for number in range(20)])
    assert sorted(ran.result for ran in drain(queue, executor=executor)) == list(range(20))


def test_an_inline_job_sees_the_time_that_the_test_has_set(queue: Queue) -> None:
    """It is what the test is about."""
    queue.enqueue(now)
    with eager() as ran:
        queue.enqueue(now)
    assert ran[0].result == drain(queue)[0].result == (f"{MOMENT} 00:00:00", MILLISECONDS / 1000)


def test_a_time_limit_holds_while_the_time_stands_still(queue: Queue) -> None:
    """It is counted by a clock that goes on."""
    queue.using(timeout=0.1).enqueue(time.sleep, 20)
    assert [ran.status for ran in drain(queue)] == ["timeout"]
