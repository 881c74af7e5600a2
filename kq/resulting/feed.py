"""The feed: the events of some jobs, out of a topic with those of all; by one consumer, without a group.

1. ``want`` asks for a job's events, from a time on. ``poll`` does all the work, in one thread.
2. What came before is read span by span, in short slices: others, whose events come at this moment, do not wait for it.
   A job is given to the tail of the topic when its span has met that. So each event is given once, in order.
3. What passes by is kept for a while, within a bound: who waits for many jobs one after another has each of them read
   once. Nobody waiting, nothing is read.
4. Brokers may go and come: after an error ``poll`` is called again, and goes on where it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from kq.clients import Doorbell, connect, kafka_python

__all__ = ["Feed"]

_logger = logging.getLogger("kq.results")

#: Settings of the consumer.
SETTINGS: Mapping[str, Any] = {
    "auto_offset_reset": "earliest",
    "enable_auto_commit": False,
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metadata_max_age_ms": 5_000,
    "max_poll_records": 2_000,
    "fetch_max_wait_ms": 250,
    "metrics_enabled": False,
}
#: Milliseconds until the broker has told where a log begins and ends, and until the client is closed.
_ASK_MS, _CLOSE_MS = 5_000, 500
#: Seconds of a slice of what came before.
_SLICE = 0.1
#: Seconds between looks for a topic that is not there.
_LOOK_EVERY = 0.1
#: Seconds without anybody who waits after which the tail is not read any more.
_LINGER = 5.0
#: Bytes that are kept of what passes by, and what a record costs beyond its own.
_MOST_KEPT, _OVERHEAD = 4 << 20, 700


#: Consumers of a parent process: nothing may be done with them, not even to let them go.
_forsaken: list[Any] = []


class _Recent:
    """What has passed by lately, by keys: complete for events since ``horizon``, in Unix milliseconds."""

    def __init__(self) -> None:
        self._records: OrderedDict[bytes, dict[tuple[int, int], Any]] = OrderedDict()
        self.clear()

    def clear(self) -> None:
        self._records.clear()
        self._bytes, self._since, self._lost = 0, float("inf"), float("-inf")

    @property
    def horizon(self) -> float:
        return max(self._since, self._lost)

    def complete_since(self, since: float) -> None:
        """Note that all that came since then has passed by."""
        self._since = min(self._since, since)

    def add(self, record: Any) -> None:
        some = self._records.setdefault(record.key, {})
        if (record.partition, record.offset) in some:
            return
        some[record.partition, record.offset] = record
        self._bytes += _cost(record)
        while self._bytes > _MOST_KEPT:
            _, old = self._records.popitem(last=False)
            self._bytes -= sum(map(_cost, old.values()))
            self._lost = max(self._lost, *(one.timestamp + 1 for one in old.values()))

    def get(self, key: bytes) -> list[Any]:
        some = self._records.get(key, {})
        return [some[place] for place in sorted(some)]


def _cost(record: Any) -> int:
    sizes = len(record.key) + len(record.value or b"") + sum(len(value) for _, value in record.headers)
    return int(sizes) + _OVERHEAD


class _Span:
    """A part of the topic that is read for some keys: from where on in each partition, up to the tail."""

    def __init__(self, keys: Iterable[bytes], since: float | None, begins: Mapping[int, int]) -> None:
        self.keys = set(keys)
        self.since = since
        self.next = dict(begins)


class Feed:
    """Gives the records of some keys. Belongs to one thread, but for ``want``.

    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param config: More settings for the consumer.
    :param make: The class of the consumer.
    """

    def __init__(self, hosts: str, topic: str, config: Mapping[str, Any], make: Callable[..., Any] = KafkaConsumer):
        self._hosts = hosts
        self._topic = topic
        self._config = {**SETTINGS, **config, "group_id": None}
        self._make = make
        self._consumer: Any = None
        self._topic_id: Any = None
        #: What ``want`` and ``drop`` were told, from any thread: a key, since when, and whether it is wanted.
        self._told: deque[tuple[bytes, float | None, bool]] = deque()
        self._has_news, self._bell = threading.Event(), Doorbell()
        #: Keys that are wanted and have no span yet, and since when.
        self._asked: list[tuple[bytes, float | None]] = []
        #: Keys whose events the tail gives.
        self._following: set[bytes] = set()
        self._spans: deque[_Span] = deque()
        #: Partition -> what is read next at the tail; and what the consumer reads next wherever it is.
        self._tail: dict[int, int] = {}
        self._at: dict[int, int] = {}
        self._is_reading = False
        self._used_at = 0.0
        self._recent, self._lock = _Recent(), threading.Lock()
        #: Keys of which not all is read that was there when they were asked for: partition -> the end by then.
        self._ends: dict[bytes, dict[int, int]] = {}
        self._out: list[Any] = []
        #: Whether the topic was there when it was looked for last; None before.
        self.has_topic: bool | None = None

    def want(self, key: bytes, since: float | None = None) -> None:
        """Have the events of a key given, from a time on. From any thread.

        :param since: In Unix milliseconds; None for all that the topic holds.
        """
        self._told.append((key, since, True))
        self.ring()

    def drop(self, key: bytes) -> None:
        """Have no more events of a key given. From any thread."""
        self._told.append((key, None, False))

    def ring(self) -> None:
        """End the wait of ``poll``. From any thread."""
        self._has_news.set()
        self._bell.ring()

    def recall(self, key: bytes, since: float) -> list[Any]:
        """Return what is at hand of a key, if nothing can be missing from since then on. From any thread."""
        with self._lock:
            return self._recent.get(key) if since >= self._recent.horizon else []

    def is_idle(self) -> bool:
        """Return whether nothing is wanted."""
        return not (self._told or self._asked or self._following or self._spans)

    def is_loaded(self, key: bytes) -> bool:
        """Return whether all that was there when a key was asked for is given."""
        return key in self._following and key not in self._ends

    def wait(self, timeout: float) -> None:
        """Wait until something is asked for."""
        if self._has_news.wait(timeout):
            self._has_news.clear()

    def poll(self, timeout: float) -> list[Any]:
        """Return records of wanted keys, in order; none if none come within so many seconds.

        :raises Exception: The brokers do not answer, or the consumer has failed: to be called again.
        """
        deadline = time.monotonic() + timeout
        self._take_told()
        if self.is_idle():
            self._rest()
            self.wait(timeout)
            self._take_told()
        if not (self.is_idle() and not self._is_reading):
            self._work(deadline)
        out, self._out = self._out, []
        return out

    def open(self) -> None:
        """Connect, unless it is connected.

        :raises kq.BrokerUnreachable: No broker answered.
        """
        if self._consumer is None:
            self._consumer = connect(self._make, self._hosts, self._config)
            kafka_python.mend(self._consumer)

    def close(self) -> None:
        """Let the consumer go; ``poll`` makes another."""
        consumer, self._consumer = self._consumer, None
        self._at = {}
        if consumer is not None:
            kafka_python.throw_away(consumer, _CLOSE_MS)

    def forsake(self) -> None:
        """Leave the consumer to the parent process, after a fork."""
        _forsaken.append(self._consumer)
        self._consumer, self._at = None, {}
        self._has_news, self._bell, self._lock = threading.Event(), Doorbell(), threading.Lock()

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _take_told(self) -> None:
        while self._told:
            key, since, is_wanted = self._told.popleft()
            self._asked = [asked for asked in self._asked if asked[0] != key]
            self._following.discard(key)
            self._ends.pop(key, None)
            for span in self._spans:
                span.keys.discard(key)
            if is_wanted:
                self._asked.append((key, since))
        self._spans = deque(span for span in self._spans if span.keys)

    def _rest(self) -> None:
        """Read the tail no more, some time after nobody waits."""
        if self._is_reading and time.monotonic() - self._used_at > _LINGER:
            self._is_reading = False
            with self._lock:
                self._recent.clear()

    def _work(self, deadline: float) -> None:
        self.open()
        if not self._follow():
            self.wait(max(0.0, min(_LOOK_EVERY, deadline - time.monotonic())))
            return
        if not self.is_idle():
            self._used_at = time.monotonic()
        self._plan()
        if self._spans:
            self._spans.rotate(-1)
            self._read_span(self._spans[-1])
        wait = 0.0 if self._out or self._spans else max(0.0, deadline - time.monotonic())
        self._read_tail(wait)

    def _follow(self) -> bool:
        """Take up partitions that are new; return whether the topic is there."""
        known = kafka_python.partitions(self._consumer, self._topic)
        found = known or self._consumer.partitions_for_topic(self._topic) or set()
        self.has_topic = bool(found)
        if not found:
            return False
        topic_id = kafka_python.topic_id(self._consumer, self._topic)
        if self._topic_id not in (None, topic_id) and topic_id is not None:
            self._begin_anew()
        self._topic_id = topic_id or self._topic_id
        new = found - set(self._tail)
        if self._is_reading and new:
            self._tail.update(self._offsets(self._consumer.beginning_offsets, new))
        return True

    def _begin_anew(self) -> None:
        """Read another topic of the same name from its start."""
        _logger.warning("Topic %s was made anew: it is read from the start", self._topic)
        keys = self._following.union(*(span.keys for span in self._spans))
        self._asked += [(key, None) for key in keys]
        self._following, self._spans, self._tail, self._ends, self._at = set(), deque(), {}, {}, {}
        self._is_reading = False
        with self._lock:
            self._recent.clear()

    def _plan(self) -> None:
        """Give what was asked for its span, or what is still at hand of it."""
        if not self._asked:
            return
        partitions = kafka_python.partitions(self._consumer, self._topic) or set()
        ends = self._offsets(self._consumer.end_offsets, partitions)
        if not self._is_reading:
            self._tail, self._is_reading = dict(ends), True
            with self._lock:
                self._recent.clear()
        horizon = self._recent.horizon
        timed = [one for one in self._asked if one[1] is not None and one[1] < horizon]
        spans = [self._span(timed), self._span([one for one in self._asked if one[1] is None])]
        asked, self._asked = self._asked, []  # from here on nothing fails
        self._spans += [span for span in spans if span is not None]
        for key, since in asked:
            self._ends[key] = dict(ends)
            if since is not None and since >= horizon:
                self._following.add(key)
                self._out += self._recent.get(key)

    def _span(self, asked: list[tuple[bytes, float | None]]) -> _Span | None:
        if not asked:
            return None
        since = min((since for _, since in asked if since is not None), default=None)
        if since is None:
            begins = self._offsets(self._consumer.beginning_offsets, self._tail)
        else:
            times = dict.fromkeys(self._tps(self._tail), max(0, int(since)))
            found = self._consumer.offsets_for_times(times, timeout_ms=_ASK_MS)
            begins = {tp.partition: one.offset for tp, one in found.items() if one is not None}
        return _Span((key for key, _ in asked), since, begins)

    def _read_span(self, span: _Span) -> None:
        """Read a slice of what came before; give its keys to the tail when that is met."""
        deadline = time.monotonic() + _SLICE
        while left := {p: offset for p, offset in span.next.items() if offset < self._tail.get(p, 0)}:
            for record in self._read(left, max(0.0, deadline - time.monotonic())):
                # what the tail has passed meanwhile is read again there, not here
                if record.offset < self._tail.get(record.partition, 0):
                    self._keep(record)
                    if record.key in span.keys:
                        self._out.append(record)
            span.next.update(self._at)
            if time.monotonic() >= deadline:
                return
        self._spans.remove(span)
        self._following |= span.keys
        if span.since is not None:
            with self._lock:
                self._recent.complete_since(span.since)

    def _read_tail(self, wait: float) -> None:
        for record in self._read(self._tail, wait):
            self._keep(record)
            if record.key in self._following:
                self._out.append(record)
        self._tail.update(self._at)
        for key in [key for key in self._ends if key in self._following]:
            if all(self._tail.get(p, end) >= end for p, end in self._ends[key].items()):
                del self._ends[key]

    def _keep(self, record: Any) -> None:
        with self._lock:
            self._recent.add(record)

    # -- the consumer --------------------------------------------------------------------------------------------------

    def _read(self, offsets: Mapping[int, int], wait: float) -> list[Any]:
        """Return records with keys from these offsets on, as they come; ``_at`` tells how far that went."""
        if set(offsets) != set(self._at):
            self._consumer.assign(self._tps(offsets))
            self._at = {}
        for partition, offset in offsets.items():
            if self._at.get(partition) != offset:
                self._consumer.seek(TopicPartition(self._topic, partition), offset)
        self._at = dict(offsets)
        polled = self._bell.poll(self._consumer, int(wait * 1000))
        for tp in self._tps(self._at):
            if tp in polled:
                self._at[tp.partition] = polled[tp][-1].offset + 1
            # past what holds no records, and where retention has deleted what was to be read
            position = self._consumer.position(tp, timeout_ms=0)
            self._at[tp.partition] = max(self._at[tp.partition], position or 0)
        self._pass_faults()
        return [record for records in polled.values() for record in records if record.key is not None]

    def _pass_faults(self) -> None:
        """Pass over what is damaged, loudly."""
        for tp, fault in kafka_python.take_faults(self._consumer).items():
            _logger.error(
                "Topic %s, partition %s: offsets %s to %s cannot be read and are passed over: %s",
                *(*tp, fault.offset, fault.next - 1, fault.error),
            )
            self._at[tp.partition] = fault.next
            self._consumer.seek(tp, fault.next)

    def _offsets(self, ask: Callable[..., Any], partitions: Iterable[int]) -> dict[int, int]:
        tps = self._tps(partitions)
        return {tp.partition: offset for tp, offset in ask(tps, timeout_ms=_ASK_MS).items()} if tps else {}

    def _tps(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in sorted(partitions)]
