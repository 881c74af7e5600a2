"""The queue: turns function calls into jobs on a Kafka topic.

1. The queue has a producer, its own or the user's, and a serializer.
2. A call, or a ``Job``, and the settings given with ``using`` become a record that the producer sends: ``EnqueueSpec``.
3. ``enqueue`` returns when the broker has acknowledged the record, and raises otherwise. ``enqueue_many`` has many
   records on their way at once, and raises when it knows what became of each.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar, overload

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from kq import producing
from kq.clients import (
    DEFAULT_TOPIC,
    access_of,
    check_config,
    check_hosts,
    check_topic,
    connect,
    hosts_of,
    settings_for,
    topics,
)
from kq.errors import ArgumentError
from kq.job import EnqueuedJob, EnqueueItem, Job
from kq.messagelog import MessageStore, check_store
from kq.producing import (
    Delivery,
    EnqueueError,
    EnqueueUnknown,
    JobFunction,
    Later,
    Progress,
    Publishing,
    Sender,
    Terms,
    check_timeout,
    job_function,
    job_of_call,
    new_ids,
    now_millis,
    told_retry,
)
from kq.results import Results
from kq.retry import Retry
from kq.scheduling import Cron, Every, Schedule, Schedules, check_schedule
from kq.serializers import dumps, writer_of
from kq.signing import Signer, check_signer
from kq.utils import hides_arguments

__all__ = ["EnqueueError", "EnqueueSpec", "EnqueueUnknown", "Queue"]

_logger = logging.getLogger("kq.queue")

P = ParamSpec("P")
R = TypeVar("R")
Duration = float | int | timedelta

#: Settings that would break the wire format or the acknowledgement.
_RESERVED = ("bootstrap_servers", "key_serializer", "value_serializer", "transactional_id")


class EnqueueSpec(producing.EnqueueSpec):
    """How to enqueue: a queue, and what was given to :meth:`Queue.using`."""

    __slots__ = ("_schedules",)

    def __init__(self, sender: Sender, terms: Terms, schedules: Schedules) -> None:
        super().__init__(sender, terms)
        self._schedules = schedules

    def schedule(
        self, name: str, when: Cron | Every, func: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Schedule:
        """Have a call run again and again; see :meth:`Queue.schedule`."""
        check_schedule(name, when)
        terms = self._terms.with_those_of(func)
        if terms.due is not None or (terms.expires is not None and not terms.expires.is_relative):
            raise ArgumentError("a schedule has no delay, and its runs expire so many seconds after their time")
        job = job_of_call(terms, now_millis(), new_ids(), func, args, kwargs)
        value, headers = self._sender.template(job, terms)
        expires = None if terms.expires is None else terms.expires.value
        return self._schedules.put(name, when, job, value, headers, expires)


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
    :param enqueue_timeout: Seconds that one ``enqueue`` or ``aenqueue`` may take with all that it waits for, in a web
        request say; of ``enqueue_many`` each record. If left out, the producer's own settings bound it.
    :param retry: Which failed attempts run again where nothing else is said: a :class:`kq.Retry`, or how many attempts
        may follow the first one.
    :param results: Whether the jobs are marked, so that workers with ``results="asked"`` publish their results.
    :param signer: A :class:`kq.Signer`: signs jobs, delayed jobs and schedules.
    :param log_arguments: Whether arguments and keys may stand in lines of the log, headers and other texts that the
        queue writes. If left out, they may unless ``KQ_LOG_ARGUMENTS`` is 0.
    :param message_log: Where to write down what was enqueued: a :class:`kq.MessageStore`, or its address.
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
        enqueue_timeout: float | None = None,
        retry: Retry | int | None = None,
        results: bool = False,
        signer: Signer | None = None,
        log_arguments: bool | None = None,
        message_log: MessageStore | str | None = None,
    ) -> None:
        if topic is None and hosts is not None:
            topic = DEFAULT_TOPIC
        topic = check_topic(topic)
        if hosts is None and not isinstance(producer, KafkaProducer):
            raise ArgumentError('bad producer instance; pass a KafkaProducer, or hosts="127.0.0.1:9092"')
        if producer is not None and not (hosts is None and config is None):
            raise ArgumentError("hosts and config are for a queue without a producer of its own; pass one or the other")
        if not (serializer is None or callable(serializer)):
            raise ArgumentError("serializer must be a callable")
        if not (logger is None or isinstance(logger, logging.Logger)):
            raise ArgumentError("bad logger instance")
        if not (enqueue_timeout is None or (isinstance(enqueue_timeout, (int, float)) and enqueue_timeout > 0)):
            raise ArgumentError("enqueue_timeout must be an int or float above 0")
        self._topic = topic
        self._hosts = hosts_of(producer) if hosts is None else check_hosts(hosts)
        self._config = check_config(config, KafkaProducer.DEFAULT_CONFIG, _RESERVED)
        self._terms = Terms(
            topic, check_timeout(timeout, "timeout"), None, None, [], frozenset(), retry=told_retry(retry)
        )
        self._delivery = Delivery(repr(self), topic, producer, self._hosts, self._config, enqueue_timeout)
        self._later = Later(self._delivery, self._access)
        if not isinstance(results, bool):
            raise ArgumentError("results must be True or False")
        signer = check_signer(signer)
        parts, hides = (serializer or dumps, logger or _logger, signer), hides_arguments(log_arguments)
        self._sender = Sender(self._delivery, self._later, *parts, wants_results=results, hides=hides)
        self._schedules = Schedules(self._delivery, self._later, self._access, signer, hides=hides)
        self._publishing = None if check_store(message_log) is None else Publishing(message_log, hides)  # type: ignore[arg-type]
        self._sender.note = None if self._publishing is None else self._publishing.note
        self._spec = EnqueueSpec(self._sender, self._terms, self._schedules)
        if (producer.config if producer is not None else self._config).get("acks") == 0:
            _logger.warning("The producer has acks=0: no broker acknowledges a job, and it may be lost without a word.")

    def __repr__(self) -> str:
        return f"Queue(hosts={self._hosts}, topic={self._topic})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Queue cannot be serialized; a job that enqueues makes its own, or imports one")

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
        return self._delivery.producer

    @property
    def serializer(self) -> Callable[[Job], bytes]:
        """The function that turns a job into bytes."""
        return self._sender.serializer

    @property
    def signer(self) -> Signer | None:
        """What signs the jobs; None if they are not signed."""
        return self._sender.signer

    @property
    def timeout(self) -> float | int:
        """How long a job may take where nothing else is said, in seconds; 0 means no limit."""
        return self._terms.timeout

    @overload
    def enqueue(self, obj: Job, /) -> EnqueuedJob: ...

    @overload
    def enqueue(self, obj: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> EnqueuedJob: ...

    def enqueue(self, obj: Callable[..., Any] | Job, /, *args: Any, **kwargs: Any) -> EnqueuedJob:
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

    def enqueue_many(self, jobs: Iterable[EnqueueItem], *, on_progress: Progress | None = None) -> list[EnqueuedJob]:
        """Enqueue many function calls or jobs, and return when the broker has acknowledged all of them.

        Many records are on their way at once, in the order of the jobs, and memory for them is bounded; the jobs that
        are returned are all that grows. A job that fails by itself, because it is too large or cannot be serialized,
        does not keep the others; where the next one would fare no better, as without a broker, no more is sent. The
        iterable is read to its end, so that each of its jobs is accounted for.

        :param jobs: Any iterable, also a generator, of :class:`kq.Job`, callables and ``(function, args, kwargs)``.
        :param on_progress: Called now and then with how many are acknowledged, and how many there are; that is None
            where ``jobs`` has no length.
        :returns: The jobs, complete.
        :raises kq.EnqueueError: Not all are on the topic: its ``jobs`` are not, its ``unknown`` may be.
        :raises kq.ArgumentError: An item is of the wrong type; those before it are enqueued.
        """
        return self._spec.enqueue_many(jobs, on_progress=on_progress)

    @overload
    async def aenqueue(self, obj: Job, /) -> EnqueuedJob: ...

    @overload
    async def aenqueue(self, obj: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> EnqueuedJob: ...

    async def aenqueue(self, obj: Callable[..., Any] | Job, /, *args: Any, **kwargs: Any) -> EnqueuedJob:
        """Enqueue a function call or a job in asyncio code: as :meth:`enqueue`, without blocking the event loop.

        Calls that are awaited together travel together. Cancelling the await does not take the job back.
        """
        return await self._spec.aenqueue(obj, *args, **kwargs)

    async def aenqueue_many(
        self, jobs: Iterable[EnqueueItem] | AsyncIterable[EnqueueItem], *, on_progress: Progress | None = None
    ) -> list[EnqueuedJob]:
        """Enqueue many function calls or jobs in asyncio code: as :meth:`enqueue_many`, while other tasks go on.

        ``jobs`` may be an asynchronous iterable. After a cancellation no more jobs are sent; those that were sent are
        not taken back.
        """
        return await self._spec.aenqueue_many(jobs, on_progress=on_progress)

    @overload
    def job(self, func: Callable[P, R], /) -> JobFunction[P, R]: ...

    @overload
    def job(
        self,
        *,
        timeout: float | int | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] | None = None,
        delay: Duration | None = None,
        at: datetime | float | int | None = None,
        expires: Duration | datetime | None = None,
        retry: Retry | int | None = None,
    ) -> Callable[[Callable[P, R]], JobFunction[P, R]]: ...

    def job(  # type: ignore[misc]  # what it returns is more general than mypy can tell of an implementation
        self,
        func: Any = None,
        /,
        *,
        timeout: float | int | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] | None = None,
        delay: Duration | None = None,
        at: datetime | float | int | None = None,
        expires: Duration | datetime | None = None,
        retry: Retry | int | None = None,
    ) -> Any:
        """Decorate a function, as ``@queue.job`` or ``@queue.job(timeout=60)``.

        It stays what it is, and has ``enqueue``, ``enqueue_many``, their asyncio forms and ``using`` besides. What is
        given here holds wherever the function is enqueued, unless :meth:`using` says otherwise there. The parameters
        are those of :meth:`using`.

        :raises kq.ArgumentError: An argument has the wrong type or value.
        """
        terms = self._terms.changed(timeout, key, partition, headers, delay, at, expires, retry)
        decorate = partial(job_function, sender=self._sender, terms=terms)
        return decorate if func is None else decorate(func)

    def using(
        self,
        timeout: float | int | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        *,
        headers: Sequence[tuple[str, bytes]] | None = None,
        delay: Duration | None = None,
        at: datetime | float | int | None = None,
        expires: Duration | datetime | None = None,
        retry: Retry | int | None = None,
    ) -> EnqueueSpec:
        """Return something to ``enqueue`` with, with other settings than the queue's.

        :param timeout: How long the job may take, in seconds; 0 means no limit, also where the queue has one.
        :param key: Kafka message key. Jobs with one key go to one partition and run one after another.
        :param partition: Kafka partition; the key does not choose it then.
        :param headers: More record headers, as (name, value); names that begin with ``kq-`` are refused.
        :param delay: How long after the enqueueing the job is due, in seconds or as a ``timedelta``.
        :param at: When the job is due: an aware ``datetime``, or Unix seconds; not beside ``delay``. What has passed is
            now.
        :param expires: When the job expires: seconds after the enqueueing, a ``timedelta``, or an aware ``datetime``.
            One that has not started by then never runs: the callback is told of a :class:`kq.JobExpired`.
        :param retry: Which failed attempts run again: a :class:`kq.Retry`, or how many attempts may follow the first
            one. 0 is none, whatever the queue or the worker says.
        :raises kq.ArgumentError: An argument has the wrong type or value.
        """
        terms = self._terms.changed(timeout, key, partition, headers, delay, at, expires, retry)
        return EnqueueSpec(self._sender, terms, self._schedules)

    def schedule(
        self, name: str, when: Cron | Every, func: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Schedule:
        """Have a call run again and again, whoever made the schedule being there or not.

        The same name with the same ``when`` again replaces the call, and the runs stay where they were; with another
        ``when`` it begins anew. So a program may do this whenever it starts, on any number of machines.

        :param name: Name of the schedule: 1 to 200 characters.
        :param when: A :class:`kq.Cron` or a :class:`kq.Every`.
        :param func: Function; a worker must be able to unpickle it.
        :param args: Positional arguments for the function.
        :param kwargs: Keyword arguments for the function.
        :returns: The schedule.
        :raises kq.EnqueueError: The broker did not acknowledge it.
        :raises kq.ArgumentError: An argument has the wrong type or value.
        """
        return self._spec.schedule(name, when, func, *args, **kwargs)

    def unschedule(self, name: str) -> bool:
        """End a schedule, and return whether there was one."""
        return self._schedules.remove(name)

    def schedules(self) -> list[Schedule]:
        """Return the schedules of the topic, by their names."""
        return self._schedules.all()

    def collect(self) -> Results:
        """Return the results of this queue's jobs, for a ``with`` block; workers must publish them."""
        config = self._access(KafkaConsumer.DEFAULT_CONFIG)
        json = writer_of(self.serializer)  # what was sent as JSON comes back as JSON
        return Results(self._topic, self._hosts, config, signer=self.signer, serializer=json)

    def ensure_topic(self, partitions: int = 1, replication: int = 1) -> bool:
        """Make the topic, unless there is one of its name, which is left as it is.

        Its records have the broker's time (``message.timestamp.type=LogAppendTime``).

        :param partitions: How many partitions it gets.
        :param replication: How many brokers keep each of them.
        :returns: Whether it was made.
        :raises kq.KQError: It could not be made.
        """
        for name, value in (("partitions", partitions), ("replication", replication)):
            if not (isinstance(value, int) and value >= 1):
                raise ArgumentError(f"{name} must be an int of 1 or greater")
        with connect(KafkaAdminClient, self._hosts, self._access(KafkaAdminClient.DEFAULT_CONFIG)) as admin:
            return topics.ensure(admin, self._topic, partitions, topics.JOBS, replication=replication)

    def close(self, timeout: float | None = None) -> None:
        """Close the producer if the queue made it; what was enqueued is delivered first. Closing twice is fine.

        :param timeout: How long that may take, in seconds.
        """
        self._delivery.close(timeout)
        if self._publishing is not None:
            self._publishing.close(timeout)

    def _deliver_by(self, delivery: Delivery, later: Later) -> tuple[Delivery, Later]:
        """Have all that belongs to this queue go another way, for tests; return the way of before."""
        before = self._sender.delivery, self._sender.later
        self._sender.delivery, self._sender.later = delivery, later
        self._sender.bridges.clear()  # they know the delivery of before
        return before

    def _access(self, known: Collection[str]) -> dict[str, Any]:
        """Return what another client needs to get to the brokers, of the settings that it knows."""
        given = self._config if self._delivery.is_owner else access_of(self._delivery.producer)
        return settings_for(known, given)
