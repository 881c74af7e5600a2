"""``kq topic``: topics are made, listed and deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, NoError, UnknownTopicOrPartitionError, for_code

import kq
from kq import clients
from kq.cli.options import config_option, hosts_option
from kq.cli.output import confirm, counted, json_option, make_console, print_table, yes_option
from kq.survey import Topic, topics_on

__all__ = ["open_admin", "partitions_of", "topic"]

#: What ``kq topic list`` tells of each topic.
COLUMNS = ("topic", "partitions", "replication", "messages")
#: What to do where a topic is not there, for those who want to work.
MAKE_ONE = ": make it (kq topic create {0}), or enqueue a first job (kq enqueue --topic {0} …)"
#: What to do for those who look for one.
LOOK = ": kq topic list shows those that are there"


@click.group(no_args_is_help=False)
def topic() -> None:
    """Make, list and delete topics."""


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


@topic.command(name="list")
@hosts_option
@config_option
@json_option
def topic_list(hosts: str, config: dict[str, Any], as_json: bool) -> None:
    """List the topics, their partitions, how many brokers keep each, and how many messages there are."""
    with open_admin(hosts, config) as admin:
        rows = [(one.name, len(one.partitions), _replication(one), one.messages) for one in topics_on(admin)]
    if as_json:
        click.echo(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows]))
        return
    texts = [(name, *(f"{number:,}" for number in numbers)) for name, *numbers in rows]
    print_table(make_console(), ("topic", *(f">{column}" for column in COLUMNS[1:])), texts)


def _replication(topic: Topic) -> int:
    return min(partition.replicas for partition in topic.partitions)


@topic.command(name="delete")
@hosts_option
@config_option
@yes_option
@click.argument("name")
def topic_delete(hosts: str, config: dict[str, Any], yes: bool, name: str) -> None:
    """Delete the topic NAME, with its messages."""
    with open_admin(hosts, config) as admin:
        partitions_of(admin, hosts, name, LOOK)
        messages = counted(sum(one.messages for one in topics_on(admin, [name])), "message")
        if not yes:
            confirm(f"Topic {name} at {hosts} has {messages}. Delete it, with what it has?")
        try:
            admin.delete_topics([name])
        except KafkaError as error:  # its text is the whole request and the whole answer
            raise kq.KQError(f"topic {name} at {hosts} is not deleted: {type(error).__name__}") from error
    click.echo(f"topic {name} is deleted: {messages}")


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


def partitions_of(admin: KafkaAdminClient, hosts: str, topic: str, what_to_do: str = MAKE_ONE) -> list[int]:
    """Return the partitions of a topic; raise :class:`kq.KQError` if there is no such topic.

    :param what_to_do: How that error ends; ``{}`` is the topic.
    """
    (described,) = admin.describe_topics([topic])
    error = for_code(described["error_code"])
    if error is UnknownTopicOrPartitionError:
        raise kq.KQError(f"no topic {topic!r} at {hosts}{what_to_do.format(topic)}")
    if error is not NoError and not described["partitions"]:
        raise kq.KQError(f"topic {topic!r} at {hosts}: {error.__name__}")
    return sorted(partition["partition_index"] for partition in described["partitions"])
