"""Tests of programs: another queue in place of the program's own, and no warning of ours, however strict they are."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jobs
import pytest

import kq
from kq.testing import drain, eager, redirected

NOWHERE = "127.0.0.1:1"
QUEUE = kq.Queue("production", hosts=NOWHERE)
SPEC = QUEUE.using(timeout=9)


@QUEUE.job(timeout=5)
def double(number: int) -> int:
    return number * 2


def test_whatever_belongs_to_a_queue_goes_to_another(topic: str, hosts: str) -> None:
    """Calls, specs, decorated functions, many at once and in asyncio code; afterwards all is as before."""
    with kq.Queue(topic, hosts=hosts) as own:
        with redirected(QUEUE, own):
            QUEUE.enqueue(jobs.add, 1, 2)
            SPEC.enqueue(jobs.add, 3, 4)
            double.enqueue(5)
            double.enqueue_many([(6,)])
            asyncio.run(double.aenqueue(7))
            assert QUEUE.topic == "production"
        assert [(ran.result, ran.job.timeout) for ran in drain(own)] == [(3, 0), (7, 9), (10, 5), (12, 5), (14, 5)]
    with eager() as ran:
        double.enqueue(8)
    assert [one.result for one in ran] == [16]


def test_what_is_delayed_goes_there_too(topic: str, hosts: str) -> None:
    """It waits beside the topic of the test, and a worker fires it."""
    seen: list[object] = []
    with kq.Queue(topic, hosts=hosts) as own, redirected(QUEUE, own):
        QUEUE.using(delay=0.5).enqueue(jobs.add, 1, 2)
    worker = kq.Worker(topic, hosts=hosts, callback=lambda status, message, job, result, *_: seen.append(result))
    worker.start(max_messages=1)
    assert seen == [3]


def test_what_fails_in_between_leaves_the_queue_as_it_was(topic: str, hosts: str) -> None:
    """So one failed test does not spoil the next."""
    before = QUEUE._sender.delivery
    with kq.Queue(topic, hosts=hosts) as own, pytest.raises(ZeroDivisionError), redirected(QUEUE, own):
        raise ZeroDivisionError
    assert QUEUE._sender.delivery is before


PROJECT = {
    "app.py": """
        import kq

        queue = kq.Queue("production", hosts="127.0.0.1:1")

        @queue.job(timeout=5)
        def double(number):
            return number * 2
    """,
    "conftest.py": """
        import os
        import pytest
        import kq

        pytest_plugins = ["kq.testing"]

        @pytest.fixture(scope="session")
        def kq_hosts():
            return os.environ["KQ_HOSTS"]
    """,
    "test_app.py": """
        import app
        import kq
        from kq.testing import drain, redirected

        def test_at_once(kq_eager):
            app.double.enqueue(3)
            assert [ran.result for ran in kq_eager] == [6]

        def test_on_kafka(kq_queue):
            with redirected(app.queue, kq_queue):
                app.double.enqueue(4)
            assert [ran.result for ran in drain(kq_queue)] == [8]

        def test_a_worker(kq_queue, kq_hosts):
            kq_queue.enqueue(max, 1, 2)
            for executor in ("inline", "thread", "process"):
                worker = kq.Worker(kq_queue.topic, hosts=kq_hosts, group=executor, executor=executor)
                assert worker.start(max_messages=1) == 1

        def test_a_queue_that_nobody_closes(kq_hosts):
            kq.Queue("forgotten", hosts=kq_hosts).enqueue(max, 1, 2)
    """,
}


def test_a_strict_project_sees_no_warning_of_ours(hosts: str, tmp_path: Path) -> None:
    """``python -W error -m pytest -W error``: unclosed sockets, deprecations, threads that raise."""
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    path = str(Path(kq.__file__).parent.parent)
    strict = ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *strict, "-m", "pytest", "-q", "-p", "no:cacheprovider", *strict],
        cwd=tmp_path,
        env={**os.environ, "KQ_HOSTS": hosts, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert "Warning" not in done.stdout + done.stderr
