"""A job that takes signals for itself does not keep them: the worker hears of a stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jobs
import pytest
from bench import Bench

import kq
from kq import Queue

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def handler(*_: Any) -> None:
    """A handler of the program."""


def own(*_: Any) -> None:
    """A handler of a job."""


@pytest.fixture
def handled() -> Iterator[int]:
    """Handle both signals, write them down in a socket, and return its descriptor."""
    read, write = socket.socketpair()
    write.setblocking(False)
    before = [(signum, signal.signal(signum, handler)) for signum in (signal.SIGINT, signal.SIGTERM)]
    descriptor = signal.set_wakeup_fd(write.fileno())
    yield write.fileno()
    signal.set_wakeup_fd(descriptor)
    for signum, previous in before:
        signal.signal(signum, previous)
    read.close()
    write.close()


def take(way: Any) -> Callable[[], None]:
    def job() -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, way)

    return job


@pytest.mark.parametrize("way", [signal.SIG_IGN, signal.SIG_DFL, own], ids=["ignored", "default", "own"])
def test_the_handlers_of_before_the_job_are_put_back(way: Any, handled: int) -> None:
    """Whatever the job put in their place; also where it fails."""
    jobs.HOOKS["take"] = take(way)
    jobs.HOOKS["take and fail"] = lambda: (take(way)(), 1 / 0)
    with Bench(kq.InlineExecutor()) as bench:
        for name in ("take", "take and fail"):
            bench.run(jobs.hook, name)
            assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == [handler, handler]


def test_handlers_that_were_set_between_jobs_are_kept(handled: int) -> None:
    """Those of the moment when the job began count, such as a callback's."""
    with Bench(kq.InlineExecutor()) as bench:
        bench.run(jobs.add, 1, 2)
        signal.signal(signal.SIGTERM, own)
        jobs.HOOKS["take"] = take(signal.SIG_IGN)
        bench.run(jobs.hook, "take")
        assert signal.getsignal(signal.SIGTERM) is own


def test_where_signals_are_written_down_is_put_back(handled: int) -> None:
    """Event loops take it for themselves, and leave nothing in its place."""

    def job() -> None:
        loop = asyncio.new_event_loop()
        loop.add_signal_handler(signal.SIGUSR2, own)
        loop.remove_signal_handler(signal.SIGUSR2)
        loop.close()
        taken.append(signal.set_wakeup_fd(-1))

    taken: list[int] = []
    jobs.HOOKS["take"] = job
    with Bench(kq.InlineExecutor()) as bench:
        bench.run(jobs.hook, "take")
        assert taken == [-1]
        assert signal.set_wakeup_fd(handled) == handled


WORKER = """
import sys
import jobs, kq

worker = kq.Worker(sys.argv[1], hosts=sys.argv[2], callback=lambda status, *_: jobs.say("callback " + status))
jobs.say(f"returned {worker.start()}")
"""


@pytest.mark.parametrize("way", ["SIG_IGN", "SIG_DFL"])
def test_sigterm_still_is_a_warm_stop(way: str, hosts: str, queue: Queue) -> None:
    """After such a job the worker lets the next one finish, and returns."""
    spec = queue.using(partition=0)
    spec.enqueue(signal.signal, signal.SIGTERM, getattr(signal, way))
    spec.enqueue(jobs.say_and_nap, 0.5)
    spec.enqueue(jobs.say_and_nap, 0.5)
    with jobs.Program(WORKER, queue.topic, hosts) as program:
        program.wait_for("begin")
        program.process.terminate()
        assert program.end() == 0
    assert program.lines == ["callback success", "begin", "end", "callback success", "returned 2"]
