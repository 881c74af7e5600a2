"""A replay: originals of dead letters that are on their way to their topic, and the marks that follow them.

1. ``add`` verifies a letter, and what it keeps of its message, if there is a signer: a letter that anybody could write
   must not become a message with a signature. Then the original is sent, signed anew.
2. When it is acknowledged its letter is marked, and signed anew as well.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from kq.errors import KQError
from kq.letter import DeadLetter, marked, original
from kq.message import Message, Record
from kq.producing import describe
from kq.signing import DEAD, JOB, Signer

__all__ = ["SHOWN", "Progress", "Replay", "Where", "Window"]

#: Called with how many are done and how many there are.
Progress = Callable[[int, int], object]

#: Letters, and bytes of them, that are on their way at once.
_MOST, _MOST_BYTES = 2_000, 16 * 1024 * 1024
#: Seconds that a producer may take to tell of a record.
_PATIENCE = 40.0
#: IDs that an error names, and letters between two words about the progress.
SHOWN, _TELL_EVERY = 3, 100
#: Letters that one replay passes over because their topic refuses them.
_MOST_REFUSED = 100


class Where(NamedTuple):
    """Where a replay finds and puts things."""

    #: The topic of the letters.
    letters: str
    #: How many partitions the topic of the jobs has.
    partitions: int
    #: Returns the value of a letter's original.
    value_of: Callable[[DeadLetter], bytes | None]
    signer: Signer | None


class Window:
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


class Replay:
    """Originals that are on their way to their topic, and the marks that follow them."""

    def __init__(self, where: Where, producer: KafkaProducer, on_progress: Progress | None) -> None:
        self._where = where
        self._producer = producer
        self.marks = Window(on_progress)
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
        try:
            made = self._original(letter, record)
            future = self._producer.send(made.topic, made.value, made.key, made.headers, made.partition)
        except (KafkaError, KQError) as error:
            self._refuse(record, error)
            return
        size = len(made.value or b"") + len(record.value)
        self._sent.append((record, future, total, size))
        self._bytes += size
        while len(self._sent) > _MOST or self._bytes > _MOST_BYTES:
            self._mark_one()

    def _original(self, letter: DeadLetter, record: Any) -> Record:
        """Return the original of a letter, after both were verified: the age of neither is asked."""
        where, now = self._where, int(time.time() * 1000)
        if where.signer is not None:
            where.signer.verify(DEAD, record, now, since=now)
        value = where.value_of(letter)
        partition = letter.partition if letter.partition < where.partitions else None
        made = Record(letter.topic, value, letter.key, original(letter, now), partition, 0)  # type: ignore[arg-type]
        if where.signer is None:
            return made
        message = Message(letter.topic, letter.partition, letter.offset, letter.key, value, None, letter.headers)
        where.signer.verify(JOB, message, now, since=now)
        return where.signer.sign(JOB, made, now)

    def finish(self) -> None:
        """Mark all whose originals are acknowledged.

        :raises kq.KQError: An original, or a mark, was refused.
        """
        while self._sent:
            self._mark_one()
        self.marks.finish()
        if self._refused:
            count, reasons = len(self._refused), "; ".join(self._refused[:SHOWN])
            raise KQError(f"{self.done} letters were replayed and marked, {count} were not: {reasons}")

    def _mark_one(self) -> None:
        mark = None
        record, future, total, size = self._sent[0]  # it goes when it is marked: Ctrl-C may come at any line
        try:
            future.get(_PATIENCE)
        except KafkaError as error:
            self._refuse(record, error)
        else:
            now, signer = int(time.time() * 1000), self._where.signer
            made = Record(
                self._where.letters, record.value, record.key, marked(record.headers, now), record.partition, now
            )
            made = made if signer is None else signer.sign(DEAD, made, now)
            mark = self._producer.send(made.topic, made.value, made.key, made.headers, made.partition)
        self._sent.popleft()
        self._bytes -= size
        if mark is not None:
            self.marks.add(mark, total)

    def _refuse(self, record: Any, error: Exception) -> None:
        """Note that an original is not on its topic. Without a broker, or where nothing goes, the others are spared."""
        self._refused.append(f"{record.key.decode('utf-8', 'replace')}: {describe(error)}")
        if isinstance(error, (KafkaTimeoutError, KafkaConnectionError)) or len(self._refused) > _MOST_REFUSED:
            self.is_over = True
