"""Deliveries: records go to the producer, and each is asked what became of it.

1. A ``Delivery`` has the producer: the user's, or its own, which it makes at first use and closes.
2. ``send`` hands a record over. What fails there was not sent.
3. ``verdict`` says of a record whose future is done: acknowledged, not delivered, or not known.
4. A ``Pipeline`` has many records on their way at once, within bounds, and notes the verdict on every one.

Only a record's own future tells: ``flush`` reports nothing, and the producer has no bound of its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import (
    BrokerResponseError,
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NetworkExceptionError,
    NotEnoughReplicasAfterAppendError,
    OutOfOrderSequenceNumberError,
    RequestTimedOutError,
    UnknownError,
)

from kq.clients import connect
from kq.errors import KQError
from kq.job import Job
from kq.message import Record

__all__ = ["Delivery", "EnqueueError", "EnqueueUnknown", "Pipeline", "Sent"]

_own_logger = logging.getLogger("kq.delivery")

#: Settings of a producer that the queue makes. A restarted broker is back within seconds, so after 30 s without an
#: acknowledgement, or 10 s without a topic, the caller should know; the client's own limits are 120 s and 60 s.
#: ``batch_size``: many jobs at once go 1.4 times as fast as with the client's 16 kB (M); brokers take up to 1 MB.
PRODUCER_DEFAULTS: Mapping[str, Any] = {
    "acks": "all",
    "batch_size": 131_072,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 30_000,
    "max_block_ms": 10_000,
    "metrics_enabled": False,
}
#: How many records, and bytes of their values, may be on their way at once: enough for several full batches to each
#: of many partitions, and some 50 MB at most while a broker is away.
WINDOW_COUNT, WINDOW_BYTES = 10_000, 32 * 1024 * 1024
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
#: Refusals of one record, which say nothing about the next.
_OF_ONE_RECORD = (MessageSizeTooLargeError, InvalidRecordError, InvalidTimestampError, ValueError)


class EnqueueError(KQError, KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """Jobs were not delivered to their topic; the cause is attached.

    :ivar jobs: The jobs that were not delivered, in the order in which they were to be enqueued.
    :ivar unknown: The jobs of which it is not known: the broker's answer never came.
    """

    def __init__(self, message: str = "", jobs: Sequence[Job] = (), unknown: Sequence[Job] = ()) -> None:
        super().__init__(message)
        self.jobs = list(jobs)
        self.unknown = list(unknown)


class EnqueueUnknown(EnqueueError):
    """It is not known whether jobs were delivered to their topic: the broker's answer never came."""


class Sent(NamedTuple):
    """A record that the producer has: its job, its size in bytes, its future, and its batch where that is known."""

    job: Job
    size: int
    future: Any
    batch: Any


class Delivery:
    """The way from a record to the broker's answer. Any thread may use it."""

    def __init__(self, name: str, topic: str, producer: KafkaProducer | None, hosts: str, config: Mapping[str, Any]):
        self._name = name
        self._topic = topic
        self._hosts = hosts
        self._config = config
        self._producer = producer
        self.is_owner = producer is None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        if self.is_owner:
            _owners.add(self)

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return self._topic

    @property
    def producer(self) -> KafkaProducer:
        """The producer; one of its own is made at first use.

        :raises kq.BrokerUnreachable: No broker answered.
        """
        producer = self._producer
        if producer is not None and not (self.is_owner and self._pid != os.getpid()):
            return producer
        with self._lock:
            return self._make_producer()

    @property
    def patience(self) -> float:
        """Seconds after which the producer must have told of a record."""
        return float(self.producer.config["delivery_timeout_ms"]) / 1000 + _ANSWER_SLACK

    def close(self, timeout: float | None = None) -> None:
        """Close the producer if it is an own one; what it has is delivered first."""
        with self._lock:
            self._closed = True
            if not self.is_owner or self._producer is None or self._pid != os.getpid():
                return
            producer, self._producer = self._producer, None
        producer.close(timeout=timeout)

    def is_ready(self) -> bool:
        """Return whether ``send`` would neither connect nor wait for the topic's partitions."""
        producer = self._producer
        if producer is None or self._pid != os.getpid():
            return False
        metadata = getattr(producer, "_metadata", None)
        return metadata is not None and metadata.partitions_for_topic(self._topic) is not None

    def prepare(self) -> None:
        """Do what ``send`` would have to wait for; raise what it would raise."""
        self.producer.partitions_for(self._topic)

    def send(self, job: Job, record: Record) -> Sent:
        """Hand a record to the producer.

        :raises kq.EnqueueError: It was not sent.
        """
        try:
            producer = self.producer
            _check_thread(producer)
            future = producer.send(*record)
        except EnqueueError as error:
            error.jobs = [job]
            raise
        except (KafkaError, KQError, ValueError) as error:
            raise self.refused(job, error) from error
        batch_future = getattr(future, "_produce_future", None)
        if future.is_done and future.exception is not None and batch_future is not None and not batch_future.is_done:
            raise self.refused(job, future.exception) from future.exception  # the topic's partitions cannot be known
        return Sent(job, len(record.value), future, _batch_of(producer, batch_future))

    def wait(self, sent: Sent) -> None:
        """Return when the broker has acknowledged a record.

        :raises kq.EnqueueError: It is not on the topic, or, as ``EnqueueUnknown``, may be.
        """
        try:
            sent.future.get(self.patience)
        except KafkaError as answer:
            error = self.verdict(sent, answer)
            self.let_dead_producer_go()
            raise error from answer

    def refused(self, job: Job, cause: BaseException) -> EnqueueError:
        """Return what to say of a job that was not sent."""
        hint = ""
        if isinstance(cause, KafkaTimeoutError) and self._producer is not None:
            hint = f"; does topic {self._topic} exist? Queue.ensure_topic() makes it"
        return EnqueueError(f"job {job.id} was not enqueued on topic {self._topic}: {_text(cause)}{hint}", [job])

    def verdict(self, sent: Sent, answer: KafkaError) -> EnqueueError:
        """Return what to say of a record that was not acknowledged."""
        job, topic = sent.job, self._topic
        if sent.future.is_done and sent.batch is not None and sent.batch.drained is None:
            return EnqueueError(f"job {job.id} was not enqueued on topic {topic}: {_text(answer)}", [job])
        if isinstance(answer, BrokerResponseError) and not isinstance(answer, _MAYBE_WRITTEN) and _is_answer(sent):
            return EnqueueError(f"job {job.id} was refused by topic {topic}: {_text(answer)}", [job])
        return EnqueueUnknown(f"job {job.id} may or may not be on topic {topic}: {_text(answer)}", (), [job])

    def let_dead_producer_go(self) -> None:
        """Have a dead own producer made anew at next use: after one refusal an idempotent one sends nothing."""
        with self._lock:
            producer = self._producer
            state = getattr(producer, "_transaction_manager", None)
            if not (self.is_owner and producer is not None and state is not None and state.has_fatal_error()):
                return
            self._producer = None
        producer.close(timeout=_EXIT_TIMEOUT)

    def _make_producer(self) -> KafkaProducer:
        if self._closed:
            raise EnqueueError(f"{self._name} is closed")
        if self._producer is None or self._pid != os.getpid():
            self._producer = connect(KafkaProducer, self._hosts, {**PRODUCER_DEFAULTS, **self._config})
            self._pid = os.getpid()
        return self._producer

    def _after_fork(self) -> None:
        """Let go of what belongs to the parent: another thread may have held the lock, and the producer has no thread."""
        self._lock = threading.Lock()
        if self._producer is not None:
            # closing it, as it does by itself at exit, would wait for ever for a thread that is not here
            self._producer._closed = True
            _inherited.append(self._producer)
            self._producer = None


class Pipeline:
    """Many records on their way, in order, and what became of them. One thread, or one event loop, owns it.

    :param on_progress: Called with how many were acknowledged and how many there are, None where that is not known.
    """

    def __init__(self, delivery: Delivery, on_progress: Callable[[int, int | None], None] | None, total: int | None):
        self._delivery = delivery
        self._on_progress = on_progress
        self._total = total
        self._sent: deque[Sent] = deque()
        self._bytes = 0
        self._done = 0
        self._failed: set[int] = set()
        self._unknown: set[int] = set()
        self._cause: BaseException | None = None
        #: Whether the next record would fare no better. It is not tried then: where a key is shared, order stays.
        self._is_broken = False
        #: Whether the producer did not even tell of a failure.
        self._is_silent = False
        self.jobs: list[Job] = []

    def add(self, job: Job, make: Callable[[Job], Record]) -> None:
        """Send one more job; what fails is noted."""
        self.jobs.append(job)
        if self._is_broken:
            self._failed.add(id(job))
            return
        try:
            sent = self._delivery.send(job, make(job))
        except EnqueueError as error:
            self._note(job, error, error.__cause__ or error)
        except Exception as error:  # noqa: BLE001 - the door of the user's serializer: this job fails, the others go on
            self._failed.add(id(job))
            self._cause = self._cause or error
        else:
            self._sent.append(sent)
            self._bytes += sent.size
            if self._sent[0].future.is_done:
                self.harvest()

    @property
    def is_full(self) -> bool:
        """Whether an answer is to be awaited before the next record is sent."""
        return len(self._sent) >= WINDOW_COUNT or self._bytes >= WINDOW_BYTES

    @property
    def oldest(self) -> Any:
        """The future of the record that has been on its way for longest; None if there is none."""
        return self._sent[0].future if self._sent else None

    @property
    def has_failed(self) -> bool:
        """Whether anything was not acknowledged so far."""
        return bool(self._failed or self._unknown)

    def wait(self) -> None:
        """Wait for the answer to the oldest record."""
        try:
            self._sent[0].future.get(self._delivery.patience)
        except KafkaError:
            pass  # the verdict is in the future
        self.heard()
        if self.has_failed:
            self._delivery.let_dead_producer_go()

    def heard(self) -> None:
        """Take the verdicts after the oldest record was waited for with patience."""
        self._is_silent = not self._sent[0].future.is_done
        self.harvest()

    def harvest(self) -> None:
        """Take the verdicts that are there."""
        before = self._done
        while self._sent and (self._sent[0].future.is_done or self._is_silent):
            self._settle(self._sent.popleft())
        if self._on_progress is not None and self._done > before:
            try:
                self._on_progress(self._done, self._total)
            except Exception:  # the door of the user's hook: it is told of, and changes nothing
                _own_logger.exception("on_progress raised an exception")

    def error(self) -> EnqueueError | None:
        """Return what to raise when all is over; None if every record was acknowledged."""
        if not self.has_failed:
            return None
        jobs = [job for job in self.jobs if id(job) in self._failed]
        unknown = [job for job in self.jobs if id(job) in self._unknown]
        text = f"{len(jobs)} of {len(self.jobs)} jobs were not enqueued on topic {self._delivery.topic}"
        if unknown:
            text += f", {len(unknown)} may or may not be there"
        assert self._cause is not None
        kind = EnqueueError if jobs else EnqueueUnknown
        error = kind(f"{text}: {_text(self._cause)}", jobs, unknown)
        error.__cause__ = self._cause
        return error

    def _settle(self, sent: Sent) -> None:
        self._bytes -= sent.size
        future = sent.future
        if future.is_done and future.exception is None:
            self._done += 1
            return
        answer = future.exception or KafkaTimeoutError("the producer does not tell")
        self._note(sent.job, self._delivery.verdict(sent, answer), answer)

    def _note(self, job: Job, error: EnqueueError, cause: BaseException) -> None:
        (self._unknown if isinstance(error, EnqueueUnknown) else self._failed).add(id(job))
        self._cause = self._cause or cause
        self._is_broken = self._is_broken or not isinstance(cause, _OF_ONE_RECORD)


def _batch_of(producer: KafkaProducer, batch_future: Any) -> Any:
    """Return the batch that a record was just put into, or None where it cannot be told.

    A batch that was never drained never left this process, whatever its future says. The client has no public word
    for that; where its insides change, or the batch has left already, an outcome is less often known, never wrong.
    """
    try:
        batch = producer._accumulator._batches[batch_future.topic_partition][-1]
        return batch if batch.produce_future is batch_future and hasattr(batch, "drained") else None
    except (AttributeError, IndexError, KeyError, TypeError):
        return None


def _is_answer(sent: Sent) -> bool:
    """Return whether an error is the broker's answer to this record: others are failed with it when the client gives up.

    The client completes those with the base offset -1.
    """
    value = getattr(getattr(sent.future, "_produce_future", None), "value", None)
    return not (isinstance(value, tuple) and value[:1] == (-1,))


def _check_thread(producer: KafkaProducer) -> None:
    """Raise if the producer's thread is not in this process: a record would wait for it for ever."""
    thread = getattr(producer, "_sender", None)
    if thread is None or thread.is_alive() or getattr(producer, "_closed", False):
        return
    raise EnqueueError(
        "the producer has no thread in this process: it was made before a fork, or has crashed; "
        "make a new KafkaProducer, and a Queue with it, here"
    )


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


#: What has a producer of its own to close at exit and to let go of after a fork.
_owners: weakref.WeakSet[Delivery] = weakref.WeakSet()
#: Producers of a parent process: never to be closed here, so never to be collected.
_inherited: list[Any] = []


def _at_exit() -> None:
    deadline = time.monotonic() + _EXIT_TIMEOUT
    for delivery in list(_owners):
        delivery.close(max(0.0, deadline - time.monotonic()))


def _after_fork() -> None:
    for delivery in list(_owners):
        delivery._after_fork()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
