"""A real Apache Kafka on loopback, for development and tests."""

from kq.local.broker import LocalKafka
from kq.local.ports import is_free

__all__ = ["LocalKafka", "is_free"]
