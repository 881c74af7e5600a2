"""The process executor: signals, stops and settings."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jobs
import process_jobs
import pytest
from helpers import wait_until
from journal import Journal, note
from process_bench import GONE_WITHIN, PATIENCE, children, pids, run_worker

import kq
from kq import ProcessExecutor, Queue, Worker
from kq.executors.process.child import run_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


_WORKER = """
import os, sys, kq
os.setpgrp()
worker = kq.Worker(
    sys.argv[1], hosts=sys.argv[2], executor="process", concurrency=int(sys.argv[3]), shutdown_timeout=60,
    callback=lambda status, *_: print(status, flush=True),
)
print("up", flush=True)
print("processed", worker.start(), flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_running_jobs_end(signum: int, topic: str, hosts: str, queue: Queue) -> None:
    """Ctrl-C goes to the whole group of a terminal, and is left to the worker."""
    queue.enqueue(jobs.say_and_nap, 1)
    with jobs.Program(_WORKER, topic, hosts, "2") as program:
        program.wait_for("begin")
        os.killpg(program.process.pid, signum)
        assert program.end() == 0
    assert program.lines[-3:] == ["end", "success", "processed 1"]


def test_the_second_signal_ends_running_jobs(topic: str, hosts: str, queue: Queue) -> None:
    """They have no outcome, and run again."""
    queue.enqueue(jobs.say_and_nap, 60)
    for _ in range(2):
        with jobs.Program(_WORKER, topic, hosts, "2") as program:
            program.wait_for("begin")
            os.killpg(program.process.pid, signal.SIGINT)
            time.sleep(0.2)  # two of a kind that come at once are one
            os.killpg(program.process.pid, signal.SIGINT)
            assert program.end(20) == 0
        assert program.lines[-1] == "processed 0"


def test_the_third_signal_ends_the_worker_at_once(topic: str, hosts: str, queue: Queue, journal: Journal) -> None:
    """And its children."""
    queue.enqueue(process_jobs.endure, journal.path, "resists")
    with jobs.Program(_WORKER, topic, hosts, "1") as program:
        wait_until(lambda: journal.names("start"), PATIENCE)
        for _ in range(3):
            program.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)  # two of a kind that come at once are one
        # the second may have been quicker, and the third for what comes after ``start``
        assert program.end() in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
        wait_until(lambda: [pid for pid in pids(journal) if process_jobs.exists(pid)] == [], GONE_WITHIN)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_children_leave_signals_to_the_worker(signum: int, queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """SIGINT of a terminal, and SIGTERM of a service manager that sends it to all: the running job is not lost."""
    queue.enqueue(process_jobs.signal_everything, signum)
    assert work(1).results == ["went on"]


def test_start_can_be_called_again(topic: str, hosts: str, queue: Queue) -> None:
    """Each time with new children, and nothing is left of the old ones."""
    for number in range(6):
        queue.enqueue(process_jobs.nap, 0, number)
    calls = jobs.Calls()
    worker = Worker(topic, hosts=hosts, executor="process", callback=calls)
    run_worker(worker, 1)
    descriptors = len(os.listdir("/proc/self/fd"))
    for count in (2, 3):
        assert run_worker(worker, count) == count
    assert calls.results == list(range(6))
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert children() == []


def test_a_stop_from_another_thread_ends_idle_children(topic: str, hosts: str) -> None:
    """Without a message ever."""
    worker = Worker(topic, hosts=hosts, executor="process", concurrency=2)
    threading.Timer(0.5, worker.stop).start()
    assert run_worker(worker, 10) == 0
    assert children() == []


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kill_grace": -1}, "kill_grace must be an int or float of 0 or greater"),
        ({"kill_grace": "1"}, "kill_grace"),
        ({"kill_grace": None}, "kill_grace"),
        ({"kill_grace": math.nan}, "kill_grace"),
        ({"max_jobs": 0}, "max_jobs must be an int of 1 or greater"),
        ({"max_jobs": 1.5}, "max_jobs"),
        ({"max_memory": 0}, "max_memory must be an int of 1 or greater"),
        ({"max_memory": "512M"}, "max_memory"),
        ({"preload": "module"}, "preload must be a list or tuple of module names"),
        ({"preload": [1]}, "preload"),
        ({"preload": 1}, "preload"),
        ({"on_start": "function"}, "on_start must be a callable"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    """With a name."""
    with pytest.raises(kq.ArgumentError, match=text):
        ProcessExecutor(**settings)


def test_what_children_cannot_be_given_is_refused(topic: str, hosts: str) -> None:
    """A deserializer goes to each child."""
    held = socket.socket()
    try:
        worker = Worker(topic, hosts=hosts, deserializer=lambda value: (held, value), executor="process")
        with pytest.raises(kq.ArgumentError, match="picklable"):
            worker.start(max_messages=1)
    finally:
        held.close()


def test_the_executor_says_what_it_is() -> None:
    """A repr without surprises; the settings are keyword arguments with defaults."""
    assert repr(ProcessExecutor()) == "ProcessExecutor(kill_grace=2)"
    assert callable(run_child)


def test_notes_are_whole_lines(journal: Journal) -> None:
    """What the other tests rest on."""
    note(journal.path, "start", "a name")
    assert [entry[2:] for entry in journal.entries()] == [("start", "a name")]
