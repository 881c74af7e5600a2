"""Kafka clients: the only rooms that know a client from inside."""

from kq.clients import kafka_python, topics
from kq.clients.asking import ask_for
from kq.clients.assignor import BusyFirstAssignor
from kq.clients.config import check_config
from kq.clients.connect import (
    CLIENT_DEFAULTS,
    DEFAULT_TOPIC,
    access_of,
    check_hosts,
    check_topic,
    connect,
    hosts_of,
    settings_for,
)
from kq.clients.doorbell import Doorbell
from kq.clients.kafka_python import Fault
from kq.clients.properties import hide_secrets, parse_properties, translate
from kq.clients.reader import TableReader
from kq.clients.reasons import denied
from kq.clients.scan import LOOKING, ends_of, scan
from kq.clients.tokens import TokenProvider, token_from_file, unsecured_token

__all__ = [
    "CLIENT_DEFAULTS",
    "DEFAULT_TOPIC",
    "LOOKING",
    "BusyFirstAssignor",
    "Doorbell",
    "Fault",
    "TableReader",
    "TokenProvider",
    "access_of",
    "ask_for",
    "check_config",
    "check_hosts",
    "check_topic",
    "connect",
    "denied",
    "ends_of",
    "hide_secrets",
    "hosts_of",
    "kafka_python",
    "parse_properties",
    "scan",
    "settings_for",
    "token_from_file",
    "topics",
    "translate",
    "unsecured_token",
]
