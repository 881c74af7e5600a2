"""Deliveries: records go to the producer, and each is asked what became of it.

1. A ``Delivery`` has the producer: the user's, or its own, which it makes at first use and closes.
2. ``send`` hands a record over. What fails there was not sent.
3. ``wait`` returns when there is an answer, or none will come. ``Bridge.wait`` is the same for asyncio code.
4. ``verdict`` says what became of the record: acknowledged, not delivered, or not known.
5. At interpreter exit own producers are closed; after a fork they are let go of, and made anew.

Only a record's own future tells: ``flush`` reports nothing.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import (
    BrokerResponseError,
    KafkaError,
    KafkaTimeoutError,
    NetworkExceptionError,
    NotEnoughReplicasAfterAppendError,
    OutOfOrderSequenceNumberError,
    RequestTimedOutError,
    UnknownError,
)

from kq.clients import connect, kafka_python
from kq.errors import KQError
from kq.job import Job
from kq.message import Record

__all__ = ["Delivery", "EnqueueError", "EnqueueUnknown", "Sent", "describe"]

#: Settings of a producer that the queue makes. A restarted broker is back within seconds, so after 30 s without an
#: acknowledgement, or 10 s without a topic, the caller should know; the client's own limits are 120 s and 60 s.
#: ``batch_size``: many jobs at once go 1.4 times as fast as with the client's 16 kB. Brokers take up to 1 MB.
PRODUCER_DEFAULTS: Mapping[str, Any] = {
    "acks": "all",
    "batch_size": 131_072,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 30_000,
    "max_block_ms": 10_000,
    "metrics_enabled": False,
}
#: How much longer than its own delivery timeout the producer may take to say so.
_ANSWER_SLACK = 5.0
#: Seconds within which the brokers are not asked twice for an unknown partition. A question takes a client 0.1 s: many
#: jobs for a partition that does not exist would take minutes.
_LOOK_EVERY = 0.25
#: What the producer may take at interpreter exit. What was acknowledged is safe; exit must only not hang.
_EXIT_TIMEOUT = 2.0
#: What the producer's thread may take to fail what it has: it may be waiting for a connection, for 10 s at most.
_FORCE_TIMEOUT = 11.0
#: Refusals after which the record may be on the broker all the same.
_MAYBE_WRITTEN = (
    NetworkExceptionError,
    NotEnoughReplicasAfterAppendError,
    OutOfOrderSequenceNumberError,
    RequestTimedOutError,
    UnknownError,
)


class EnqueueError(KQError, KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """Jobs were not delivered to their topic; the cause is attached.

    :ivar jobs: The jobs that were not delivered, in the order in which they were to be enqueued.
    :ivar unknown: The jobs of which it is not known: the broker's answer never came.
    """

    def __init__(self, message: str = "", jobs: Sequence[Job] = (), unknown: Sequence[Job] = ()) -> None:
        super().__init__(message)
        self.jobs = list(jobs)
        self.unknown = list(unknown)

    def __str__(self) -> str:
        return Exception.__str__(self)  # a Kafka error would put its name before it


class EnqueueUnknown(EnqueueError):
    """It is not known whether jobs were delivered to their topic: the broker's answer never came."""


class Sent(NamedTuple):
    """A record that a producer has: its job and its size in bytes, and which batch it is in where that is known."""

    job: Job
    size: int
    producer: KafkaProducer
    future: Any
    batch: Any

    @property
    def is_acknowledged(self) -> bool:
        """Whether the broker has acknowledged it."""
        return bool(self.future.is_done and self.future.exception is None)


class Delivery:
    """The way from a record to the broker's answer. Any thread may use it."""

    def __init__(self, name: str, topic: str, producer: KafkaProducer | None, hosts: str, config: Mapping[str, Any]):
        self._name = name
        self.topic = topic
        self._hosts = hosts
        self._producer = producer
        self.is_owner = producer is None
        self._lock = threading.Lock()
        self.is_closed = False
        self._settings = {**PRODUCER_DEFAULTS, **config} if producer is None else producer.config
        #: Seconds after which the producer must have told of a record.
        self.patience = float(self._settings["delivery_timeout_ms"]) / 1000 + _ANSWER_SLACK
        #: When the brokers were last asked for a partition that was not known, by the monotonic clock.
        self._looked = -_LOOK_EVERY
        #: The future of the batch that the last record went into, and the batch: the next one mostly goes there, too.
        self._last: tuple[Any, Any] = (None, None)
        #: Whether the user's producer belongs to a parent process.
        self._is_inherited = producer is not None and kafka_python.has_no_thread(producer)
        _deliveries.add(self)
        kafka_python.hush()

    @property
    def producer(self) -> KafkaProducer:
        """The producer; one of its own is made at first use, and anew where it is dead.

        :raises kq.BrokerUnreachable: No broker answered.
        """
        producer = self._producer
        if producer is not None and not self._is_dead(producer):
            return producer
        self._let_dead_producer_go()
        with self._lock:
            if self.is_closed:
                raise EnqueueError(f"{self._name} is closed")
            if self._producer is None:
                self._producer = connect(KafkaProducer, self._hosts, self._settings)
            return self._producer

    def close(self, timeout: float | None = None) -> None:
        """Close the producer if it is an own one; what it has is delivered first."""
        with self._lock:
            self.is_closed = True
            if not self.is_owner or self._producer is None:
                return
            producer, self._producer = self._producer, None
        _shut(producer, self.patience if timeout is None else timeout)

    def is_ready(self, partition: int | None) -> bool:
        """Return whether ``send`` would neither connect nor wait for the topic's partitions."""
        producer = self._producer
        if producer is None or self._is_dead(producer) or kafka_python.partitions(producer, self.topic) is None:
            return False
        return not self._must_look(partition)

    def prepare(self, partition: int | None) -> None:
        """Do what ``send`` would have to wait for; raise what it would raise."""
        self._check_process()
        self.producer.partitions_for(self.topic)
        self._look(partition)

    def _must_look(self, partition: int | None) -> bool:
        """Return whether a partition is unknown, and the brokers were not asked just now: it may have been added."""
        if partition is None or partition in self.producer.partitions_for(self.topic):
            return False
        return time.monotonic() > self._looked + _LOOK_EVERY

    def _look(self, partition: int | None) -> None:
        if self._must_look(partition):
            kafka_python.ask_again(self.producer, self._settings["max_block_ms"] / 1000)
            self._looked = time.monotonic()

    def send(self, job: Job, record: Record) -> Sent:
        """Hand a record to the producer.

        :raises kq.EnqueueError: It was not sent.
        """
        try:
            self._check_process()
            producer = self.producer
            self._look(record.partition)
            future = producer.send(*record)
        except (KafkaError, KQError, ValueError) as error:
            raise self.refused(job, error) from error
        batch_future = kafka_python.future_of_batch(future)
        if future.is_done and future.exception is not None and batch_future is not None and not batch_future.is_done:
            raise self.refused(job, future.exception) from future.exception  # the topic's partitions cannot be known
        last_future, batch = self._last
        if last_future is not batch_future:
            batch = kafka_python.batch_of(producer, batch_future)
            self._last = batch_future, batch
        return Sent(job, len(record.value), producer, future, batch)

    def wait(self, sent: Sent) -> None:
        """Return when there is an answer to a record, or none will come; ``verdict`` then tells what became of it."""
        try:
            sent.future.get(self.patience)
        except KafkaError:
            self.recover(sent)

    def recover(self, sent: Sent) -> None:
        """Make ready for the next record after one that was not acknowledged. May block for seconds."""
        if not sent.future.is_done:
            self.abandon(sent.producer)

    def refused(self, job: Job, cause: BaseException) -> EnqueueError:
        """Return what to say of a job that was not sent."""
        if isinstance(cause, EnqueueError):  # it is about the queue
            return EnqueueError(str(cause), [job])
        hint = ""
        if isinstance(cause, KafkaTimeoutError) and self._producer is not None:
            hint = f"; does topic {self.topic} exist? Queue.ensure_topic() makes it"
        return EnqueueError(f"job {job.id} was not enqueued on topic {self.topic}: {describe(cause)}{hint}", [job])

    def verdict(self, sent: Sent) -> EnqueueError | None:
        """Return what to raise of a record that was waited for, with the answer as the cause; None if it is there."""
        if sent.is_acknowledged:
            return None
        answer = sent.future.exception or KafkaTimeoutError("the producer does not tell")
        error = self._verdict(sent, answer)
        error.__cause__ = answer
        return error

    def _verdict(self, sent: Sent, answer: KafkaError) -> EnqueueError:
        job, topic = sent.job, self.topic
        if sent.future.is_done and sent.batch is not None and sent.batch.drained is None:
            return EnqueueError(f"job {job.id} was not enqueued on topic {topic}: {describe(answer)}", [job])
        if (
            isinstance(answer, BrokerResponseError)
            and not isinstance(answer, _MAYBE_WRITTEN)
            and kafka_python.is_own_answer(sent.future)
        ):
            return EnqueueError(f"job {job.id} was refused by topic {topic}: {describe(answer)}", [job])
        return EnqueueUnknown(f"job {job.id} may or may not be on topic {topic}: {describe(answer)}", (), [job])

    def _is_dead(self, producer: KafkaProducer) -> bool:
        """Return whether an own producer is dead: after one refusal an idempotent one sends nothing."""
        return self.is_owner and kafka_python.has_fatal_error(producer)

    def _let_dead_producer_go(self) -> None:
        with self._lock:
            producer = self._producer
            if producer is None or not self._is_dead(producer):
                return
            self._producer = None
        _shut(producer, _EXIT_TIMEOUT)

    def abandon(self, silent: KafkaProducer | None = None) -> None:
        """Let go of an own producer that does not tell; what it has not sent so far it then never will.

        While it is without a broker, and had to forget its ID, kafka-python lets no record expire.

        :param silent: Only this one. Another thread may have let go of it, and a third have made the next, which tells.
        """
        with self._lock:
            producer = self._producer
            if not self.is_owner or producer is None or silent not in (None, producer):
                return
            self._producer = None
        kafka_python.force_close(producer, _FORCE_TIMEOUT)

    def _check_process(self) -> None:
        if self._is_inherited:
            raise EnqueueError(
                "the producer was made before this process was forked, and its thread is not here: "
                "make a new KafkaProducer, and a Queue with it, after the fork; a Queue with hosts does so by itself"
            )

    def _after_fork(self) -> None:
        """Let go of what belongs to the parent: its producer has no thread here, its lock perhaps no owner."""
        self._lock = threading.Lock()
        if not self.is_owner:
            self._is_inherited = True
        elif self._producer is not None:
            kafka_python.disown(self._producer)
            _inherited.append(self._producer)
            self._producer = None


def _shut(producer: KafkaProducer, timeout: float) -> None:
    """Close a producer, also one that waits for a record of which it lost track: by itself it would do so for ever."""
    try:
        producer.close(timeout=timeout)
    except KafkaTimeoutError:
        kafka_python.force_close(producer)


def describe(error: BaseException) -> str:
    """Return an error as text that begins with its name."""
    name, text = type(error).__name__, str(error)
    return text if text.startswith(name) else f"{name}: {text}" if text else name


#: What has to close a producer at exit, and to let go of it after a fork.
_deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()
#: Producers of a parent process: never to be closed here, so never to be collected.
_inherited: list[Any] = []


def _at_exit() -> None:
    deadline = time.monotonic() + _EXIT_TIMEOUT
    for delivery in list(_deliveries):
        delivery.close(max(0.0, deadline - time.monotonic()))


def _after_fork() -> None:
    for delivery in list(_deliveries):
        delivery._after_fork()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
