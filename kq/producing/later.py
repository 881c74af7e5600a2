"""Delayed jobs: they wait in a companion topic, ``T.later``, until they are due.

1. ``prepare`` makes the topic before the first of them. A producer alone would have it made with wrong settings.
2. ``record`` makes the record of one: what will stand in ``T``, with its key in a header and a key of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from kq.clients import kafka_python, topics
from kq.errors import KQError
from kq.job import Job
from kq.message import HEADER_AT, HEADER_KEY, HEADER_PARTITION, HEADER_TIMESTAMP, Headers, Record
from kq.producing.delivery import Delivery

__all__ = ["LATER", "SUFFIX", "Later"]

#: What the name of the topic has behind the name of the jobs'.
SUFFIX = "later"
#: Its settings. Small segments that are soon compacted: how long an owner loads depends on what is pending, and not on
#: what has come and gone. A tombstone stays for longer than the longest load, or a job that was fired would be again.
LATER: Mapping[str, str] = {
    "cleanup.policy": "compact",
    "message.timestamp.type": "LogAppendTime",
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": "300000",
    "delete.retention.ms": "60000",
    "segment.ms": "300000",
    "segment.bytes": "8388608",
}
#: Seconds that making the topic may take, where its queue has no limit.
_PATIENCE = 10.0
#: Makes the random part of a key, in bytes.
_NONCE = 8


class Later:
    """Where delayed jobs of one queue wait. Any thread may use it.

    :param access: Returns what another client needs to get to the brokers, of the settings that it knows.
    """

    def __init__(self, delivery: Delivery, access: Callable[[Collection[str]], dict[str, Any]]) -> None:
        self.topic = f"{delivery.topic}.{SUFFIX}"
        self._delivery = delivery
        self._access = access

    @property
    def is_ready(self) -> bool:
        """Whether ``record`` has all that it needs, and the producer has, too."""
        return self._delivery.knows(self.topic) and self._delivery.knows(self._delivery.topic)

    def prepare(self, job: Job) -> None:
        """Have the topic, and the producer know both. May block.

        :raises kq.EnqueueError: It cannot be had.
        """
        if self.is_ready:
            return
        try:
            self._delivery.prepare(None, deadline := self._delivery.deadline())
            seconds = max(0.1, min(_PATIENCE, deadline - time.monotonic()))
            limits = dict.fromkeys(("request_timeout_ms", "bootstrap_timeout_ms"), int(seconds * 1000))
            settings = {**self._access(KafkaAdminClient.DEFAULT_CONFIG), **limits}
            topics.companion_at(self._delivery.hosts, settings, self._delivery.topic, SUFFIX, LATER)
            kafka_python.await_topic(self._delivery.producer, self.topic, seconds)
        except (KafkaError, KQError) as error:
            raise self._delivery.refused(job, error) from error

    def record(self, job: Job, value: bytes, headers: Headers, due: int) -> Record:
        """Return the record of a job that waits until it is due."""
        self.prepare(job)
        partition, where = self.place(job, str(job.id).encode("utf-8", "replace"))
        own = [(HEADER_AT, b"%d" % due), (HEADER_TIMESTAMP, b"%d" % (job.timestamp or 0)), *where]
        name = f"job:{job.id}:{os.urandom(_NONCE).hex()}".encode("utf-8", "replace")
        return Record(self.topic, value, name, own + headers, partition, job.timestamp or 0)

    def place(self, job: Job, name: bytes) -> tuple[int, Headers]:
        """Return the partition where a job waits, and the headers that say where it will stand.

        :param name: Chooses the partition of a job without a key.
        """
        producer, key = self._delivery.producer, job.key or None
        try:
            partition = kafka_python.partition_of(producer, self._delivery.topic, job.partition, key or name)
        except ValueError as error:
            raise self._delivery.refused(job, error) from error
        headers: Headers = [] if key is None else [(HEADER_KEY, key)]
        count = len(kafka_python.partitions(producer, self.topic) or ())
        if partition >= count:  # the topic has got more partitions since
            headers.append((HEADER_PARTITION, b"%d" % partition))
        return partition % max(1, count), headers
