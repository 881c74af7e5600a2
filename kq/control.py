"""Control: what steers the workers of a topic, from any process.

1. A wish, such as a cancel, is a record of the topic ``T.control``. It is there when the call returns, whether a worker
   is there or not.
2. Workers read that topic, and carry out what is wished.
3. The first wish makes the topic. Clients are made at first use, and ``close`` closes them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from kq.clients import DEFAULT_TOPIC, check_config, check_hosts, check_topic, kafka_python, settings_for, topics
from kq.controlling import CONTROL, SUFFIX, cancel_key, packed
from kq.errors import ArgumentError, KQError
from kq.job import Job
from kq.producing import Delivery, describe

__all__ = ["Control"]

#: Settings of the producer. Who steers waits for the answer, and must not have a topic made with wrong settings.
_WRITING: Mapping[str, Any] = {
    "acks": "all",
    "allow_auto_create_topics": False,
    "max_block_ms": 10_000,
    "delivery_timeout_ms": 30_000,
    "request_timeout_ms": 10_000,
    "linger_ms": 0,
}
#: Seconds until the broker has acknowledged a wish, until the producer knows the topic, and until it is closed.
_PATIENCE, _KNOWN_IN, _CLOSING = 40.0, 10.0, 5.0
#: Characters of a job's ID.
_LONGEST_ID = 500


class Control:
    """Steers the workers of a topic. Safe for many threads.

    :param topic: The topic of the jobs; ``"default"`` if left out.
    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param config: More settings for Kafka clients, such as those that get to the brokers.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        topic: str = DEFAULT_TOPIC,
        hosts: str = "127.0.0.1:9092",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._topic = check_topic(topic)
        self._hosts = check_hosts(hosts)
        self._control = f"{topic}.{SUFFIX}"
        known = {**KafkaAdminClient.DEFAULT_CONFIG, **KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG}
        self._config = check_config(config, known, ("bootstrap_servers", "group_id", "transactional_id"))
        writing = {**settings_for(KafkaProducer.DEFAULT_CONFIG, self._config), **_WRITING}
        self._delivery = Delivery(repr(self), topic, None, self._hosts, writing)
        #: Guards that the topic is made once.
        self._lock = threading.Lock()
        #: For how many milliseconds a cancel is remembered; None for ever. Not there until it is known.
        self._retention: list[int | None] = []

    def __repr__(self) -> str:
        return f"Control(hosts={self._hosts}, topic={self._topic})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Control cannot be serialized: make it where it is needed")

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def hosts(self) -> str:
        """The Kafka brokers, as ``"host:port,host:port"``."""
        return self._hosts

    @property
    def topic(self) -> str:
        """The name of the topic of the jobs."""
        return self._topic

    def close(self) -> None:
        """Close the clients. Used again, it makes others."""
        self._delivery.close(_CLOSING)

    def cancel(self, job: Job | str) -> None:
        """Have a job never run, if it has not started yet.

        Also where it is delayed, waits for a retry, or no worker is there. Its callback is told of a ``failure`` with
        :class:`kq.Cancelled`, and so are results. A job that runs may ask ``kq.current_job().is_cancelled()``. A job
        that is over, or that nobody knows, is left alone.

        :param job: The job as ``enqueue`` returned it, or its ID.
        :raises kq.KQError: The broker did not acknowledge it, or there is no such topic.
        :raises kq.ArgumentError: It is no job.
        """
        self._cancel(self._id_of(job), None)

    def _cancel(self, job_id: str, terminate: bool | None) -> None:
        retention = self._have_topic()
        until = None if retention is None else int(time.time() * 1000) + retention
        self._write(cancel_key(job_id), packed(until=until, terminate=terminate))

    def _id_of(self, job: Job | str) -> str:
        job_id = job.id if isinstance(job, Job) else job
        if not isinstance(job_id, str) or not 0 < len(job_id) <= _LONGEST_ID:
            raise ArgumentError("job must be a Job, as enqueue returns it, or a job's ID")
        if isinstance(job, Job) and job.topic not in (None, self._topic):
            raise ArgumentError(f"job {job_id} is of topic {job.topic}, and this steers workers of {self._topic}")
        return job_id

    def _have_topic(self) -> int | None:
        """Have the topic of wishes; return for how many milliseconds a cancel is remembered, None for ever."""
        with self._lock:
            if not (self._retention and self._delivery.knows(self._control)):
                try:
                    topics.companion_at(self._hosts, self._config, self._topic, SUFFIX, CONTROL, partitions=1)
                    told = topics.setting_at(self._hosts, self._config, self._topic, "retention.ms")
                    kafka_python.await_topic(self._delivery.producer, self._control, _KNOWN_IN)
                except KafkaError as error:
                    raise KQError(f"topic {self._control} cannot be had: {describe(error)}") from error
                millis = int(told) if told is not None and told.lstrip("-").isdigit() else -1
                self._retention = [millis if millis >= 0 else None]
            return self._retention[0]

    def _write(self, key: bytes, value: bytes | None) -> None:
        """Write a wish, or a tombstone, and return when it is acknowledged."""
        try:
            self._delivery.producer.send(self._control, value, key=key, partition=0).get(_PATIENCE)
        except KafkaError as error:
            raise KQError(f"topic {self._control} did not take a wish: {describe(error)}") from error
