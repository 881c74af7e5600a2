"""The worker: what the user holds of it.

1. A ``Worker`` is made with settings; they are checked, and nothing happens.
2. ``start`` makes or takes over the consumer, handles SIGINT and SIGTERM in the main thread, and runs the loop.
3. ``stop``, from any thread, asks for a warm stop.
4. When the loop has ended, signals and consumer are given back. ``start`` can be called again.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaConsumer

from kq.clients import DEFAULT_TOPIC, BusyFirstAssignor, check_config, check_hosts, connect, hosts_of
from kq.consuming import Pump
from kq.errors import ArgumentError, KQError, WorkerError
from kq.executors import Executor, InlineExecutor, ProcessExecutor, ThreadExecutor
from kq.serializers import loads
from kq.working import Loop, Ordering, Plan, State, Stats, Stop, Waker, signals_handled, takes_message

__all__ = ["Worker"]

_logger = logging.getLogger("kq.worker")
_pump_logger = logging.getLogger("kq.pump")

Callback = Callable[..., Any]

#: Settings of a consumer that the worker makes. ``metadata_max_age_ms``: a topic, or a partition, that is made after
#: the worker was started is found within that time.
CONSUMER_DEFAULTS: Mapping[str, Any] = {
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metadata_max_age_ms": 10_000,
    "metrics_enabled": False,
}
#: Settings that have an argument of their own, or that would lose jobs.
_RESERVED = (
    "bootstrap_servers",
    "group_id",
    "enable_auto_commit",
    "key_deserializer",
    "value_deserializer",
    "consumer_timeout_ms",
)


class Worker:
    """Runs the jobs of a Kafka topic.

    Either with your own consumer, which the worker never closes::

        worker = Worker("topic", KafkaConsumer(bootstrap_servers="127.0.0.1:9092", group_id="group"))

    or with the addresses of brokers::

        worker = Worker("topic", hosts="127.0.0.1:9092")
        worker.start()

    :param topic: Name of the Kafka topic. With ``hosts``, ``"default"`` if left out.
    :param consumer: Kafka consumer with a group ID and without deserializers.
    :param callback: Told of every message: ``callback(status, message, job, result, exception, stacktrace)``.
    :param deserializer: Turns bytes into a :class:`kq.Job`, or an object with its attributes; :func:`kq.loads` if left
        out.
    :param logger: Logger; the one named ``kq.worker`` if left out.
    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param group: With ``hosts``: the consumer group; the topic's name if left out.
    :param config: With ``hosts``: more settings for ``kafka.KafkaConsumer``.
    :param timeout: Overrides the time that each job may take, in seconds; 0 means no limit.
    :param executor: Where jobs run: ``"inline"``, in the thread that calls ``start``; ``"thread"``, in threads; or an
        executor with settings of its own.
    :param concurrency: How many jobs run at once, whatever the number of partitions.
    :param ordering: ``"key"``: messages with the same key and partition run one at a time, in order. ``"partition"``:
        all messages of a partition do. ``"none"``: in any order.
    :param commit_interval: Seconds between commits; 0 commits each job before the next one starts.
    :param shutdown_timeout: Seconds that running jobs have to finish after the first request to stop.
    :param max_deliveries: How many runs of a message may end with the death of the whole worker before it is reported
        as a failure instead of being run again.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        topic: str | None = None,
        consumer: KafkaConsumer | None = None,
        callback: Callback | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        logger: logging.Logger | None = None,
        *,
        hosts: str | None = None,
        group: str | None = None,
        config: Mapping[str, Any] | None = None,
        timeout: float | int | None = None,
        executor: str | Executor = "inline",
        concurrency: int = 1,
        ordering: Ordering = "key",
        commit_interval: float = 0.1,
        shutdown_timeout: float = 30.0,
        max_deliveries: int = 3,
    ) -> None:
        if topic is None and hosts is not None:
            topic = DEFAULT_TOPIC
        if not isinstance(topic, str):
            raise ArgumentError("topic must be a str")
        if hosts is None:
            _check_consumer(consumer)
        elif consumer is not None:
            raise ArgumentError("pass hosts, or a consumer of your own, not both")
        if consumer is not None and not (group is None and config is None):
            raise ArgumentError("group and config go with hosts; a consumer of your own has them already")
        _require(callback is None or callable(callback), "callback must be a callable")
        _require(deserializer is None or callable(deserializer), "deserializer must be a callable")
        _require(logger is None or isinstance(logger, logging.Logger), "bad logger instance")
        _require(group is None or (isinstance(group, str) and group != ""), "group must be a str")
        _require(timeout is None or isinstance(timeout, (int, float)), "timeout must be an int or float")
        _require(timeout is None or timeout >= 0, "timeout must be 0 or greater")
        _require(ordering in ("key", "partition", "none"), 'ordering must be "key", "partition" or "none"')
        _check_numbers(concurrency, commit_interval, shutdown_timeout, max_deliveries)
        self._topic = topic
        self._consumer = consumer
        self._is_owner = consumer is None
        self._hosts = hosts_of(consumer) if hosts is None else check_hosts(hosts)
        self._group: str = consumer.config["group_id"] if consumer is not None else group or topic
        self._config = check_config(config, KafkaConsumer.DEFAULT_CONFIG, _RESERVED)
        self._callback = callback
        self._takes_message = callback is None or takes_message(callback)
        self._deserializer = deserializer or loads
        self._logger = logger or _logger
        self._timeout = timeout
        self._executor = _executor(executor, concurrency)
        self._concurrency = concurrency
        self._ordering: Ordering = ordering
        self._commit_interval = commit_interval
        self._shutdown_timeout = shutdown_timeout
        self._max_deliveries = max_deliveries
        #: Held while ``start`` runs.
        self._started = threading.Lock()
        self._stop = Stop()
        self._loop: Loop | None = None
        self._warned = False

    def __repr__(self) -> str:
        return f"Worker(hosts={self._hosts}, topic={self._topic}, group={self._group})"

    @property
    def hosts(self) -> str:
        """The Kafka brokers, as ``"host:port,host:port"``."""
        return self._hosts

    @property
    def topic(self) -> str:
        """The name of the Kafka topic."""
        return self._topic

    @property
    def group(self) -> str:
        """The Kafka consumer group ID."""
        return self._group

    @property
    def consumer(self) -> KafkaConsumer | None:
        """The Kafka consumer; with ``hosts``, the one that ``start`` made, None while it does not run."""
        return self._consumer

    @property
    def deserializer(self) -> Callable[[bytes], Any]:
        """The function that turns bytes into a job."""
        return self._deserializer

    @property
    def callback(self) -> Callback | None:
        """The callback, or None."""
        return self._callback

    @property
    def state(self) -> State:
        """What the worker is doing."""
        return State.NEW if self._loop is None else self._loop.state

    def stats(self) -> Stats:
        """Return the figures of this moment, since the last ``start``. From any thread; cheap, once a second say."""
        return Stats(State.NEW) if self._loop is None else self._loop.stats()

    def start(self, max_messages: int | None = None, commit_offsets: bool = True) -> int:
        """Run jobs until stopped, and return how many messages were processed.

        Called again, it goes on with the message after the last one that was processed.

        :param max_messages: Return after so many messages; None for no limit.
        :param commit_offsets: Commit what is done. If False nothing is committed, and the next ``start`` repeats.
        :returns: How many messages were processed.
        :raises kq.BrokerUnreachable: No broker answered, with ``hosts``.
        :raises kq.WorkerError: The consumer failed in a way that cannot be mended; the cause is attached.
        :raises KeyboardInterrupt: The ``start`` before this one was ended by SIGINT.
        :raises SystemExit: The ``start`` before this one was ended by SIGTERM.
        """
        if not (max_messages is None or (isinstance(max_messages, int) and max_messages >= 0)):
            raise ArgumentError("max_messages must be an int of 0 or greater")
        if not self._started.acquire(blocking=False):
            raise KQError(f"{self!r} is started already")
        try:
            self._logger.info("Starting %s ...", self)
            if self._is_stop_spent() or max_messages == 0:
                return 0
            return self._run(max_messages, commit_offsets)
        finally:
            self._started.release()

    def stop(self) -> None:
        """Ask for a warm stop: what runs may finish within ``shutdown_timeout``. From any thread, any number of times.

        Before ``start``, the next ``start`` returns 0 at once.
        """
        self._stop.request()

    def _is_stop_spent(self) -> bool:
        """Return whether there was a request to stop before this start; it is spent now."""
        requests, signum = self._stop.requests, self._stop.signum
        if requests:  # otherwise there is nothing to forget, but a request of this very moment
            self._stop.reset()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        if signum is not None:
            raise SystemExit(128 + signum)
        return requests > 0

    def _run(self, max_messages: int | None, commit_offsets: bool) -> int:
        consumer = self._open_consumer()
        interval = self._interval(consumer)
        waker = Waker()
        make = self._make_consumer if self._is_owner else None
        pump = Pump(self._topic, consumer, make, interval if commit_offsets else None, waker.wake)
        plan = self._plan(consumer, max_messages, commits_each=commit_offsets and interval == 0)
        loop = self._loop = Loop(plan, self._executor, self._stop, waker)
        self._stop.attach(waker)
        try:
            with signals_handled(self._stop):
                processed = loop.run(pump)
        finally:
            self._stop.attach(None)
            waker.close()
            if self._is_owner:
                self._consumer = None
            if self._stop.signum is None:
                self._stop.reset()
        if loop.failure is not None:
            raise WorkerError(f"{self!r} had to stop: {loop.failure!r}") from loop.failure
        return processed

    def _plan(self, consumer: KafkaConsumer, max_messages: int | None, *, commits_each: bool) -> Plan:
        timeout = consumer.config["consumer_timeout_ms"]  # negative means none, as in the client
        idle_limit = float("inf") if self._is_owner or timeout < 0 else timeout / 1000
        return Plan(
            logger=self._logger,
            deserialize=self._deserializer,
            callback=self._callback,
            takes_message=self._takes_message,
            timeout=self._timeout,
            concurrency=self._concurrency,
            ordering=self._ordering,
            commits_each=commits_each,
            shutdown_timeout=self._shutdown_timeout,
            max_deliveries=self._max_deliveries,
            max_messages=float("inf") if max_messages is None else max_messages,
            idle_limit=idle_limit,
        )

    def _open_consumer(self) -> KafkaConsumer:
        if self._is_owner:
            self._consumer = self._make_consumer()
            if not self._consumer.partitions_for_topic(self._topic):
                _pump_logger.warning("Topic %s does not exist yet: the worker waits for it", self._topic)
            return self._consumer
        assert self._consumer is not None
        if getattr(self._consumer, "_closed", False):
            raise KQError(f"{self!r} cannot start: its consumer is closed")
        if self._consumer.config["auto_offset_reset"] == "latest" and not self._warned:
            self._warned = True
            _pump_logger.warning(
                "The consumer has auto_offset_reset='latest': jobs that were enqueued before the first commit of group "
                "%s are SKIPPED. Pass auto_offset_reset='earliest' to KafkaConsumer to run them.",
                self._group,
            )
        return self._consumer

    def _make_consumer(self) -> KafkaConsumer:
        strategy = {"partition_assignment_strategy": (BusyFirstAssignor(),)}
        settings = {
            **CONSUMER_DEFAULTS,
            **strategy,
            **self._config,
            "group_id": self._group,
            "enable_auto_commit": False,
        }
        consumer = connect(KafkaConsumer, self._hosts, settings)
        cluster = getattr(consumer, "_cluster", None)
        if isinstance(getattr(cluster, "config", None), dict):
            # the client does not hand this on by itself: it would make a deleted topic anew, with one partition
            cluster.config["allow_auto_create_topics"] = settings["allow_auto_create_topics"]  # type: ignore[union-attr]
        consumer.subscribe([self._topic])
        return consumer

    def _interval(self, consumer: KafkaConsumer) -> float:
        """Return the seconds between commits, and switch off the client's own: it would commit jobs that still run."""
        if not consumer.config["enable_auto_commit"]:
            return self._commit_interval
        coordinator = getattr(consumer, "_coordinator", None)
        if not isinstance(getattr(coordinator, "config", None), dict):
            raise KQError("the consumer's auto-commit cannot be switched off; make it with enable_auto_commit=False")
        consumer.config["enable_auto_commit"] = False
        coordinator.config["enable_auto_commit"] = False  # type: ignore[union-attr]
        return min(self._commit_interval, float(consumer.config["auto_commit_interval_ms"]) / 1000)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArgumentError(message)


def _check_consumer(consumer: Any) -> None:
    _require(isinstance(consumer, KafkaConsumer), "bad consumer instance")
    _require(bool(consumer.config["group_id"]), "consumer must have group_id")
    for name in ("key_deserializer", "value_deserializer"):
        if consumer.config[name] is not None:
            raise ArgumentError(f"consumer must not have a {name}; pass deserializer to the worker instead")


def _check_numbers(concurrency: Any, commit_interval: Any, shutdown_timeout: Any, max_deliveries: Any) -> None:
    for name, value in (("concurrency", concurrency), ("max_deliveries", max_deliveries)):
        _require(isinstance(value, int) and value >= 1, f"{name} must be an int of 1 or greater")
    for name, value in (("commit_interval", commit_interval), ("shutdown_timeout", shutdown_timeout)):
        _require(isinstance(value, (int, float)) and value >= 0, f"{name} must be an int or float of 0 or greater")


def _executor(executor: Any, concurrency: int) -> Executor:
    if executor == "process":
        executor = ProcessExecutor()
    elif executor == "inline":
        executor = InlineExecutor()
    elif executor == "thread":
        executor = ThreadExecutor()
    if isinstance(executor, InlineExecutor) and concurrency > 1:
        raise ArgumentError(
            'an inline executor runs one job at a time: pass executor="process" or "thread" with concurrency above 1'
        )
    parts = ("open", "room", "start", "flush", "finished", "patience", "kill", "close", "release")
    if not all(callable(getattr(executor, part, None)) for part in parts):
        raise ArgumentError('executor must be "inline", "thread", "process" or an executor object')
    return executor  # type: ignore[no-any-return]
