"""What a script, a module or a fork does to the worker's process does not reach its children."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jobs
import odd_jobs
import process_jobs
import pytest
from helpers import wait_until
from journal import Journal
from process_bench import GONE_WITHIN, PATIENCE, Bench, statuses

from kq import ProcessExecutor
from kq.executors.process.spawner import Spawner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def test_a_path_that_is_no_text_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python ignores it in ``sys.path``; names that ASCII lacks are none such."""
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/nowhere"), "/nirgendw\xf6"])  # type: ignore[list-item]
    with Bench(ProcessExecutor()) as bench:
        assert statuses(bench.run(bench.message(process_jobs.nothing))) == ["success"]


# -- timeouts of sockets -----------------------------------------------------------------------------------------------


@pytest.fixture
def default_timeout() -> Iterator[None]:
    """Have new sockets time out, as many scripts do."""
    socket.setdefaulttimeout(0.2)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("default_timeout")
def test_a_default_timeout_of_the_script_reaches_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """None dies of it, however long it waits; a limit holds."""
    made: list[object] = []
    ask = Spawner._ask_for
    monkeypatch.setattr(Spawner, "_ask_for", lambda self, child: (made.append(child), ask(self, child))[1])
    with Bench(ProcessExecutor(kill_grace=0.2), 2) as bench:
        messages = [bench.message(process_jobs.nap, 0.3) for _ in range(4)]
        assert statuses(bench.run(*messages)) == ["success"] * 4
        bench.run(bench.message(process_jobs.nap, 1), bench.message(process_jobs.nothing))  # one is idle meanwhile
        large = bench.run(bench.message(len, bytes(20 << 20)), bench.message(process_jobs.give_bytes, 20 << 20))
        assert statuses(large) == ["success"] * 2
        assert len(made) == 2
        begun = time.monotonic()
        assert statuses(bench.run(bench.message(time.sleep, 60, timeout=0.5))) == ["timeout"]
        assert time.monotonic() - begun < 10


def test_a_default_timeout_of_a_job_does_not_reach_its_child() -> None:
    """The next job runs there."""
    with Bench(ProcessExecutor()) as bench:
        ((_, _, outcome, _),) = bench.run(bench.message(odd_jobs.set_default_timeout, 0.1))
        time.sleep(0.5)  # the child waits for longer than that
        ((_, _, after, _),) = bench.run(bench.message(process_jobs.pid_of_child))
    assert outcome is not None and after is not None
    assert outcome.result == after.result


def test_a_default_timeout_of_a_preloaded_module_reaches_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the fork server."""
    (tmp_path / "sets_timeout.py").write_text("import socket; socket.setdefaulttimeout(0.1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Bench(ProcessExecutor(preload=["sets_timeout"])) as bench:
        ((_, _, outcome, _),) = bench.run(bench.message(process_jobs.pids))
        time.sleep(0.5)  # child and fork server wait for longer than that
        ((_, _, after, _),) = bench.run(bench.message(process_jobs.pids))
    assert outcome is not None and after is not None
    assert outcome.result == after.result


# -- forks of the worker -----------------------------------------------------------------------------------------------

_FORKED = """
import os, sys, time, kq, odd_jobs
from process_bench import Bench
with Bench(kq.ProcessExecutor(), 2) as bench:
    for _ in range(2):
        bench.executor.start(bench.message(odd_jobs.note_and_sleep, sys.argv[1], 60))
    bench.executor.flush()
    while open(sys.argv[1]).read().count("start") < 2:
        bench.executor.finished()
    helper = os.fork()
    if helper == 0:
        time.sleep(60)
        os._exit(0)
    print(helper, flush=True)
    time.sleep(60)
"""


def test_children_die_with_their_worker_though_a_fork_of_it_lives(journal: Journal) -> None:
    """A job's helper, or a daemon, that holds all descriptors keeps nothing alive."""
    with jobs.Program(_FORKED, journal.path) as program:
        wait_until(lambda: program._coming.qsize(), PATIENCE)
        helper = int(program._coming.get() or 0)
        family = set(odd_jobs.descendants(program.process.pid)) - {helper}
        assert len(family) == 1 + 2 + 2
        program.process.kill()
        program.process.wait()
        try:
            wait_until(lambda: not any(map(odd_jobs.lives, family)), GONE_WITHIN)
            assert odd_jobs.lives(helper)
        finally:
            os.kill(helper, signal.SIGKILL)


@contextmanager
def fork() -> Iterator[None]:
    """Have a fork of this process, which holds all its descriptors."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_stop_waits_for_no_fork_of_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    """The fork server ends at once, by itself."""
    with Bench(ProcessExecutor(), 2) as bench:
        bench.run(bench.message(process_jobs.nothing))
        with fork():
            begun = time.monotonic()
            bench.executor.close()
            assert time.monotonic() - begun < 2
        bench.executor.close = lambda: None  # type: ignore[method-assign]
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


# -- random numbers ----------------------------------------------------------------------------------------------------

_RANDOM = """
import random
generator = random.Random(1)
random.seed(1)
seed, random = generator.seed, generator.random
"""


@pytest.mark.parametrize("which", ["numpy", "its likeness"])
def test_each_child_draws_its_own_numbers(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what makes them was loaded, and drawn from, before children were forked."""
    if which == "numpy":
        pytest.importorskip("numpy")
    else:
        (tmp_path / "numpy").mkdir()
        (tmp_path / "numpy" / "__init__.py").touch()
        (tmp_path / "numpy" / "random.py").write_text(_RANDOM)
        monkeypatch.syspath_prepend(tmp_path)
    with Bench(ProcessExecutor(preload=["random", "numpy.random"]), 4) as bench:
        ended = bench.run(*[bench.message(odd_jobs.draw) for _ in range(8)])
    drawn = [one.outcome.result for one in ended if one.outcome is not None]
    assert len({child for child, *_ in drawn}) > 1
    assert len({number for _, number, _ in drawn}) == len({number for _, _, number in drawn}) == 8


def test_this_process_keeps_its_random_state() -> None:
    """Children take nothing from it."""
    random.seed(7)
    expected = random.Random(7).random()
    with Bench(ProcessExecutor()) as bench:
        bench.run(bench.message(process_jobs.nothing))
    assert random.random() == expected
