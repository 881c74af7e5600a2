"""The watcher: tells many askers what happens to their jobs, by one thread and one consumer.

1. Whoever asks for a job has a watch on it, shared by all that ask for the same one; without anybody there is none.
2. The thread owns the consumer. It takes over what is to be watched, and hands each event to its watch.
3. A watch that nobody has any more rests for some seconds: who asks for a status now and then asks often.
4. A forked process has no thread, and begins anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from typing import Any

from kafka.errors import KafkaError

from kq.clients import topics
from kq.errors import KQError
from kq.resulting.consumer import ResultConsumer
from kq.resulting.event import JobEvent

__all__ = ["Watch", "Watcher"]

_logger = logging.getLogger("kq.results")

#: Seconds of a poll, unless there is news.
_POLL = 0.25
#: Watches of nobody that are kept; bytes of one; and seconds without anybody after which none are.
_MOST_RESTING, _LARGEST_RESTING, _LINGER = 1_000, 1 << 16, 5.0
#: Events of a job that are kept while it is watched; of its progress only the last one is.
_MOST_EVENTS = 5_000
#: Seconds between looks at which watches are loaded.
_LOOK_EVERY = 0.005
#: Seconds that the thread may take to end.
_CLOSING = 5.0

#: Gets each event, and None when all is known that there was, or an error has come.
_Stream = SimpleQueue[JobEvent | None]


class Watch:
    """What is known of a job that somebody asks for."""

    def __init__(self, job_id: str, since: float | None) -> None:
        self.id = job_id
        #: Since when it is known, in Unix milliseconds; None for all that the topic holds.
        self.since = since
        self.events: list[JobEvent] = []
        self.final: JobEvent | None = None
        #: Whether all is known that the topic held when it was asked for.
        self.is_loaded = False
        self.error: Exception | None = None
        #: Who asked: streams of all events, and futures of the last one.
        self.streams: list[_Stream] = []
        self.futures: list[Future[Any]] = []

    def add(self, event: JobEvent) -> None:
        """Note an event."""
        if event.kind == "progress" and self.events and self.events[-1].kind == "progress":
            self.events[-1] = event
        elif len(self.events) < _MOST_EVENTS or event.kind == "finished":
            self.events.append(event)
        if event.kind == "finished":
            self.final = event
        self.tell(event)

    def tell(self, event: JobEvent | None) -> None:
        """Hand something to the streams."""
        for stream in self.streams:
            stream.put(event)

    def take_futures(self) -> list[Future[Any]]:
        """Return the futures, to be completed, if there is something to complete them with."""
        futures: list[Future[Any]] = []
        if self.final is not None or self.error is not None:
            futures, self.futures = self.futures, []
        return futures

    def complete(self, future: Future[Any]) -> None:
        """Complete a future, without any lock held: its callbacks are the user's."""
        try:
            if self.final is not None:
                future.set_result(self.final)
            elif self.error is not None:
                future.set_exception(self.error)
        except InvalidStateError:  # it was cancelled in this moment
            return

    @property
    def is_small(self) -> bool:
        """Whether it may be kept though nobody asks for it any more."""
        sizes = (len(event.value) + sum(map(len, event.lines)) for event in self.events)
        return len(self.events) < 100 and sum(sizes) < _LARGEST_RESTING


class Watcher:
    """Watches the jobs of a topic. Safe for many threads.

    :param make: Makes the consumer.
    """

    def __init__(self, make: Callable[[], ResultConsumer]) -> None:
        self._make = make
        self._begin()

    def _begin(self) -> None:
        """Be as new, in this process."""
        self._pid = os.getpid()
        self.consumer = self._make()
        self._lock = threading.Lock()
        self._watches: dict[str, Watch] = {}
        #: Watches of nobody, the oldest first; and since when nobody waits.
        self._resting: OrderedDict[str, Watch] = OrderedDict()
        self._used_at = time.monotonic()
        #: For the thread: what is to be watched, and what no more; and that there is something of that.
        self._wanted: deque[Watch] = deque()
        self._dropped: deque[str] = deque()
        self._has_news = threading.Event()
        self._loading: dict[str, Watch] = {}
        self._looked_at = 0.0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def renew(self) -> bool:
        """Begin anew in a forked process; return whether this is one, and nobody has before."""
        if self._pid == os.getpid():
            return False
        self._begin()
        return True

    def follow(self, job_id: str, since: float | None) -> tuple[Watch, _Stream]:
        """Return a stream of what has happened to a job, and of what happens.

        :param since: Read from this time only, in Unix milliseconds; None for all.
        """
        self.renew()
        stream: _Stream = SimpleQueue()
        with self._lock:
            watch = self._watch(job_id, since)
            watch.streams.append(stream)
            for event in watch.events:
                stream.put(event)
            if watch.is_loaded:
                stream.put(None)
        return watch, stream

    def complete(self, job_id: str, since: float | None, future: Future[Any]) -> None:
        """Complete a future with the last event of a job, when there is one."""
        self.renew()
        with self._lock:
            watch = self._watch(job_id, since)
            watch.futures.append(future)
            futures = watch.take_futures()
        self._complete(watch, futures)

    def _watch(self, job_id: str, since: float | None) -> Watch:
        """Return the watch on a job, with the lock held."""
        watch = self._watches.get(job_id) or self._resting.pop(job_id, None)
        if watch is None or watch.error is not None:
            watch = Watch(job_id, since)
            self._want(watch)
        elif watch.final is None and watch.since is not None and (since is None or since < watch.since):
            watch.since, watch.events, watch.is_loaded = since, [], False
            self._want(watch)
        self._watches[job_id] = watch
        if self._thread is None:
            self._closing = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._closing,), name="kq-results", daemon=True)
            self._thread.start()
        return watch

    def release(self, job_id: str, user: _Stream | Future[Any]) -> None:
        """Note that somebody does not ask for a job any more."""
        with self._lock:
            watch = self._watches.get(job_id)
            if watch is None:
                return
            watch.streams = [one for one in watch.streams if one is not user]
            watch.futures = [one for one in watch.futures if one is not user]
            self._rest_if_free(watch)

    def _complete(self, watch: Watch, futures: list[Future[Any]]) -> None:
        for future in futures:
            watch.complete(future)
        with self._lock:
            self._rest_if_free(watch)

    def _rest_if_free(self, watch: Watch) -> None:
        """Have a watch that nobody has any more rest, with the lock held."""
        if watch.streams or watch.futures or self._watches.get(watch.id) is not watch:
            return
        del self._watches[watch.id]
        self._used_at = time.monotonic()
        if watch.error is None and watch.is_small:
            self._resting[watch.id] = watch
        else:
            self._dropped.append(watch.id)
        while len(self._resting) > _MOST_RESTING:
            self._dropped.append(self._resting.popitem(last=False)[0])

    def close(self) -> None:
        """Watch nothing more; who still waits gets an error."""
        self.renew()
        with self._lock:
            thread, self._thread = self._thread, None
            self._closing.set()
            self._ring()
        self._fail(KQError(f"the results of topic {self.consumer.topic} were closed while somebody waited"))
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSING)

    def why(self, job_id: str, enqueued: float | None = None) -> str:
        """Return in words why nothing more is known of a job. May block for some seconds.

        :param enqueued: When it was enqueued, in Unix milliseconds, where that is known.
        """
        consumer, watch = self.consumer, self._watches.get(job_id) or self._resting.get(job_id)
        name = consumer.results_topic
        if consumer.trouble is not None:
            return f"job {job_id}: topic {name} cannot be read: {consumer.trouble}"
        if not self._has_topic(name):
            return (
                f"job {job_id}: there is no topic {name}: no worker with results=True has run jobs of "
                f"{consumer.topic}, or this user may not see it: see kq acls"
            )
        if watch is not None and watch.events:
            last = watch.events[-1]
            return f"job {job_id} has not ended: the last that is known of it is {last.kind!r}, attempt {last.attempt}"
        if foreign := consumer.foreign.get(job_id):
            return f"job {job_id}: topic {name} has {foreign} records under its ID, but KQ wrote none of them"
        return f"nothing is known of job {job_id}: {self._guess(name, enqueued)}"

    def _has_topic(self, name: str) -> bool:
        """Return whether there is a topic of results, or nobody tells."""
        feed = self.consumer.feed
        if feed is not None and feed.has_topic is not None:
            return feed.has_topic
        try:
            return topics.is_there(self.consumer.hosts, self.consumer.config, name)
        except (KafkaError, KQError):
            return True

    def _guess(self, name: str, enqueued: float | None) -> str:
        try:
            config = self.consumer.config
            kept = float(topics.setting_at(self.consumer.hosts, config, name, "retention.ms") or "inf")
        except (KafkaError, KQError, ValueError):
            kept = float("inf")
        hours = f"{kept / 3_600_000:g} h"
        if enqueued is not None and kept >= 0 and enqueued + kept < time.time() * 1000:
            return f"it was enqueued longer ago than topic {name} keeps results, {hours}"
        return f"it waits or has just begun, its worker publishes no results, its ID is wrong, or topic {name}" + (
            f" has deleted its result, after {hours}" if 0 <= kept < float("inf") else " has deleted its result"
        )

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _want(self, watch: Watch) -> None:
        """Have a job watched; one that has ended a moment ago needs no wait."""
        events = [] if watch.since is None else self.consumer.recall(watch.id, watch.since)
        if events:
            watch.events, watch.final, watch.is_loaded = events, events[-1], True
            return
        self._loading[watch.id] = watch
        if self.consumer.feed is None:  # the thread connects, which takes its time
            self._wanted.append(watch)
        else:
            self.consumer.consume_from(watch.id, watch.since)
        self._has_news.set()

    def _ring(self) -> None:
        self._has_news.set()
        feed = self.consumer.feed
        if feed is not None:
            feed.ring()

    def _run(self, closing: threading.Event) -> None:
        consumer = self.consumer
        try:
            while not closing.is_set():
                try:
                    self._turn(consumer)
                except Exception as error:  # the door of the thread: who waits is told, and others may ask again
                    _logger.debug("Results of topic %s cannot be read", consumer.topic, exc_info=error)
                    self._fail(error)
        finally:
            consumer.stop()

    def _turn(self, consumer: ResultConsumer) -> None:
        self._hand_over(consumer)
        if not (self._watches or self._resting):
            self._has_news.wait()
        if consumer.feed is not None:
            event = consumer.drain_events(_POLL)
            if event is not None:
                self._deliver(event)
            self._note_loaded(consumer)
        self._forget()

    def _hand_over(self, consumer: ResultConsumer) -> None:
        self._has_news.clear()
        while self._dropped:
            job_id = self._dropped.popleft()
            with self._lock:
                if job_id not in self._watches and job_id not in self._resting:
                    consumer.cancel_for(job_id)
        while self._wanted:
            watch = self._wanted[0]
            consumer.consume_from(watch.id, watch.since)
            self._wanted.popleft()

    def _deliver(self, event: JobEvent) -> None:
        with self._lock:
            watch = self._watches.get(event.id) or self._resting.get(event.id)
            if watch is None:
                return
            watch.add(event)
            futures = watch.take_futures()
        if futures:
            self._complete(watch, futures)

    def _note_loaded(self, consumer: ResultConsumer) -> None:
        """Tell who asked of what is read up to where the topic ended by then."""
        now, feed = time.monotonic(), consumer.feed
        if not self._loading or feed is None or consumer.has_events or now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at = now
        for job_id, watch in list(self._loading.items()):
            if watch.final is not None or feed.has_topic is False or feed.is_loaded(job_id.encode()):
                del self._loading[job_id]
                with self._lock:
                    watch.is_loaded = True
                    watch.tell(None)

    def _forget(self) -> None:
        """Let go of what rests, some time after nobody waits."""
        with self._lock:
            if self._resting and not self._watches and time.monotonic() - self._used_at > _LINGER:
                self._dropped.extend(self._resting)
                self._resting.clear()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            watches = [*self._watches.values(), *self._resting.values()]
            self._watches, self._resting, self._loading = {}, OrderedDict(), {}
            self._wanted.clear()
            self._dropped.extend(watch.id for watch in watches)
            for watch in watches:
                watch.error = error
                watch.tell(None)
        for watch in watches:
            self._complete(watch, watch.take_futures())
