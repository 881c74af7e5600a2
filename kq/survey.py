"""What is on the brokers: topics, consumer groups, and how far these are on those.

1. ``topics_on`` and ``groups_on`` ask the brokers, and return records.
2. ``stand`` puts a topic and a group together: for each partition what is committed, what is left, and whose it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

__all__ = ["Group", "Member", "Partition", "Standing", "Topic", "groups_on", "patiently", "stand", "topics_on"]

_Answer = TypeVar("_Answer")

#: How long a broker that has just started may look for a group's coordinator, in seconds.
COORDINATOR_TIMEOUT = 5.0
#: How long to wait before it is asked again, in seconds.
RETRY_PAUSE = 0.5


class Partition(NamedTuple):
    """A partition and its offsets, which are None while no broker leads it."""

    number: int
    replicas: int
    begin: int | None = None
    end: int | None = None

    @property
    def messages(self) -> int:
        """How many messages there are, by the offsets."""
        return (self.end or 0) - (self.begin or 0)


class Topic(NamedTuple):
    """A topic and its partitions, in their order."""

    name: str
    id: str
    partitions: tuple[Partition, ...]

    @property
    def messages(self) -> int:
        return sum(partition.messages for partition in self.partitions)


class Member(NamedTuple):
    """A member of a consumer group, the topics that it subscribes to, and the partitions that it has."""

    id: str
    host: str
    topics: frozenset[str]
    assigned: frozenset[TopicPartition]


class Group(NamedTuple):
    """A consumer group and what it has committed."""

    name: str
    state: str
    members: tuple[Member, ...]
    committed: Mapping[TopicPartition, int]

    @property
    def topics(self) -> set[str]:
        """Topics that it has committed on, or that a member subscribes to or has partitions of."""
        return {tp.topic for tp in self.committed}.union(*(member.topics for member in self.members))


class Progress(NamedTuple):
    """How far a group is on one partition."""

    partition: Partition
    committed: int | None
    lag: int
    #: ID of the member that has the partition.
    member: str | None


class Standing(NamedTuple):
    """How far a group is on a topic."""

    topic: Topic
    group: str
    state: str
    #: Members that have to do with the topic.
    members: tuple[Member, ...]
    progress: tuple[Progress, ...]

    @property
    def lag(self) -> int:
        return sum(progress.lag for progress in self.progress)


def topics_on(admin: KafkaAdminClient, names: Sequence[str] | None = None) -> list[Topic]:
    """Return these topics, or all but Kafka's own, by their names; one that is gone is left out."""
    return patiently(lambda: _topics(admin, names))


def _topics(admin: KafkaAdminClient, names: Sequence[str] | None) -> list[Topic]:
    described = [topic for topic in admin.describe_topics(names) if topic["partitions"]]
    if names is None:
        described = [topic for topic in described if not topic["is_internal"]]
    led = [
        TopicPartition(topic["name"], partition["partition_index"])
        for topic in described
        for partition in topic["partitions"]
        if partition["leader_id"] >= 0  # to ask for the others would be to wait for a leader
    ]
    begin = admin.list_partition_offsets(dict.fromkeys(led, OffsetSpec.EARLIEST)) if led else {}
    end = admin.list_partition_offsets(dict.fromkeys(led, OffsetSpec.LATEST)) if led else {}

    def read(topic: str, partition: Mapping[str, Any]) -> Partition:
        tp = TopicPartition(topic, partition["partition_index"])
        offsets = (begin[tp].offset, end[tp].offset) if tp in begin else ()
        return Partition(tp.partition, len(partition["replica_nodes"]), *offsets)

    topics = (
        Topic(topic["name"], topic["topic_id"], tuple(sorted(read(topic["name"], one) for one in topic["partitions"])))
        for topic in described
    )
    return sorted(topics)


def groups_on(admin: KafkaAdminClient, names: Sequence[str] | None = None) -> list[Group]:
    """Return these consumer groups, or all, by their names; one that nobody has used has no members and no commits."""
    return patiently(lambda: _groups(admin, names))


def _groups(admin: KafkaAdminClient, names: Sequence[str] | None) -> list[Group]:
    if names is None:
        # other types have other members, of which this client knows nothing
        listed = admin.list_groups()
        names = [group["group_id"] for group in listed if group.get("group_type", "classic").lower() == "classic"]
        names = [name for name in names if name]  # a consumer may commit for the group of no name
    if not names:
        return []
    described, committed = admin.describe_groups(list(names)), admin.list_group_offsets(dict.fromkeys(names))
    return [
        Group(
            name,
            described[name]["group_state"],
            tuple(map(_member, described[name]["members"])),
            {tp: found.offset for tp, found in committed[name].items() if found.offset >= 0},
        )
        for name in sorted(names)
    ]


def _member(described: Mapping[str, Any]) -> Member:
    # a member that is only just joining has neither yet
    assigned = frozenset(_assigned(described["member_assignment"] or {}))
    subscribed = (described["member_metadata"] or {}).get("topics", ())
    topics = frozenset(subscribed).union(tp.topic for tp in assigned)
    return Member(described["member_id"], described["client_host"].lstrip("/"), topics, assigned)


def _assigned(assignment: Mapping[str, Any]) -> Iterator[TopicPartition]:
    for entry in assignment.get("assigned_partitions", ()):
        yield from (TopicPartition(entry["topic"], number) for number in entry["partitions"])


def stand(topic: Topic, group: Group) -> Standing:
    """Return how far a group is on a topic."""
    owners = {tp: member.id for member in group.members for tp in member.assigned}
    progress = []
    for partition in topic.partitions:
        tp = TopicPartition(topic.name, partition.number)
        done = group.committed.get(tp)
        lag = max(0, (partition.end or 0) - max(done or 0, partition.begin or 0))
        progress.append(Progress(partition, done, lag, owners.get(tp)))
    members = tuple(member for member in group.members if topic.name in member.topics)
    return Standing(topic, group.name, group.state, members, tuple(progress))


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Ask until a group's coordinator answers: a broker that has just started must find it first."""
    deadline = time.monotonic() + COORDINATOR_TIMEOUT
    while True:
        try:
            return ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_PAUSE)
