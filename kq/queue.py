"""The queue: turns function calls into jobs on a Kafka topic.

1. A call, or a ``Job``, and the settings given with ``using`` become a complete ``Job``.
2. The serializer turns the job into bytes; with key, headers and timestamp they make a ``Record``.
3. The producer sends the record. ``enqueue`` returns when the broker has acknowledged it, and raises otherwise.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from kafka import KafkaProducer
from kafka.errors import (
    BrokerResponseError,
    KafkaError,
    NetworkExceptionError,
    NotEnoughReplicasAfterAppendError,
    OutOfOrderSequenceNumberError,
    RequestTimedOutError,
    UnknownError,
)

from kq.clients import DEFAULT_TOPIC, check_config, check_hosts, connect, hosts_of
from kq.errors import ArgumentError, KQError
from kq.job import Job
from kq.message import HEADER_PREFIX, Headers, Record, job_headers
from kq.serializer import dumps
from kq.utils import safe_str

__all__ = ["EnqueueError", "EnqueueSpec", "EnqueueUnknown", "Queue"]

_logger = logging.getLogger("kq.queue")

#: Settings of a producer that the queue makes. A restarted broker is back within seconds, so after 30 s without an
#: acknowledgement, or 10 s without a topic, the caller should know; the client's own limits are 120 s and 60 s.
PRODUCER_DEFAULTS: Mapping[str, Any] = {
    "acks": "all",
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 30_000,
    "max_block_ms": 10_000,
    "metrics_enabled": False,
}
#: Settings that would break the wire format or the acknowledgement.
_RESERVED = ("bootstrap_servers", "key_serializer", "value_serializer", "transactional_id")
#: How much longer than its own delivery timeout the producer may take to say so.
_ANSWER_SLACK = 10.0
#: What the producer may take at interpreter exit. What was acknowledged is safe; exit must only not hang.
_EXIT_TIMEOUT = 2.0
#: Refusals after which the record may be on the broker all the same.
_MAYBE_WRITTEN = (
    NetworkExceptionError,
    NotEnoughReplicasAfterAppendError,
    OutOfOrderSequenceNumberError,
    RequestTimedOutError,
    UnknownError,
)


class EnqueueError(KQError, KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """A job was not delivered to its topic; the cause is attached."""


class EnqueueUnknown(EnqueueError):
    """It is not known whether a job was delivered to its topic: the broker's answer never came."""


class EnqueueSpec:
    """How to enqueue: a queue, and what was given to :meth:`Queue.using`."""

    __slots__ = ("_headers", "_key", "_partition", "_queue", "_timeout")

    def __init__(
        self,
        queue: Queue,
        timeout: float | int,
        key: bytes | None,
        partition: int | None,
        headers: Sequence[tuple[str, bytes]] | None,
    ) -> None:
        self._queue = queue
        self._timeout = _check_timeout(timeout, "timeout")
        self._key = _check_key(key, "key")
        self._partition = _check_partition(partition, "partition")
        self._headers = _check_headers(headers)

    def enqueue(self, obj: Callable[..., Any] | Job, /, *args: Any, **kwargs: Any) -> Job:
        """Enqueue a function call or a job; see :meth:`Queue.enqueue`."""
        if isinstance(obj, Job):
            job = _checked_job(obj)
        elif callable(obj):
            job = Job(uuid.uuid4().hex, func=obj, args=args, kwargs=kwargs)
        else:
            raise ArgumentError("first argument must be a callable")
        job = self._completed(job)
        self._queue._deliver(job, self._headers)
        return job

    def _completed(self, job: Job) -> Job:
        """Return the job as it goes onto the topic: what it says itself wins over the spec."""
        return job._replace(
            timestamp=int(time.time() * 1000),
            topic=self._queue.topic,
            timeout=self._timeout if job.timeout is None else job.timeout,
            key=self._key if job.key is None else job.key,
            partition=self._partition if job.partition is None else job.partition,
        )


class Queue:
    """Enqueues function calls on a Kafka topic.

    Either with your own producer, which the queue never closes::

        queue = Queue("topic", KafkaProducer(bootstrap_servers="127.0.0.1:9092"))

    or with the addresses of brokers. The producer is then made at first use, and closed with the queue::

        with Queue("topic", hosts="127.0.0.1:9092") as queue:
            queue.enqueue(print, "hello")

    :param topic: Name of the Kafka topic. With ``hosts``, ``"default"`` if left out.
    :param producer: Kafka producer without key and value serializers.
    :param serializer: Turns a :class:`kq.Job` into bytes; :func:`kq.dumps` if left out.
    :param timeout: How long a job may take where nothing else is said, in seconds; 0 means no limit.
    :param logger: Logger; the one named ``kq.queue`` if left out.
    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param config: With ``hosts``: more settings for ``kafka.KafkaProducer``.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        topic: str | None = None,
        producer: KafkaProducer | None = None,
        serializer: Callable[[Job], bytes] | None = None,
        timeout: float | int = 0,
        logger: logging.Logger | None = None,
        *,
        hosts: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if topic is None and hosts is not None:
            topic = DEFAULT_TOPIC
        if not isinstance(topic, str):
            raise ArgumentError("topic must be a str")
        if hosts is None and not isinstance(producer, KafkaProducer):
            raise ArgumentError("bad producer instance")
        if producer is not None and not (hosts is None and config is None):
            raise ArgumentError("hosts and config are for a queue without a producer of its own; pass one or the other")
        if not (serializer is None or callable(serializer)):
            raise ArgumentError("serializer must be a callable")
        if not (logger is None or isinstance(logger, logging.Logger)):
            raise ArgumentError("bad logger instance")
        self._topic = topic
        self._hosts = hosts_of(producer) if hosts is None else check_hosts(hosts)
        self._config = check_config(config, KafkaProducer.DEFAULT_CONFIG, _RESERVED)
        self._serializer = serializer or dumps
        self._logger = logger or _logger
        self._timeout = _check_timeout(timeout, "timeout")
        self._producer = producer
        self._is_owner = producer is None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._spec = EnqueueSpec(self, self._timeout, None, None, None)
        _warn_of_acks_0(producer.config if producer is not None else self._config)

    def __repr__(self) -> str:
        return f"Queue(hosts={self._hosts}, topic={self._topic})"

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def hosts(self) -> str:
        """The Kafka brokers, as ``"host:port,host:port"``."""
        return self._hosts

    @property
    def topic(self) -> str:
        """The name of the Kafka topic."""
        return self._topic

    @property
    def producer(self) -> KafkaProducer:
        """The Kafka producer. With ``hosts`` it is made at first use.

        :raises kq.BrokerUnreachable: No broker answered.
        """
        producer = self._producer
        if producer is not None and not (self._is_owner and self._pid != os.getpid()):
            return producer
        with self._lock:
            return self._make_producer()

    @property
    def serializer(self) -> Callable[[Job], bytes]:
        """The function that turns a job into bytes."""
        return self._serializer

    @property
    def timeout(self) -> float | int:
        """How long a job may take where nothing else is said, in seconds; 0 means no limit."""
        return self._timeout

    def enqueue(self, obj: Callable[..., Any] | Job, /, *args: Any, **kwargs: Any) -> Job:
        """Enqueue a function call or a job, and return when the broker has acknowledged it.

        Of a :class:`kq.Job`, ``timestamp`` and ``topic`` are replaced, a missing ``id`` is generated, and ``timeout``,
        ``key`` and ``partition`` win over what the queue says; ``args`` and ``kwargs`` of this call are ignored then.

        :param obj: Function or job. A worker must be able to unpickle it.
        :param args: Positional arguments for the function.
        :param kwargs: Keyword arguments for the function.
        :returns: The job, complete.
        :raises kq.EnqueueError: It is not on the topic; the cause is attached.
        :raises kq.EnqueueUnknown: It may be on the topic: the answer never came.
        :raises kq.ArgumentError: An argument has the wrong type or value.
        """
        return self._spec.enqueue(obj, *args, **kwargs)

    def using(
        self,
        timeout: float | int | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        *,
        headers: Sequence[tuple[str, bytes]] | None = None,
    ) -> EnqueueSpec:
        """Return something to ``enqueue`` with, with other settings than the queue's.

        :param timeout: How long the job may take, in seconds; 0 means no limit, also where the queue has one.
        :param key: Kafka message key. Jobs with one key go to one partition and run one after another.
        :param partition: Kafka partition; the key does not choose it then.
        :param headers: More record headers, as (name, value); names that begin with ``kq-`` are refused.
        :raises kq.ArgumentError: An argument has the wrong type or value.
        """
        return EnqueueSpec(self, self._timeout if timeout is None else timeout, key, partition, headers)

    def close(self, timeout: float | None = None) -> None:
        """Close the producer if the queue made it; what was enqueued is delivered first. Closing twice is fine.

        :param timeout: How long that may take, in seconds.
        """
        with self._lock:
            self._closed = True
            if not self._is_owner or self._producer is None or self._pid != os.getpid():
                return
            producer, self._producer = self._producer, None
        producer.close(timeout=timeout)

    def _make_producer(self) -> KafkaProducer:
        if self._closed:
            raise EnqueueError(f"{self!r} is closed")
        if self._producer is None or self._pid != os.getpid():
            # a producer inherited through fork() has lost its thread: it would wait for ever
            self._producer = connect(KafkaProducer, self._hosts, {**PRODUCER_DEFAULTS, **self._config})
            self._pid = os.getpid()
            atexit.register(_close_at_exit, weakref.ref(self))
        return self._producer

    def _deliver(self, job: Job, headers: Headers) -> None:
        if self._logger.isEnabledFor(logging.INFO):
            where = {"job_id": job.id, "topic": self._topic}
            self._logger.info("Enqueueing %s ...", safe_str(job), extra=where)
        assert job.timestamp is not None
        value = self._serializer(job)
        if not isinstance(value, bytes):
            raise ArgumentError(f"serializer must return bytes, not {type(value).__name__}")
        record = Record(self._topic, value, job.key or None, job_headers(job) + headers, job.partition, job.timestamp)
        future = self._send(job, record)
        try:
            self._await_acknowledgement(job, future)
        except EnqueueError:
            self._let_dead_producer_go()
            raise

    def _send(self, job: Job, record: Record) -> Any:
        """Hand a record to the producer. What fails here was not sent."""
        try:
            return self.producer.send(*record)
        except EnqueueError:
            raise
        except (KafkaError, KQError, ValueError) as error:
            raise EnqueueError(f"job {job.id} was not enqueued on topic {self._topic}: {_text(error)}") from error

    def _await_acknowledgement(self, job: Job, future: Any) -> None:
        patience = self.producer.config["delivery_timeout_ms"] / 1000 + _ANSWER_SLACK
        try:
            future.get(patience)
        except BrokerResponseError as error:
            if not isinstance(error, _MAYBE_WRITTEN):
                text = f"job {job.id} was refused by topic {self._topic}: {_text(error)}"
                raise EnqueueError(text) from error
            raise self._unknown(job, error) from error
        except KafkaError as error:
            raise self._unknown(job, error) from error

    def _let_dead_producer_go(self) -> None:
        """Have a dead own producer made anew at next use: after one refusal an idempotent one sends nothing."""
        with self._lock:
            producer = self._producer
            state = getattr(producer, "_transaction_manager", None)
            if not (self._is_owner and producer is not None and state is not None and state.has_fatal_error()):
                return
            self._producer = None
        producer.close(timeout=_EXIT_TIMEOUT)

    def _unknown(self, job: Job, error: KafkaError) -> EnqueueUnknown:
        return EnqueueUnknown(f"job {job.id} may or may not be on topic {self._topic}: {_text(error)}")


def _close_at_exit(queue: weakref.ref[Queue]) -> None:
    alive = queue()
    if alive is not None:
        alive.close(_EXIT_TIMEOUT)


def _checked_job(job: Job) -> Job:
    """Return the user's job with what it leaves out; raise if a field is of the wrong type."""
    if not (job.id is None or isinstance(job.id, str)):
        raise ArgumentError("Job.id must be a str")
    if not (job.args is None or isinstance(job.args, (list, tuple))):
        raise ArgumentError("Job.args must be a list or tuple")
    if not callable(job.func):
        raise ArgumentError("Job.func must be a callable")
    if not (job.kwargs is None or isinstance(job.kwargs, dict)):
        raise ArgumentError("Job.kwargs must be a dict")
    if job.timeout is not None:
        _check_timeout(job.timeout, "Job.timeout")
    _check_key(job.key, "Job.key")
    _check_partition(job.partition, "Job.partition")
    job_id = uuid.uuid4().hex if job.id is None else job.id
    return job._replace(id=job_id, args=tuple(job.args or ()), kwargs=job.kwargs or {})


def _check_timeout(timeout: Any, name: str) -> float | int:
    if not isinstance(timeout, (int, float)):
        raise ArgumentError(f"{name} must be an int or float")
    if not timeout >= 0:  # not a number is not 0 or greater either
        raise ArgumentError(f"{name} must be 0 or greater")
    return timeout


def _check_key(key: Any, name: str) -> bytes | None:
    if not (key is None or isinstance(key, bytes)):
        raise ArgumentError(f"{name} must be a bytes")
    return key


def _check_partition(partition: Any, name: str) -> int | None:
    if not (partition is None or isinstance(partition, int)):
        raise ArgumentError(f"{name} must be an int")
    return partition


def _check_headers(headers: Any) -> Headers:
    pairs = list(headers or ())
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], bytes)):
            raise ArgumentError("headers must be a list of (str, bytes)")
        if pair[0].startswith(HEADER_PREFIX):
            raise ArgumentError(f"headers must not begin with {HEADER_PREFIX}: {pair[0]}")
    return pairs


def _warn_of_acks_0(config: Mapping[str, Any]) -> None:
    if config.get("acks") == 0:
        _logger.warning("The producer has acks=0: no broker acknowledges a job, and it may be lost without a word.")


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
