"""``on_start`` and ``around``: what threads, children and jobs find set up."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import call_jobs
import jobs
import pytest
from bench import EXECUTORS, Bench
from journal import Journal

import kq

ALL = [name for name in EXECUTORS if name != "process" or sys.platform != "win32"]


@pytest.fixture(params=ALL)
def open_bench(request: pytest.FixtureRequest) -> Iterator[Callable[..., Bench]]:
    """Return a function that opens each executor in turn with given hooks."""
    opened: list[Bench] = []

    def make(concurrency: int = 1, **hooks: Any) -> Bench:
        opened.append(Bench(EXECUTORS[request.param](**hooks), concurrency))
        return opened[-1]

    yield make
    for bench in opened:
        bench.__exit__()


# -- around ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [call_jobs.read_context, call_jobs.read_context_on_the_loop])
def test_a_job_runs_inside_its_context_manager(job: Callable[[], str], open_bench: Callable[..., Bench]) -> None:
    """Coroutines as well; and each job has one of its own."""
    bench = open_bench(around=call_jobs.context)
    assert [bench.run(job).result for _ in range(2)] == ["shop", "shop"]


def test_leaving_sees_what_the_job_raised(
    open_bench: Callable[..., Bench], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a session does that rolls back then, and commits else."""
    monkeypatch.setenv("KQ_TEST_NOTES", journal.path)
    bench = open_bench(around=call_jobs.noting)
    assert bench.run(jobs.add, 1, 2).result == 3
    assert str(bench.run(jobs.fail, "bad").exception) == "bad"
    words = [(entry.word, entry.name) for entry in journal.entries()]
    assert [word for word, _ in words] == ["enter", "commit", "enter", "roll-back"]
    assert words[-1][1] == "ValueError"


def test_a_time_limit_holds_inside_and_leaving_sees_its_end(
    open_bench: Callable[..., Bench], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session rolls back."""
    monkeypatch.setenv("KQ_TEST_NOTES", journal.path)
    bench = open_bench(around=call_jobs.noting)
    assert bench.run(jobs.nap, 60, timeout=0.3).status == "timeout"
    assert journal.count("roll-back") == {"Interrupt": 1}


@pytest.mark.parametrize("around", [call_jobs.cannot_enter, call_jobs.cannot_leave])
def test_what_entering_or_leaving_raises_is_the_failure_of_the_job(
    around: Callable[[], AbstractContextManager[None]], open_bench: Callable[..., Bench]
) -> None:
    """A commit that fails is no success."""
    outcome = open_bench(around=around).run(jobs.add, 1, 2)
    assert (outcome.status, outcome.result, type(outcome.exception)) == ("failure", None, ConnectionError)


def test_an_exception_that_is_swallowed_is_a_failure_all_the_same(open_bench: Callable[..., Bench]) -> None:
    """There is no result that could be told."""
    bench = open_bench(around=call_jobs.swallowing)
    assert bench.run(jobs.add, 1, 2).result == 3
    outcome = bench.run(jobs.fail, "bad")
    assert (outcome.status, str(outcome.exception)) == ("failure", "bad")
    assert bench.run(jobs.nap, 60, timeout=0.2).status == "timeout"


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_hook_of_the_script_goes_to_children_by_value(hosts: str, topic: str, tmp_path: Any) -> None:
    """As ``on_start`` does."""
    script = """
import contextlib, sys
import kq
import call_jobs

@contextlib.contextmanager
def around():
    token = call_jobs.current.set("of the script")
    yield
    call_jobs.current.reset(token)

def callback(status, message, job, result, *rest):
    print(status, result, flush=True)

with kq.Queue(sys.argv[1], hosts=sys.argv[2]) as queue:
    queue.enqueue(call_jobs.read_context)
kq.Worker(sys.argv[1], hosts=sys.argv[2], executor=kq.ProcessExecutor(around=around), callback=callback).start(1)
"""
    with jobs.Program(script, topic, hosts, folder=tmp_path) as program:
        assert program.end() == 0, program.text
    assert "success of the script" in program.lines


# -- on_start ----------------------------------------------------------------------------------------------------------


def test_on_start_is_called_in_each_thread_before_its_first_job() -> None:
    """Once a thread, without arguments."""
    local, called = threading.local(), []

    def on_start() -> None:
        local.connection = threading.get_ident()
        called.append(local.connection)

    jobs.HOOKS["connection"] = lambda: (time.sleep(0.01), local.connection == threading.get_ident())[1]
    with Bench(kq.ThreadExecutor(on_start=on_start), 4) as bench:
        bench.wait_for_room(4)
        ended = bench.run_all(*[(jobs.hook, "connection")] * 20)
    assert [finished.outcome.result for finished in ended if finished.outcome] == [True] * 20
    assert len(called) == len(set(called)) == 4


def test_on_start_inline_is_called_in_the_thread_of_start() -> None:
    """By each start, before its first job."""
    called: list[int] = []
    executor = kq.InlineExecutor(on_start=lambda: called.append(threading.get_ident()))
    for _ in range(2):
        with Bench(executor) as bench:
            assert bench.run(jobs.add, 1, 2).result == 3
    assert called == [threading.get_ident()] * 2


def test_an_on_start_that_fails_now_and_then_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """After a pause, and said in the log."""
    tries: list[float] = []

    def on_start() -> None:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise ConnectionError("no database yet")

    with Bench(kq.ThreadExecutor(on_start=on_start)) as bench:
        assert bench.run(jobs.add, 1, 2).result == 3
    assert len(tries) == 3
    assert min(later - earlier for earlier, later in itertools.pairwise(tries)) > 0.4
    assert caplog.text.count("ConnectionError: no database yet") == 2


@pytest.mark.parametrize(("executor", "concurrency", "tries"), [("inline", 1, 1), ("thread", 1, 3), ("thread", 4, 12)])
def test_an_on_start_that_always_fails_ends_the_worker(
    executor: str, concurrency: int, tries: int, hosts: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``start`` raises, and the cause is attached."""

    def on_start() -> None:
        raise ConnectionError("no database")

    made = EXECUTORS[executor](on_start=on_start)
    worker = kq.Worker(topic, hosts=hosts, executor=made, concurrency=concurrency)
    with pytest.raises(kq.WorkerError, match="fail") as raised:
        worker.start()
    assert isinstance(raised.value.__cause__, ConnectionError)
    logged = [record for record in caplog.records if record.name == "kq.executors" and record.levelno == logging.ERROR]
    assert tries >= len(logged) >= min(tries, 3)


def test_one_thread_that_works_keeps_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Where there is one connection only, say, one thread runs all jobs."""
    first = threading.Lock()

    def on_start() -> None:
        if not first.acquire(blocking=False):
            raise ConnectionError("taken")

    with Bench(kq.ThreadExecutor(on_start=on_start), 2) as bench:
        deadline = time.monotonic() + 30
        while caplog.text.count("taken\n") < 4 and time.monotonic() < deadline:
            assert bench.run(jobs.add, 1, 2).result == 3
        assert caplog.text.count("taken\n") >= 4


@pytest.mark.parametrize("executor", ALL)
@pytest.mark.parametrize("name", ["on_start", "around"])
def test_a_hook_must_be_a_callable(name: str, executor: str) -> None:
    """And is refused when the executor is made."""
    with pytest.raises(kq.ArgumentError, match=f"{name} must be a callable"):
        EXECUTORS[executor](**{name: "function"})
