"""``kq info``: how far the consumer groups are on the topics.

1. ``_look`` asks the brokers once: of one topic and one group where a topic is named, else of all.
2. What it found is shown as tables, or as one line of JSON.
3. With ``--watch`` that is done again and again until Ctrl-C, in the same place where there is a terminal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import click
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

import kq
from kq import clients
from kq.cli.broker import exit_on_sigterm
from kq.cli.options import config_option, group_option, hosts_option
from kq.cli.output import counted, json_option, make_console, make_table, to_stderr
from kq.cli.topics import open_admin, partitions_of
from kq.scheduling import Waiting, waiting
from kq.survey import Progress, Standing, Topic, groups_on, stand, topics_on

__all__ = ["INTERVAL", "info", "keep_showing"]

#: Seconds between two looks: a change is seen soon, and the brokers hardly notice.
INTERVAL = 2.0
#: Stands for what is not there.
NOTHING = "–"


class Look(NamedTuple):
    """What a look at the brokers has found."""

    topics: list[Topic]
    standings: list[Standing]
    #: What waits for the topic, where one is named.
    waiting: Waiting | None = None


@click.command()
@hosts_option
@click.option("--topic", help="Only this topic, with its partitions; by default all topics.")
@config_option
@group_option
@json_option
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=INTERVAL, show_default=True, help="Seconds between looks."
)
def info(
    hosts: str,
    topic: str | None,
    config: dict[str, Any],
    group: str | None,
    as_json: bool,
    watch: bool,
    interval: float,
) -> None:
    """Show how far consumer groups are on topics; of one topic, its partitions, offsets, lag and members."""
    console = make_console()
    show = _show_json if as_json else _show_one if topic else _show_all
    with open_admin(hosts, config) as admin:
        told: list[str] = []

        def look() -> list[RenderableType]:
            waits = None
            if topic:
                partitions_of(admin, hosts, topic)
                waits = _what_waits(topic, hosts, config, told)
            return show(console, _look(admin, topic, group, waits))

        if watch:
            keep_showing(console, look, interval, in_place=console.is_terminal and not as_json)
            return
        console.print(*look(), sep="\n", soft_wrap=as_json)
        if topic and (warning := clients.topics.clock_warning(admin, topic)):
            to_stderr(f"Warning: {warning}")


def _look(admin: KafkaAdminClient, topic: str | None, group: str | None, waits: Waiting | None = None) -> Look:
    topics = topics_on(admin, None if topic is None else [topic])
    name = group or topic
    groups = groups_on(admin, None if name is None else [name])
    standings = [
        stand(one, other) for one in topics for other in groups if topic is not None or one.name in other.topics
    ]
    return Look(topics, standings, waits)


# -- tables -----------------------------------------------------------------------------------------------------------


def _show_all(console: Console, look: Look) -> list[RenderableType]:
    """Return a table with a row for each topic and each group that has to do with it."""
    rows: list[tuple[str, ...]] = []
    for topic in look.topics:
        of_topic = [standing for standing in look.standings if standing.topic.name == topic.name]
        size = (topic.name, f"{len(topic.partitions):,}", f"{topic.messages:,}")
        rows += [(*size, *_of_group(standing)) for standing in of_topic]
        if not of_topic:
            rows.append((*size, *[NOTHING] * 4))
    headers = ("topic", ">partitions", ">messages", "group", ">lag", ">members", "state")
    groups = len({standing.group for standing in look.standings})
    end = f"{counted(len(look.topics), 'topic')}, {counted(groups, 'group')}"
    lag = sum(standing.lag for standing in look.standings)
    return [*_table(console, headers, rows), *_leaderless(look.topics), Text(f"{end}: lag {lag:,}")]


def _of_group(standing: Standing) -> tuple[str, str, str, str]:
    return standing.group, f"{standing.lag:,}", f"{len(standing.members):,}", standing.state


def _show_one(console: Console, look: Look) -> list[RenderableType]:
    """Return a table of the partitions of one topic, and the members of one group."""
    shown: list[RenderableType] = []
    for standing in look.standings:
        headers = (">partition", ">begin", ">end", ">committed", ">lag", "member")
        shown += _table(console, headers, [_of_partition(progress) for progress in standing.progress])
        shown += _leaderless(look.topics)
        shown += [Text(f"member {member.id} at {member.host}") for member in standing.members]
        end = f"lag {standing.lag}, members {len(standing.members)}"
        shown.append(Text(f"topic {standing.topic.name}, group {standing.group}: {end}"))
    return [*shown, *_waiting(look)]


def _what_waits(topic: str, hosts: str, config: dict[str, Any], told: list[str]) -> Waiting | None:
    """Return what waits for a topic; where it cannot be read, say so once, and show the rest."""
    try:
        return waiting(topic, hosts, config)
    except kq.KQError as error:
        if not told:
            told.append(str(error))
            to_stderr(f"Warning: {error}")
        return None


def _waiting(look: Look) -> Iterator[Text]:
    if look.waiting is not None:
        pending, schedules, due = look.waiting
        when = "" if due is None else f", next due {due.isoformat(sep=' ', timespec='seconds')}"
        yield Text(f"waiting: {counted(pending, 'delayed job')}, {counted(schedules, 'schedule')}{when}")


def _of_partition(progress: Progress) -> tuple[str, ...]:
    partition = progress.partition
    numbers = (partition.number, partition.begin, partition.end, progress.committed, progress.lag)
    return (*(NOTHING if number is None else str(number) for number in numbers), progress.member or NOTHING)


def _table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[RenderableType]:
    table = make_table(console, headers, rows)
    return [table] if console.is_terminal else [table, ""]  # on a terminal the box adds the margin


def _leaderless(topics: Sequence[Topic]) -> Iterator[Text]:
    for topic in topics:
        without = [str(partition.number) for partition in topic.partitions if partition.end is None]
        if without:
            partitions = "partition" if len(without) == 1 else "partitions"
            yield Text(f"topic {topic.name}: no broker leads {partitions} {', '.join(without)}")


# -- JSON -------------------------------------------------------------------------------------------------------------


def _show_json(_: Console, look: Look) -> list[RenderableType]:
    topics = [
        {
            "topic": topic.name,
            "messages": topic.messages,
            "partitions": [
                {"partition": partition.number, "begin": partition.begin, "end": partition.end}
                for partition in topic.partitions
            ],
            "groups": [_as_json(one) for one in look.standings if one.topic.name == topic.name],
            **_waiting_as_json(look),
        }
        for topic in look.topics
    ]
    return [Text(json.dumps({"topics": topics}))]


def _waiting_as_json(look: Look) -> dict[str, Any]:
    if look.waiting is None:
        return {}
    pending, schedules, due = look.waiting
    return {"pending": pending, "schedules": schedules, "next_due": None if due is None else due.isoformat()}


def _as_json(standing: Standing) -> dict[str, Any]:
    return {
        "group": standing.group,
        "state": standing.state,
        "lag": standing.lag,
        "members": [{"member": member.id, "host": member.host} for member in standing.members],
        "partitions": [
            {"partition": one.partition.number, "committed": one.committed, "lag": one.lag, "member": one.member}
            for one in standing.progress
        ],
    }


# -- again and again --------------------------------------------------------------------------------------------------


def keep_showing(
    console: Console, look: Callable[[], list[RenderableType]], interval: float, *, in_place: bool
) -> None:  # fmt: skip
    """Show what is found until Ctrl-C, which is how this is meant to end; a broker that is away is waited for."""
    shown = look()
    with suppress(KeyboardInterrupt), exit_on_sigterm(), _screen(console, in_place) as draw:
        draw(shown, None)
        while True:
            time.sleep(interval)
            try:
                shown = look()
                draw(shown, None)
            except (KafkaError, kq.KQError) as error:
                draw(shown, error)


@contextmanager
def _screen(console: Console, in_place: bool) -> Iterator[Callable[[Sequence[RenderableType], Exception | None], None]]:
    """Give what to call with what was found, and with why nothing new was found."""
    if in_place:
        with Live(console=console, auto_refresh=False) as live:

            def redraw(shown: Sequence[RenderableType], error: Exception | None) -> None:
                # first what is wrong: the end of what is higher than the terminal is cut off
                live.update(Group(*([] if error is None else [Text(_line(error))]), *shown), refresh=True)

            yield redraw
        return

    def draw(shown: Sequence[RenderableType], error: Exception | None) -> None:
        if error is None:
            console.print(*shown, sep="\n", soft_wrap=True)
        else:
            to_stderr(_line(error))

    yield draw


def _line(error: Exception) -> str:
    return f"Error: {' '.join(str(error).split())}"
