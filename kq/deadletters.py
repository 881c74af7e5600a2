"""Dead letters, for those who look after them: list them, look inside, put them onto their topic again, remove them.

1. Letters are found in two readings of their topic: which are wanted, by their headers, and then those alone. Memory
   is a number or two a letter.
2. ``replay`` has many on their way at once. A letter is marked when its original is acknowledged: whatever ends it
   between, what is marked is not replayed again.
3. ``purge`` writes tombstones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from kq.clients import (
    DEFAULT_TOPIC,
    LOOKING,
    check_config,
    check_hosts,
    check_topic,
    connect,
    ends_of,
    kafka_python,
    scan,
    settings_for,
)
from kq.errors import ArgumentError, KQError, SignatureError
from kq.letter import REASONS, SUFFIX, DeadLetter, Glance, Reason, glance, parsed
from kq.producing import describe, moment_of
from kq.replaying import SHOWN, Progress, Replay, Where, Window
from kq.signing import DEAD, Signer, check_signer

__all__ = ["DeadLetters"]

_logger = logging.getLogger("kq.dead_letters")

#: Settings of the clients. A look must not make a topic.
_READING: Mapping[str, Any] = {**LOOKING, "max_poll_records": 5_000}
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
#: Seconds that a producer may take to close.
_CLOSING = 10.0


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
    :param signer: The :class:`kq.Signer` of the workers: what it does not verify is neither shown nor replayed.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        topic: str = DEFAULT_TOPIC,
        hosts: str = "127.0.0.1:9092",
        config: Mapping[str, Any] | None = None,
        *,
        letters: str | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.topic = check_topic(topic)
        self.hosts = check_hosts(hosts)
        #: The topic of the letters.
        self.letters = f"{topic}.{SUFFIX}" if letters is None else check_topic(letters)
        known = {**KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG}
        self._signer = check_signer(signer)
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
        return (letter for letter, _, _ in self._verified(wanted))

    def get(self, id: str) -> DeadLetter | None:
        """Return one letter, also one that was replayed; None if there is none of this ID."""
        wanted = _Wanted(_ids(id), replayed=True)
        return next((letter for letter, _, _ in self._verified(wanted)), None)

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
            where = Where(self.letters, self._partitions(), self.value_of, self._signer)
            replay = Replay(where, producer, on_progress)
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
            window = Window(on_progress)
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

    def _verified(self, wanted: _Wanted) -> Iterator[tuple[DeadLetter, Any, int]]:
        """Yield as ``_find`` does, without what is not signed as it must be, which is said."""
        for letter, record, total in self._find(wanted):
            now = int(time.time() * 1000)
            try:
                if self._signer is not None:
                    self._signer.verify(DEAD, record, now, since=now)
            except SignatureError as error:
                place = f"offset {record.offset} of partition {record.partition}"
                _logger.warning("A letter of topic %s, at %s, is passed over: %s", self.letters, place, error)
            else:
                yield letter, record, total

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
                f"topic {self.topic} is gone: make it again (kq topic create {self.topic}) to replay its "
                "letters; or this user may not see it: see kq acls"
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
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
