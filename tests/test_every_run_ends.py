"""Every run ends in exactly one outcome, whatever raises around the job."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import call_jobs
import jobs
import pytest
from bench import EXECUTORS, Bench
from helpers import wait_until
from kafka import KafkaConsumer

import kq
from kq import Queue, Worker

ALL = [name for name in EXECUTORS if name != "process" or sys.platform != "win32"]


class Raising(logging.Filter):
    """Raises at lines that begin so, as filters do that look for a web request."""

    def __init__(self, *starts: str) -> None:
        super().__init__()
        self._starts = starts

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage().startswith(self._starts):
            raise LookupError("no request")
        return True


def logger(*starts: str) -> logging.Logger:
    made = logging.Logger("of the program", logging.INFO)
    made.addFilter(Raising(*starts))
    return made


@pytest.mark.parametrize("executor", ALL)
def test_a_log_filter_that_raises_costs_its_line_only(
    executor: str, queue: Queue, consumer: Callable[..., KafkaConsumer], caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs with one key all run, in order, their outcomes are their own, and all is committed."""
    for number in range(4):
        queue.using(key=b"k").enqueue(jobs.add, number, number)
    queue.using(key=b"k").enqueue(jobs.fail, "bad")
    calls = jobs.Calls()
    worker = Worker(
        queue.topic, consumer(), calls, logger=logger("Processing", "Executing job", "Job"), executor=executor
    )
    timer = threading.Timer(20, worker.stop)
    timer.start()
    assert worker.start(max_messages=5) == 5
    timer.cancel()
    assert calls.statuses == ["success"] * 4 + ["failure"]
    assert calls.results == [0, 2, 4, 6, None]
    assert "A line could not be logged" in caplog.text
    queue.enqueue(jobs.add, 5, 5)
    assert worker.start(max_messages=1) == 1
    assert calls[-1].result == 10


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_a_result_whose_text_interrupts_is_a_success(executor: str) -> None:
    """Its text is only for the log."""
    with Bench(EXECUTORS[executor](), logger=logger()) as bench:
        assert bench.run(call_jobs.give_interrupting_text).status == "success"
        assert bench.run(jobs.add, 1, 2).result == 3


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_an_argument_whose_text_interrupts_is_a_failure(executor: str) -> None:
    """With that exception; and the next job runs."""
    with Bench(EXECUTORS[executor](), logger=logger()) as bench:
        outcome = bench.run(jobs.echo, call_jobs.InterruptingText())
        assert (outcome.status, type(outcome.exception)) == ("failure", KeyboardInterrupt)
        assert bench.run(jobs.add, 1, 2).result == 3


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_an_interrupter_that_raises_is_a_failure(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system has no timer or thread left."""
    with Bench(EXECUTORS[executor]()) as bench:
        interrupter = bench.executor._interrupter if executor == "inline" else bench.executor._crew.interrupter

        def call(*_: Any) -> None:
            raise OSError("no timer")

        monkeypatch.setattr(interrupter, "call", call)
        outcome = bench.run(jobs.add, 1, 2)
        assert (outcome.status, str(outcome.exception)) == ("failure", "no timer")
        assert "no timer" in outcome.stacktrace
        monkeypatch.undo()
        assert bench.run(jobs.add, 1, 2).result == 3


def test_an_exception_that_comes_to_an_idle_thread_costs_no_job(caplog: pytest.LogCaptureFixture) -> None:
    """Helpers raise it in the thread of a job, and may be too late; the thread goes on, and the log says so."""
    with Bench(kq.ThreadExecutor()) as bench:
        thrown = threading.Event()
        jobs.HOOKS["arm"] = lambda: call_jobs.raise_later_in_this_thread(0.2)
        before = threading.active_count()
        for _ in range(3):
            thrown.clear()
            assert bench.run(jobs.hook, "arm").status == "success"
            wait_until(lambda: threading.active_count() == before)  # the timer has thrown
            outcomes = [bench.run(jobs.add, number, 0) for number in range(3)]
            assert [outcome.result for outcome in outcomes] == [0, 1, 2]
    assert caplog.text.count("raised in a thread outside its job") == 3


def test_every_thread_survives_such_exceptions() -> None:
    """None is lost, whichever was hit: as many jobs run at once as before."""
    with Bench(kq.ThreadExecutor(), 4) as bench:
        bench.wait_for_room(4)
        jobs.HOOKS["arm"] = lambda: call_jobs.raise_later_in_this_thread(0.05)
        bench.run_all(*[(jobs.hook, "arm")] * 12)
        wait_until(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))
        barrier = threading.Barrier(4)
        jobs.HOOKS["meet"] = lambda: barrier.wait(10)
        ended = bench.run_all(*[(jobs.hook, "meet")] * 8)
    assert sorted(finished.outcome.result for finished in ended if finished.outcome) == [0, 0, 1, 1, 2, 2, 3, 3]
