"""What an operator does by the command line: topics and groups are looked at, made, deleted and reset."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from helpers import at_work, wait_until
from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError, TopicAuthorizationFailedError
from rich.console import Console

import kq
from kq import survey
from kq.cli import info as page

#: Seconds for one command.
PATIENCE = 60

Told = tuple[int, str, str]


@pytest.fixture
def full(hosts: str, make_topic: Callable[..., str]) -> str:
    """Return a topic of two partitions, with three jobs in the first and one in the second."""
    topic = make_topic(partitions=2)
    with kq.Queue(topic, hosts=hosts) as queue:
        for partition in (0, 0, 0, 1):
            queue.using(partition=partition).enqueue(abs, -1)
    return topic


def working(hosts: str, topic: str, group: str, count: int) -> None:
    """Have a worker run so many jobs."""
    kq.Worker(topic, hosts=hosts, group=group).start(max_messages=count)


# -- topics -----------------------------------------------------------------------------------------------------------


def test_topics_are_listed(tell: Callable[..., Told], full: str) -> None:
    """With their sizes, as a table and as JSON; Kafka's own are left out."""
    code, out, _ = tell("topic", "list", "--json")
    listed = {one["topic"]: one for one in json.loads(out)}
    assert (code, out.count("\n")) == (0, 1)
    assert listed[full] == {"topic": full, "partitions": 2, "replication": 1, "messages": 4}
    assert [name for name in listed if name.startswith("__")] == []
    lines = [line.split() for line in tell("topic", "list")[1].splitlines()]
    assert lines[0] == ["topic", "partitions", "replication", "messages"]
    assert [full, "2", "1", "4"] in lines


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_a_topic_is_deleted_after_a_question(
    tell: Callable[..., Told], full: str, admin: KafkaAdminClient, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """Which says how many messages go; without a yes nothing happens, and --yes is one."""
    read, write = os.pipe()
    os.write(write, answer.encode())
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, err = tell("topic", "delete", full)
    assert (code != 0, out) == (True, "")
    assert f"Topic {full} at " in err
    assert "has 4 messages. Delete it" in err
    assert ("Error: nothing is changed" if answer else "--yes") in err
    assert full in admin.list_topics()
    assert tell("topic", "delete", full, "--yes") == (0, f"topic {full} is deleted: 4 messages\n", "")
    assert full not in admin.list_topics()


def test_a_topic_that_is_not_there_is_not_deleted(tell: Callable[..., Told], hosts: str) -> None:
    """In one line, before any question."""
    error = f"Error: no topic 'nowhere' at {hosts}: kq topic list shows those that are there\n"
    assert tell("topic", "delete", "nowhere") == (1, "", error)


def test_a_topic_that_may_not_be_deleted_is_one_short_line(
    tell: Callable[..., Told], hosts: str, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own words are the whole request and the whole answer."""

    def refuse(*_: object) -> None:
        raise TopicAuthorizationFailedError("Request 'DeleteTopicsRequest(version=6, topics=[DeleteTopicState(")

    monkeypatch.setattr(KafkaAdminClient, "delete_topics", refuse)
    error = f"Error: topic {full} at {hosts} is not deleted: TopicAuthorizationFailedError\n"
    assert tell("topic", "delete", full, "--yes") == (1, "", error)


# -- info -------------------------------------------------------------------------------------------------------------


def test_info_shows_all_topics(tell: Callable[..., Told], hosts: str, full: str, topic: str, group: str) -> None:
    """A row for each group that has committed on a topic; a topic that nobody works on has one row too."""
    working(hosts, full, group, 3)
    code, out, _ = tell("info")
    lines = [line.split() for line in out.splitlines()]
    assert (code, lines[0]) == (0, ["topic", "partitions", "messages", "group", "lag", "members", "state"])
    assert [full, "2", "4", group, "1", "0", "Empty"] in lines
    assert [topic, "1", "0", "–", "–", "–", "–"] in lines
    rows = [line.split() for line in tell("info", "--group", group)[1].splitlines()]
    assert {row[3] for row in rows[1:-2]} == {group, "–"}
    assert rows[-1][-4:] == ["1", "group:", "lag", "1"]


@pytest.mark.parametrize("option", ["", "--topic"])
def test_info_is_json_too(tell: Callable[..., Told], hosts: str, full: str, group: str, option: str) -> None:
    """The same names whether of one topic or of all: a program reads them."""
    working(hosts, full, group, 4)
    _, out, _ = tell("info", "--json", *([option, full, "--group", group] if option else []))
    (found,) = (one for one in json.loads(out)["topics"] if one["topic"] == full)
    assert found == {
        "topic": full,
        "messages": 4,
        "partitions": [{"partition": 0, "begin": 0, "end": 3}, {"partition": 1, "begin": 0, "end": 1}],
        "groups": [
            {
                "group": group,
                "state": "Empty",
                "lag": 0,
                "members": [],
                "partitions": [
                    {"partition": 0, "committed": 3, "lag": 0, "member": None},
                    {"partition": 1, "committed": 1, "lag": 0, "member": None},
                ],
            }
        ],
    }


def test_info_knows_the_members(tell: Callable[..., Told], hosts: str, topic: str, group: str) -> None:
    """Also those of a group that has committed nothing yet."""
    worker = kq.Worker(topic, hosts=hosts, group=group)
    with at_work(worker):

        def group_of() -> Any:
            (found,) = (one for one in json.loads(tell("info", "--json")[1])["topics"] if one["topic"] == topic)
            return next((one for one in found["groups"] if one["partitions"][0]["member"]), None)

        found = wait_until(group_of, timeout=PATIENCE)
    (member,) = found["members"]
    assert (found["group"], found["state"], found["partitions"][0]["member"]) == (group, "Stable", member["member"])
    assert not found["partitions"][0]["committed"]  # an idle worker may have said that it is at work


def test_a_partition_without_a_leader_is_said_and_not_waited_for() -> None:
    """Its offsets are not known; those of others are."""

    class Admin:
        def describe_topics(self, names: object) -> list[dict[str, Any]]:
            partitions = [
                {"partition_index": number, "leader_id": leader, "replica_nodes": [1, 2]}
                for number, leader in ((1, -1), (0, 2))
            ]
            return [{"name": "t", "topic_id": "x", "is_internal": False, "partitions": partitions}]

        def list_partition_offsets(self, asked: dict[Any, Any]) -> dict[Any, Any]:
            return {tp: type("Found", (), {"offset": 7}) for tp in asked if tp.partition == 0}

    (topic,) = survey.topics_on(Admin())  # type: ignore[arg-type]
    assert topic.partitions == (survey.Partition(0, 2, 7, 7), survey.Partition(1, 2))
    assert survey.stand(topic, survey.Group("g", "Empty", (), {})).lag == 0
    assert [line.plain for line in page._leaderless([topic])] == ["topic t: no broker leads partition 1"]


# -- info --watch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_watch_looks_until_it_is_told(hosts: str, full: str, number: int, code: int) -> None:
    """Ctrl-C is how it is meant to end."""
    command = [sys.executable, "-m", "kq", "info", "--hosts", hosts, "--topic", full, "--watch", "--interval", "0.1"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (code, "")
    assert [look["topics"][0]["messages"] for look in looks] == [4, 4, 4]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_watch_waits_for_a_broker_that_is_away(
    tell: Callable[..., Told], full: str, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    """It says so, and goes on; on a terminal it redraws what it showed."""
    looks = iter([None, KafkaConnectionError("nobody\nthere"), None, KeyboardInterrupt()])

    def look(*arguments: Any) -> list[survey.Topic]:
        error = next(looks)
        if error is not None:
            raise error
        return survey.topics_on(*arguments)

    terminal = StringIO()
    monkeypatch.setattr(page, "topics_on", look)
    if is_terminal:  # high enough for the topics of all other tests: what does not fit is cut off
        high = Console(file=terminal, force_terminal=True, width=200, height=10_000)
        monkeypatch.setattr(page, "make_console", lambda: high)
    code, out, err = tell("info", "--watch", "--interval", "0.1")
    shown = terminal.getvalue() + out + err
    assert (code, shown.count("Error: KafkaConnectionError: nobody there")) == (0, 1)
    assert (shown.count(full), "\x1b[2K" in shown) == (
        (4, True) if is_terminal else (2, False)
    )  # the last one is drawn again at the end
