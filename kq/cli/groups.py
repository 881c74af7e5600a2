"""``kq group``: a consumer group is made to go on elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import click
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetTimestamp

import kq
from kq import consuming
from kq.cli.options import config_option, hosts_option
from kq.cli.output import confirm, counted, make_console, print_table, yes_option
from kq.cli.topics import LOOK, open_admin, partitions_of
from kq.survey import Group, Partition, Topic, groups_on, patiently, topics_on

__all__ = ["Place", "group"]

#: Stands for what is not there.
NOTHING = "–"


class Place(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A place in a log: ``earliest``, ``latest``, an offset, or a moment with its zone."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("earliest", "latest") or isinstance(value, int | datetime):
            return value
        if value.isascii() and value.isdigit():
            return int(value)
        try:
            # Python 3.10 does not know the Z
            moment = datetime.fromisoformat(value[:-1] + "+00:00" if value[-1:] in ("Z", "z") else value)
        except ValueError:
            self.fail(f"{value!r} is not earliest, latest, an offset or a time: 2030-12-31T23:59:59+01:00", param, ctx)
        if moment.tzinfo is None:
            text = moment.isoformat()
            self.fail(f"{value!r} has no zone: write {text}Z for UTC, or {text}+01:00", param, ctx)
        return moment


class Move(NamedTuple):
    """A partition, and where its group goes on: before, None where nothing is committed, and after."""

    partition: Partition
    before: int | None
    after: int

    @property
    def forward(self) -> int:
        """How many messages farther on that is; below 0 where it is back."""
        begin = self.partition.begin or 0
        return self.after - max(begin, begin if self.before is None else self.before)


@click.group(no_args_is_help=False)
def group() -> None:
    """Reset consumer groups."""


@group.command(name="reset")
@hosts_option
@config_option
@click.option("--topic", required=True, help="Name of the Kafka topic.")
@click.option("--to", "place", type=Place(), required=True, metavar="earliest|latest|OFFSET|TIME", help="Where to.")
@click.option("--partition", type=click.IntRange(min=0), help="Only this partition; by default all.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@yes_option
@click.argument("name", metavar="GROUP")
def group_reset(
    hosts: str, config: dict[str, Any], topic: str, place: str | int | datetime, partition: int | None, dry_run: bool,
    yes: bool, name: str,
) -> None:  # fmt: skip
    """Have a stopped GROUP go on elsewhere: at the first message, the end, an offset, or a moment with its zone."""
    with open_admin(hosts, config) as admin:
        partitions_of(admin, hosts, topic, LOOK)
        (found,), (stopped,) = topics_on(admin, [topic]), groups_on(admin, [name])
        _check_members(stopped)
        moves = _moves(admin, found, stopped, _partitions(found, partition), place)
        words = f"group {name}, topic {topic}: {_show(moves)}"
        if not dry_run:
            if not yes:
                confirm(f"{words}. Reset the group?")
            offsets = {TopicPartition(topic, move.partition.number): move.after for move in moves}
            patiently(lambda: consuming.reset(admin, name, UUID(found.id), offsets))
    click.echo(f"{words}; {'nothing is changed' if dry_run else 'the group is reset'}")


def _check_members(group: Group) -> None:
    if group.members:
        names = ", ".join(f"{member.id} at {member.host}" for member in group.members)
        members = counted(len(group.members), "member")
        raise kq.KQError(f"group {group.name} has {members}: {names}. Stop its workers, reset, and start them again")


def _partitions(topic: Topic, number: int | None) -> list[Partition]:
    """Return the partitions that are meant."""
    meant = [partition for partition in topic.partitions if number in (None, partition.number)]
    if not meant:
        raise kq.KQError(
            f"topic {topic.name} has {counted(len(topic.partitions), 'partition')}, and no number {number}"
        )
    if without := [str(partition.number) for partition in meant if partition.end is None]:
        raise kq.KQError(f"topic {topic.name}: no broker leads partition {', '.join(without)}")
    return meant


def _moves(
    admin: KafkaAdminClient, topic: Topic, group: Group, partitions: Sequence[Partition], place: str | int | datetime
) -> list[Move]:
    """Return where the group goes on: at a place, or at the end of the log that is next to it."""
    tps = [TopicPartition(topic.name, partition.number) for partition in partitions]
    if isinstance(place, datetime):
        moment = OffsetTimestamp(max(0, round(place.timestamp() * 1000)))  # below 0 it would mean something else
        found = admin.list_partition_offsets(dict.fromkeys(tps, moment))
        wanted: list[int] = [found[tp].offset for tp in tps]  # -1 where all is older
    else:
        wanted = [{"earliest": 0, "latest": -1}[place] if isinstance(place, str) else place] * len(tps)
    return [
        Move(one, group.committed.get(tp), _within(one, offset))
        for one, tp, offset in zip(partitions, tps, wanted, strict=True)
    ]


def _within(partition: Partition, offset: int) -> int:
    begin, end = partition.begin or 0, partition.end or 0
    return end if offset < 0 else min(end, max(begin, offset))


def _show(moves: Sequence[Move]) -> str:
    """Print where the group goes on, and return what comes of it in words."""
    rows = []
    for partition, before, after in moves:
        numbers = (partition.number, partition.begin, partition.end, before, after)
        rows.append(tuple(NOTHING if number is None else str(number) for number in numbers))
    print_table(make_console(), (">partition", ">begin", ">end", ">before", ">after"), rows)
    back = -sum(min(0, move.forward) for move in moves)
    over = sum(max(0, move.forward) for move in moves)
    return f"back over {counted(back, 'message')}, forward over {counted(over, 'message')}"
