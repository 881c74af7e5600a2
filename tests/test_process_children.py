"""Children: how they start, what they know, and when they are replaced."""

from __future__ import annotations

import collections
import functools
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import process_jobs
import pytest
from journal import Journal
from process_bench import Bench, children, run_worker, statuses

import kq
from kq import ProcessExecutor, Queue, Worker
from kq.executors.base import Finished

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def test_max_jobs_replaces_children_between_jobs(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """Nothing is lost on the way."""
    queue.enqueue_many(200 * [(process_jobs.pid_of_child, (), {})])
    calls = work(200, executor=ProcessExecutor(max_jobs=7))
    assert set(calls.statuses) == {"success"}
    counts = collections.Counter(calls.results)
    assert max(counts.values()) <= 7
    assert len(counts) >= 200 / 7


def test_max_memory_replaces_children_that_have_grown(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """Nothing is lost on the way; a child that is small stays."""
    for _ in range(8):
        queue.enqueue(process_jobs.grow, 40 << 20)
    executor = ProcessExecutor(max_memory=100 << 20)
    calls = work(8, executor=executor, concurrency=1)
    assert set(calls.statuses) == {"success"}
    assert set(collections.Counter(calls.results).values()) <= {2, 3}
    queue.enqueue_many(50 * [(process_jobs.pid_of_child, (), {})])
    assert len(set(work(50, executor=executor, concurrency=1).results)) == 1


def test_preload_imports_before_the_first_job(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """And nothing else is there: no Kafka, no command line, no event loop."""
    names = ("colorsys", "kafka", "click", "asyncio", "kq.worker")
    queue.enqueue(eval, f"[name for name in {names} if name in __import__('sys').modules]")
    assert work(1, executor=ProcessExecutor(preload=["colorsys"])).results == [["colorsys"]]


def test_a_module_that_cannot_be_preloaded_is_an_error(topic: str, hosts: str) -> None:
    """The worker says so instead of waiting."""
    worker = Worker(topic, hosts=hosts, executor=ProcessExecutor(preload=["no_such_module"]))
    with pytest.raises(kq.WorkerError, match="did not start"):
        run_worker(worker, 1)


def test_on_start_is_called_in_each_child(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """Before its first job."""
    for _ in range(10):
        queue.enqueue(process_jobs.was_started)
    executor = ProcessExecutor(on_start=process_jobs.start_well, max_jobs=2)
    assert work(10, executor=executor).results == 10 * [True]


@pytest.mark.parametrize("hook", [process_jobs.start_badly, process_jobs.die_at_start], ids=process_jobs.name_of)
@pytest.mark.parametrize("concurrency", [1, 6])
def test_an_on_start_that_fails_ends_the_worker(
    hook: Callable[[], Any], concurrency: int, topic: str, hosts: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After a few tries, with the reason in the log and nothing left behind."""
    descriptors = len(os.listdir("/proc/self/fd"))
    worker = Worker(topic, hosts=hosts, executor=ProcessExecutor(on_start=hook), concurrency=concurrency)
    with pytest.raises(kq.WorkerError, match="fail to start"):
        run_worker(worker, 1)
    if hook is process_jobs.start_badly:
        assert "RuntimeError: no database" in caplog.text
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert children() == []


def test_children_that_fail_to_start_are_not_tried_without_a_pause(journal: Journal) -> None:
    """While others work: each try may cost somebody a connection."""
    hook = functools.partial(process_jobs.start_alone, journal.path)
    begun = time.monotonic()
    with Bench(ProcessExecutor(on_start=hook), 2) as bench:
        ended = bench.run(*[bench.message(process_jobs.nap, 0.01) for _ in range(200)])
    assert set(statuses(ended)) == {"success"}
    assert 4 <= len(list(journal.entries())) <= 3 + (time.monotonic() - begun) / 0.5


def test_a_fork_server_without_room_for_a_child_tries_again() -> None:
    """A fork that fails is no end of anything."""
    with Bench(ProcessExecutor(preload=["no_room"]), 2) as bench:
        ended = bench.run(*[bench.message(process_jobs.nap, 0.01) for _ in range(10)])
    assert statuses(ended) == ["success"] * 10


def test_a_hundred_children_work_at_once(journal: Journal) -> None:
    """More than are asked for at once."""
    with Bench(ProcessExecutor(), 100) as bench:
        messages = [bench.message(process_jobs.meet, journal.path, 100) for _ in range(100)]
        assert statuses(bench.run(*messages)) == ["success"] * 100


NO_ROOM = """
import logging, os, resource, kq
from kq.executors.base import Setting
from kq.working.waker import Waker
waker = Waker()
setting = Setting(kq.loads, None, logging.getLogger("kq"), True, waker.wake, waker.watch, waker.unwatch)
before, (soft, hard) = sorted(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
for more in range(1, 30):
    executor = kq.ProcessExecutor()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + more, hard))
        executor.open(setting, 1)
        executor.close()
        break
    except (kq.WorkerError, OSError) as error:
        print(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(os.listdir("/proc/self/fd")) == before
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        continue
    raise AssertionError("a process is left")
"""


def test_where_there_is_no_room_for_files_nothing_is_left_open() -> None:
    """However far it came: descriptors and processes are what they were, and the error says what is the matter."""
    with jobs.Program(NO_ROOM) as program:
        assert program.end() == 0, program.text
    for start in ("the fork server of the process executor did not start", "there is no room for a child"):
        assert any(start in line and "Too many open files" in line for line in program.lines), program.text


def test_what_has_no_child_yet_is_given_back_at_the_end() -> None:
    """It is incomplete, and runs again elsewhere."""
    with Bench(ProcessExecutor()) as bench:
        message = bench.message(process_jobs.nothing)
        bench.executor.start(message)
    assert bench.executor.finished() == [Finished(message, None, None)]


def test_a_script_needs_no_main_guard(topic: str, hosts: str, tmp_path: Path) -> None:
    """It is not imported again by children, and what it defines crosses."""
    source = """
import os
import sys
import kq

print("imported", flush=True)
unit = 2

def double(number):
    return unit * number

def on_start():
    os.environ["DOUBLE"] = str(double(4))

def started():
    return os.environ["DOUBLE"]

def callback(status, message, job, result, exception, stacktrace):
    print(status, result, exception, flush=True)

with kq.Queue(sys.argv[1], hosts=sys.argv[2]) as queue:
    queue.enqueue(double, 21)
    queue.enqueue(started)
executor = kq.ProcessExecutor(on_start=on_start)
worker = kq.Worker(
    sys.argv[1], hosts=sys.argv[2], callback=callback, deserializer=lambda value: kq.loads(value), executor=executor
)
worker.start(max_messages=2)
"""
    with jobs.Program(source, topic, hosts, folder=tmp_path) as program:
        assert program.end() == 0
    assert program.lines == ["imported", "success 42 None", "success 8 None"]


def test_logs_of_children_reach_the_worker(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """With the job's ID, by the names and at the levels that hold in the worker."""
    caplog.set_level(logging.DEBUG, "shop.detail")
    job = queue.enqueue(process_jobs.log_a_line, "three")
    work(1)
    lines = [
        (record.name, record.levelname, record.message, getattr(record, "job_id", None))
        for record in caplog.records
        if record.name.startswith("shop")
    ]
    assert lines == [
        ("shop", "WARNING", "sold three", job.id),
        ("shop.detail", "DEBUG", "detail of three", job.id),
    ]


def test_threads_and_forks_of_a_job_may_log(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """Without harm to what the child says."""
    for _ in range(5):
        queue.enqueue(process_jobs.log_from_everywhere)
    calls = work(5)
    assert set(calls.statuses) == {"success"}
    assert caplog.messages.count("sold thread") == 5


def test_a_job_has_no_input(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """The terminal is the worker's."""
    queue.using(timeout=5).enqueue(process_jobs.read_input)
    assert work(1).results == [""]


SIZES = """
import sys, threading, time, kq, psutil
def look():
    fork_server = parent.children()[0]
    sizes = [child.memory_info().rss >> 20 for child in fork_server.children(recursive=True)]
    print(worker.stats().done, parent.memory_info().rss >> 20, max(sizes), flush=True)
def watch():
    while worker.stats().done < count // 10:
        time.sleep(0.01)
    while worker.stats().done < count:
        look()
        time.sleep(count / 100_000)
    look()
    worker.stop()
count = int(sys.argv[3])
parent = psutil.Process()
worker = kq.Worker(sys.argv[1], hosts=sys.argv[2], executor="process", concurrency=2)
threading.Thread(target=watch).start()
worker.start()
print("end", flush=True)
"""


@pytest.mark.parametrize("count", [5_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_parent_and_children_are_small_and_stay_so(topic: str, hosts: str, queue: Queue, count: int) -> None:
    """A worker of no-op jobs: 60 MB, a child of it 35 MB; after many no more than after a tenth of them."""
    for _ in range(count // 5_000):
        queue.enqueue_many(5_000 * [(process_jobs.nothing, (), {})])
    with jobs.Program(SIZES, topic, hosts, str(count)) as program:
        program.wait_for("end", timeout=60 if count == 5_000 else 600)
    looks = [tuple(map(int, line.split())) for line in program.lines[:-1]]
    assert looks[-1][0] == count
    for size, limit in ((1, 60), (2, 35)):
        assert max(look[size] for look in looks) <= limit
        assert looks[-1][size] <= looks[0][size] + 3, looks
