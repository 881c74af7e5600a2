"""The consumer of results: what happened to some jobs, event by event, in the thread that asks."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaConsumer

from kq.clients import DEFAULT_TOPIC, check_config, check_hosts, check_topic
from kq.errors import ArgumentError, BrokerUnreachable, SignatureError
from kq.resulting.event import SUFFIX, JobEvent, event_of
from kq.resulting.feed import Feed
from kq.signing import RESULT, Signer, check_signer

__all__ = ["RESERVED", "ResultConsumer"]

_logger = logging.getLogger("kq.results")

#: Settings of a consumer that KQ sets itself.
RESERVED = ("bootstrap_servers", "group_id", "key_deserializer", "value_deserializer", "enable_auto_commit")
#: Seconds of a poll where nobody says how long to wait, and until an asker looks whether there is something new.
_POLL = 0.25
#: Seconds until another client is tried, at first and at most.
_PAUSES = 0.1, 5.0


class ResultConsumer:
    """Consumes what happens to jobs. Its names are those of the class in Celery; used by one thread.

    :param topic: The topic of the jobs; ``"default"`` if left out.
    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param config: More settings for the consumer.
    :param on_state_change: Called with each :class:`kq.JobEvent` that ``drain_events`` returns.
    :param signer: A :class:`kq.Signer`: what it does not verify is passed over, and said in the log.
    :cvar Consumer: The class of the consumer that is made.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    Consumer: type = KafkaConsumer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            self._set_up(*args, **kwargs)
        except TypeError as error:
            if isinstance(error, ArgumentError):
                raise
            words = str(error).replace(f"{type(self).__name__}._set_up()", "ResultConsumer()")
            raise ArgumentError(words.replace("ResultConsumer._set_up()", "ResultConsumer()")) from None

    def _set_up(
        self,
        topic: str = DEFAULT_TOPIC,
        hosts: str = "127.0.0.1:9092",
        config: Mapping[str, Any] | None = None,
        on_state_change: Callable[[JobEvent], object] | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._signer = check_signer(signer)
        self.topic = check_topic(topic)
        self.hosts = check_hosts(hosts)
        if not (on_state_change is None or callable(on_state_change)):
            raise ArgumentError("on_state_change must be a callable")
        self._config = check_config(config, KafkaConsumer.DEFAULT_CONFIG, RESERVED)
        self._callback = on_state_change
        self._feed: Feed | None = None
        #: IDs of jobs that are consumed and have not ended.
        self._ids: set[str] = set()
        self._events: deque[JobEvent] = deque()
        self._pause, self._pause_until = _PAUSES[0], 0.0
        #: Why the topic cannot be read at present.
        self.trouble: Exception | None = None
        #: Records under the ID of a job that KQ did not write.
        self.foreign: Counter[str] = Counter()
        _alive.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hosts={self.hosts}, topic={self.topic})"

    @property
    def results_topic(self) -> str:
        """The name of the topic that is read."""
        return f"{self.topic}.{SUFFIX}"

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings of the consumer that were given."""
        return self._config

    @property
    def has_events(self) -> bool:
        """Whether ``drain_events`` would return one at once."""
        return bool(self._events)

    @property
    def feed(self) -> Feed | None:
        """What reads the topic; None while it is not started."""
        return self._feed

    def start(self, initial_task_id: str, no_ack: bool = True, **kwargs: Any) -> None:
        """Connect, and consume what happens to a first job.

        :param initial_task_id: Job ID.
        :param no_ack: Means nothing here, and is accepted: without a group nothing is acknowledged.
        :param kwargs: More settings for the consumer.
        :raises kq.BrokerUnreachable: No broker answered.
        :raises kq.ArgumentError: An argument has the wrong type or value.
        """
        config = check_config(kwargs, KafkaConsumer.DEFAULT_CONFIG, RESERVED)
        _check_id(initial_task_id)
        self.open(**config)
        self.consume_from(initial_task_id)

    def open(self, **config: Any) -> None:
        """Connect, unless it is connected.

        :param config: More settings for the consumer.
        :raises kq.BrokerUnreachable: No broker answered.
        """
        if self._feed is None:
            feed = Feed(self.hosts, self.results_topic, {**self._config, **config}, self.Consumer)
            feed.open()
            self._feed = feed

    def drain_events(self, timeout: float | None = None) -> JobEvent | None:
        """Wait for the next event of a job that is consumed, tell the callback, and return it.

        :param timeout: How long to wait, in seconds; None for no limit.
        :returns: The event; None when nothing came in time, and when it was never started.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._events:
            feed, now = self._feed, time.monotonic()
            left = deadline - now
            if feed is None:
                if timeout is not None:
                    time.sleep(max(0.0, left))
                return None
            if now < self._pause_until:
                time.sleep(max(0.0, min(self._pause_until - now, left)))
            else:
                self._poll(feed, max(0.0, min(_POLL, left)))
            if not self._events and left <= 0:
                return None
        event = self._events.popleft()
        self.on_state_change(event)
        return event

    def on_state_change(self, event: JobEvent) -> None:
        """Hand an event to the callback. A subclass may do otherwise."""
        if self._callback is not None:
            self._callback(event)

    def consume_from(self, task_id: str, since: float | None = None) -> None:
        """Consume what happens to another job, and what has happened to it, as far as the topic keeps it.

        After the event with its end there is nothing more of it. Where it is not started, this starts it. Once it is,
        any thread may call this.

        :param task_id: Job ID.
        :param since: Read from this time only, in Unix milliseconds, which saves to read all.
        :raises kq.BrokerUnreachable: No broker answered.
        """
        _check_id(task_id)
        self.open()
        assert self._feed is not None
        self._ids.add(task_id)
        self._feed.want(task_id.encode(), since)

    def recall(self, task_id: str, since: float) -> list[JobEvent]:
        """Return what is at hand of a job that is not consumed, from its start to its end; nothing if that is not all.

        From any thread.
        """
        records = [] if self._feed is None else self._feed.recall(task_id.encode(), since)
        events = [event for event in map(event_of, filter(self._is_signed, records)) if event is not None]
        ends = [number for number, event in enumerate(events, 1) if event.kind == "finished"]
        return events[: ends[0]] if ends else []

    def cancel_for(self, task_id: str) -> None:
        """Consume nothing more of a job."""
        _check_id(task_id)
        self._ids.discard(task_id)
        self.foreign.pop(task_id, None)
        self._events = deque(event for event in self._events if event.id != task_id)
        if self._feed is not None:
            self._feed.drop(task_id.encode())

    def stop(self) -> None:
        """Disconnect, and forget the jobs. It can be started again."""
        feed, self._feed = self._feed, None
        self._ids, self._events = set(), deque()
        if feed is not None:
            feed.close()

    def on_after_fork(self) -> None:
        """Leave the connection to the parent process; this one makes another. Called by itself after ``os.fork()``."""
        if self._feed is not None:
            self._feed.forsake()

    def _poll(self, feed: Feed, timeout: float) -> None:
        try:
            records = feed.poll(timeout)
        except Exception as error:  # the door of the client: whatever it is, another one may do
            if isinstance(error, ArgumentError):
                raise
            line = "Topic %s cannot be read, in %.1f s again: %s"
            is_away = isinstance(error, BrokerUnreachable)
            _logger.warning(line, self.results_topic, self._pause, error, exc_info=None if is_away else error)
            feed.close()
            self.trouble = error
            self._pause_until = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, _PAUSES[1])
            return
        self._pause, self.trouble = _PAUSES[0], None
        for record in records:
            self._take(feed, record)

    def _take(self, feed: Feed, record: Any) -> None:
        job_id = record.key.decode("utf-8", "replace")
        if job_id not in self._ids:  # it has ended, or is cancelled
            return
        event = event_of(record) if self._is_signed(record) else None
        if event is None:
            self.foreign[job_id] += 1
            return
        self._events.append(event)
        if event.kind == "finished":  # the first end counts
            self._ids.discard(job_id)
            feed.drop(record.key)

    def _is_signed(self, record: Any) -> bool:
        if self._signer is None:
            return True
        now = int(time.time() * 1000)
        try:
            # however old it is: of ends that are sent again only the first one counts
            self._signer.verify(RESULT, record, now, since=now)
        except SignatureError as error:
            line = "Topic %s, partition %s, offset %s is passed over: %s"
            _logger.warning(line, self.results_topic, record.partition, record.offset, error)
            return False
        return True


def _check_id(task_id: Any) -> None:
    if not isinstance(task_id, str) or not task_id:
        raise ArgumentError("a job ID is a str, and not an empty one")


_alive: weakref.WeakSet[ResultConsumer] = weakref.WeakSet()


def _after_fork() -> None:
    for consumer in list(_alive):
        consumer.on_after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
