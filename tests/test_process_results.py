"""Results on their way have a bound, and none of them harms the worker."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import jobs
import odd_jobs
import process_jobs
import pytest
from helpers import wait_until
from process_bench import PATIENCE, Bench, statuses

import kq
from kq import Job, ProcessExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

_LARGE = """
import resource, sys, time, kq, odd_jobs, process_jobs
from process_bench import Bench
size = int(sys.argv[1])
with Bench(kq.ProcessExecutor(), 4) as bench:
    bench.run(*[bench.message(process_jobs.nap, 0.1) for _ in range(8)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(4):
        bench.executor.start(bench.message(odd_jobs.give_much, size))
    bench.executor.flush()
    ended = 0
    while ended < 4:
        ended += len([one.outcome.result for one in bench.executor.finished()])
        bench.waker.wait(min(0.2, bench.executor.patience()))
    print("grown by", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 // size, flush=True)
"""


def test_large_results_come_one_at_a_time() -> None:
    """Four at once take the memory of one: what is read, and what is unpickled of it."""
    with jobs.Program(_LARGE, str(100 << 20)) as program:
        assert program.end() == 0, program.text
    assert int(program.lines[-1].split()[-1]) <= 2


def test_results_that_nobody_takes_stay_where_they_are() -> None:
    """While the loop is away no more than the bound is read; then all of them arrive."""
    with Bench(ProcessExecutor(), 4) as bench:
        wait_until(lambda: bench.executor.finished() == [] and bench.executor.room() == 4, 30)
        for _ in range(40):
            bench.executor.start(bench.message(process_jobs.give_bytes, 4 << 20))
        bench.executor.flush()
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and not bench.executor._children.paused:
            bench.executor.watch(time.monotonic())
        for _ in range(100):
            bench.executor.watch(time.monotonic())
        assert 0 < bench.executor._outcomes._held <= 33 << 20
        assert len(bench.executor._children.paused) > 0
        told: list[str] = []
        while len(told) < 40:
            told += statuses(bench.executor.finished())
            bench.executor.flush()
            bench.waker.wait(min(0.2, bench.executor.patience()))
    assert told == ["success"] * 40


def test_a_result_that_waits_for_the_loop_is_in_time() -> None:
    """Its job returned within its limit: that the loop had no room for it is not its doing."""
    with Bench(ProcessExecutor(kill_grace=0.1), 2) as bench:
        wait_until(lambda: bench.executor.finished() == [] and bench.executor.room() == 2, 30)
        for _ in range(2):
            bench.executor.start(bench.message(odd_jobs.give_much, 60 << 20, timeout=1.5))
        bench.executor.flush()
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            bench.executor.watch(time.monotonic())
            time.sleep(0.01)
        assert bench.executor._children.paused
        told: list[str] = []
        while len(told) < 2:
            told += statuses(bench.executor.finished())
            bench.waker.wait(min(0.2, bench.executor.patience()))
    assert told == ["success"] * 2


def test_a_child_that_ends_with_a_result_under_way_loses_nothing() -> None:
    """Though that had to wait, and the child has done its share."""
    with Bench(ProcessExecutor(max_jobs=1), 3) as bench:
        messages = [bench.message(process_jobs.give_bytes, 40 << 20) for _ in range(6)]
        assert statuses(bench.run(*messages)) == ["success"] * 6


@pytest.mark.parametrize("way", odd_jobs._PAINS)
def test_what_this_process_cannot_read_is_a_warning(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """As a result, in an exception, as an argument: the job is told by its headers, and the worker goes on."""
    with Bench(ProcessExecutor()) as bench:
        hurts = odd_jobs.Hurts(os.getpid(), way)
        (given, failed, after) = bench.run(
            bench.message(odd_jobs.give, hurts),
            bench.message(odd_jobs.fail_with, hurts),
            bench.message(process_jobs.nap, 0),
        )
    assert statuses([given, failed, after]) == ["success", "failure", "success"]
    assert given.outcome is not None and given.outcome.result is None
    assert given.job == Job(topic="bench", partition=0) and failed.job == given.job
    assert failed.outcome is not None and "fail_with" in str(failed.outcome.stacktrace)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 4 and all("cannot be read here" in text for text in warnings)


@contextlib.contextmanager
def refusing(*names: str) -> Iterator[None]:
    """Have a filter of these loggers raise."""

    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("no log today")

    for name in names:
        logging.getLogger(name).addFilter(refuse)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(refuse)


def test_a_filter_that_raises_costs_no_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    """What logs do is not the job's doing."""
    with refusing("shop", "kq.worker"), Bench(ProcessExecutor()) as bench:
        ended = bench.run(
            bench.message(process_jobs.log_a_line, "one"),
            bench.message(process_jobs.bring_up, "mute"),
            bench.message(process_jobs.nothing),
        )
    assert statuses(ended) == ["success", "failure", "success"]
    assert "no log today" in capsys.readouterr().err


def test_a_warning_that_cannot_be_logged_costs_no_outcome() -> None:
    """Nor does it keep the message for ever, though neither job nor result can be read here."""
    with refusing("kq.executors"), Bench(ProcessExecutor()) as bench:
        hurts = odd_jobs.Hurts(os.getpid(), "exit")
        ended = bench.run(bench.message(odd_jobs.give, hurts), bench.message(process_jobs.nothing))
    assert statuses(ended) == ["success"] * 2


def test_an_error_that_cannot_be_logged_does_not_end_the_worker() -> None:
    """A fork server that is gone is replaced all the same."""
    with refusing("kq.executors"), Bench(ProcessExecutor()) as bench:
        server = bench.executor._children.spawner._process
        server.kill()
        server.wait(PATIENCE)
        assert statuses(bench.run(bench.message(process_jobs.nothing))) == ["success"]


def test_a_result_that_cannot_cross_is_told(queue: kq.Queue, hosts: str, caplog: pytest.LogCaptureFixture) -> None:
    """Once, with the job, its function and the reason; the callback gets None, and hears of a success."""
    job = queue.enqueue(process_jobs.give_unpicklable)
    seen: list[Any] = []
    worker = kq.Worker(queue.topic, hosts=hosts, executor="process", callback=lambda *told: seen.append(told))
    worker.start(max_messages=1)
    assert [(status, result) for status, _, _, result, _, _ in seen] == [("success", None)]
    (line,) = [record.getMessage() for record in caplog.records if "could not come from its child" in record.msg]
    assert line.startswith(f"What job {job.id} returned could not come from its child, and the callback gets None: ")
    assert "cannot pickle" in line
    assert f"(process_jobs.give_unpicklable, topic {queue.topic}, partition 0, offset 0)" in line
