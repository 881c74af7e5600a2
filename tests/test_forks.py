"""Forks of a worker's process are not the worker: a signal to them is theirs, and one to all stops the worker once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable

import forking_jobs
import jobs
import pytest
from kafka import KafkaConsumer

from kq import Queue, Worker

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

WORKER = """
import os, sys
import kq
topic, hosts, executor = sys.argv[1:]
os.setsid()  # a process group of its own, which a test signals
def callback(status, message, job, result, exception, stacktrace):
    print("callback", status, result, flush=True)
worker = kq.Worker(topic, hosts=hosts, executor=executor, callback=callback)
print("returned", worker.start(max_messages=5), flush=True)
"""
HERE = pytest.mark.parametrize("executor", ["inline", "thread"])
SIGTERM = -signal.SIGTERM


@HERE
def test_a_pool_in_a_job_ends_and_stops_nobody(executor: str, hosts: str, queue: Queue) -> None:
    """``terminate`` sends SIGTERM to processes that have the worker's handlers no more."""
    for _ in range(5):
        queue.enqueue(forking_jobs.map_in_a_pool, 3)
    with jobs.Program(WORKER, queue.topic, hosts, executor) as program:
        assert program.end() == 0, program.text
    assert program.lines == ["callback success 6"] * 5 + ["returned 5"]


@HERE
def test_a_signal_to_helpers_is_no_request_to_the_worker(executor: str, hosts: str, queue: Queue) -> None:
    """Three of them at once, in C code, just forked: the worker goes on, and the next jobs run."""
    for _ in range(5):
        queue.enqueue(forking_jobs.terminate_helpers, 3)
    with jobs.Program(WORKER, queue.topic, hosts, executor) as program:
        assert program.end() == 0, program.text
    assert program.lines == [f"callback success {[SIGTERM] * 3}"] * 5 + ["returned 5"]


@HERE
def test_a_signal_to_the_group_is_one_request(executor: str, hosts: str, queue: Queue) -> None:
    """Helpers end of it; the worker hears it once, and lets its job finish."""
    queue.enqueue(forking_jobs.outlive_helpers, 3)
    with jobs.Program(WORKER, queue.topic, hosts, executor) as program:
        program.wait_for("helpers run")
        os.killpg(program.process.pid, signal.SIGTERM)
        assert program.end() == 0, program.text
    assert program.lines == ["helpers run", f"callback success {[SIGTERM] * 3}", "returned 1"]


@HERE
def test_a_fork_has_the_handlers_of_before(executor: str, queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """Those that the program had when it called ``start``, and no wakeup descriptor; the worker keeps its own."""
    queue.enqueue(forking_jobs.handlers_in_a_fork)
    calls = jobs.Calls()
    before = [getattr(signal.getsignal(signum), "__name__", "") or str(signal.getsignal(signum)) for signum in (2, 15)]
    assert Worker(queue.topic, consumer(), calls, executor=executor).start(max_messages=1) == 1
    assert calls.results == [(*before, -1)]


def test_signals_are_let_through_again_after_a_fork(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """They are held back for the moment of the fork only, in parent and child."""
    masks = multiprocessing.get_context("fork").SimpleQueue()

    def fork() -> set[signal.Signals]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        if os.fork() == 0:
            masks.put(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before)
            os._exit(0)
        os.wait()
        masks.put(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before)
        return before

    jobs.HOOKS["fork"] = fork
    queue.enqueue(jobs.hook, "fork")
    Worker(queue.topic, consumer()).start(max_messages=1)
    assert [masks.get(), masks.get()] == [True, True]
