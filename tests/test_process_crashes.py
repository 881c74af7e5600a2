"""The process executor: a crash of a job touches nobody else."""

from __future__ import annotations

import collections
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jobs
import odd_jobs
import process_jobs
import pytest
from helpers import wait_until
from journal import Journal
from process_bench import GONE_WITHIN, PATIENCE, Bench, parent_of, pids, started, statuses

import kq
from kq import Job, Message, ProcessExecutor, Queue
from kq.executors.process.forkserver import _signal_group

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def test_a_fork_server_that_ends_just_before_a_request_is_replaced() -> None:
    """The worker does not end of it: the child is requested again."""
    with Bench(ProcessExecutor()) as bench:
        spawner = bench.executor._children.spawner
        spawner._process.kill()
        spawner._process.wait(PATIENCE)
        spawner.plan(0.0)
        spawner.ask(time.monotonic(), is_alone=False)
        assert statuses(bench.run(bench.message(process_jobs.nothing))) == ["success"]


def test_a_thousand_jobs_of_which_every_tenth_kills_itself(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """900 succeed, 100 fail, each once; and the worker is afterwards what it was before."""
    queue.enqueue(process_jobs.nothing)
    work(1)  # what is made once and kept is there
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    ways = [*process_jobs.DEATHS, process_jobs.exhaust_memory]
    calls = []
    for number in range(1000):
        func = ways[number // 10 % len(ways)] if number % 10 == 9 else process_jobs.nothing
        calls.append((func, (), {}))
    queue.enqueue_many(calls)
    told = work(1000, executor=ProcessExecutor(on_start=process_jobs.limit_resources))
    assert collections.Counter(told.statuses) == {"success": 900, "failure": 100}
    assert sorted(call.message.offset for call in told) == list(range(1, 1001))
    for call in told:
        if call.status == "failure":
            assert_death(call)
    # a client's own thread ends a moment after the client was closed
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before[0] and threading.active_count() <= before[1], 5)


def assert_death(call: jobs.Call) -> None:
    """Assert that a failure says how its child has ended."""
    if call.job.func.__name__ == "exhaust_memory":
        assert type(call.exception) is MemoryError
        return
    assert type(call.exception) is kq.ChildLost, call
    allowed = {process_jobs.name_of(way): codes for way, codes in process_jobs.DEATHS.items()}
    assert call.exception.exitcode in allowed[call.job.func.__name__]
    assert call.stacktrace is not None


@pytest.mark.parametrize("way", process_jobs.DEATHS, ids=process_jobs.name_of)
def test_a_death_says_how_and_of_what(way: Callable[[], Any], queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """``ChildLost`` has the exit code, and the next job runs."""
    queue.enqueue(way)
    queue.enqueue(process_jobs.nap, 0, "next")
    calls = work(2, concurrency=1, executor=ProcessExecutor(on_start=process_jobs.limit_resources))
    assert calls.statuses == ["failure", "success"]
    assert_death(calls[0])


def test_a_lost_child_names_what_it_ran(caplog: pytest.LogCaptureFixture) -> None:
    """The call, where calls are logged."""
    caplog.set_level(logging.INFO, "kq.worker")
    with Bench(ProcessExecutor()) as bench:
        ((_, _, outcome, _),) = bench.run(bench.message(process_jobs.kill_itself))
    assert outcome is not None
    assert str(outcome.exception) == "the child process was killed by SIGKILL while it ran process_jobs.kill_itself()"
    lines = [text for text in caplog.messages if "raised an exception" in text]
    assert lines == ["Job job-0 raised an exception: topic bench, partition 0, offset 0"]


def test_a_job_that_kills_its_reader_fails_alone(topic: str, hosts: str, queue: Queue) -> None:
    """The worker does not read what has killed a child, though there is a callback."""
    source = """
import sys, kq
def callback(status, message, job, result, exception, stacktrace):
    print(status, type(exception).__name__, job.func, flush=True)
if __name__ == "__main__":
    kq.Worker(sys.argv[1], hosts=sys.argv[2], callback=callback, executor="process").start(max_messages=2)
    print("end", flush=True)
"""
    old = Queue(topic, queue.producer, serializer=pickle.dumps)  # this one does not read what it writes
    old.enqueue(process_jobs.take, process_jobs.ExitsWhenRead())
    queue.enqueue(process_jobs.nothing)
    with jobs.Program(source, topic, hosts) as program:
        program.wait_for("failure ChildLost None")
        program.wait_for("end")
        assert program.end() == 0


def test_what_a_job_leaves_behind_ends_with_its_child(
    queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """A daemon lives on between jobs, and not beyond the child."""
    queue.enqueue(process_jobs.leave_behind, journal.path)
    work(1)
    assert [pid for pid in started(journal) if process_jobs.exists(pid)] == []


def test_a_job_may_fork(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """As long as the copy does not come back."""
    for _ in range(20):
        queue.enqueue(process_jobs.fork_and_wait)
    moments: list[float] = []
    assert work(20, lambda *_: moments.append(time.monotonic()), concurrency=1).results == 20 * ["waited"]
    assert moments[-1] - moments[0] < 19 * 0.5  # nobody waits for a copy that is gone


def test_a_fork_server_that_is_killed_is_replaced(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """What ran is lost with it, and said so; the rest runs."""
    for _ in range(30):
        queue.enqueue(process_jobs.pids)
        queue.enqueue(process_jobs.nap, 0.02)
    killed = []

    def callback(status: str, message: Message, job: Job, result: Any, *_: Any) -> None:
        if isinstance(result, tuple) and len(killed) < 2 and result[1] not in killed:
            killed.append(result[1])
            os.kill(result[1], signal.SIGKILL)

    calls = work(60, callback, concurrency=3)
    assert len(killed) == 2
    assert collections.Counter(message.offset for _, message, *_ in calls).most_common(1)[0][1] == 1
    failures = [call.exception for call in calls if call.status != "success"]
    assert len(failures) <= 6
    assert {type(error) for error in failures} <= {kq.ChildLost}


def test_kill_9_of_the_worker_leaves_nothing(topic: str, hosts: str, queue: Queue, journal: Journal) -> None:
    """No child, no grandchild and no fork server two seconds later."""
    source = """
import sys, kq
kq.Worker(sys.argv[1], hosts=sys.argv[2], executor="process", concurrency=4).start()
"""
    for way in ("busy loop", "resists", "subprocess", "subprocess with a session", "daemon"):
        queue.enqueue(process_jobs.endure, journal.path, way)
    queue.enqueue(process_jobs.nothing)
    with jobs.Program(source, topic, hosts) as program:
        wait_until(lambda: len(journal.names("start")) == 4, PATIENCE)
        wait_until(lambda: len(started(journal)) == 2, PATIENCE)
        keepers = {parent_of(pid) for pid in {entry.pid for entry in journal.entries()}}
        family = pids(journal) | keepers | {parent_of(pid) for pid in keepers}
        assert len(family) == 4 + 2 + 4 + 1
        program.process.kill()
        program.process.wait()
        wait_until(lambda: [pid for pid in family if odd_jobs.lives(pid)] == [], GONE_WITHIN)


def test_a_job_that_speaks_in_the_name_of_its_child_fails_alone() -> None:
    """What cannot be understood ends that child, not the worker."""
    with Bench(ProcessExecutor(kill_grace=0.5)) as bench:
        ended = bench.run(bench.message(process_jobs.babble), bench.message(process_jobs.nap, 0, "next"))
    assert statuses(ended) == ["failure", "success"]
    assert type(ended[0].outcome.exception) is kq.ChildLost


def test_a_timeout_in_the_middle_of_a_long_line(caplog: pytest.LogCaptureFixture) -> None:
    """The line is said to its end, and so is what the job says while it ends."""
    with Bench(ProcessExecutor(kill_grace=5), 2) as bench:
        messages = [bench.message(process_jobs.log_long_lines, timeout=0.05 + number / 200) for number in range(20)]
        assert statuses(bench.run(*messages)) == ["timeout"] * 20
    lasts = [record.message for record in caplog.records if record.message.startswith("y")]
    assert lasts == ["y" * 300_000] * 20


def test_a_child_that_can_start_nothing_is_replaced(quiet: Bench, journal: Journal) -> None:
    """A thread that a job has left there keeps the interpreter: what is given to it runs elsewhere."""
    quiet.run(quiet.message(process_jobs.leave_a_thread_that_keeps_the_gil, journal.path))
    wait_until(lambda: journal.count("keeps"))
    time.sleep(0.1)  # from the note to the call that keeps it
    assert statuses(quiet.run(*[quiet.message(process_jobs.nap, 0.01) for _ in range(10)])) == ["success"] * 10


def test_what_is_too_large_for_a_child_fails_alone() -> None:
    """Also where it came along with others, and where the child dies before it has it."""
    with Bench(ProcessExecutor(on_start=process_jobs.limit_memory), wants_outcome=False) as bench:
        bench.run(*[bench.message(process_jobs.nothing) for _ in range(300)])
        small = [bench.message(process_jobs.nothing) for _ in range(10)]
        large = bench.message(len, bytes(400 << 20))
        ended = bench.run(*small[:5], large, *small[5:])
    told = {one.message.offset: one.outcome.status for one in ended if one.outcome is not None}
    assert told == {large.offset: "failure", **{message.offset: "success" for message in small}}


def test_a_limit_of_any_size_is_a_limit() -> None:
    """Clocks take no number of any size."""
    with Bench(ProcessExecutor()) as bench:
        ended = bench.run(*[bench.message(process_jobs.nothing, timeout=limit) for limit in (10**400, 1e308, math.inf)])
    assert statuses(ended) == ["success"] * 3


def test_a_signal_is_sent_once() -> None:
    """A second one would fall into the clean-up that the first one has begun."""
    source = """
import signal, sys, time
came = []
signal.signal(signal.SIGTERM, lambda *_: came.append(1))
print("ready", flush=True)
deadline = time.monotonic() + 1
while time.monotonic() < deadline:
    time.sleep(0.01)
print(len(came))
"""
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        _signal_group(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "1\n"
