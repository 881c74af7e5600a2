"""``kq group reset``: a stopped group goes on exactly where it is told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from click import BadParameter
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import NoError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata

import kq
from kq import consuming
from kq.cli.groups import Place
from kq.consuming.metadata import View, encode

Told = tuple[int, str, str]

#: A group stands at offset 2 and has done 3 and 4; 2 ran twice when a worker died, and runs.
STANDS_AT_2 = View(2, top=5, incomplete=(2,), running=(2,), deliveries=((2, 2),))


@pytest.fixture
def stands(admin: KafkaAdminClient, queue: kq.Queue, group: str) -> TopicPartition:
    """Return a partition with six jobs, on which a group stands at 2."""
    for number in range(6):
        queue.enqueue(abs, number)
    tp = TopicPartition(queue.topic, 0)
    (described,) = admin.describe_topics([queue.topic])
    text = encode(STANDS_AT_2, UUID(described["topic_id"]), alive=True)
    assert admin.alter_group_offsets(group, {tp: OffsetAndMetadata(2, text, -1)}) == {tp: NoError}
    return tp


def run(hosts: str, topic: str, group: str, count: int) -> list[tuple[str, int]]:
    """Have a worker take so many messages; return their statuses and offsets."""
    seen: list[tuple[str, int]] = []

    def callback(status: str, message: kq.Message, *rest: object) -> None:
        seen.append((status, message.offset))

    kq.Worker(topic, hosts=hosts, group=group, callback=callback).start(max_messages=count)
    return seen


def committed(admin: KafkaAdminClient, group: str, tp: TopicPartition) -> OffsetAndMetadata:
    return admin.list_group_offsets({group: [tp]})[group][tp]


def test_without_a_reset_what_is_done_is_not_run(hosts: str, stands: TopicPartition, group: str) -> None:
    """Nor is what killed three workers. This is what a reset must take back."""
    assert run(hosts, stands.topic, group, 2) == [("failure", 2), ("success", 5)]


@pytest.mark.parametrize(
    ("place", "offsets"),
    [
        ("earliest", [0, 1, 2, 3, 4, 5]),
        ("2", [2, 3, 4, 5]),  # where it stands: the same offset says something else now
        ("4", [4, 5]),
        ("latest", []),
        ("99", []),
        ("2001-01-01T00:00:00Z", [0, 1, 2, 3, 4, 5]),
        ("1960-01-01T00:00:00+01:00", [0, 1, 2, 3, 4, 5]),
        ("2999-01-01T00:00:00+01:00", []),
    ],
)
def test_a_worker_runs_exactly_what_is_after_the_place(
    hosts: str, admin: KafkaAdminClient, queue: kq.Queue, stands: TopicPartition, group: str,
    tell: Callable[..., Told], place: str, offsets: list[int],
) -> None:  # fmt: skip
    """Once each, in order, and then what is enqueued later."""
    assert tell("group", "reset", group, "--topic", stands.topic, "--to", place, "--yes")[0] == 0
    assert committed(admin, group, stands).offset == 6 - len(offsets)
    queue.enqueue(abs, 6)
    expected = [("success", offset) for offset in [*offsets, 6]]
    assert run(hosts, stands.topic, group, len(expected)) == expected
    assert committed(admin, group, stands).offset == 7


def test_a_moment_is_the_first_message_from_then_on(
    admin: KafkaAdminClient, stands: TopicPartition, group: str, tell: Callable[..., Told],
    consumer: Callable[..., KafkaConsumer],
) -> None:  # fmt: skip
    """By the time of the records; the zone counts."""
    reader = consumer(stands.topic, group_id=None)
    times: list[int] = []
    wait_until(lambda: times.extend(one.timestamp for one in reader.poll(500).get(stands, ())) or len(times) == 6, 30)
    reader.close()
    moment = datetime.fromtimestamp(times[3] / 1000, timezone(timedelta(hours=-7)))
    assert tell("group", "reset", group, "--topic", stands.topic, "--to", moment.isoformat(), "--yes")[0] == 0
    assert committed(admin, group, stands).offset == times.index(times[3])


def test_before_and_after_are_shown(
    admin: KafkaAdminClient, stands: TopicPartition, group: str, tell: Callable[..., Told]
) -> None:
    """With --dry-run nothing else happens."""
    before = committed(admin, group, stands)
    code, out, err = tell("group", "reset", group, "--topic", stands.topic, "--to", "1", "--dry-run")
    words = f"group {group}, topic {stands.topic}: back over 1 message, forward over 0 messages; nothing is changed"
    assert (code, out.splitlines()[-1], err) == (0, words, "")
    header, row = (line.split() for line in out.splitlines()[:2])
    assert (header, row) == (["partition", "begin", "end", "before", "after"], ["0", "0", "6", "2", "1"])
    assert committed(admin, group, stands) == before


def test_one_partition_of_several(hosts: str, make_topic: Callable[..., str], group: str, tell: Any) -> None:
    """The others stay; a group that has committed nothing there goes over what it has not seen."""
    topic = make_topic(partitions=2)
    with kq.Queue(topic, hosts=hosts) as queue:
        for partition in (0, 1):
            queue.using(partition=partition).enqueue(abs, -1)
    code, out, _ = tell("group", "reset", group, "--topic", topic, "--to", "latest", "--partition", 1, "--yes")
    assert (code, out.splitlines()[1].split()) == (0, ["1", "0", "1", "–", "1"])
    assert "back over 0 messages, forward over 1 message; the group is reset" in out
    assert run(hosts, topic, group, 1) == [("success", 0)]
    assert re.search("lag 0, members 0", tell("info", "--topic", topic, "--group", group)[1])


def test_a_group_with_members_is_not_reset(
    hosts: str, admin: KafkaAdminClient, stands: TopicPartition, group: str, tell: Callable[..., Told]
) -> None:
    """One line names them."""
    worker = kq.Worker(stands.topic, hosts=hosts, group=group)
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        wait_until(lambda: committed(admin, group, stands).offset == 6, timeout=30)
        code, out, err = tell("group", "reset", group, "--topic", stands.topic, "--to", "earliest", "--yes")
    finally:
        worker.stop()
        thread.join()
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"Error: group {group} has 1 member: \S+ at [\d.]+\. Stop its workers, [^\n]+\n", err)
    assert committed(admin, group, stands).offset == 6


def test_a_member_that_joined_meanwhile_is_told() -> None:
    """The broker refuses; the partitions are named."""
    tp = TopicPartition("t", 3)

    class Admin:
        def alter_group_offsets(self, group: str, commits: object) -> dict[TopicPartition, object]:
            return {tp: UnknownMemberIdError}

    with pytest.raises(kq.KQError, match=r"not reset on partitions 3 \(UnknownMemberIdError\): stop its workers"):
        consuming.reset(Admin(), "g", None, {tp: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topic", "nowhere", "--to", "0"], "no topic 'nowhere' at "),
        (["--topic", "TOPIC", "--to", "0", "--partition", "1"], "TOPIC has 1 partition, and no number 1"),
        (["--topic", "TOPIC"], "Missing option '--to'"),
        (["--to", "0"], "Missing option '--topic'"),
    ],
)
def test_a_mistake_is_one_line(topic: str, tell: Callable[..., Told], arguments: list[str], words: str) -> None:
    """Whatever is wrong."""
    code, out, err = tell("group", "reset", "g", *(word.replace("TOPIC", topic) for word in arguments), "--yes")
    assert (code != 0, out, err.count("\n")) == (True, "", 1)
    assert words.replace("TOPIC", topic) in err


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("soon", "is not earliest, latest, an offset or a time"),
        ("-1", "is not earliest, latest, an offset or a time"),
        ("", "is not earliest, latest, an offset or a time"),
        ("2030-01-01", "write 2030-01-01T00:00:00Z for UTC"),
        ("2030-01-01T10:00", "write 2030-01-01T10:00:00Z for UTC"),
    ],
)
def test_a_place_that_is_none_is_told(word: str, reason: str) -> None:
    """A time without its zone could be any of 25 hours."""
    with pytest.raises(BadParameter, match=reason):
        Place().convert(word, None, None)
