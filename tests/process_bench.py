"""What tests of the process executor share: a worker whose children they watch, and an executor without Kafka."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dill
import jobs
import process_jobs
import pytest
from journal import Entry, Journal

import kq
from kq import Job, Message, ProcessExecutor, Worker
from kq.executors.base import Finished, Setting
from kq.working.waker import Waker

__all__ = [
    "GONE_WITHIN",
    "KILLED_WITHIN",
    "PATIENCE",
    "Bench",
    "children",
    "is_ours",
    "moment",
    "parent_of",
    "pids",
    "quiet",
    "run_worker",
    "started",
    "statuses",
    "work",
]

#: Seconds until whatever a test waits for has failed: far longer than it takes on a machine that is not stuck.
PATIENCE = 120.0
#: Seconds from the start of a job with a timeout of one second, and a ``kill_grace`` of one, to its outcome.
KILLED_WITHIN = 2.5
#: Seconds until no process is left of a worker that was killed.
GONE_WITHIN = 2.0


@pytest.fixture
def work(topic: str, hosts: str) -> Callable[..., jobs.Calls]:
    """Return a function that runs a number of messages in children, and returns what was told of them."""

    def run(count: int, callback: Callable[..., Any] | None = None, **options: Any) -> jobs.Calls:
        calls = jobs.Calls()

        def tell(*args: Any) -> None:
            calls(*args)
            if callback is not None:
                callback(*args)

        settings = {"executor": ProcessExecutor(), "concurrency": 2, "shutdown_timeout": 1, **options}
        worker = Worker(topic, hosts=hosts, callback=tell, **settings)
        assert run_worker(worker, count) == count
        return calls

    return run


def run_worker(worker: Worker, count: int, **options: Any) -> int:
    """Run a number of messages, or stop when that takes too long."""
    timer = threading.Timer(PATIENCE, worker.stop)
    timer.start()
    try:
        return worker.start(max_messages=count, **options)
    finally:
        timer.cancel()


class Bench:
    """A process executor without Kafka, driven as the loop drives it."""

    def __init__(self, executor: ProcessExecutor, concurrency: int = 1, **setting: Any) -> None:
        self.waker = Waker()
        defaults = Setting(
            kq.loads, None, logging.getLogger("kq.worker"), True, self.waker.wake, self.waker.watch, self.waker.unwatch
        )
        self.executor = executor
        self.executor.open(defaults._replace(**setting), concurrency)
        self._offset = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()
        self.waker.close()

    def message(self, func: Callable[..., Any], *args: Any, timeout: float = 0) -> Message:
        job = Job(f"job-{self._offset}", 0, "bench", func, args, {}, timeout)
        self._offset += 1
        # not ``kq.dumps``: that reads what it writes, and refuses what a child must refuse
        return Message("bench", 0, self._offset - 1, None, dill.dumps(job))

    def run(self, *messages: Message) -> list[Finished]:
        """Run messages, and return what became of them in the order in which they ended."""
        waiting, ended = collections.deque(messages), []
        deadline = time.monotonic() + PATIENCE
        while len(ended) < len(messages):
            assert time.monotonic() < deadline, f"{len(ended)} of {len(messages)} ended"
            ended += self.executor.finished()
            for _ in range(min(self.executor.room(), len(waiting))):
                self.executor.start(waiting.popleft())
            self.executor.flush()
            self.waker.wait(min(0.2, self.executor.patience()))
        return ended


def statuses(finished: list[Finished]) -> list[str]:
    return [ended.outcome.status for ended in finished if ended.outcome is not None]


def started(journal: Journal) -> list[int]:
    """Return the processes that jobs have started."""
    return [int(entry.name) for entry in journal.entries() if entry.word == "started"]


def pids(journal: Journal) -> set[int]:
    """Return the children that have written down something, and the processes that they have started."""
    return {entry.pid for entry in journal.entries()} | set(started(journal))


def moment(journal: Journal, word: str, name: str) -> Entry:
    (entry,) = [entry for entry in journal.entries() if (entry.word, entry.name) == (word, name)]
    return entry


@pytest.fixture
def quiet() -> Iterator[Bench]:
    """A child that has run so many short jobs that many travel in one write, and whose successes are told together."""
    with Bench(ProcessExecutor(kill_grace=0.5), wants_outcome=False) as bench:
        for _ in range(50):  # a moment in which the machine did something else makes jobs look long
            bench.run(*[bench.message(process_jobs.nothing) for _ in range(100)])
            if bench.executor.room() > 20:
                break
        assert bench.executor.room() > 20
        yield bench


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children() -> list[int]:
    """Return the processes that this one has started and not reaped."""
    pids: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            pids += map(int, (task / "children").read_text().split())
    return [pid for pid in pids if is_ours(pid)]


def is_ours(pid: int) -> bool:
    return "kq.executors" in Path(f"/proc/{pid}/cmdline").read_text()
