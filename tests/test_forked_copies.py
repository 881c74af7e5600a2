"""A fork that comes back from a job ends there; it is no second worker."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import call_jobs
import jobs
import journal as journals
import pytest
from bench import Bench
from journal import Journal

import kq
from kq import Queue

#: Seconds until a program is too slow.
PATIENCE = 30.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def run(source: str, *args: str) -> jobs.Program:
    """Run a program to its end, and end what it has left behind."""
    with jobs.Program("import os; os.setpgrp()\n" + source, *args) as program:
        try:
            code = program.process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.process.pid, signal.SIGKILL)
        assert program.end() == code
    assert code == 0, program.text
    return program


#: Writes down what the callback is told, and by which process.
WORKER = """
import atexit, os, sys, warnings
import kq
from journal import note
from jobs import say

warnings.simplefilter("ignore")
topic, hosts, executor, path, count = sys.argv[1:]
atexit.register(lambda: note(path, "atexit", "worker"))

def callback(status, message, job, result, *rest):
    note(path, "callback", message.offset)
    say(f"{message.offset} {status} {result}")

worker = kq.Worker(topic, hosts=hosts, executor=executor, callback=callback)
note(path, "worker", "up")
say(f"returned {worker.start(max_messages=int(count))}")
"""
#: How a copy comes back, and its exit code.
WAYS = {"return": 0, "print": 0, "raise": 1, "text": 1, "0": 0, "7": 7}


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_a_fork_that_comes_back_is_no_second_worker(executor: str, hosts: str, queue: Queue, journal: Journal) -> None:
    """Each job runs once, each callback comes once, from one process; the copy ends as Python would end it."""
    spec = queue.using(partition=0)
    for way in WAYS:
        spec.enqueue(call_jobs.fork_and, way)
        spec.enqueue(call_jobs.fork_on_the_loop_and, way)
    for number in range(10):
        spec.enqueue(journals.work, journal.path, number)
    count = 2 * len(WAYS) + 10
    program = run(WORKER, queue.topic, hosts, executor, journal.path, str(count))
    entries = list(journal.entries())
    assert {entry.pid for entry in entries} == {program.process.pid}
    assert journal.count("end") == {str(number): 1 for number in range(10)}
    assert journal.count("callback") == {str(number): 1 for number in range(count)}
    assert journal.count("atexit") == {"worker": 1}
    codes = [f"{number} success {code}" for number, code in enumerate(code for code in WAYS.values() for _ in range(2))]
    told = [line for line in program.lines if " success " in line]
    assert told[: len(codes)] == codes
    assert program.lines.count("printed by the copy") == 2
    assert program.lines.count("said by the copy") == 2
    assert program.lines.count("ValueError: raised by the copy") == 2
    assert f"returned {count}" in program.lines


#: Another thread has locked the stream for ever when the job forks.
LOCKED = """
import os, sys, threading, warnings
import call_jobs, kq
from bench import Bench
from helpers import wait_until

warnings.simplefilter("ignore")
read, write = os.pipe()
stream = os.fdopen(write, "w")
writer = threading.Thread(target=stream.write, args=("x" * 1_000_000,), daemon=True)
writer.start()
assert os.read(read, 1) == b"x"
sys.stdout = stream
with Bench(kq.InlineExecutor()) as bench:
    outcome = bench.run(call_jobs.fork_and, "return")
print(outcome.status, outcome.result, file=sys.stderr, flush=True)
os._exit(0)
"""


def test_a_copy_whose_streams_are_locked_ends_all_the_same() -> None:
    """The thread that holds the lock is not in the copy and never lets it go."""
    assert run(LOCKED).lines == ["success 0"]


def test_a_fork_that_returns_from_unpickling_or_from_on_start_ends_too(journal: Journal) -> None:
    """Both are user code: a module that is imported, a hook."""
    source = """
import os, sys, warnings
import call_jobs, kq
from bench import Bench
from journal import note

warnings.simplefilter("ignore")
path = sys.argv[1]
def read(value):
    call_jobs.fork_and("return")
    return kq.loads(value)
for executor in (kq.InlineExecutor, kq.ThreadExecutor):
    with Bench(executor(on_start=lambda: call_jobs.fork_and("0")), deserialize=read) as bench:
        bench.run(note, path, "ran", executor.__name__)
"""
    run(source, journal.path)
    assert journal.count("ran") == {"InlineExecutor": 1, "ThreadExecutor": 1}


def test_in_a_child_such_a_job_has_failed() -> None:
    """Its copy ends as well; what the job did, it may have done twice."""
    with Bench(kq.ProcessExecutor(around=call_jobs.context)) as bench:
        outcome = bench.run(call_jobs.fork_and, "return")
        assert (outcome.status, type(outcome.exception)) == ("failure", kq.ChildLost)
        assert bench.run(call_jobs.read_context).result == "shop"
