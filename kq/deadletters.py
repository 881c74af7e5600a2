"""Dead letters, for those who look after them: list them, look inside, put them onto their topic again, remove them.

1. Letters are found in two readings of their topic: which are wanted, by their headers, and then those alone. Memory
   is a number or two a letter.
2. ``replay`` has many on their way at once. A letter is marked when its original is acknowledged: whatever ends it
   between, what is marked is not replayed again.
3. ``purge`` writes tombstones.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from kq.clients import (
    DEFAULT_TOPIC,
    check_config,
    check_hosts,
    check_topic,
    connect,
    ends_of,
    kafka_python,
    scan,
    settings_for,
)
from kq.errors import ArgumentError, KQError
from kq.letter import REASONS, SUFFIX, DeadLetter, Glance, Reason, glance, marked, original, parsed
from kq.producing import describe, moment_of

__all__ = ["DeadLetters"]

#: Called with how many are done and how many there are.
Progress = Callable[[int, int], object]

#: Settings of the clients. A look must not make a topic.
_READING: Mapping[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "max_poll_records": 5_000,
    "metrics_enabled": False,
}
_WRITING: Mapping[str, Any] = {
    "acks": "all",
    "allow_auto_create_topics": False,
    "max_block_ms": 10_000,
    "delivery_timeout_ms": 30_000,
    "request_timeout_ms": 10_000,
    "batch_size": 131_072,
    "max_request_size": 32 << 20,
    "linger_ms": 5,
    "metrics_enabled": False,
}
#: Letters, and bytes of them, that are on their way at once.
_MOST, _MOST_BYTES = 2_000, 16 * 1024 * 1024
#: Seconds that a producer may take to tell of a record, and to close.
_PATIENCE, _CLOSING = 40.0, 10.0
#: IDs that an error names, and letters between two words about the progress.
_SHOWN, _TELL_EVERY = 3, 100
#: Letters that one replay passes over because their topic refuses them.
_MOST_REFUSED = 100


class _Wanted(NamedTuple):
    """Which letters are meant."""

    ids: frozenset[str] | None = None
    reason: str | None = None
    #: Unix milliseconds.
    since: float = float("-inf")
    until: float = float("inf")
    #: Whether those that were replayed are meant, too.
    replayed: bool = False
    #: Whether each of the IDs must be there.
    is_strict: bool = False

    def has(self, letter: Glance) -> bool:
        if self.ids is not None and letter.id not in self.ids:
            return False
        if self.reason not in (None, letter.reason) or not self.since <= letter.at < self.until:
            return False
        return self.replayed or letter.replayed is None


class DeadLetters:
    """The dead letters of a topic.

    :param topic: The topic of the jobs.
    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param config: More settings for Kafka clients, such as those that get to the brokers.
    :param letters: The topic of the letters, if it is not ``<topic>.dead``; letters of other topics are passed over.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        topic: str = DEFAULT_TOPIC,
        hosts: str = "127.0.0.1:9092",
        config: Mapping[str, Any] | None = None,
        *,
        letters: str | None = None,
    ) -> None:
        self.topic = check_topic(topic)
        self.hosts = check_hosts(hosts)
        #: The topic of the letters.
        self.letters = f"{topic}.{SUFFIX}" if letters is None else check_topic(letters)
        known = {**KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG}
        self._config = check_config(config, known, ("bootstrap_servers", "group_id", "transactional_id"))

    def __repr__(self) -> str:
        return f"DeadLetters(hosts={self.hosts}, topic={self.topic})"

    def iterate(
        self,
        reason: Reason | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        replayed: bool = False,
    ) -> Iterator[DeadLetter]:
        """Yield letters, the older ones of a partition first.

        :param reason: Only those.
        :param since: Only those given up at this time or later: an aware ``datetime``, or Unix seconds.
        :param until: Only those given up before.
        :param replayed: Those that were put onto their topic again, too.
        :raises kq.ArgumentError: An argument has the wrong type or value.
        :raises kq.KQError: The brokers do not answer.
        """
        wanted = _filter(reason, since, until)._replace(replayed=replayed)
        return (letter for letter, _, _ in self._find(wanted))

    def get(self, id: str) -> DeadLetter | None:
        """Return one letter, also one that was replayed; None if there is none of this ID."""
        wanted = _Wanted(_ids(id), replayed=True)
        return next((letter for letter, _, _ in self._find(wanted)), None)

    def replay(
        self,
        ids: str | Collection[str] | None = None,
        *,
        reason: Reason | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        all: bool = False,
        on_progress: Progress | None = None,
    ) -> int:
        """Put the originals of letters onto their topic again, and return how many.

        They have their key, value and headers; attempts begin at 1, and what had expired expires no more. Each letter
        is marked then, and is not replayed again unless its ID is named. Interrupted, it can be called again.

        :param ids: These, also those that were replayed.
        :param all: All that were not replayed. One of these must be given.
        :param on_progress: Called now and then with how many are done, and how many there are.
        :raises kq.ArgumentError: An argument has the wrong type or value.
        :raises kq.KQError: A letter or the topic is gone, and nothing was replayed; or some were not, and how many.
        """
        wanted = _selection(ids, _filter(reason, since, until), all)
        with self._producer() as producer:
            replay = _Replay(self, producer, self._partitions(), on_progress)
            try:
                for letter, record, total in self._find(wanted):
                    replay.add(letter, record, total)
                    if replay.is_over:
                        break
                replay.finish()
            except BaseException:  # also Ctrl-C: what is acknowledged must be marked
                replay.marks.on_progress = None  # it may be what has raised
                with suppress(KQError):
                    replay.finish()
                raise
        return replay.done

    def purge(
        self,
        ids: str | Collection[str] | None = None,
        *,
        reason: Reason | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        all: bool = False,
        on_progress: Progress | None = None,
    ) -> int:
        """Remove letters for good, also those that were replayed, and return how many.

        The parameters are those of :meth:`replay`.
        """
        wanted = _selection(ids, _filter(reason, since, until), all)._replace(replayed=True)
        with self._producer() as producer:
            window = _Window(on_progress)
            for _, record, total in self._find(wanted):
                try:
                    future = producer.send(self.letters, None, key=record.key, partition=record.partition)
                except KafkaError as error:
                    raise KQError(f"{window.done} of {total} letters are gone; then: {describe(error)}") from error
                window.add(future, total)
            window.finish()
        return window.done

    def count(
        self,
        reason: Reason | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        replayed: bool = False,
    ) -> int:
        """Return how many letters :meth:`iterate` would yield, in half the time."""
        with self._consumer() as consumer:
            found = self._select(consumer, _filter(reason, since, until)._replace(replayed=replayed))
        return sum(map(len, found.values()))

    def _find(self, wanted: _Wanted) -> Iterator[tuple[DeadLetter, Any, int]]:
        """Yield the letters that are meant, with their records, and how many there are."""
        with self._consumer() as consumer:
            found = self._select(consumer, wanted)
            offsets = {number: set(those.values()) for number, those in found.items()}
            total = sum(map(len, offsets.values()))
            spans = {number: (min(those), max(those) + 1) for number, those in offsets.items() if those}
            for number, span in spans.items():
                for record in scan(consumer, self.letters, {number: span}):
                    if record.offset in offsets[number] and (letter := parsed(record)) is not None:
                        yield letter, record, total

    def _select(self, consumer: KafkaConsumer, wanted: _Wanted) -> dict[int, dict[int, int]]:
        """Return, of each partition, the offset of each letter that is meant, by a hash of its ID.

        :raises kq.KQError: An ID that is meant is not there.
        """
        spans = {number: (0, end) for number, end in ends_of(consumer, self.letters).items()}
        found: dict[int, dict[int, int]] = {number: {} for number in spans}
        names: dict[int, str] = {}
        for record in scan(consumer, self.letters, spans):
            letter, name = glance(record), hash(record.key)
            found[record.partition].pop(name, None)  # a newer record of a key is in the place of the older one
            if letter is not None and letter.topic == self.topic and wanted.has(letter):
                found[record.partition][name] = record.offset
                if wanted.ids is not None:
                    names[name] = letter.id
        missing = sorted(wanted.ids - {names[name] for those in found.values() for name in those}) if wanted.ids else []
        if missing and wanted.is_strict:
            raise KQError(f"there is no letter {_some(missing)} on topic {self.letters}; nothing was done")
        return found

    def _partitions(self) -> int:
        """Return how many partitions the topic of the jobs has.

        :raises kq.KQError: It is gone.
        """
        with self._consumer() as consumer:
            count = len(consumer.partitions_for_topic(self.topic) or ())
        if not count:
            raise KQError(
                f"topic {self.topic} is gone: make it again (kq topic create {self.topic}) to replay its letters"
            )
        return count

    def value_of(self, letter: DeadLetter) -> bytes | None:
        """Return the value of a letter's original, from its place if the letter could not hold it.

        :raises kq.KQError: It is gone from there.
        """
        if not letter.is_left_out:
            return letter.value
        span = {letter.partition: (letter.offset, letter.offset + 1)}
        with self._consumer() as consumer:
            is_there = letter.offset < ends_of(consumer, letter.topic).get(letter.partition, 0)
            found = next(scan(consumer, letter.topic, span), None) if is_there else None
        if found is None or found.timestamp != letter.timestamp or found.key != letter.key:
            where = f"topic {letter.topic}, partition {letter.partition}, offset {letter.offset}"
            raise KQError(f"letter {letter.id} has no value: it was too large, and the original is gone from {where}")
        value: bytes | None = found.value
        return value

    @contextmanager
    def _consumer(self) -> Iterator[KafkaConsumer]:
        settings = {**settings_for(KafkaConsumer.DEFAULT_CONFIG, self._config), **_READING}
        consumer = connect(KafkaConsumer, self.hosts, settings)
        try:
            yield consumer
        finally:
            kafka_python.throw_away(consumer, 1_000)

    @contextmanager
    def _producer(self) -> Iterator[KafkaProducer]:
        settings = {**_WRITING, **settings_for(KafkaProducer.DEFAULT_CONFIG, self._config)}
        producer = connect(KafkaProducer, self.hosts, settings)
        try:
            yield producer
        finally:
            producer.close(timeout=_CLOSING)


class _Window:
    """Records that are on their way, and how many of them have arrived."""

    def __init__(self, on_progress: Progress | None) -> None:
        self.on_progress = on_progress
        self._sent: deque[tuple[Any, int]] = deque()
        self.done = 0

    def add(self, future: Any, total: int) -> None:
        """Note a record of so many; wait for the first of them where too many are on their way."""
        self._sent.append((future, total))
        while len(self._sent) > _MOST:
            self._await_one()

    def finish(self) -> None:
        """Wait for all of them.

        :raises kq.KQError: One was refused.
        """
        while self._sent:
            self._await_one()

    def _await_one(self) -> None:
        future, total = self._sent.popleft()
        try:
            future.get(_PATIENCE)
        except KafkaError as error:
            raise KQError(
                f"{self.done} of {total} letters are done; the next was refused: {describe(error)}"
            ) from error
        self.done += 1
        if self.on_progress is not None and (self.done % _TELL_EVERY == 0 or self.done == total):
            self.on_progress(self.done, total)


class _Replay:
    """Originals that are on their way to their topic, and the marks that follow them."""

    def __init__(
        self, letters: DeadLetters, producer: KafkaProducer, partitions: int, on_progress: Progress | None
    ) -> None:
        self._letters = letters
        self._producer = producer
        self._partitions = partitions
        self.marks = _Window(on_progress)
        #: The record of a letter, what became of its original, how many letters there are, and its bytes.
        self._sent: deque[tuple[Any, Any, int, int]] = deque()
        self._bytes = 0
        self._refused: list[str] = []
        #: Whether it makes no sense to go on.
        self.is_over = False

    @property
    def done(self) -> int:
        """How many letters are marked."""
        return self.marks.done

    def add(self, letter: DeadLetter, record: Any, total: int) -> None:
        """Send the original of a letter, one of so many."""
        partition = letter.partition if letter.partition < self._partitions else None
        try:
            value, headers = self._letters.value_of(letter), original(letter, int(time.time() * 1000))
            future = self._producer.send(letter.topic, value, letter.key, headers, partition)
        except (KafkaError, KQError) as error:
            self._refuse(record, error)
            return
        size = len(value or b"") + len(record.value)
        self._sent.append((record, future, total, size))
        self._bytes += size
        while len(self._sent) > _MOST or self._bytes > _MOST_BYTES:
            self._mark_one()

    def finish(self) -> None:
        """Mark all whose originals are acknowledged.

        :raises kq.KQError: An original, or a mark, was refused.
        """
        while self._sent:
            self._mark_one()
        self.marks.finish()
        if self._refused:
            count, reasons = len(self._refused), "; ".join(self._refused[:_SHOWN])
            raise KQError(f"{self.done} letters were replayed and marked, {count} were not: {reasons}")

    def _mark_one(self) -> None:
        mark = None
        record, future, total, size = self._sent[0]  # it goes when it is marked: Ctrl-C may come at any line
        try:
            future.get(_PATIENCE)
        except KafkaError as error:
            self._refuse(record, error)
        else:
            headers = marked(record.headers, int(time.time() * 1000))
            mark = self._producer.send(self._letters.letters, record.value, record.key, headers, record.partition)
        self._sent.popleft()
        self._bytes -= size
        if mark is not None:
            self.marks.add(mark, total)

    def _refuse(self, record: Any, error: Exception) -> None:
        """Note that an original is not on its topic. Without a broker, or where nothing goes, the others are spared."""
        self._refused.append(f"{record.key.decode('utf-8', 'replace')}: {describe(error)}")
        if isinstance(error, (KafkaTimeoutError, KafkaConnectionError)) or len(self._refused) > _MOST_REFUSED:
            self.is_over = True


def _filter(reason: Any, since: Any, until: Any) -> _Wanted:
    if reason is not None and reason not in REASONS:
        raise ArgumentError(f"reason must be one of {', '.join(REASONS)}, not {reason!r}")
    begin = float("-inf") if since is None else moment_of(since, "since").value
    end = float("inf") if until is None else moment_of(until, "until").value
    return _Wanted(None, reason, begin, end)


def _selection(ids: Any, wanted: _Wanted, all: bool) -> _Wanted:
    """Return which letters are to be changed: that has to be said."""
    is_filtered = wanted != _Wanted()
    if sum((ids is not None, is_filtered, all)) != 1:
        raise ArgumentError("say which letters: ids, or reason, since and until, or all=True")
    return wanted if ids is None else _Wanted(_ids(ids), replayed=True, is_strict=True)


def _ids(ids: Any) -> frozenset[str]:
    several = [ids] if isinstance(ids, str) else ids
    if not isinstance(several, Collection) or not {*map(type, several)} <= {str}:
        raise ArgumentError("ids must be the ID of a letter, as <topic>-<partition>-<offset>, or a list of them")
    return frozenset(several)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
