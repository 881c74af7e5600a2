"""What a job can ask of itself while it runs: in every executor, in coroutines, and in threads of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

import jobs
import pytest
import retry_jobs
from helpers import at_work, wait_until
from jobs import Calls

import kq
from kq import JobContext, Retry
from kq.testing import eager


def own() -> JobContext | None:
    return kq.current_job()


async def own_async() -> list[JobContext | None]:
    before = kq.current_job()
    await asyncio.sleep(0)
    return [before, kq.current_job(), await asyncio.to_thread(kq.current_job)]


def in_threads() -> list[JobContext | None]:
    """Return what a thread with a copied context sees, and what another one does."""
    found: list[JobContext | None] = []
    context = contextvars.copy_context()
    for target in (lambda: context.run(lambda: found.append(kq.current_job())), lambda: found.append(kq.current_job())):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    return found


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_a_job_knows_its_run(topic: str, hosts: str, executor: str) -> None:
    """Its ID, its place, its key, when it was enqueued, and when it must have ended."""
    calls = Calls()
    with kq.Queue(topic, hosts=hosts) as queue:
        made = [
            queue.using(key=b"k", timeout=30).enqueue(own),
            queue.enqueue(own_async),
            queue.enqueue(in_threads),
            queue.enqueue(jobs.add),
        ]
    before = time.time()
    kq.Worker(topic, hosts=hosts, executor=executor, callback=calls).start(max_messages=4)
    by_id = {call.job.id: call for call in calls}
    first = by_id[made[0].id].result
    message = by_id[made[0].id].message
    assert before + 30 <= first.deadline <= time.time() + 30
    expected = JobContext(made[0].id, 1, topic, 0, 0, b"k", message.timestamp, 30, first.deadline)
    assert (type(first), first) == (JobContext, expected)
    second = JobContext(made[1].id, 1, topic, 0, 1, None, by_id[made[1].id].message.timestamp, 0, None)
    assert by_id[made[1].id].result == [second] * 3
    copied, other = by_id[made[2].id].result
    assert (copied.id, other) == (made[2].id, None)
    assert kq.current_job() is None


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_a_job_knows_its_attempt(topic: str, hosts: str, executor: str) -> None:
    """Whether it was published again or runs again in place; its timestamp stays that of the enqueueing."""
    seen: list[Any] = []
    calls = Calls()
    with kq.Queue(topic, hosts=hosts) as queue:
        job = queue.using(retry=Retry(2, delay=0)).enqueue(tell_by_failing)
        ordered = queue.using(key=b"k", retry=Retry(2, delay=0, ordered=True)).enqueue(tell_by_failing)
    with at_work(kq.Worker(topic, hosts=hosts, executor=executor, callback=calls)):
        wait_until(lambda: len(calls) == 6, timeout=20)
    for one in (job, ordered):
        seen = [call.exception.args[0] for call in calls if call.job.id == one.id and call.exception]
        assert [context.attempt for context in seen] == [1, 2, 3]
        assert len({context.timestamp for context in seen}) == 1


def tell_by_failing() -> None:
    raise ValueError(kq.current_job())


def test_the_workers_limit_is_the_jobs(topic: str, hosts: str) -> None:
    """Where the worker has one of its own."""
    calls = Calls()
    with kq.Queue(topic, hosts=hosts, timeout=60) as queue:
        queue.enqueue(own)
    kq.Worker(topic, hosts=hosts, callback=calls, timeout=5).start(max_messages=1)
    assert calls[0].result.timeout == 5


def test_nothing_runs_outside_of_a_job(topic: str, hosts: str) -> None:
    """Neither in a callback, nor after a job that failed or whose time was up."""
    seen: list[Any] = []
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(retry_jobs.wrong)
        queue.using(timeout=0.1).enqueue(retry_jobs.stay)
    kq.Worker(topic, hosts=hosts, callback=lambda *_: seen.append(kq.current_job())).start(max_messages=2)
    assert seen == [None, None]


def test_without_a_broker() -> None:
    with kq.Queue("topic", hosts="127.0.0.1:1") as queue, eager() as ran:
        job = queue.enqueue(own)
        assert (ran[0].result.id, ran[0].result.attempt) == (job.id, 1)
