"""``kq log``, and ``kq worker --store``: what became of messages, by the command line."""

from __future__ import annotations

import json
import operator
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jobs
import pytest
import retry_jobs
from helpers import wait_until
from test_admin_cli import Told

import kq


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'kq.db'}"


@pytest.fixture
def logged(topic: str, hosts: str, url: str) -> list[str]:
    """Have a worker run one job that does well and two that do not; return their IDs."""
    with kq.Queue(topic, hosts=hosts, message_log=url) as queue:
        made = [queue.using(key=b"k").enqueue(operator.add, 1, 2)]
        made += [queue.enqueue(jobs.fail, "sorry"), queue.using(timeout=0.2).enqueue(retry_jobs.stay)]
    kq.Worker(topic, hosts=hosts, message_log=url).start(max_messages=3)
    return [job.id for job in made]


def test_entries_are_listed_and_shown(tell: Callable[..., Told], url: str, logged: list[str], topic: str) -> None:
    """As a table and as JSON, by each filter."""
    code, out, error = tell("log", "list", "--store", url)
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert [next(name for name in logged if name in line) for line in lines[1:4]] != []
    assert "jobs.fail" in out and "'sorry'" in out and "builtins.ValueError: sorry" in out
    code, out, error = tell("log", "list", "--store", url, "--limit", 2, "--json")
    told = json.loads(out)
    assert (len(told["entries"]), told["total"]) == (2, 3)
    for filters, names in {
        ("--status", "failed", "--status", "TIMED_OUT"): set(logged[1:]),
        ("--function", "jobs.fail"): {logged[1]},
        ("--text", "sorry", "--topic", topic, "--since", "1h"): {logged[1]},
        ("--until", "1h"): set(),
    }.items():
        _, out, _ = tell("log", "list", "--store", url, "--json", *filters)
        assert {entry["job_id"] for entry in json.loads(out)["entries"]} == names, filters
    _, out, error = tell("log", "list", "--store", url, "--limit", 1)
    assert error == "There are more: --limit and --offset show others\n"
    code, out, _ = tell("log", "show", "--store", url, logged[1])
    assert "Traceback (most recent call last)" in out and f"topic  {topic}" in " ".join(out.split("   "))
    _, out, _ = tell("log", "show", "--store", url, logged[0], "--json")
    entry = json.loads(out)
    assert (entry["status"], entry["key"], entry["arguments"], entry["offset"]) == ("COMPLETED", "k", "1, 2", 0)


def test_what_is_not_there_is_one_line(tell: Callable[..., Told], url: str, logged: list[str], tmp_path: Path) -> None:
    """A job, a topic, a log; and an address that is none."""
    for arguments, said in {
        ("show", "nobody"): f"no job 'nobody' in the message log at {url}",
        ("retry", "nobody"): f"'nobody' is no job and no topic of the message log at {url}",
    }.items():
        assert tell("log", *arguments, "--store", url) == (1, "", f"Error: {said}\n")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    code, _, error = tell("log", "list", "--store", other)
    assert (code, error) == (1, f"Error: there is no message log at {other}: what has message_log=… makes it\n")
    for command in (["log", "list"], ["worker"]):
        code, _, error = tell(*command, "--store", "mongodb://host")
        assert (code, error.count("\n")) == (1, 1)
        assert "Error: a message log" in error


def test_tail_follows_until_ctrl_c(topic: str, hosts: str, url: str, logged: list[str]) -> None:
    """A line for each change."""
    command = [sys.executable, "-m", "kq", "log", "tail", "--store", url, "--lines", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first = json.loads(program.stdout.readline())
        with kq.Queue(topic, hosts=hosts, message_log=url) as queue:
            job = queue.enqueue(operator.neg, 5)
        second = json.loads(program.stdout.readline())
        program.send_signal(signal.SIGINT)
        assert program.wait(20) == 130
    assert first["job_id"] in logged
    assert (second["job_id"], second["status"], second["arguments"]) == (job.id, "PUBLISHED", "5")


def test_tail_ends_where_it_is_not_to_follow(tell: Callable[..., Told], url: str, logged: list[str]) -> None:
    code, out, _ = tell("log", "tail", "--store", url, "--no-follow", "--status", "failed")
    assert (code, len(out.splitlines())) == (0, 1)
    assert logged[1] in out


def test_prune_removes_what_is_old(tell: Callable[..., Told], url: str, logged: list[str]) -> None:
    assert tell("log", "prune", "--store", url) == (0, "0 entries removed\n", "")
    wait_until(lambda: tell("log", "prune", "--store", url, "--older-than", "0.001")[1] == "3 entries removed\n")


def test_a_job_is_retried_by_its_id(
    tell: Callable[..., Told], url: str, logged: list[str], topic: str, hosts: str
) -> None:
    """It is enqueued as it was, and its entry tells the new run."""
    assert tell("log", "retry", "--store", url, logged[0]) == (0, "1 job enqueued\n", "")
    with kq.MessageStore(url) as store:
        found = store.get(logged[0])
        assert found is not None and (found.status, found.offset, found.ended_at) == ("PUBLISHED", 3, None)
        kq.Worker(topic, hosts=hosts, message_log=store).start(max_messages=1)
        found = store.get(logged[0])
        assert found is not None and (found.status, found.offset, found.arguments) == ("COMPLETED", 3, "1, 2")
        assert store.count() == 3


def test_what_failed_on_a_topic_is_retried(
    tell: Callable[..., Told], url: str, logged: list[str], topic: str, hosts: str
) -> None:
    """In the order in which it failed, after a question; what did well is not."""
    code, _, error = tell("log", "retry", "--store", url, topic)
    assert (code != 0, "2 jobs will be enqueued again" in error) == (True, True)
    code, out, _ = tell("log", "retry", "--store", url, topic, "--yes")
    assert (code, out) == (0, "2 jobs enqueued\n")
    with kq.MessageStore(url) as store:
        assert {name: store.get(name).status for name in logged} == {  # type: ignore[union-attr]
            logged[0]: "COMPLETED", logged[1]: "PUBLISHED", logged[2]: "PUBLISHED"
        }  # fmt: skip
    assert tell("log", "retry", "--store", url, topic, "--yes") == (0, "0 jobs enqueued\n", "")
    code, _, error = tell("log", "retry", "--store", url, topic, "--topic", topic)
    assert (code, "leave out --topic" in error) == (2, True)


def test_a_message_that_is_gone_from_its_topic_is_one_line(
    tell: Callable[..., Told], url: str, logged: list[str], topic: str, admin: object
) -> None:
    """Nothing is enqueued in its place."""
    admin.delete_records({__import__("kafka").TopicPartition(topic, 0): 1})  # type: ignore[attr-defined]
    code, _, error = tell("log", "retry", "--store", url, logged[0])
    where = f"topic {topic}, partition 0, offset 0"
    assert (code, error) == (1, f"Error: job {logged[0]} is not requeued: its message is gone from {where}\n")


def test_a_worker_of_the_command_line_writes_a_log(tell: Callable[..., Told], topic: str, hosts: str, url: str) -> None:
    with kq.Queue(topic, hosts=hosts) as queue:
        job = queue.enqueue(operator.neg, 5)
    assert tell("worker", "--topic", topic, "--store", url, "--burst", "--inline")[0] == 0
    with kq.MessageStore(url) as store:
        found = store.get(job.id)
        assert found is not None and found.status == "COMPLETED"
