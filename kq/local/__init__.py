"""A real Apache Kafka on loopback, for development and tests."""

from kq.local.broker import LocalKafka

__all__ = ["LocalKafka"]
