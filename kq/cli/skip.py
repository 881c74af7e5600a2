"""The command ``kq skip``: a stopped group goes on after a message that cannot be read, or that is not to run."""

from __future__ import annotations

from typing import Any

import click
from kafka import KafkaConsumer

from kq import clients, consuming

__all__ = ["command"]


def command(config_type: Any, default_hosts: str) -> click.Command:
    """Return the command, to be added to the others."""

    @click.command(name="skip")
    @click.option("--hosts", default=default_hosts, show_default=True, envvar="KQ_HOSTS", help="Kafka brokers.")
    @click.option("--config", type=config_type, default={}, help="More client settings.")
    @click.option("--group", help="Consumer group; by default named like the topic.")
    @click.argument("topic")
    @click.argument("partition", type=click.IntRange(min=0))
    @click.argument("offset", type=click.IntRange(min=0))
    def skip(hosts: str, config: dict[str, Any], group: str | None, topic: str, partition: int, offset: int) -> None:
        """Have a stopped group go on after the message at OFFSET; if its batch cannot be read, after the batch."""
        group = group or topic
        known = {name: value for name, value in config.items() if name in KafkaConsumer.DEFAULT_CONFIG}
        settings = {**known, "enable_auto_commit": False, "auto_offset_reset": "earliest", "group_id": group}
        consumer = clients.connect(KafkaConsumer, clients.check_hosts(hosts), settings)
        try:
            after = consuming.skip(consumer, topic, partition, offset)
        finally:
            consumer.close()
        last = f"offset {offset} is" if after == offset + 1 else f"offsets {offset} to {after - 1} are"
        click.echo(f"{last} skipped: group {group} goes on at {after} of partition {partition} of topic {topic}")

    return skip
