"""The reader: a compacted topic as a table.

1. ``start`` begins a thread with a consumer of its own, in no group; it waits for the topic where that is not there.
2. Every record from the start, or from a time, goes to ``apply``, tombstones too. ``wait_loaded`` tells when that has
   come to what was the end when it began. From then on the reader follows.
3. Partitions that are added are followed too. A topic that was made anew is another table: ``reset`` is called, and it
   is read from the start.
4. Brokers may go and come. A client that fails is made anew, after growing pauses, and goes on where the old one was.
5. ``close`` ends it. A forked process has no thread: it makes a reader of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import TopicAuthorizationFailedError, UnsupportedCodecError

from kq.clients import kafka_python
from kq.clients.asking import is_hidden
from kq.clients.connect import connect
from kq.clients.doorbell import Doorbell
from kq.clients.reasons import denied
from kq.errors import KQError

__all__ = ["TableReader"]

_logger = logging.getLogger("kq.reader")

#: Settings of the consumer. ``metadata_max_age_ms``: a topic made anew, or a new partition, is seen within that time.
SETTINGS: Mapping[str, Any] = {
    "auto_offset_reset": "earliest",
    "enable_auto_commit": False,
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metadata_max_age_ms": 5_000,
    "max_poll_records": 5_000,
    "metrics_enabled": False,
}
#: Milliseconds of a poll: it returns as soon as there is data, so this only bounds how long ``close`` takes.
POLL_MS = 250
#: Seconds between looks whether a right is missing, while somebody waits.
_LOOK_EVERY = 0.05
#: Milliseconds until the broker has told where a log begins and ends, and until the client is closed.
ASK_MS, CLOSE_MS = 5_000, 1_000
#: Seconds between looks for a topic that is not there, and before a client is made anew: the first and the longest.
PAUSES = 0.1, 5.0


class TableReader:
    """Reads a topic as a table, in a thread of its own.

    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param apply: Called with each record, in the order of its partition, in the reader's thread; it has ``key``,
        ``value`` (None for a tombstone), ``headers``, ``timestamp``, ``partition`` and ``offset``. It must be quick.
    :param reset: Called where all that was applied is another topic's.
    :param since: Read from this time only, in Unix milliseconds; None to read all.
    :param config: More settings for ``kafka.KafkaConsumer``.
    :param poll_ms: Milliseconds of a poll once all is read; longer ones cost less.
    """

    def __init__(
        self,
        hosts: str,
        topic: str,
        apply: Callable[[Any], object],
        *,
        reset: Callable[[], object] = lambda: None,
        since: int | None = None,
        config: Mapping[str, Any] | None = None,
        poll_ms: int = POLL_MS,
    ) -> None:
        self._poll_ms = poll_ms
        self._hosts = hosts
        self._topic = topic
        self._apply = apply
        self._reset = reset
        self._since = since
        self._config = {**SETTINGS, **(config or {}), "group_id": None}
        self._topic_id: UUID | None = None
        #: Partition -> the offset that is read next, and the one that was the end when it was first seen.
        self._next: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        #: The partitions that this client has.
        self._followed: set[int] = set()
        self._pause = PAUSES[0]
        self._loaded = threading.Event()
        self._closing = threading.Event()
        #: Which right is missing, and whether that was said.
        self._denied: str | None = None
        self._has_told = False
        self._must_ask = True
        self._bell = Doorbell()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"kq-reader-{topic}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._check_process()
        self._thread.start()

    def wait_loaded(self, timeout: float | None = None) -> bool:
        """Return whether all that was there at the start is applied, or is within so many seconds.

        :raises kq.KQError: The reader is a parent process's, or may not read its topic.
        """
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._loaded.is_set():
            if self._denied is not None:
                raise KQError(f"topic {self._topic} cannot be read: {self._denied}")
            left = _LOOK_EVERY if deadline is None else min(_LOOK_EVERY, deadline - time.monotonic())
            if left <= 0:
                return False
            self._loaded.wait(left)
        return True

    def close(self, timeout: float = 2.0) -> bool:
        """End the reader; return whether that was over within so many seconds. In a forked process it does nothing."""
        if os.getpid() != self._pid:
            return True
        self._closing.set()
        self._bell.ring()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise KQError(f"the reader of topic {self._topic} was made before this process was forked: make a new one")

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._read()
            except Exception as error:  # the door of the thread: whatever it is, another client may do  # noqa: BLE001
                self._tell(error)
                self._wait()

    def _tell(self, error: Exception) -> None:
        reason = self._denied = denied(error)
        level = logging.DEBUG if reason is not None and self._has_told else logging.WARNING
        self._has_told = reason is not None
        _logger.log(level, "Topic %s cannot be read, in %.1f s again: %s", self._topic, self._pause, reason or error)

    def _wait(self) -> None:
        self._closing.wait(self._pause)
        self._pause = min(self._pause * 2, PAUSES[1])

    def _read(self) -> None:
        """Read by one client, until that fails."""
        consumer, self._followed = connect(KafkaConsumer, self._hosts, self._config), set()
        self._must_ask = True
        try:
            kafka_python.mend(consumer)
            while not self._closing.is_set():
                self._turn(consumer)
        finally:
            kafka_python.throw_away(consumer, CLOSE_MS)

    def _turn(self, consumer: KafkaConsumer) -> None:
        self._follow(consumer)
        if not self._followed:
            self._wait()
            return
        records = self._bell.poll(consumer, self._poll_ms if self._loaded.is_set() else POLL_MS)
        if self._is_made_anew(consumer):  # what was polled may be of either topic
            return
        for tp, polled in records.items():
            for record in polled:
                self._call(self._apply, record)
            self._next[tp.partition] = polled[-1].offset + 1
            self._pause, self._denied = PAUSES[0], None
        self._pass_faults(consumer)
        if not self._loaded.is_set() and all(
            (consumer.position(tp, timeout_ms=0) or 0) >= self._ends[tp.partition] for tp in self._tps(self._followed)
        ):
            self._loaded.set()

    def _follow(self, consumer: KafkaConsumer) -> None:
        """Take up the partitions that are new, or all of them with a new client."""
        if self._followed:
            found = kafka_python.partitions(consumer, self._topic) or set()
        else:
            found = consumer.partitions_for_topic(self._topic)
            if not found and self._is_hidden(consumer):
                raise TopicAuthorizationFailedError(self._topic)
        if found <= self._followed or self._is_made_anew(consumer):
            return
        tps = self._tps(found - self._followed)
        consumer.assign(self._tps(self._followed | found))
        ends = consumer.end_offsets(tps, timeout_ms=ASK_MS)  # first: what comes from now on is not to be passed over
        if self._since is None:
            begins = consumer.beginning_offsets(tps, timeout_ms=ASK_MS)
        else:
            times = consumer.offsets_for_times(dict.fromkeys(tps, self._since), timeout_ms=ASK_MS)
            begins = {tp: ends[tp] if time is None else time.offset for tp, time in times.items()}
        for tp in tps:
            self._ends.setdefault(tp.partition, ends[tp])
            consumer.seek(tp, self._next.setdefault(tp.partition, begins[tp]))
        self._followed |= found

    def _is_hidden(self, consumer: KafkaConsumer) -> bool:
        """Return whether the topic is not seen for want of a right; each client is asked once."""
        must_ask, self._must_ask = self._must_ask, False
        return must_ask and is_hidden(consumer, self._topic, ASK_MS / 1000)

    def _is_made_anew(self, consumer: KafkaConsumer) -> bool:
        """Notice another topic of the same name, and begin anew with that."""
        topic_id = kafka_python.topic_id(consumer, self._topic)
        before, self._topic_id = self._topic_id, topic_id or self._topic_id
        if before in (None, self._topic_id):
            return False
        _logger.warning("Topic %s was made anew: it is read from the start", self._topic)
        self._loaded.clear()
        self._next, self._ends, self._followed, self._since = {}, {}, set(), None
        self._call(self._reset)
        return True

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except Exception:  # the door of the owner's code: it is told of, and the table goes on
            _logger.exception("Topic %s: a record was not applied", self._topic)

    def _pass_faults(self, consumer: KafkaConsumer) -> None:
        """Pass over what is damaged, loudly: a table with a gap is better than one that stands still for good."""
        for tp, fault in kafka_python.take_faults(consumer).items():
            if isinstance(fault.error, UnsupportedCodecError):  # once the library is here there is no gap
                raise fault.error
            _logger.error(
                "Topic %s, partition %s: offsets %s to %s cannot be read and are passed over: %s",
                *(*tp, fault.offset, fault.next - 1, fault.error),
            )
            self._next[tp.partition] = fault.next
            consumer.seek(tp, fault.next)

    def _tps(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in sorted(partitions)]
