"""``kq topic`` and ``kq info``: what is on the brokers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError, NoError, UnknownTopicOrPartitionError, for_code
from rich.text import Text

import kq
from kq import clients
from kq.cli.options import client_options, config_option, group_option, hosts_option
from kq.cli.output import make_console, print_table

__all__ = ["info", "open_admin", "partitions_of", "topic"]

#: How long a broker that has just started may look for a group's coordinator, in seconds.
COORDINATOR_TIMEOUT = 5.0
#: How long to wait before it is asked again, in seconds.
RETRY_PAUSE = 0.5


@click.group(no_args_is_help=False)
def topic() -> None:
    """Make topics."""


@topic.command(name="create")
@hosts_option
@config_option
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="How many it gets.")
@click.option("--replication", type=click.IntRange(min=1), default=1, show_default=True, help="Brokers that keep each.")
@click.argument("name")
def topic_create(hosts: str, config: dict[str, Any], partitions: int, replication: int, name: str) -> None:
    """Make the topic NAME; one that is there is left as it is."""
    queue = kq.Queue(name, hosts=hosts, config=config)
    made = queue.ensure_topic(partitions, replication)
    with open_admin(hosts, config) as admin:
        count = len(partitions_of(admin, hosts, name))
    click.echo(f"topic {name} {'is made' if made else 'was there'}: partitions {count}")


@click.command()
@client_options
@group_option
def info(hosts: str, topic: str, config: dict[str, Any], group: str | None) -> None:
    """Show the partitions, offsets, lag and members of a topic and a consumer group."""
    group = group or topic
    with open_admin(hosts, config) as admin:
        partitions = [TopicPartition(topic, number) for number in partitions_of(admin, hosts, topic)]
        begin = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        end = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        committed = _patiently(lambda: admin.list_group_offsets({group: partitions})[group])
        members = _patiently(lambda: admin.describe_groups([group])[group]["members"])
        warning = clients.topics.clock_warning(admin, topic)
    owners = {partition: member["member_id"] for member in members for partition in _assigned(member)}
    rows, total = [], 0
    for partition in partitions:
        done = committed[partition].offset if partition in committed else -1
        lag = max(0, end[partition].offset - max(done, begin[partition].offset))
        total += lag
        numbers = (partition.partition, begin[partition].offset, end[partition].offset, done if done >= 0 else "–", lag)
        rows.append((*map(str, numbers), owners.get(partition, "–")))
    console = make_console()
    print_table(console, (">partition", ">begin", ">end", ">committed", ">lag", "member"), rows)
    for member in members:
        console.print(Text(f"member {member['member_id']} at {member['client_host'].lstrip('/')}"))
    console.print(Text(f"topic {topic}, group {group}: lag {total}, members {len(members)}"))
    if warning:
        click.echo(f"Warning: {warning}", err=True)


def _assigned(member: Mapping[str, Any]) -> Iterator[TopicPartition]:
    # a member that is only just joining has none yet
    for entry in (member["member_assignment"] or {}).get("assigned_partitions", ()):
        yield from (TopicPartition(entry["topic"], number) for number in entry["partitions"])


@contextmanager
def open_admin(hosts: str, config: Mapping[str, Any]) -> Iterator[KafkaAdminClient]:
    """Give an admin client made with those of the settings that concern it."""
    known = {**KafkaAdminClient.DEFAULT_CONFIG, **KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG}
    settings = clients.check_config(config, known, {"bootstrap_servers"})
    settings = {name: value for name, value in settings.items() if name in KafkaAdminClient.DEFAULT_CONFIG}
    admin = clients.connect(KafkaAdminClient, clients.check_hosts(hosts), settings)
    try:
        yield admin
    finally:
        admin.close()


def partitions_of(admin: KafkaAdminClient, hosts: str, topic: str) -> list[int]:
    """Return the partitions of a topic; raise :class:`kq.KQError` if there is no such topic."""
    (described,) = admin.describe_topics([topic])
    error = for_code(described["error_code"])
    if error is UnknownTopicOrPartitionError:
        raise kq.KQError(f"no topic {topic!r} at {hosts}: enqueue a first job (kq enqueue --topic {topic} …)")
    if error is not NoError and not described["partitions"]:
        raise kq.KQError(f"topic {topic!r} at {hosts}: {error.__name__}")
    return sorted(partition["partition_index"] for partition in described["partitions"])


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask until a group's coordinator answers: a broker that has just started must find it first."""
    deadline = time.monotonic() + COORDINATOR_TIMEOUT
    while True:
        try:
            return ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_PAUSE)
