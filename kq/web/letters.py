"""The index of letters: by what the dead letters of a topic are found, without their values.

1. ``start`` has the topic of letters read once, and followed. Of each letter a few fields stay: about 300 bytes.
2. ``page`` finds, filters and sorts in memory. A whole letter is read from its place when somebody looks inside.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from kafka import KafkaConsumer

from kq.clients import TableReader, settings_for
from kq.errors import SignatureError
from kq.letter import SUFFIX, glance, parsed
from kq.message import HEADER_FUNC, HEADER_ID
from kq.signing import DEAD, Signer

__all__ = ["Filter", "Found", "LetterIndex", "Listed"]

_logger = logging.getLogger("kq.web")

#: Letters that are known of one topic, at most; further ones are only counted.
_MOST = 500_000
#: Characters of an error that is listed.
_LONGEST = 160
#: Milliseconds that the broker waits for news, which it sends at once.
_IDLE = {"fetch_max_wait_ms": 1_500}


class Listed(NamedTuple):
    """A letter in a list; times in Unix milliseconds, ``offset`` and ``partition`` those of the letter itself."""

    id: str
    partition: int
    offset: int
    at: int
    reason: str
    function: str
    error: str
    attempts: int
    job_id: str
    replayed: int | None


class Filter(NamedTuple):
    """Which letters are meant."""

    reason: str = ""
    function: str = ""
    text: str = ""
    replayed: bool = False

    def has(self, one: Listed) -> bool:
        """Return whether a letter is meant."""
        if (one.replayed is not None and not self.replayed) or (self.reason and one.reason != self.reason):
            return False
        if self.function and one.function != self.function:
            return False
        text = self.text.casefold()
        return not text or any(text in where.casefold() for where in (one.error, one.id, one.job_id, one.function))


class Found(NamedTuple):
    """A page of letters, how many there are, and the functions that they are of."""

    letters: list[Listed]
    total: int
    functions: list[str]


class LetterIndex:
    """The letters of one topic. One thread writes, any looks up.

    :param config: More settings of any Kafka client.
    """

    def __init__(self, topic: str, hosts: str, config: Mapping[str, Any], signer: Signer | None = None) -> None:
        self._topic = topic
        self._signer = signer
        self._lock = threading.Lock()
        self._by_key: dict[bytes, Listed] = {}
        self._sorted: list[Listed] | None = None
        #: Letters that were one too many.
        self.left_out = 0
        settings = {**settings_for(KafkaConsumer.DEFAULT_CONFIG, config), **_IDLE}
        wait = _IDLE["fetch_max_wait_ms"]
        self.name = f"{topic}.{SUFFIX}"
        self._reader = TableReader(hosts, self.name, self.apply, reset=self._reset, config=settings, poll_ms=wait)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def wait_loaded(self, timeout: float) -> bool:
        """Return whether all that was there is known, or is within so many seconds."""
        return self._reader.wait_loaded(timeout)

    def close(self) -> None:
        """Read no more."""
        self._reader.close()

    def count(self) -> int:
        """Return how many letters wait for somebody: those that were replayed do not."""
        with self._lock:
            return sum(one.replayed is None for one in self._by_key.values()) + self.left_out

    def get(self, letter_id: str) -> Listed | None:
        """Return where a letter stands."""
        return self._by_key.get(letter_id.encode("utf-8", "replace"))

    def page(self, wanted: Filter, limit: int, offset: int) -> Found:
        """Return those that are meant, the newest first."""
        with self._lock:
            if self._sorted is None:
                self._sorted = sorted(self._by_key.values(), key=attrgetter("at"), reverse=True)
            ordered = self._sorted
        found = ordered if wanted == Filter(replayed=True) else [one for one in ordered if wanted.has(one)]
        return Found(found[offset : offset + limit], len(found), sorted({one.function for one in ordered}))

    def apply(self, record: Any) -> None:
        """Take in a record of the topic of letters."""
        seen = self._listed(record)
        with self._lock:
            self._sorted = None
            if seen is None:
                self._by_key.pop(record.key or b"", None)
            elif record.key in self._by_key or len(self._by_key) < _MOST:
                self._by_key[record.key] = seen
            else:
                self.left_out += 1

    def _listed(self, record: Any) -> Listed | None:
        seen = glance(record)
        if seen is None or seen.topic != self._topic or not self._is_signed(record):
            return None
        letter = parsed(record)
        assert letter is not None
        told = dict(letter.headers)
        return Listed(
            *(seen.id, record.partition, record.offset, seen.at, sys.intern(seen.reason)),
            sys.intern(_text(told.get(HEADER_FUNC))),
            sys.intern(" ".join(letter.error[:_LONGEST].split())),
            letter.attempts,
            _text(told.get(HEADER_ID)),
            seen.replayed,
        )

    def _is_signed(self, record: Any) -> bool:
        if self._signer is None:
            return True
        now = int(time.time() * 1000)
        try:
            self._signer.verify(DEAD, record, now, since=now)
        except SignatureError as error:
            where = f"offset {record.offset} of partition {record.partition}"
            _logger.warning("A letter of topic %s, at %s, is passed over: %s", self.name, where, error)
            return False
        return True

    def _reset(self) -> None:
        with self._lock:
            self._by_key.clear()
            self._sorted = None
            self.left_out = 0


def _text(told: bytes | None) -> str:
    return (told or b"")[:_LONGEST].decode("utf-8", "replace")
