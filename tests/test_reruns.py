"""Retries in place: what must wait for a job that failed waits, and everything else goes on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import retry_jobs
from bench_loop import FakeExecutor, FakePump, loop_between
from helpers import at_work, wait_until
from jobs import Calls
from journal import Journal, WorkerProcess
from kafka import KafkaAdminClient
from test_companions import progress

import kq
from kq import Retry
from kq.consuming.metadata import Progress
from kq.job import FAILURE, Outcome
from kq.message import attempt_of
from kq.working import Loop, Retrier, State
from kq.working.reruns import Reruns

FAILED = Outcome(FAILURE, None, ValueError("x"), "trace")


@pytest.fixture
def pump() -> FakePump:
    return FakePump()


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def loop(pump: FakePump, executor: FakeExecutor) -> Iterator[Loop]:
    """Return a loop that runs jobs with a key again in place, at once, twice at most."""
    retry = Retry(2, delay=0, ordered=True)
    with loop_between(pump, executor, companions=[Retrier(retry, "key", lambda: None)]) as made:
        yield made


def attempts(executor: FakeExecutor) -> list[tuple[int, int]]:
    """Return what was started: offsets, and the numbers of their attempts."""
    return [(message.offset, attempt_of(message)) for message in executor.started]


def test_the_lane_of_a_failed_job_stays_closed(loop: Loop, pump: FakePump, executor: FakeExecutor) -> None:
    """The next of its key starts when it is done; another key does not wait, and nothing of it is done meanwhile."""
    pump.assign(0, Progress(0))
    pump.poll(0, [0, 1], key=b"a")
    pump.poll(0, [2], key=b"b")
    loop._turn()
    assert attempts(executor) == [(0, 1), (2, 1)]
    executor.end(executor.running[0], FAILED)
    loop._turn()
    assert attempts(executor) == [(0, 1), (2, 1), (0, 2)]
    executor.end_all()
    loop._turn()
    assert attempts(executor)[3:] == [(1, 1)]
    executor.end_all()
    loop._turn()
    loop._publish()
    assert pump.assignments[0].view.watermark == 3
    assert (loop.stats().done, loop.stats().failed, loop.stats().waiting) == (3, 0, 0)


def test_attempts_in_place_end(loop: Loop, pump: FakePump, executor: FakeExecutor) -> None:
    """The last one is the message's outcome."""
    pump.assign(0, Progress(0))
    pump.poll(0, [0, 1], key=b"a")
    for _ in range(3):
        loop._turn()
        executor.end(executor.running[0], FAILED)
    loop._turn()
    assert attempts(executor) == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert (loop.stats().done, loop.stats().failed) == (1, 1)


def test_a_partition_that_goes_takes_what_waits_along(pump: FakePump, executor: FakeExecutor) -> None:
    """Another worker runs it; its key is free when the partition comes back."""
    with loop_between(
        pump, executor, companions=[Retrier(Retry(2, delay=60, ordered=True), "key", lambda: None)]
    ) as loop:
        pump.assign(0, Progress(0))
        pump.poll(0, [0, 1], key=b"a")
        loop._turn()
        executor.end(executor.running[0], FAILED)
        loop._turn()
        assert loop.stats().waiting == 1
        pump.revoke(0)
        loop._turn()
        assert (loop.stats().waiting, loop.stats().backlog) == (0, 0)
        pump.assign(0, Progress(0), epoch=2)
        pump.poll(0, [0, 1], key=b"a")
        loop._turn()
        assert attempts(executor) == [(0, 1), (0, 1)]


def test_a_job_that_fails_after_its_partition_went_is_not_run_again(
    loop: Loop, pump: FakePump, executor: FakeExecutor
) -> None:
    """Somebody else has it."""
    pump.assign(0, Progress(0))
    pump.poll(0, [0], key=b"a")
    loop._turn()
    pump.revoke(0)
    loop._turn()
    executor.end(executor.running[0], FAILED)
    loop._turn()
    assert attempts(executor) == [(0, 1)]
    pump.assign(0, Progress(0), epoch=2)
    pump.poll(0, [0], key=b"a")
    loop._turn()
    assert attempts(executor) == [(0, 1), (0, 1)]


def test_a_limit_of_messages_waits_for_the_last_attempt(loop: Loop, pump: FakePump, executor: FakeExecutor) -> None:
    """No other message begins meanwhile, and the one that has begun is brought to its end."""
    loop._plan = loop._plan._replace(max_messages=1)
    pump.assign(0, Progress(0))
    pump.poll(0, [0], key=b"a")
    pump.poll(0, [1], key=b"b")
    loop._turn()
    loop._advance_if_due()
    assert loop.state is State.QUIET
    executor.end(executor.running[0], FAILED)
    loop._turn()
    assert not loop._is_over()
    executor.end_all()
    loop._turn()
    assert loop._is_over()
    assert attempts(executor) == [(0, 1), (0, 2)]


def test_what_waits_does_not_hold_up_a_stop(pump: FakePump, executor: FakeExecutor) -> None:
    """It is not done, and runs again elsewhere."""
    retrier = Retrier(Retry(2, delay=3600, ordered=True), "key", lambda: None)
    with loop_between(pump, executor, companions=[retrier]) as loop:
        pump.assign(0, Progress(0))
        pump.poll(0, [0], key=b"a")
        loop._turn()
        executor.end(executor.running[0], FAILED)
        loop._turn()
        assert not loop._is_over()
        loop._stop.request()
        loop._advance_if_due()
        assert loop._is_over()
        loop._publish()
        assert pump.assignments[0].view.watermark == 0


def test_reruns_come_at_their_time_and_in_order(executor: FakeExecutor) -> None:
    """Those of one time as they were added; those of a partition can be dropped."""
    reruns = Reruns()
    for number, (partition, due) in enumerate([(0, 2.0), (1, 1.0), (0, 1.0), (1, 3.0)]):
        reruns.add(kq.Message("t", partition, number, None, b""), due)
    assert (reruns.patience(0.5), reruns.is_due(0.5), reruns.take(0.5)) == (0.5, False, None)
    taken = [message.offset for _ in range(2) if (message := reruns.take(1.0)) is not None]
    assert taken == [1, 2]
    assert [message.offset for message in reruns.drop(1)] == [3]
    assert (len(reruns), reruns.patience(9.0)) == (1, 0.0)


# -- on a real broker --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_nothing_of_a_key_overtakes_a_job_that_waits(topic: str, hosts: str, executor: str, journal: Journal) -> None:
    """Three keys, each with a job that fails twice in front of three that succeed; a fourth key has none."""
    with kq.Queue(topic, hosts=hosts) as queue:
        for key in ("a", "b", "c"):
            first = queue.using(key=key.encode(), retry=Retry(3, delay=0.3, ordered=True))
            first.enqueue(retry_jobs.fail_and_tell, journal.path, f"{key}0", 2)
            for number in (1, 2, 3):
                queue.using(key=key.encode()).enqueue(retry_jobs.fail_and_tell, journal.path, f"{key}{number}", 0)
        free = [queue.using(key=b"d").enqueue(retry_jobs.fail_and_tell, journal.path, f"d{n}", 0) for n in range(3)]
    calls = Calls()
    with at_work(kq.Worker(topic, hosts=hosts, callback=calls, executor=executor, concurrency=4)):
        wait_until(lambda: len(calls) == 3 * 6 + 3, timeout=30)
    order: dict[str, list[str]] = defaultdict(list)
    for entry in journal.entries():
        order[entry.name[0]].append(entry.name)
    for key in ("a", "b", "c"):
        assert order[key] == [f"{key}0"] * 3 + [f"{key}{number}" for number in (1, 2, 3)]
    ends = {call.job.id: place for place, call in enumerate(calls)}
    assert max(ends[job.id] for job in free) < max(ends.values())
    assert [attempt_of(call.message) for call in calls if call.job.args[1] == "a0"] == [1, 2, 3]


def test_with_ordering_by_partition_all_wait(topic: str, hosts: str, journal: Journal) -> None:
    """Whatever the policy says of order."""
    with kq.Queue(topic, hosts=hosts, retry=Retry(2, delay=0.2)) as queue:
        for number, times in enumerate([0, 2, 0]):
            queue.enqueue(retry_jobs.fail_and_tell, journal.path, str(number), times)
    with at_work(kq.Worker(topic, hosts=hosts, ordering="partition", executor="thread", concurrency=3)) as _:
        wait_until(lambda: len(list(journal.entries())) == 5, timeout=20)
    assert [entry.name for entry in journal.entries()] == ["0", "1", "1", "1", "2"]


def test_after_a_workers_death_the_next_one_begins_where_the_header_says(
    topic: str, hosts: str, journal: Journal, admin: KafkaAdminClient
) -> None:
    """Nothing is lost and nothing overtakes; only the count of the attempts in place is."""
    with kq.Queue(topic, hosts=hosts) as queue:
        spec = queue.using(key=b"a", retry=Retry(3, delay=1, ordered=True))
        spec.enqueue(retry_jobs.fail_and_tell, journal.path, "first", 3)
        spec.enqueue(retry_jobs.fail_and_tell, journal.path, "second", 0)
    with WorkerProcess(journal, topic, hosts) as worker:
        wait_until(lambda: journal.count("run")["first"] == 1, timeout=20)
        worker.kill()
    with WorkerProcess(journal, topic, hosts):
        wait_until(lambda: progress(admin, topic) == (2, []), timeout=40)
    names = [entry.name for entry in journal.entries() if entry.word == "run"]
    assert names == ["first"] * 4 + ["second"]


def test_a_warm_stop_leaves_what_waits(topic: str, hosts: str, journal: Journal, admin: KafkaAdminClient) -> None:
    """It does not wait for an hour, and the next worker has it."""
    with kq.Queue(topic, hosts=hosts) as queue:
        spec = queue.using(key=b"a", retry=Retry(3, delay=3600, ordered=True))
        spec.enqueue(retry_jobs.fail_and_tell, journal.path, "first", 1)
    worker = kq.Worker(topic, hosts=hosts)
    begun = time.monotonic()
    with at_work(worker):
        wait_until(lambda: worker.stats().waiting == 1, timeout=20)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    assert progress(admin, topic) == (0, [])
    done: list[Any] = []
    kq.Worker(topic, hosts=hosts, callback=lambda *told: done.append(told)).start(max_messages=1)
    assert [told[0] for told in done] == ["success"]
