"""Deliveries: records go to the producer, and each is asked what became of it.

1. A ``Delivery`` has the producer: the user's, or its own, which it makes at first use and closes.
2. ``send`` hands a record over. What fails there was not sent.
3. ``wait`` returns when there is an answer, or none will come. ``Bridge.wait`` is the same for asyncio code.
4. ``verdict`` says what became of the record: acknowledged, not delivered, or not known.
5. Where there was no broker a moment ago, ``send`` refuses at once: one record tries, now and then, and no other waits.
6. At interpreter exit own producers are closed; after a fork they are let go of, and made anew.

Only a record's own future tells: ``flush`` reports nothing.
"""

from __future__ import annotations

import atexit
import os
import re
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
    MessageSizeTooLargeError,
    NetworkExceptionError,
    NotEnoughReplicasAfterAppendError,
    OutOfOrderSequenceNumberError,
    RequestTimedOutError,
    UnknownError,
)

from kq.clients import CLIENT_DEFAULTS, connect, denied, kafka_python
from kq.errors import BrokerUnreachable, KQError
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
#: Bytes that a record may need beside its value: key, headers and what Kafka puts around them.
_ENVELOPE = 10_000
#: Seconds after a failure for want of a broker in which nothing is tried while there is no connection.
_PAUSE = 1.0
#: Seconds that the one which tries may take before another does: it may have been interrupted.
_TRIAL = 10.0
#: Part of the time for a call in which a record of an own producer is sent or given up: an answer is surer than none.
_SENT_WITHIN = 0.8
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
    #: When its caller waits no longer, by the monotonic clock.
    deadline: float = float("inf")

    @property
    def is_acknowledged(self) -> bool:
        """Whether the broker has acknowledged it."""
        return bool(self.future.is_done and self.future.exception is None)


class Delivery:
    """The way from a record to the broker's answer. Any thread may use it.

    :param timeout: Seconds that a record may take, with all that is to be done for it; None for what its client allows.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        producer: KafkaProducer | None,
        hosts: str,
        config: Mapping[str, Any],
        timeout: float | None = None,
    ) -> None:
        self._name = name
        self.topic = topic
        self.hosts = hosts
        self._producer = producer
        self.is_owner = producer is None
        self._lock = threading.Lock()
        self.is_closed = False
        self._timeout = timeout
        self._settings = _own_settings(config, timeout) if producer is None else producer.config
        #: Until when nothing is tried, by the monotonic clock; 0 where a broker was there.
        self._away_until = 0.0
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
                try:
                    self._producer = connect(KafkaProducer, self.hosts, self._settings)
                except BrokerUnreachable:
                    self._away_until = time.monotonic() + _PAUSE
                    raise
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

    def knows(self, topic: str) -> bool:
        """Return whether the producer would send to a topic at once."""
        producer = self._producer
        return producer is not None and not self._is_dead(producer) and bool(kafka_python.partitions(producer, topic))

    def deadline(self) -> float:
        """Return until when a call that begins now may take, by the monotonic clock."""
        return time.monotonic() + (float("inf") if self._timeout is None else self._timeout)

    def prepare(self, partition: int | None, deadline: float = float("inf")) -> None:
        """Do what ``send`` would have to wait for; raise what it would raise."""
        self._check_process()
        self._check_broker()
        try:
            self._await_topic(self.producer, deadline)
        except KafkaTimeoutError:
            self._note_silence()
            raise
        self._look(partition)

    def _await_topic(self, producer: KafkaProducer, deadline: float) -> None:
        seconds = min(self._settings["max_block_ms"] / 1000, deadline - time.monotonic())
        kafka_python.await_topic(producer, self.topic, max(0.001, seconds))

    def _check_broker(self) -> None:
        """Raise if there was no broker a moment ago, and there is none still; once a pause is over, one may try."""
        if not self._away_until:
            return
        now = time.monotonic()
        if self._producer is not None and kafka_python.is_connected(self._producer):
            self._away_until = 0.0
        elif now < self._away_until:
            raise EnqueueError(f"no Kafka broker answered at {self.hosts} a moment ago; it is tried again in a second")
        else:
            self._away_until = now + max(_PAUSE, min(_TRIAL, self.patience if self._timeout is None else self._timeout))

    def _note_silence(self) -> None:
        """Note that a record failed for want of an answer; where there is a connection there is a broker."""
        producer = self._producer
        if producer is None or not kafka_python.is_connected(producer):
            self._away_until = time.monotonic() + _PAUSE

    def _must_look(self, partition: int | None) -> bool:
        """Return whether a partition is unknown, and the brokers were not asked just now: it may have been added."""
        if partition is None or partition in self.producer.partitions_for(self.topic):
            return False
        return time.monotonic() > self._looked + _LOOK_EVERY

    def _look(self, partition: int | None) -> None:
        if self._must_look(partition):
            kafka_python.ask_again(self.producer, self._settings["max_block_ms"] / 1000)
            self._looked = time.monotonic()

    def send(self, job: Job, record: Record, deadline: float | None = None, *, is_checked: bool = False) -> Sent:
        """Hand a record to the producer.

        :param deadline: Of the call that it belongs to; if left out, the call begins now.
        :param is_checked: Whether the record is of the library's making, so that nothing is wrong with its parts.
        :raises kq.EnqueueError: It was not sent.
        """
        deadline = self.deadline() if deadline is None else deadline
        try:
            self._check_process()
            self._check_broker()
            producer = self.producer
            if self._timeout is not None:
                self._await_topic(producer, deadline)
            self._look(record.partition)
            future = kafka_python.send_small(producer, record) if is_checked else producer.send(*record)
        except (KafkaError, KQError, ValueError) as error:
            if isinstance(error, KafkaTimeoutError):
                self._note_silence()
            cause = self._explained(error, len(record.value))
            raise self.refused(job, cause) from cause
        batch_future = kafka_python.future_of_batch(future)
        if future.is_done and future.exception is not None and batch_future is not None and not batch_future.is_done:
            raise self.refused(job, future.exception) from future.exception  # the topic's partitions cannot be known
        last_future, batch = self._last
        if last_future is not batch_future:
            batch = kafka_python.batch_of(producer, batch_future)
            self._last = batch_future, batch
        return Sent(job, len(record.value), producer, future, batch, deadline)

    def wait(self, sent: Sent) -> None:
        """Return when there is an answer to a record, or none will come; ``verdict`` then tells what became of it."""
        try:
            sent.future.get(self.left(sent))
        except KafkaError:
            self.recover(sent)

    def left(self, sent: Sent) -> float:
        """Return the seconds for which an answer to a record is waited for now."""
        return max(0.0, min(self.patience, sent.deadline - time.monotonic()))

    def recover(self, sent: Sent) -> None:
        """Make ready for the next record after one that was not acknowledged. May block for seconds."""
        if sent.future.is_done or self._timeout is not None:  # its producer may tell later, and must not be waited for
            return
        self.abandon(sent.producer)

    def refused(self, job: Job, cause: BaseException) -> EnqueueError:
        """Return what to say of a job that was not sent."""
        if isinstance(cause, EnqueueError):  # it is about the queue
            return EnqueueError(str(cause), [job])
        hint = ""
        producer = self._producer
        if isinstance(cause, KafkaTimeoutError) and producer is not None and kafka_python.is_connected(producer):
            hint = f"; does topic {self.topic} exist? Queue.ensure_topic() makes it"
        return EnqueueError(f"job {job.id} was not enqueued on topic {self.topic}: {describe(cause)}{hint}", [job])

    def verdict(self, sent: Sent) -> EnqueueError | None:
        """Return what to raise of a record that was waited for, with the answer as the cause; None if it is there."""
        if sent.is_acknowledged:
            return None
        told = "the producer does not tell" if self._timeout is None else f"no answer within {self._timeout:g} s"
        answer = self._explained(sent.future.exception or KafkaTimeoutError(told), sent.size)
        if isinstance(answer, KafkaTimeoutError):
            self._note_silence()
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

    def _explained(self, cause: BaseException, size: int) -> BaseException:
        """Return an error, or one of its kind that says what to do: of a job that is too large the client says little.

        :param size: Of the serialized job, in bytes.
        """
        if not isinstance(cause, MessageSizeTooLargeError):
            return cause
        limit, room = {**KafkaProducer.DEFAULT_CONFIG, **self._settings}["max_request_size"], size + _ENVELOPE
        own = f"allows {limit:,}" if room <= limit else f"allows {limit:,}: pass config={{'max_request_size': {room}}}"
        explained: BaseException = MessageSizeTooLargeError(
            f"the job has {size:,} bytes. The queue's max_request_size {own}. The topic's max.message.bytes allows "
            f"1,048,588 unless somebody has set it: kafka-configs.sh --alter --entity-type topics --entity-name "
            f"{self.topic} --add-config max.message.bytes={room}. Better: pass where the data is, not the data"
        )
        return explained

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


def _own_settings(config: Mapping[str, Any], timeout: float | None) -> dict[str, Any]:
    """Return the settings of an own producer; none of its times is longer than a call may take.

    :param timeout: Seconds that a call may take, if that is bounded.
    """
    settings = {**PRODUCER_DEFAULTS, **config}
    if timeout is None:
        return settings
    times = dict.fromkeys(("bootstrap_timeout_ms", "max_block_ms"), timeout * 1000)
    times |= dict.fromkeys(("delivery_timeout_ms", "request_timeout_ms"), timeout * 1000 * _SENT_WITHIN)
    known = {**CLIENT_DEFAULTS, **settings}
    return {**settings, **{name: max(1, int(min(time, known.get(name, time)))) for name, time in times.items()}}


def _shut(producer: KafkaProducer, timeout: float) -> None:
    """Close a producer, also one that waits for a record of which it lost track: by itself it would do so for ever."""
    try:
        producer.close(timeout=timeout)
    except KafkaTimeoutError:
        kafka_python.force_close(producer)


def describe(error: BaseException) -> str:
    """Return an error as text that begins with its name."""
    if (right := denied(error)) is not None:
        return right
    name, text = type(error).__name__, str(error)
    text = re.sub(rf"^\[Error \d+\] (?={name})", "", text)  # which is how errors of the client begin
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
