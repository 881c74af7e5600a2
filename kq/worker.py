"""The worker: what the user holds of it.

1. A ``Worker`` is made with settings; they are checked, and nothing happens.
2. ``start`` makes or takes over the consumer, handles SIGINT and SIGTERM in the main thread, and runs the loop.
3. ``stop``, from any thread, asks for a stop.
4. When the loop has ended, signals and consumer are given back. ``start`` can be called again.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError

from kq.clients import BusyFirstAssignor, access_of, ask_for, connect, denied, kafka_python, settings_for, topics
from kq.consuming import Pump
from kq.controlling import Cancels
from kq.errors import ArgumentError, KQError, WorkerError
from kq.executors import Executor
from kq.messagelog import MessageStore
from kq.retry import Retry
from kq.signing import Signer
from kq.working import (
    Agent,
    Companion,
    Companions,
    Context,
    Letters,
    Loop,
    Ordering,
    Plan,
    Recording,
    Replies,
    Retrier,
    Settings,
    State,
    Stats,
    Stop,
    Timekeeper,
    Unimportable,
    Waker,
    rare_collections,
    signals_handled,
)

__all__ = ["Worker"]

_pump_logger = logging.getLogger("kq.pump")

#: What is told of each message, with six arguments or, as in KQ 1.x, with five.
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
    :param unimportable: What becomes of a message whose job cannot be imported here. ``"brake"``: while nothing could
        be imported, such messages wait, and the tenth stops the worker; where something could, they are invalid.
        ``"invalid"``: they are invalid at once, as in KQ 2.x. ``"stop"``: the first one stops the worker.
    :param control: Whether the worker takes part in control: :class:`kq.Control` steers it and sees it. By default,
        with ``hosts``, it does once somebody has used that. True: always; the topic ``<topic>.control`` is made.
    :param later: With ``hosts``: whether the worker takes part in firing delayed jobs. ``"host:port,host:port"``: it
        does, at these brokers, also with a consumer of your own.
    :param retry: Which failed attempts run again, for jobs that say nothing themselves: a :class:`kq.Retry`, or how
        many attempts may follow the first one.
    :param dead_letters: Whether messages that failed for good go to the topic ``<topic>.dead``; or the name of another.
    :param results: Whether what became of each job goes to the topic ``<topic>.results``, where :class:`kq.Results`
        finds it. ``"asked"``: only of jobs of a ``Queue(results=True)``.
    :param capture_logs: Whether what each job logs goes with its outcome, and to the topic of results.
    :param capture_lines: How many lines of each job: the last ones.
    :param signer: A :class:`kq.Signer`: what it does not verify is invalid, and not unpickled. It signs what the worker
        publishes: retries, dead letters, delayed jobs that it fires.
    :param log_arguments: Whether arguments, results and keys may stand in lines of the log, headers and other texts
        that the worker writes. If left out, they may unless ``KQ_LOG_ARGUMENTS`` is 0.
    :param message_log: Where to write down what becomes of each message: a :class:`kq.MessageStore`, or its address.
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
        executor: Literal["inline", "thread", "process"] | Executor = "inline",
        concurrency: int = 1,
        ordering: Ordering = "key",
        commit_interval: float = 0.1,
        shutdown_timeout: float = 30.0,
        max_deliveries: int = 3,
        unimportable: Unimportable = "brake",
        later: bool | str = True,
        control: bool | None = None,
        retry: Retry | int | None = None,
        dead_letters: bool | str = False,
        results: bool | Literal["asked"] = False,
        capture_logs: bool = False,
        capture_lines: int = 1000,
        signer: Signer | None = None,
        log_arguments: bool | None = None,
        message_log: MessageStore | str | None = None,
    ) -> None:
        arguments = dict(locals())
        del arguments["self"]
        self._settings = Settings.checked(arguments)
        self._consumer = consumer
        #: Held while ``start`` runs.
        self._started = threading.Lock()
        self._stop = Stop()
        self._loop: Loop | None = None
        self._warned = self._has_looked = False

    def __repr__(self) -> str:
        return f"Worker(hosts={self.hosts}, topic={self.topic}, group={self.group})"

    @property
    def hosts(self) -> str:
        """The Kafka brokers, as ``"host:port,host:port"``."""
        return self._settings.hosts

    @property
    def topic(self) -> str:
        """The name of the Kafka topic."""
        return self._settings.topic

    @property
    def group(self) -> str:
        """The Kafka consumer group ID."""
        return self._settings.group

    @property
    def consumer(self) -> KafkaConsumer | None:
        """The Kafka consumer; with ``hosts``, the one that ``start`` made, None while it does not run."""
        return self._consumer

    @property
    def deserializer(self) -> Callable[[bytes], Any]:
        """The function that turns bytes into a job."""
        return self._settings.deserializer

    @property
    def callback(self) -> Callback | None:
        """The callback, or None."""
        return self._settings.callback

    @property
    def state(self) -> State:
        """What the worker is doing."""
        return State.NEW if self._loop is None else self._loop.state

    def stats(self) -> Stats:
        """Return the figures of this moment, since the last ``start``. From any thread; cheap, once a second say."""
        return Stats(State.NEW) if self._loop is None else self._loop.stats()

    def start(self, max_messages: int | None = None, commit_offsets: bool = True, *, burst: bool = False) -> int:
        """Run jobs until stopped, and return how many messages were processed.

        Called again, it goes on with the message after the last one that was processed.

        :param max_messages: Return after so many messages; None for no limit.
        :param commit_offsets: Commit what is done. If False nothing is committed, and the next ``start`` repeats.
        :param burst: Return when nothing is left: all messages of the partitions that this worker has are processed.
        :returns: How many messages were processed.
        :raises kq.BrokerUnreachable: No broker answered, with ``hosts``.
        :raises kq.WorkerError: The consumer failed in a way that cannot be mended; the cause is attached. Or jobs could
            not be imported here.
        :raises KeyboardInterrupt: The ``start`` before this one was ended by SIGINT.
        :raises SystemExit: The ``start`` before this one was ended by SIGTERM.
        """
        if not (max_messages is None or (isinstance(max_messages, int) and max_messages >= 0)):
            raise ArgumentError("max_messages must be an int of 0 or greater")
        if not self._started.acquire(blocking=False):
            raise KQError(f"{self!r} is started already")
        try:
            self._settings.logger.info("Starting %s ...", self)
            if self._spend_request() or max_messages == 0:
                return 0
            _refuse_gevent()
            return self._run(max_messages, commit_offsets, burst)
        finally:
            self._started.release()

    def stop(self, *, now: bool = False) -> None:
        """Ask for a warm stop: what runs may finish within ``shutdown_timeout``. From any thread, any number of times.

        Before ``start``, the next ``start`` returns 0 at once.

        :param now: End what runs, also after a warm stop: it has no outcome, and runs again.
        """
        self._stop.request(now=now)

    def _spend_request(self) -> bool:
        """Forget a request to stop that came before this start; return whether there was one, or raise its signal."""
        requests, signum = self._stop.requests, self._stop.signum
        if requests:  # otherwise there is nothing to forget, but a request of this very moment
            self._stop.reset()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        if signum is not None:
            raise SystemExit(128 + signum)
        return requests > 0

    def _run(self, max_messages: int | None, commit_offsets: bool, burst: bool) -> int:
        consumer = self._open_consumer()
        self._look_at_clocks(consumer)
        interval = self._interval(consumer)
        waker = Waker()
        make = self._make_consumer if self._is_owner else None
        pump = Pump(self.topic, consumer, make, interval if commit_offsets else None, waker.wake, tells_end=burst)
        plan = self._plan(consumer, max_messages, burst, commits_each=commit_offsets and interval == 0)
        loop = self._loop = Loop(self._settings, plan, self._stop, waker, pump)
        self._stop.attach(waker)
        try:
            with signals_handled(self._stop), rare_collections():
                processed = loop.run()
        finally:
            self._stop.attach(None)
            waker.close()
            if self._is_owner:
                self._consumer = None
            if self._stop.signum is None:
                self._stop.reset()
        if isinstance(loop.failure, WorkerError):
            raise loop.failure
        if loop.failure is not None:
            raise WorkerError(f"{self!r} had to stop: {denied(loop.failure) or repr(loop.failure)}") from loop.failure
        return processed

    @property
    def _is_owner(self) -> bool:
        return self._settings.consumer is None

    def _plan(self, consumer: KafkaConsumer, max_messages: int | None, burst: bool, *, commits_each: bool) -> Plan:
        timeout = consumer.config["consumer_timeout_ms"]  # negative means none, as in the client
        return Plan(
            commits_each=commits_each,
            max_messages=float("inf") if max_messages is None else max_messages,
            idle_limit=float("inf") if self._is_owner or timeout < 0 else timeout / 1000,
            is_burst=burst,
            companions=Companions(self._assemble()),
            context=self._context(consumer),
        )

    def _assemble(self) -> list[Companion]:
        """Make the companions that the settings ask for: the one place that knows them."""
        settings, later = self._settings, self._settings.later
        fires = later is not False and (self._is_owner or isinstance(later, str))
        takes_part = settings.control is True or (settings.control is None and self._is_owner)
        cancels = Cancels()
        timekeeper = Timekeeper(later if isinstance(later, str) else None, cancels)
        retrier = Retrier(settings.retry, settings.ordering, timekeeper.expect if fires else self._warn_of_nobody)
        letters, results = settings.dead_letters, settings.results
        return [
            *([Agent(cancels, makes_topic=settings.control is True)] if takes_part else []),
            *([timekeeper] if fires else []),
            retrier,
            *([Letters(None if letters is True else letters)] if letters else []),
            *([Replies(only_asked=results == "asked")] if results else []),
            *([] if settings.message_log is None else [Recording(settings.message_log, bool(letters))]),
        ]

    def _warn_of_nobody(self) -> None:
        if self._settings.later is not False:  # otherwise somebody knows
            _pump_logger.warning(
                "Failed jobs wait for their next attempt in topic %s.later, and this worker, with a consumer of its "
                "own, does not fire them: pass later=hosts, or run kq scheduler %s",
                *(self.topic, self.topic),
            )

    def _context(self, consumer: KafkaConsumer) -> Context:
        config = self._settings.config if self._is_owner else access_of(consumer)
        return Context(
            self.topic,
            self.group,
            self.hosts,
            config,
            self._ask_for,
            signer=self._settings.signer,
            hides=self._settings.hides_arguments,
        )

    def _ask_for(self, topic: str, answer: Callable[[bool], None]) -> None:
        if self._consumer is not None:
            ask_for(self._consumer, topic, answer)

    def _open_consumer(self) -> KafkaConsumer:
        if self._is_owner:
            consumer = self._make_consumer()
            if not consumer.partitions_for_topic(self.topic):
                _pump_logger.warning("Topic %s does not exist yet: the worker waits for it", self.topic)
            return consumer
        assert self._consumer is not None
        if kafka_python.is_closed(self._consumer):
            raise KQError(f"{self!r} cannot start: its consumer is closed")
        if self._consumer.config["auto_offset_reset"] == "latest" and not self._warned:
            self._warned = True
            _pump_logger.warning(
                "The consumer has auto_offset_reset='latest': jobs that were enqueued before the first commit of group "
                "%s are SKIPPED. Pass auto_offset_reset='earliest' to KafkaConsumer to run them.",
                self.group,
            )
        return self._consumer

    def _look_at_clocks(self, consumer: KafkaConsumer) -> None:
        """Say once where a producer's wrong clock may have jobs deleted unread; that it cannot be told is no matter."""
        if self._has_looked:
            return
        self._has_looked = True
        access = settings_for(KafkaAdminClient.DEFAULT_CONFIG, self._context(consumer).config)
        try:
            with connect(KafkaAdminClient, self.hosts, {**access, "request_timeout_ms": topics.ASK_MS}) as admin:
                if warning := topics.clock_warning(admin, self.topic):
                    _pump_logger.warning("%s", warning)
        except (KafkaError, KQError) as error:
            _pump_logger.debug("The settings of topic %s are not known: %s", self.topic, error)

    def _make_consumer(self) -> KafkaConsumer:
        strategy = {"partition_assignment_strategy": (BusyFirstAssignor(),)}
        settings = {
            **CONSUMER_DEFAULTS,
            **strategy,
            **self._settings.config,
            "group_id": self.group,
            "enable_auto_commit": False,
        }
        consumer = connect(KafkaConsumer, self.hosts, settings)
        consumer.subscribe([self.topic])
        self._consumer = consumer
        return consumer

    def _interval(self, consumer: KafkaConsumer) -> float:
        """Return the seconds between commits, and switch off the client's own: it would commit jobs that still run."""
        if not consumer.config["enable_auto_commit"]:
            return self._settings.commit_interval
        if not kafka_python.switch_off_auto_commit(consumer):
            raise KQError("the consumer's auto-commit cannot be switched off; make it with enable_auto_commit=False")
        return min(self._settings.commit_interval, float(consumer.config["auto_commit_interval_ms"]) / 1000)


def _refuse_gevent() -> None:
    """Raise under gevent's monkey patches: a worker needs threads that run while a job does."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        raise KQError(
            "a worker does not run where gevent has patched the standard library; "
            "start it in a process of its own, as the command kq worker does"
        )
