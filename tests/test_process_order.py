"""The process executor: who waits for whom, and coroutines on every executor."""

from __future__ import annotations

import collections
import itertools
import statistics
import sys
import time
from collections.abc import Callable

import jobs
import process_jobs
import pytest
from journal import Journal
from journal import work as noted
from process_bench import Bench, moment, run_worker, statuses

from kq import ProcessExecutor, Queue, Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def test_no_job_waits_behind_a_slow_one_while_a_child_is_idle() -> None:
    """Short jobs that were sent along with a slow one are taken back."""
    with Bench(ProcessExecutor(), 2) as bench:
        bench.run(*[bench.message(process_jobs.nothing) for _ in range(500)])  # it has learnt that jobs are short
        slow = bench.message(process_jobs.nap, 3)
        rest = [bench.message(process_jobs.nothing) for _ in range(200)]
        ended = bench.run(slow, *rest)
    assert ended[-1].message is slow
    assert set(statuses(ended)) == {"success"}


def test_jobs_wait_only_milliseconds_for_an_idle_child(journal: Journal) -> None:
    """Behind a slow job that came along with them: about 4 ms where the machine is free."""
    waits = []
    with Bench(ProcessExecutor(), 2) as bench:
        for number in range(5):
            bench.run(*[bench.message(process_jobs.nothing) for _ in range(300)])
            slow = [bench.message(noted, journal.path, f"slow {number}", 0.2)]
            quick = [bench.message(noted, journal.path, f"quick {number} {index}") for index in range(4)]
            bench.run(*slow, *quick)
            begin = moment(journal, "start", f"slow {number}").time
            waits.append(max(moment(journal, "start", f"quick {number} {index}").time - begin for index in range(4)))
    assert statistics.median(waits) < 0.02


def test_jobs_with_one_key_run_in_order_whatever_dies(
    queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """Also where the child of one of them is lost, and others are taken back."""
    for number in range(40):
        for key in ("a", "b", "c"):
            spec = queue.using(key=key.encode(), timeout=0.2 if number == 20 else 0)
            if number == 10:
                spec.enqueue(process_jobs.kill_itself)
            elif number == 20 and key == "b":
                spec.enqueue(time.sleep, 60)
            else:
                spec.enqueue(noted, journal.path, f"{key} {number}", 0.002)
    calls = work(120, concurrency=3)
    assert collections.Counter(calls.statuses) == {"success": 116, "failure": 3, "timeout": 1}
    for key in ("a", "b", "c"):
        entries = [(entry.word, entry.name) for entry in journal.entries() if entry.name.startswith(key)]
        numbers = [number for number in range(40) if number != 10 and not (number == 20 and key == "b")]
        assert entries == [(word, f"{key} {number}") for number in numbers for word in ("start", "end")]


def test_a_commit_interval_of_zero_keeps_jobs_out_of_queues(
    queue: Queue, work: Callable[..., jobs.Calls], hosts: str
) -> None:
    """However short they are: what would wait in a child starts after the commit of what is before it."""
    queue.enqueue_many(200 * [(process_jobs.nothing, (), {})])
    in_hand: list[int] = []
    worker = Worker(
        queue.topic,
        hosts=hosts,
        executor="process",
        concurrency=2,
        commit_interval=0,
        callback=lambda *_: in_hand.append(worker.stats().in_flight),
    )
    assert run_worker(worker, 200) == 200
    assert max(in_hand) <= 2


def test_slow_callbacks_do_not_keep_commits_waiting(queue: Queue, hosts: str) -> None:
    """What they were told of is committed while they are told of more, though all of that has ended."""
    queue.enqueue_many(700 * [(process_jobs.nothing, (), {})])
    falls: dict[int, float] = {}

    def callback(*_: object) -> None:
        if worker.stats().done > 400:  # until then it learns how short the jobs are, and how many a child may have
            time.sleep(0.02)
            falls.setdefault(sum(worker.stats().commit_lag.values()), time.monotonic())

    worker = Worker(queue.topic, hosts=hosts, executor="process", callback=callback)
    assert run_worker(worker, 700) == 700
    moments = [*falls.values()]
    assert max(later - earlier for earlier, later in itertools.pairwise(moments)) < 2


def test_children_work_at_once(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """As many jobs as there are children."""
    for _ in range(8):
        queue.enqueue(process_jobs.nap, 1)
    moments = []
    work(8, lambda *_: moments.append(time.monotonic()), concurrency=8)
    assert moments[-1] - moments[0] < 1


# -- coroutines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_coroutine_functions_run_on_every_executor(
    executor: str, queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """Results, errors and timeouts are those of any job."""
    queue.enqueue(process_jobs.nap_async, journal.path, "one", 0.01)
    queue.enqueue(process_jobs.fail_async)
    queue.using(timeout=0.3).enqueue(process_jobs.nap_async, journal.path, "two", 60)
    queue.enqueue(process_jobs.nap_async, journal.path, "three", 0.01)
    calls = work(4, executor=executor, concurrency=1)
    assert calls.statuses == ["success", "failure", "timeout", "success"]
    assert (calls[0].result, calls[3].result) == ("one", "three")
    assert (type(calls[1].exception), str(calls[1].exception)) == (ValueError, "async")


def test_many_coroutines_run_at_once_in_threads(
    queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """As many as the worker is told."""
    for number in range(50):
        queue.enqueue(process_jobs.nap_async, journal.path, number, 0.5)
    work(50, executor="thread", concurrency=50)
    entries = list(journal.entries())
    last_start = max(entry.time for entry in entries if entry.word == "start")
    first_end = min(entry.time for entry in entries if entry.word == "end")
    assert last_start < first_end or sum(entry.time < first_end for entry in entries if entry.word == "start") > 25
