"""Delays and schedules by the command line: made, listed, ended, fired, and seen by ``kq info``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
from helpers import wait_until
from kafka import KafkaAdminClient
from test_admin_cli import Told
from test_owner import Log
from test_retries import records

import kq


def test_a_schedule_is_made_listed_and_ended(tell: Callable[..., Told], topic: str) -> None:
    """As a table and as JSON; one that is not there is an error."""
    code, out, _ = tell("schedule", "add", "--topic", topic, "--every", "2h", "s", "builtins:max", "[1, 2]")
    assert (code, out.split(", next ")[0]) == (0, "schedule s: every 7200 s")
    arguments = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--catch-up", "all", "--key", "k")
    assert tell("schedule", "add", "--topic", topic, *arguments, "t", "builtins:abs", "--", "-1")[0] == 0
    _, out, _ = tell("schedule", "list", "--topic", topic)
    assert "every 7200 s" in out and "builtins.max([1, 2])" in out and "builtins.abs(-1)" in out
    _, out, _ = tell("schedule", "list", "--topic", topic, "--json")
    first, second = json.loads(out)
    assert first["when"] == {"every": 7_200_000, "start": None, "catch_up": "latest"}
    assert second["when"] == {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "catch_up": "all"}
    assert first["last_fired"] is None
    assert datetime.fromisoformat(first["next_due"]) > datetime.now(timezone.utc)
    assert tell("schedule", "remove", "--topic", topic, "s") == (0, "schedule s is ended\n", "")
    code, _, error = tell("schedule", "remove", "--topic", topic, "s")
    assert (code, error.startswith("Error: no schedule 's' on topic")) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "give either --every or --cron"),
        (["--every", "1", "--cron", "* * * * *"], "give either --every or --cron"),
        (["--every", "soon"], "'soon' is no time such as 90, 10m, 2h or 1d"),
        (["--every", "0"], "seconds must be 0.1 or greater"),
        (["--cron", "61 * * * *"], "'61' in field 1 is no minute"),
        (["--cron", "* * * * *", "--timezone", "Moon"], "unknown time zone 'Moon'"),
        (["--cron", "* * * * *", "--start", "1"], "--start is for --every"),
        (["--every", "1", "--start", "2030-01-31T12:00"], "does not say in which time zone"),
        (["--every", "1", "--start", "noon"], "'noon' is no time such as"),
    ],
)
def test_what_is_no_schedule_is_one_line(
    tell: Callable[..., Told],
    arguments: list[str],
    error: str,
) -> None:
    """With what to write."""
    code, _, told = tell("schedule", "add", "--topic", "any", *arguments, "s", "builtins:max")
    assert code != 0
    assert error in told
    assert told.count("\n") == 1


def test_a_job_is_delayed_and_info_tells_of_it(tell: Callable[..., Told], topic: str) -> None:
    """By --delay or --at; how many wait, and when the next is due."""
    assert "waiting" not in tell("info", "--topic", topic)[1]
    assert "pending" not in json.loads(tell("info", "--topic", topic, "--json")[1])["topics"][0]
    tell("enqueue", "--topic", topic, "--delay", "1d", "builtins:max", "[1]")
    tell("enqueue", "--topic", topic, "--at", "2030-01-31T12:00+01:00", "--expires", "9999d", "builtins:max", "[1]")
    tell("schedule", "add", "--topic", topic, "--every", "1h", "s", "builtins:max", "[1]")
    assert "waiting: 2 delayed jobs, 1 schedule, next due " in tell("info", "--topic", topic)[1]
    found = json.loads(tell("info", "--topic", topic, "--json")[1])["topics"][0]
    assert (found["pending"], found["schedules"]) == (2, 1)
    assert datetime.fromisoformat(found["next_due"]) > datetime.now(timezone.utc)
    code, _, error = tell("enqueue", "--topic", topic, "--delay", "1", "--at", "1", "builtins:max", "[1]")
    assert (code, error) == (1, "Error: pass delay or at, not both\n")


def test_a_scheduler_fires_and_runs_nothing(
    make_topic: Callable[..., str], hosts: str, admin: KafkaAdminClient
) -> None:
    """For several topics, until a signal ends it with exit code 0."""
    topics = [make_topic(), make_topic()]
    command = [sys.executable, "-m", "kq", "scheduler", "--hosts", hosts, *topics]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        assert started.stderr.readline().startswith("Firing what is due for 2 topics at ")
        for topic in topics:
            with kq.Queue(topic, hosts=hosts) as queue, Log(topic, hosts) as log:
                queue.using(delay=0.5).enqueue(max, [1])
                log.wait(1)
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == 0
    wait_until(lambda: f"{topics[0]}.later" in admin.list_topics())


def test_a_scheduler_wants_topics_that_are_there(tell: Callable[..., Told]) -> None:
    """One line for one that is not."""
    code, _, error = tell("scheduler", "absent-topic")
    assert (code, "absent-topic" in error, error.count("\n")) == (1, True, 1)


def test_a_scheduler_carries_out_cancels(topic: str, hosts: str) -> None:
    """A delayed job that is cancelled goes to its topic at once, marked, though no worker is there."""
    with kq.Queue(topic, hosts=hosts) as queue, kq.Control(topic, hosts) as control:
        job = queue.using(delay=3600).enqueue(print)
        command = [sys.executable, "-m", "kq", "scheduler", "--hosts", hosts, topic]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
            try:
                assert program.stderr is not None
                assert "Firing" in program.stderr.readline()
                control.cancel(job)
                (record,) = wait_until(lambda: records(hosts, topic), timeout=30)
            finally:
                program.terminate()
    assert ("kq-cancelled", b"1") in record.headers
