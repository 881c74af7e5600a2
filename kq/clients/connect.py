"""Kafka clients that the library makes by itself, where the user gives hosts instead of a client.

``connect`` makes the client, and says in one clear error when no broker answers, and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from kafka.errors import KafkaConnectionError, KafkaTimeoutError

from kq.clients import kafka_python
from kq.clients.config import check_files
from kq.clients.making import losses
from kq.clients.properties import hide_secrets
from kq.clients.reasons import REFUSALS, explain
from kq.errors import ArgumentError, BrokerUnreachable

__all__ = [
    "CLIENT_DEFAULTS",
    "DEFAULT_TOPIC",
    "access_of",
    "check_hosts",
    "check_topic",
    "connect",
    "hosts_of",
    "settings_for",
]

_Client = TypeVar("_Client")

#: The topic where only hosts are given, as in KQ 1.x.
DEFAULT_TOPIC = "default"
#: ``bootstrap_timeout_ms``: the client's own 30 s are longer than people wait before they think that it hangs.
#: ``reconnect_backoff_max_ms``: a broker is back some seconds after a restart. With the client's own 30 s it took 10 to
#: 35 s (measured) until clients were back.
CLIENT_DEFAULTS: Mapping[str, Any] = {"bootstrap_timeout_ms": 8_000, "reconnect_backoff_max_ms": 1_000}
#: Settings of a user's client that another one needs to get to the same brokers.
_ACCESS = ("security_protocol", "ssl_", "sasl_", "socks5_proxy")
#: Settings that another client is not to share: they would say in its name what the first one does.
_OF_ITS_OWN = ("client_id", "metrics_enabled", "metric_reporters")
#: What Kafka allows as the name of a topic.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def hosts_of(client: Any) -> str:
    """Return the brokers that a client was given, as ``"host:port,host:port"``."""
    servers = client.config["bootstrap_servers"]
    return servers if isinstance(servers, str) else ",".join(servers)


def check_hosts(hosts: object) -> str:
    """Return hosts if they are addresses, ``"host:port,host:port"``; raise :class:`kq.ArgumentError` otherwise."""
    if not isinstance(hosts, str) or not hosts.strip(" ,"):
        raise ArgumentError('hosts must be a str such as "127.0.0.1:9092" or "host:port,host:port"')
    for address in filter(None, (part.strip() for part in hosts.split(","))):
        if not _is_address(address):
            raise ArgumentError(
                f"hosts: {address!r} is no address; write host:port, with a number of 1 to 65535 as the port: "
                '"127.0.0.1:9092"'
            )
    return hosts


def _is_address(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    if any(map(str.isspace, address)):
        return False
    if not colon or (":" in host and not host.endswith("]")):  # a name without a port, or an IPv6 address
        return True
    return host.strip("[]") != "" and port.isascii() and port.isdigit() and 0 < int(port) < 65536


def check_topic(topic: object) -> str:
    """Return a topic's name if Kafka allows it; raise :class:`kq.ArgumentError` otherwise."""
    if not isinstance(topic, str):
        raise ArgumentError("topic must be a str")
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ArgumentError(f"topic must be 1 to 249 letters, digits, '.', '_' and '-', as Kafka has it, not {topic!r}")
    return topic


def access_of(client: Any) -> dict[str, Any]:
    """Return those settings of a user's client that another client needs to get to the same brokers."""
    return hide_secrets({name: value for name, value in client.config.items() if name.startswith(_ACCESS)})


def settings_for(known: Collection[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings of one client that hold for another, which knows the names that are known."""
    return {name: value for name, value in settings.items() if name in known and name not in _OF_ITS_OWN}


def connect(make: Callable[..., _Client], hosts: str, settings: Mapping[str, Any], *topics: str) -> _Client:
    """Return a new client; a consumer subscribes to the topics.

    :raises kq.BrokerUnreachable: No broker answered within ``bootstrap_timeout_ms``, or one refused the client; the
        message has the first reason.
    :raises kq.ArgumentError: A setting names a file that is not there.
    """
    config = {**CLIENT_DEFAULTS, **settings}
    check_files(config)
    kafka_python.hush()
    with losses() as lost:
        try:
            client = make(*topics, bootstrap_servers=hosts, **config)
        except (KafkaTimeoutError, KafkaConnectionError, *REFUSALS) as error:
            if reason := explain([*lost, error], config):
                raise BrokerUnreachable(f"cannot connect to Kafka at {hosts}: {reason}") from error
            seconds, first = config["bootstrap_timeout_ms"] / 1000, next(iter(lost), error)
            text = f"no Kafka broker answered at {hosts} within {seconds:g} s: {first}"
            raise BrokerUnreachable(text) from error
    if config.get("allow_auto_create_topics") is False:
        kafka_python.forbid_auto_create(client)
    return client
