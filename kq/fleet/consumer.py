"""Consumers: a worker in a thread of its own, made to be extended.

1. A ``Consumer`` is made; its arguments are checked, and nothing happens.
2. ``start`` starts its thread, which calls ``run``: ``connect``, then ``start_consuming`` until the connection is lost,
   then ``reconnect`` after a pause, and so on. A broker that restarts is no loss: the worker waits for it.
3. ``stop_consuming`` has nothing more start. When what runs has ended, so does the thread.
4. What no step survives ends the thread: ``failure`` is it. A set replaces such a consumer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaAdminClient

from kq.clients import check_topic, connect, settings_for, topics
from kq.errors import ArgumentError, KQError, WorkerError
from kq.executors import ProcessExecutor
from kq.fleet.attendant import Attendant, Attended, attendant_of
from kq.fleet.hooks import FailureCallback, Hooks, call_hook, log_error, tell_failure
from kq.fleet.pauses import Pauses
from kq.fleet.virtual_host import VirtualHost, access_to
from kq.worker import Worker
from kq.working import State, Stats

__all__ = ["Consumer"]

#: Settings of the worker that have an argument of their own.
_RESERVED = frozenset(("topic", "consumer", "logger", "hosts", "group", "config", "message_log"))
#: How settings of queues begin that RabbitMQ knows and Kafka does not.
_OF_RABBITMQ = "x-"
#: Names in ``queue_arguments`` that are no settings of a topic, but say how it is made.
_PARTITIONS, _REPLICATION = "partitions", "replication_factor"


class Consumer(Hooks):
    """Runs the jobs of a topic in a thread of its own; a subclass says what else is to happen.

    :param host: Kafka brokers as ``"host:port,host:port"``, or a :class:`kq.VirtualHost`.
    :param queue: Name of the Kafka topic.
    :param logger: Where lines about the consumer and its jobs go.
    :param name: The name of the consumer, and of its thread.
    :param durable: For RabbitMQ; a Kafka topic is always durable.
    :param queue_arguments: Has the topic made where it is missing, with these settings: ``{"partitions": 10,
        "replication_factor": 3, "retention.ms": 86400000}``. What begins with ``x-`` is RabbitMQ's, and ignored.
    :param exchange_arguments: For RabbitMQ; Kafka has no exchanges.
    :param group: The consumer group; the topic's name if left out.
    :param config: More settings for ``kafka.KafkaConsumer``.
    :param message_log: Where the worker writes down what becomes of each message.
    :param worker: Settings of the :class:`kq.Worker`, such as ``{"executor": "process", "concurrency": 4}``. In place
        of an executor object there may be a function that makes one.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        host: str | VirtualHost,
        queue: str,
        logger: logging.Logger,
        name: str,
        durable: bool = True,
        queue_arguments: Mapping[str, Any] | None = None,
        exchange_arguments: Mapping[str, Any] | None = None,
        *,
        group: str | None = None,
        config: Mapping[str, Any] | None = None,
        message_log: Any = None,
        worker: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(logger, logging.Logger):
            raise ArgumentError("bad logger instance")
        if not isinstance(name, str) or not name:
            raise ArgumentError("name must be a str, and not an empty one")
        self.hosts, self._config = access_to(host, config)
        self.queue = check_topic(queue)
        self.logger = logger
        self._name = name
        self._topic_settings = _topic_settings(queue_arguments, logger)
        self._options = _options(worker, group=group, message_log=message_log)
        self._failure_callbacks: list[FailureCallback] = []
        #: The worker that has the connection; None while there is none.
        self.connection: Worker | None = None
        #: The one that had it last.
        self._last: Worker | None = None
        #: What ended the thread, if that was no stop.
        self.failure: BaseException | None = None
        self._attendant: Attendant | None = None
        self._stopping = threading.Event()
        self._is_closing = False
        self._pauses = Pauses()
        #: Seconds until it connects again, and for how long the last connection held.
        self._pause = self._lived = 0.0
        self._thread: threading.Thread | None = None
        self._make_worker()  # to have its arguments checked

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hosts={self.hosts}, queue={self.queue}, name={self.name})"

    @property
    def name(self) -> str:
        """The name of the consumer, and of its thread."""
        return self._name

    @property
    def shutdown_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._stopping.is_set()

    # -- from any thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread. When it has ended, it can be started again.

        :raises kq.KQError: It runs already.
        """
        if self.is_alive():
            raise KQError(f"{self!r} is started already")
        self._stopping.clear()
        self.failure = self._last = None
        self._thread = threading.Thread(target=self._run_in_thread, name=self.name, daemon=True)
        self._thread.start()

    def stop_consuming(self) -> None:
        """Have nothing more start, and return at once. When what runs has ended, the consumer has."""
        self.stop()

    def stop(self, *, now: bool = False) -> None:
        """Ask for a clean exit, and return at once. From any thread, signal handler or job, any number of times.

        :param now: End what runs: it has no outcome, and runs again.
        """
        self._stopping.set()
        connection = self.connection
        if connection is not None:
            connection.stop(now=now)

    def close_connection(self) -> None:
        """Close the connection when what runs has ended. Unless a stop is asked for, there will be another one."""
        connection = self.connection
        if connection is not None:
            self._is_closing = True
            connection.stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, at most so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def stats(self) -> Stats:
        """Return the figures of the worker that has the connection, or had the last one. From any thread."""
        worker = self.connection or self._last
        return Stats(State.NEW) if worker is None else worker.stats()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Consume until a stop, and connect again whenever the connection is lost. It is what the thread runs.

        It may be called instead of ``start``; in the main thread, SIGINT and SIGTERM are requests to stop then.
        """
        step: Callable[[], Worker | None] = self.connect
        while not self.shutdown_requested:
            self._lived = 0.0
            try:
                step()
                self.start_consuming()
            except Exception as error:  # noqa: BLE001 - whatever it is, the consumer is to be back when that is over
                self._note_loss(error)
            step = self.reconnect

    def connect(self) -> Worker:
        """Connect to a broker, have the topic if that is to be made, and return the worker that is to consume it.

        :raises kq.BrokerUnreachable: No broker answered.
        :raises kq.KQError: The topic could not be made.
        """
        settings = settings_for(KafkaAdminClient.DEFAULT_CONFIG, self._config)
        with connect(KafkaAdminClient, self.hosts, settings) as admin:
            if self._topic_settings is not None:
                partitions, replication, configs = self._topic_settings
                topics.ensure(admin, self.queue, partitions, configs, replication=replication)
            is_there = self.queue in admin.list_topics()
        if is_there:
            call_hook(self, "on_queue_declare", self.queue)
        self._is_closing = False
        self.connection = self._make_worker()
        return self.connection

    def reconnect(self) -> Worker | None:
        """Wait a while, longer each time, and connect again.

        :returns: The worker; None where a stop was asked for meanwhile.
        :raises kq.KQError: As for ``connect``.
        """
        pause, self._pause = self._pause, 0.0
        return None if self._stopping.wait(pause) else self.connect()

    def start_consuming(self) -> None:
        """Consume until a stop, or until the connection is lost.

        :raises kq.WorkerError: The consumer failed in a way that cannot be mended; the cause is attached.
        :raises kq.BrokerUnreachable: No broker answered.
        """
        if self.shutdown_requested:
            return
        connection = self.connection or self.connect()
        error: BaseException | None = None
        try:
            if not self.shutdown_requested:  # it may have come when there was no connection to be told
                connection.start()
            if not self._is_closing:  # ended by ``stop``, or by a signal
                self._stopping.set()
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.connection, self._last = None, connection
            self._tell_end(error)

    def _tell_end(self, error: BaseException | None) -> None:
        attendant, self._attendant = self._attendant, None
        if attendant is None or attendant.opened is None:
            return
        self._lived = time.monotonic() - attendant.opened
        if isinstance(error, WorkerError):
            call_hook(self, "on_consumer_cancelled", error)
        elif self.shutdown_requested:
            call_hook(self, "on_cancel")
        call_hook(self, "on_connection_closed", error)

    def _note_loss(self, error: Exception) -> None:
        self._pause = self._pauses.after(self._lived)
        if not self.shutdown_requested:
            line, trace = "Consumer %s has no connection, and connects again in %g s: %s", None
            if not isinstance(error, KQError):
                trace = error
            log_error(self.logger, line, self.name, self._pause, error, error=trace)
        tell_failure(self, None, error, is_of_message=False)

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:  # the door of the thread: whoever looks is told why it ended  # noqa: BLE001
            self.failure = error
            log_error(self.logger, "Consumer %s died:", self.name, error=error)
            tell_failure(self, None, error, is_of_message=False)

    def _make_worker(self) -> Worker:
        options = dict(self._options)
        executor = options.get("executor")
        if callable(executor):
            executor = options["executor"] = executor()
        crosses = executor == "process" or isinstance(executor, ProcessExecutor)
        self._attendant = attendant_of(self, crosses=crosses)
        where = {"hosts": self.hosts, "config": self._config, "logger": self.logger}
        return Attended(self._attendant, self.queue, **where, **options)


def _options(worker: Mapping[str, Any] | None, **own: Any) -> dict[str, Any]:
    """Return the settings of the worker, with what consumers have arguments for where that is given."""
    options = dict(worker or {})
    if taken := sorted(map(str, _RESERVED & set(options))):
        raise ArgumentError(f"worker must not set what the consumer sets itself: {', '.join(taken)}")
    return options | {name: value for name, value in own.items() if value is not None}


def _topic_settings(
    arguments: Mapping[str, Any] | None, logger: logging.Logger
) -> tuple[int, int, dict[str, str]] | None:
    """Return how a missing topic is made: partitions, replication and settings; None if it is not."""
    if arguments is None:
        return None
    foreign = sorted(name for name in arguments if name.startswith(_OF_RABBITMQ))
    if foreign:
        logger.warning("queue_arguments that only RabbitMQ knows are ignored: %s", ", ".join(foreign))
    own = {name: value for name, value in arguments.items() if name not in foreign}
    counts = own.pop(_PARTITIONS, -1), own.pop(_REPLICATION, -1)
    if not all(isinstance(count, int) and (count == -1 or count > 0) for count in counts):
        raise ArgumentError(f"{_PARTITIONS} and {_REPLICATION} in queue_arguments must be ints of 1 or greater")
    return *counts, {**topics.JOBS, **{name: str(value) for name, value in own.items()}}
