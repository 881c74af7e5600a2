"""Topics: made with their settings before anything is produced to them, and looked at for a clock that is wrong.

1. ``ensure`` makes a topic. Where the broker does not allow it, the error names the exact command that makes it.
2. ``companion`` makes a topic beside another one, named after it, with as many partitions.
3. ``clock_warning`` says where records are kept by their producers' clocks, and one of those may be wrong.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidReplicationFactorError,
    KafkaError,
    PolicyViolationError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from kq.clients.connect import connect, hosts_of, settings_for
from kq.errors import KQError

__all__ = [
    "ASK_MS",
    "JOBS",
    "clock_warning",
    "companion",
    "companion_at",
    "ensure",
    "is_hidden",
    "is_there",
    "limit_at",
    "setting_at",
]

_logger = logging.getLogger("kq.topics")

#: Settings of a topic of jobs. By the time that a job's producer gives, a clock that is years behind would have the
#: broker delete the job at once: retention goes by that time.
JOBS: Mapping[str, str] = {"message.timestamp.type": "LogAppendTime"}
#: The broker knows the topic, and this client may not make it.
_NOT_ALLOWED = (ClusterAuthorizationFailedError, PolicyViolationError, TopicAuthorizationFailedError)
#: Milliseconds until the broker has told: nothing is to wait long for a warning.
ASK_MS = 2_000
#: Bytes that a record of a companion may need beyond the one that it comes from: a dead letter has a traceback.
_MORE_HEADERS = 16_384
#: Bytes that a topic takes, key and headers included, unless somebody has set it.
_USUAL_LIMIT = 1_048_588
#: Milliseconds that making a topic may take, where nothing else is said.
_MAKE_MS = 10_000
#: What was said once in this process.
_told: set[str] = set()


def ensure(
    admin: KafkaAdminClient, name: str, partitions: int, settings: Mapping[str, str], *, replication: int = -1
) -> bool:
    """Make a topic, unless there is one of its name, which is left as it is; return whether it was made.

    :param replication: How many brokers keep each partition; -1 for what the broker likes.
    :raises kq.KQError: It could not be made.
    """
    topic = {"num_partitions": partitions, "replication_factor": replication, "configs": dict(settings)}
    try:
        admin.create_topics({name: topic})
    except TopicAlreadyExistsError:
        return False
    except _NOT_ALLOWED as error:
        if name in admin.list_topics():  # who may not make a topic is not told first that there is one
            return False
        extras = [("replication-factor", str(replication))] if replication > 0 else []
        extras += [("config", f"{key}={value}") for key, value in settings.items()]
        raise KQError(
            f"topic {name} could not be made: {type(error).__name__}; who may, makes it by: "
            f"kafka-topics.sh --bootstrap-server {hosts_of(admin)} --create --topic {name} --partitions {partitions}"
            + "".join(f" --{option} {value}" for option, value in extras)
        ) from error
    except InvalidReplicationFactorError as error:
        raise KQError(f"topic {name} could not be made: {_too_few(admin, replication)}") from error
    except (KafkaError, ValueError) as error:
        raise KQError(f"topic {name} could not be made: {error}") from error
    return True


def _too_few(admin: KafkaAdminClient, replication: int) -> str:
    """Return why that many brokers cannot keep a partition."""
    count = sum(not broker.get("is_fenced") for broker in admin.describe_cluster()["brokers"])
    there = "there is 1 broker" if count == 1 else f"there are {count} brokers"
    return f"replication {replication} needs as many brokers, and {there} at {hosts_of(admin)}"


def companion(
    admin: KafkaAdminClient,
    topic: str,
    suffix: str,
    settings: Mapping[str, str],
    *,
    name: str | None = None,
    partitions: int | None = None,
) -> str:
    """Have a companion of a topic, with as many partitions, and return its name.

    One that exists is left as it is; that its ``cleanup.policy`` is another is said once.

    :param name: Its name, if not the topic's with a suffix.
    :param partitions: How many it gets, if not as many.
    :raises kq.KQError: It could not be made, or there is no such topic.
    """
    name = name or f"{topic}.{suffix}"
    (described,) = admin.describe_topics([topic])
    if not described["partitions"]:
        reason = for_code(described["error_code"]).__name__
        raise KQError(f"topic {name} could not be made: of topic {topic} the broker says {reason}")
    settings = {**settings, **_room_for(admin, topic)}
    count = partitions or len(described["partitions"])
    if not ensure(admin, name, count, settings) and name not in _told:
        _told.add(name)
        wanted, found = settings.get("cleanup.policy"), _settings(admin, name, "cleanup.policy")["cleanup.policy"]
        if wanted is not None and found not in (wanted, None):
            _logger.warning("Topic %s has cleanup.policy=%s, and should have %s", name, found, wanted)
    return name


def clock_warning(admin: KafkaAdminClient, topic: str) -> str | None:
    """Return what to say where retention goes by a producer's clock that seems to be wrong; None if all is well.

    Seems: all that a partition holds is older, by its own time, than the topic keeps records. So is what has lain there
    unread for as long.

    :raises KafkaError: The broker does not tell.
    """
    settings = _settings(admin, topic, "message.timestamp.type", "retention.ms", "cleanup.policy")
    retention = int(settings["retention.ms"] or -1)
    is_by_age = retention >= 0 and "delete" in (settings["cleanup.policy"] or "")
    if settings["message.timestamp.type"] != "CreateTime" or not is_by_age:
        return None
    (described,) = admin.describe_topics([topic])
    tps = [TopicPartition(topic, partition["partition_index"]) for partition in described["partitions"]]
    newest = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.MAX_TIMESTAMP), timeout_ms=ASK_MS)
    old = [tp.partition for tp, found in newest.items() if 0 <= found.timestamp < time.time() * 1000 - retention]
    if not old:
        return None
    partitions = ", ".join(map(str, sorted(old)))
    return (
        f"Topic {topic} has message.timestamp.type=CreateTime and keeps records for {retention / 1000:g} s by their "
        f"producers' clocks, and by those all that partitions {partitions} hold is older: it may be deleted unread. If "
        f"a producer's clock is wrong, set message.timestamp.type=LogAppendTime"
    )


def _room_for(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    """Return the setting by which whatever a topic of large records takes goes onto another one, with more headers."""
    try:
        limit = int(_settings(admin, topic, "max.message.bytes")["max.message.bytes"])
    except (KafkaError, TypeError, ValueError):  # who may not ask does without
        return {}
    return {"max.message.bytes": str(limit + _MORE_HEADERS)} if limit != _USUAL_LIMIT else {}


def companion_at(
    hosts: str,
    config: Mapping[str, Any],
    topic: str,
    suffix: str,
    settings: Mapping[str, str],
    *,
    name: str | None = None,
    partitions: int | None = None,
) -> str:
    """Have a companion of a topic, as ``companion`` does, by a client that is made for it. May block for seconds.

    :param config: What gets a client to these brokers, and what of the client's own settings is to be others.
    :raises KafkaError: The broker did not answer.
    :raises kq.KQError: It could not be made, or there is no such topic.
    """
    own = {"request_timeout_ms": _MAKE_MS, "bootstrap_timeout_ms": _MAKE_MS}
    with connect(KafkaAdminClient, hosts, {**own, **settings_for(KafkaAdminClient.DEFAULT_CONFIG, config)}) as admin:
        return companion(admin, topic, suffix, settings, name=name, partitions=partitions)


def setting_at(hosts: str, config: Mapping[str, Any], topic: str, name: str) -> str | None:
    """Return a setting of a topic, by a client that is made for it; None where the broker does not tell. May block.

    :raises KafkaError: The broker did not answer.
    """
    access = settings_for(KafkaAdminClient.DEFAULT_CONFIG, config)
    with connect(KafkaAdminClient, hosts, {"request_timeout_ms": ASK_MS, **access}) as admin:
        found: str | None = _settings(admin, topic, name)[name]
        return found


def is_hidden(admin: KafkaAdminClient, topic: str) -> bool:
    """Return whether a topic is not seen for want of a right; whether there is one is not told then."""
    (described,) = admin.describe_topics([topic])
    return for_code(described["error_code"]) is TopicAuthorizationFailedError


def is_there(hosts: str, config: Mapping[str, Any], topic: str) -> bool:
    """Return whether there is a topic, by a client that is made for it. May block.

    :raises KafkaError: The broker did not answer.
    """
    access = settings_for(KafkaAdminClient.DEFAULT_CONFIG, config)
    with connect(KafkaAdminClient, hosts, {"request_timeout_ms": ASK_MS, **access}) as admin:
        return topic in admin.list_topics()


def limit_at(hosts: str, config: Mapping[str, Any], topic: str) -> int | None:
    """Return how many bytes a record of a topic may have; None where the broker does not tell. May block."""
    try:
        return int(setting_at(hosts, config, topic, "max.message.bytes") or "")
    except (KafkaError, KQError, ValueError):
        return None


def _settings(admin: KafkaAdminClient, topic: str, *names: str) -> dict[str, Any]:
    """Return settings of a topic; None for what the broker does not tell."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(names))
    found = admin.describe_configs([resource], config_filter="all")["topic"].get(topic, {})
    return {name: found.get(name, {}).get("value") for name in names}
