"""Jobs that fork: their processes are theirs, what they leave is reaped, and no copy speaks for its child."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import odd_jobs
import process_jobs
import pytest
from helpers import wait_until
from journal import Journal
from process_bench import PATIENCE, Bench, statuses

import kq
from kq import ProcessExecutor
from kq.executors.base import Finished

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def results(finished: list[Finished]) -> list[object]:
    return [ended.outcome.result for ended in finished if ended.outcome is not None]


def zombies() -> list[int]:
    """Return the processes below this one that have ended and were not reaped."""
    states = {}
    for pid in odd_jobs.descendants(os.getpid()):
        try:
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
    return [pid for pid, state in states.items() if state == "Z"]


def test_what_jobs_orphan_is_reaped() -> None:
    """As soon as it ends, while its child goes on."""
    with Bench(ProcessExecutor()) as bench:
        assert statuses(bench.run(*[bench.message(odd_jobs.orphan) for _ in range(50)])) == ["success"] * 50
        wait_until(lambda: zombies() == [], 5)


def test_a_process_that_a_job_has_started_is_reaped_by_nobody_else() -> None:
    """A later job in the same child learns how it ended, after others that forked."""
    with Bench(ProcessExecutor()) as bench:
        between = [bench.message(odd_jobs.orphan) for _ in range(5)]
        between += [bench.message(process_jobs.fork_and_wait), bench.message(process_jobs.nap, 0.5)]
        last = bench.message(odd_jobs.wait_for_what_was_left)
        told = results(bench.run(bench.message(odd_jobs.start_and_leave, 7), *between, last))
    assert told[-1] == (told[0], 7)


@pytest.mark.parametrize("job", [odd_jobs.fork_by_multiprocessing, odd_jobs.leave_a_helper, process_jobs.fork_and_wait])
def test_a_job_that_forks_waits_for_nothing(job: object) -> None:
    """Neither because of orphans that others left, nor for a helper that it leaves itself."""
    with Bench(ProcessExecutor()) as bench:
        bench.run(*[bench.message(odd_jobs.orphan) for _ in range(5)])
        begun = time.monotonic()
        assert statuses(bench.run(*[bench.message(job) for _ in range(20)])) == ["success"] * 20
        assert time.monotonic() - begun < 20 * 0.25


def test_multiprocessing_works_in_a_job() -> None:
    """Its pool ends by SIGTERM, and so does what is terminated at the moment when it starts."""
    with Bench(ProcessExecutor(), 2) as bench:
        pools = bench.run(*[bench.message(odd_jobs.map_in_a_pool) for _ in range(4)])
        ends = bench.run(*[bench.message(odd_jobs.terminate_at_once, 20) for _ in range(4)])
    assert results(pools) == [[1, 2, 3]] * 4
    assert results(ends) == [{-15}] * 4


def test_a_copy_that_calls_exit_ends_as_it_says() -> None:
    """And the job goes on, as in any program."""
    with Bench(ProcessExecutor()) as bench:
        assert results(bench.run(*[bench.message(odd_jobs.fork_and_exit, code) for code in (0, 3, 255)])) == [0, 3, 255]


def test_a_copy_that_comes_back_later_ends(journal: Journal) -> None:
    """It starts nothing, says nothing, and spoils no job after it that forks."""
    with Bench(ProcessExecutor()) as bench:
        (_, _, first, _), *_ = bench.run(bench.message(odd_jobs.fork_and_return_later, journal.path))
        assert first is not None and first.status == "success"
        wait_until(lambda: journal.count("returned"), PATIENCE)
        assert statuses(bench.run(*[bench.message(process_jobs.fork_and_wait) for _ in range(5)])) == ["success"] * 5
        wait_until(lambda: not odd_jobs.lives(first.result), 5)


@pytest.mark.parametrize("job", [odd_jobs.take, odd_jobs.give_forking])
def test_what_forks_while_it_is_read_has_one_outcome(job: object, caplog: pytest.LogCaptureFixture) -> None:
    """Argument or result: the copy neither runs the job nor tells of it."""
    caplog.set_level(logging.INFO, "kq.worker")
    with Bench(ProcessExecutor(), wants_outcome=False) as bench:
        args = [odd_jobs.ForksWhenRead()] if job is odd_jobs.take else []
        ended = bench.run(*[bench.message(job, *args) for _ in range(5)], bench.message(process_jobs.nothing))
    assert statuses(ended) == ["success"] * 6
    assert len([text for text in caplog.messages if text.startswith("Executing")]) == 6


def test_an_on_start_that_forks_makes_no_second_child() -> None:
    """The copy ends; jobs run once each."""
    with Bench(ProcessExecutor(on_start=odd_jobs.fork_twice_at_start), 2) as bench:
        ended = bench.run(*[bench.message(process_jobs.pid_of_child) for _ in range(50)])
        assert statuses(ended) == ["success"] * 50
        assert len(set(results(ended))) <= 2


def test_a_failure_says_that_a_job_returned_twice() -> None:
    """Where the copy is as quick as the job."""
    with Bench(ProcessExecutor()) as bench:
        ((_, _, outcome, _),) = bench.run(bench.message(process_jobs.fork_and_return_twice))
    assert outcome is not None
    assert type(outcome.exception) is kq.ChildLost and "returned twice" in str(outcome.exception)
