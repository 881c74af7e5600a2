"""The event loop of a thread or child outlives its jobs, and what a job leaves behind on it does not."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import call_jobs
import jobs
import pytest
from bench import EXECUTORS, Bench
from helpers import wait_until
from journal import Journal

import kq
from kq import Queue
from kq.executors import coroutine

ALL = [name for name in EXECUTORS if name != "process" or sys.platform != "win32"]


@pytest.fixture(params=ALL)
def executor(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of each executor in turn; the client of the jobs is not bound to a loop before or after."""
    call_jobs.Client.loop = None
    yield request.param
    call_jobs.Client.loop = None
    call_jobs._kept.clear()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "kq.executors"]


@pytest.mark.parametrize("bad", [call_jobs.fail, call_jobs.wait_for_ever], ids=["failure", "timeout"])
def test_a_client_of_the_module_works_after_a_job_that_ends_badly(bad: Callable[[], Any], executor: str) -> None:
    """It is bound to the event loop, so that must be the same."""
    with Bench(EXECUTORS[executor]()) as bench:
        assert bench.run(call_jobs.fetch).result == "got"
        assert bench.run(bad, timeout=0.5).status in ("failure", "timeout")
        if executor != "process":  # there a timeout ends the child
            assert bench.run(call_jobs.fetch).result == "got"
    if executor == "process":
        with Bench(EXECUTORS[executor]()) as bench:
            outcomes = [bench.run(job) for job in (call_jobs.fetch, call_jobs.fail, call_jobs.fetch)]
        assert [outcome.result for outcome in outcomes] == ["got", None, "got"]


def test_tasks_that_a_job_leaves_behind_end_with_it(
    executor: str, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """They are cancelled before the outcome is told; a warning names the job and the tasks; the loop is kept."""
    with Bench(EXECUTORS[executor]()) as bench:
        outcome = bench.run(call_jobs.leave_a_task, journal.path)
        assert (outcome.status, outcome.result) == ("success", "got")
        assert journal.count("ended") == {"background": 1}
        assert bench.run(call_jobs.fetch).result == "got"
        lines = wait_until(lambda: warnings_of(caplog))
    assert lines == ["Job job-0 left tasks behind, which are cancelled: leave_a_task.<locals>.background"]


def test_a_task_with_one_step_to_go_is_nothing_to_warn_of(executor: str, caplog: pytest.LogCaptureFixture) -> None:
    """Clients leave such when they close."""
    with Bench(EXECUTORS[executor]()) as bench:
        assert bench.run(call_jobs.leave_a_task_that_is_nearly_done).status == "success"
    assert warnings_of(caplog) == []


def test_a_task_that_ignores_its_cancellation_is_abandoned(executor: str, caplog: pytest.LogCaptureFixture) -> None:
    """Within the deadline, loudly; the next job has another loop."""
    with Bench(EXECUTORS[executor]()) as bench:
        bench.run(jobs.add, 1, 2)
        begin = time.monotonic()
        assert bench.run(call_jobs.leave_a_stubborn_task).status == "success"
        assert coroutine.GRACE * 0.9 < time.monotonic() - begin < coroutine.GRACE + 2
        assert bench.run(call_jobs.fetch).result == "got"
        wait_until(lambda: [record for record in caplog.records if record.levelno == logging.ERROR])
    assert "Tasks of job job-1 ignore their cancellation: leave_a_stubborn_task.<locals>.stubborn" in caplog.text


def test_a_time_limit_holds_while_tasks_are_ended(executor: str) -> None:
    """The job is a timeout, and the next one runs."""
    with Bench(EXECUTORS[executor]()) as bench:
        assert bench.run(jobs.add, 1, 2).result == 3
        assert bench.run(call_jobs.leave_a_stubborn_task, timeout=0.3).status == "timeout"
        assert bench.run(call_jobs.fetch).result == "got"


def test_asynchronous_generators_are_closed_with_the_loop(executor: str, journal: Journal) -> None:
    """Their ``finally`` blocks run when the worker, or the child, ends in peace."""
    made = kq.ProcessExecutor(max_jobs=1) if executor == "process" else EXECUTORS[executor]()
    with Bench(made) as bench:
        assert bench.run(call_jobs.leave_a_generator, journal.path).status == "success"
        if executor == "process":
            wait_until(lambda: journal.count("closed"))
    assert journal.count("closed") == {"generator": 1}


STOPPED = """
import logging, sys
import kq
from jobs import say

logging.basicConfig(level=logging.ERROR, format="%(name)s %(message)s")
callback = lambda status, *_: say("callback " + status)
worker = kq.Worker(sys.argv[1], hosts=sys.argv[2], executor=sys.argv[3], callback=callback, shutdown_timeout=30)
say(f"returned {worker.start()}")
"""


@pytest.mark.parametrize("executor", ["inline", "thread"])
@pytest.mark.parametrize("way", ["kept", "forgotten"])
def test_a_stop_does_not_wait_for_tasks_that_ignore_their_cancellation(
    way: str, executor: str, hosts: str, queue: Queue
) -> None:
    """Whatever a job has left behind, ``start`` returns, and the process ends, also where that frees the tasks."""
    queue.enqueue(call_jobs.leave_a_stubborn_task, way)
    with jobs.Program(STOPPED, queue.topic, hosts, executor) as program:
        program.wait_for("callback success")
        begin = time.monotonic()
        program.process.terminate()
        assert program.end() == 0
        assert time.monotonic() - begin < 8
    assert "returned 1" in program.lines
