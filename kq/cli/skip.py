"""``kq skip``: a stopped group goes on after a message that cannot be read, or that is not to run."""

from __future__ import annotations

from typing import Any

import click
from kafka import KafkaConsumer

from kq import clients, consuming
from kq.cli.options import config_option, group_option, hosts_option

__all__ = ["skip"]


@click.command()
@hosts_option
@config_option
@group_option
@click.argument("topic")
@click.argument("partition", type=click.IntRange(min=0))
@click.argument("offset", type=click.IntRange(min=0))
def skip(hosts: str, config: dict[str, Any], group: str | None, topic: str, partition: int, offset: int) -> None:
    """Have a stopped group go on after the message at OFFSET; if its batch cannot be read, after the batch."""
    group = group or topic
    settings = clients.check_config(config, KafkaConsumer.DEFAULT_CONFIG, ())
    settings |= {"group_id": group, "enable_auto_commit": False, "auto_offset_reset": "earliest"}
    consumer = clients.connect(KafkaConsumer, clients.check_hosts(hosts), settings)
    try:
        after = consuming.skip(consumer, topic, partition, offset)
    finally:
        consumer.close()
    last = f"offset {offset} is" if after == offset + 1 else f"offsets {offset} to {after - 1} are"
    click.echo(f"{last} skipped: group {group} goes on at {after} of partition {partition} of topic {topic}")
