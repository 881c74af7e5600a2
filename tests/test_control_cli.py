"""The commands that show and steer workers: tables, JSON, exit codes, and words where nobody is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import journal as journals
from conftest import Told
from helpers import at_work, wait_until
from jobs import Calls
from journal import Journal

import kq


def test_workers_are_shown_and_steered(
    topic: str, hosts: str, tell: Callable[..., Told], journal: Journal, queue: kq.Queue
) -> None:
    """As a table and as JSON; what is cancelled, paused, resumed, terminated and stopped is."""
    calls = Calls()
    worker = kq.Worker(topic, hosts=hosts, executor="thread", concurrency=2, callback=calls, control=True)
    with at_work(worker):
        job = queue.enqueue(journals.work, journal.path, "long", 1.5)
        wait_until(lambda: journal.names("start") == {"long"}, timeout=20)
        wait_until(lambda: job.id in tell("ps", topic)[1], timeout=10)
        code, out, error = tell("ps", topic)
        (shown,) = json.loads(tell("ps", "--json", topic)[1])["workers"]
        assert (code, error) == (0, "")
        assert shown["id"] in out and "thread × 2" in out and "journal.work" in out and "1 worker, 1 job" in out
        assert (shown["state"], shown["partitions"], shown["running"][0]["id"]) == ("running", [0], job.id)

        assert tell("pause", topic, "--group", "other")[:2] == (0, f"topic {topic}: paused for group other\n")
        assert tell("pause", topic, "--json")[:2] == (0, '{"pauses": [null, "other"]}\n')
        waiting = queue.enqueue(journals.work, journal.path, "never")
        code, out, error = tell("cancel", topic, waiting.id)
        assert (code, out, error) == (0, f"1 job cancelled: 1 worker of topic {topic} know of it\n", "")
        assert tell("resume", topic)[:2] == (0, f"topic {topic}: not paused\n")
        wait_until(lambda: len(calls) == 2, timeout=20)
        assert {type(call.exception) for call in calls} == {kq.Cancelled, type(None)}

        again = queue.enqueue(journals.work, journal.path, "again", 0.1)
        code, out, _ = tell("terminate", topic, again.id, "nobody", "--json")
        assert (code, json.loads(out)) == (0, {"terminated": [again.id, "nobody"], "workers": 1})

        code, _, error = tell("stop", topic, "nobody")
        assert code == 1 and f"no worker 'nobody' on topic {topic}; there are: {shown['id']}" in error
        assert tell("stop", topic)[0] == 2
        assert tell("stop", topic, shown["id"]) == (0, f"1 worker of topic {topic} will stop: {shown['id']}\n", "")
        wait_until(lambda: worker.state.value == "stopped", timeout=20)
    assert "never" not in journal.names("start")


def test_where_nobody_is_there_it_is_said(topic: str, tell: Callable[..., Told]) -> None:
    """To look, or to stop, fails; a wish stands."""
    code, out, error = tell("ps", topic)
    assert (code, out) == (1, "") and f"No worker of topic {topic} is there" in error
    assert tell("ps", topic, "--json") == (1, '{"workers": [], "pauses": []}\n', "")
    code, out, error = tell("stop", topic, "--all")
    assert (code, out) == (1, "") and f"No worker of topic {topic} is there" in error
    code, out, error = tell("cancel", topic, "a", "b")
    assert (code, out) == (0, f"2 jobs cancelled: 0 workers of topic {topic} know of it\n")
    assert error == f"No worker of topic {topic} is there now; those that start will know of it\n"
    assert tell("pause", topic)[0] == 0
    assert "The topic is paused for all groups." in tell("ps", topic)[2]
    code, _, error = tell("cancel", "no-such-topic-here", "a")
    assert code == 1 and "no-such-topic-here" in error


def test_kq_worker_takes_part_and_top_shows_it(topic: str, hosts: str, tell: Callable[..., Told]) -> None:
    """It does so by default; top goes on until Ctrl-C, which is how it is meant to end."""
    command = [sys.executable, "-m", "kq", "worker", "--hosts", hosts, "--topic", topic, "--threads", "1"]
    watch = [sys.executable, "-m", "kq", "top", "--hosts", hosts, topic, "--interval", "0.2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_until(lambda: tell("ps", topic)[0] == 0, timeout=30)
            with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as shown:
                assert shown.stdout is not None
                lines = [next(line for line in shown.stdout if "1 worker, 0 jobs" in line) for _ in range(2)]
                shown.send_signal(signal.SIGINT)
                shown.stdout.read()
                assert (shown.wait(20), len(lines)) == (0, 2)
            assert tell("stop", topic, "--all")[0] == 0
            assert worker.wait(20) == 0
        finally:
            worker.kill()
    wait_until(lambda: tell("ps", topic)[0] == 1, timeout=10)


def test_kq_worker_can_be_told_to_take_no_part(topic: str, hosts: str, tell: Callable[..., Told]) -> None:
    """Then there is no topic for it."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(time.sleep, 0)
    command = [sys.executable, "-m", "kq", "worker", "--hosts", hosts, "--topic", topic, "--inline", "--no-control"]
    done = subprocess.run([*command, "--burst"], timeout=60, stderr=subprocess.PIPE, text=True, check=True)
    assert "1 message processed" in done.stderr
    assert f"{topic}.control" not in tell("topic", "list")[1]
