"""What waits, for those who look: the topic ``T.later`` is read as a table, once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import TopicAuthorizationFailedError

from kq.clients import TableReader, connect, denied, settings_for, topics
from kq.errors import KQError
from kq.producing import SUFFIX
from kq.scheduling.part import Part

__all__ = ["Waiting", "read_parts", "waiting"]

#: Seconds in which the topic must be read.
_PATIENCE = 60.0
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Waiting(NamedTuple):
    """What waits for one topic.

    :param pending: How many delayed jobs.
    :param schedules: How many schedules.
    :param next_due: When the next of either is due; None if nothing waits.
    """

    pending: int
    schedules: int
    next_due: datetime | None


def read_parts(topic: str, hosts: str, config: Mapping[str, Any]) -> list[Part] | None:
    """Return what the partitions of a topic's companion hold; None where it has none.

    :param config: More settings of any Kafka client.
    :raises kq.KQError: It could not be read.
    """
    later = f"{topic}.{SUFFIX}"
    with connect(KafkaAdminClient, hosts, settings_for(KafkaAdminClient.DEFAULT_CONFIG, config)) as admin:
        if later not in admin.list_topics():
            if topics.is_hidden(admin, later):
                raise KQError(f"topic {later} cannot be read: {denied(TopicAuthorizationFailedError(later))}")
            return None
    parts: dict[int, Part] = {}

    def apply(record: Any) -> None:
        if record.partition not in parts:
            parts[record.partition] = Part(record.partition, 0)
        parts[record.partition].apply(record, 0)

    settings = settings_for(KafkaConsumer.DEFAULT_CONFIG, config)
    reader = TableReader(hosts, later, apply, reset=parts.clear, config=settings)
    reader.start()
    try:
        if not reader.wait_loaded(_PATIENCE):
            raise KQError(f"topic {later} could not be read within {_PATIENCE:g} s")
    finally:
        reader.close()
    return list(parts.values())


def waiting(topic: str, hosts: str, config: Mapping[str, Any]) -> Waiting | None:
    """Return what waits for a topic; None where nothing ever has."""
    parts = read_parts(topic, hosts, config)
    if parts is None:
        return None
    times = [due for part in parts if (due := part.next_due()) is not None]
    times += [plan.next for part in parts for plan in part.plans.values()]
    next_due = _EPOCH + timedelta(milliseconds=min(times)) if times else None
    return Waiting(sum(map(len, parts)), sum(len(part.plans) for part in parts), next_due)
