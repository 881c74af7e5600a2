"""The protocol that parent, child and fork server speak: what they share is defined here once.

1. A stream carries frames in both directions: a length, then a pickle. The parent sends ``ChildSettings``, then jobs;
   the child sends tuples that begin with a kind, such as ``RESULT``.
2. A token, the number of a job, lets the child start that job. The parent can take back what is not read yet.
3. A page of shared memory says what the child runs, since when, until when, and what ended last.
4. The fork server's socket carries messages of one size: a verb, a process ID, and a number.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from kq.context import NO_TIME, Report, Said, Where
from kq.executors.calling import Around
from kq.job import Status
from kq.message import (
    HEADER_ATTEMPT,
    HEADER_EXPIRES,
    HEADER_REPLY,
    HEADER_TIMEOUT,
    HEADER_TIMESTAMP,
    Message,
    millis_in,
    timeout_in,
)

__all__ = [
    *("LENGTH", "MESSAGE", "NEVER", "TOKEN"),
    *("ChildSettings", "Frame", "Given", "Packed", "Result", "Shared", "SharedReport", "Verb"),
    *("blocking", "pack_jobs", "read_said", "unpack_jobs"),
]

#: Number of a job that may be started.
TOKEN = struct.Struct("=Q")
#: Length of what follows on the stream.
LENGTH = struct.Struct("=Q")
#: A request to the fork server or its answer: a verb, a process ID, and a signal, an exit status or an error number.
MESSAGE = struct.Struct("=Bii")
#: A deadline that does not come.
NEVER = float("inf")
#: What a job returned or raised: pickled, or in a tuple as it is where nobody wants bytes, or nothing.
Packed = bytes | tuple[Any] | None


class Frame:
    """Kinds of frames that a child sends."""

    READY, UNREADY, STARTED, RESULT, DONE, LOG = range(6)


class Verb:
    """Requests to the fork server, and its answers."""

    FORK, KILL, UP, SPAWNED, DIED, NO_ROOM = range(6)


class Shared:
    """The layout of shared memory."""

    #: Number of the job that was started last, 0 while this is being written; when it started, by the monotonic clock;
    #: its deadline; and number of the job that ended last. If that has more to tell than a success, the frame was sent
    #: before. In the machine's own layout, so that each field is read and written in one piece.
    SLOT = struct.Struct("@QddQ")
    #: Bytes behind it: number of a job from which a forked copy of the child came back, in one piece as well;
    COPY_RETURNED = SLOT.size
    #: whether the running job could be unpickled; whether it has ended, and its outcome is being sent; and whether the
    #: parent ends this child, so that SIGTERM is meant for it.
    IS_READ, IS_TELLING, EXPIRED = SLOT.size + 8, SLOT.size + 9, SLOT.size + 10
    #: The number of the job that is cancelled, if the one that runs is.
    CANCELLED = SLOT.size + 16
    #: Where it stands what a job said last of how far it is: a version, odd while this is being written; the job's
    #: number; a fraction, not a number where it is not known; the length of a text. The text stands behind it.
    SAID_AT, SAID, LONGEST_SAID = 64, struct.Struct("@QQdQ"), 1000
    #: The fraction alone, in one piece: it may change without a new version.
    FRACTION_AT, FRACTION = 80, struct.Struct("@d")


class Result(NamedTuple):
    """The rest of a frame that tells what became of a job."""

    number: int
    status: Status
    begun: float
    ended: float
    text: str
    #: Of a success: why its result could not be packed, if it could not.
    stacktrace: str
    packed: Packed
    #: Of an invalid message: whether its job could not be imported.
    is_unimportable: bool
    #: The fields of a ``Cause``, without a trace; None of a success.
    cause: tuple[Any, ...] | None
    #: What it said last of how far it is.
    said: Said | None = None


class ChildSettings(NamedTuple):
    """What a child is told once."""

    deserialize: Callable[[bytes], Any]
    on_start: Callable[[], Any] | None
    around: Around | None
    timeout: float | int | None
    #: Whether the worker logs each job.
    is_verbose: bool
    #: Whether the worker wants results and exceptions.
    wants_outcome: bool
    #: Whether it wants exceptions, though no results.
    wants_errors: bool
    #: Levels of the worker's loggers, by their names; the root's is "".
    log_levels: dict[str, int]
    max_jobs: int | None
    max_memory: int | None
    #: Of which jobs results and exceptions are wanted as bytes, as in ``Setting``; whether somebody listens to how far
    #: they are; and whether what they log is captured.
    packs: str
    reports: bool
    captures: bool
    #: Whether arguments, results and what exceptions say stay out of all words.
    hides: bool = False


#: What a child is told of a job: its value, or in a tuple what ``kq.dumps`` wrote in place of it; its limit in seconds,
#: when it expires in Unix milliseconds (0 for never), where it is from, and whether somebody asks for its result.
Given = tuple[bytes | tuple[bytes], float, int, Where, bool]
#: Headers that a child is told of.
_READ = frozenset((HEADER_ATTEMPT, HEADER_EXPIRES, HEADER_REPLY, HEADER_TIMEOUT, HEADER_TIMESTAMP))


def pack_jobs(
    first: int, batch: Sequence[Message], limit: float | None, given: Callable[[Message], Any] | None = None
) -> bytes:
    """Return the frame of some messages of one topic.

    Column by column, which costs half of what tuples do; few messages have headers that a child must know.

    :param first: The number of the first one.
    :param limit: Seconds for each of them; None to take that from its headers.
    :param given: Returns what goes in place of a message's value, as ``kq.dumps`` writes it; None for nothing.
    """
    topics, partitions, offsets, keys, values, timestamps, headers = zip(*batch, strict=True)
    if given is not None:
        jobs = map(given, batch)
        values = tuple(value if job is None else (job,) for job, value in zip(jobs, values, strict=True))
    told = {number: dict(pairs) for number, pairs in enumerate(headers) for name, _ in pairs if name in _READ}
    times = [NO_TIME if timestamp is None else timestamp for timestamp in timestamps]
    columns = [column.tobytes() for column in (array("i", partitions), array("q", offsets), array("q", times))]
    read = {number: _read(pairs) for number, pairs in told.items()}
    return pickle.dumps((first, topics[0], values, keys, columns, limit, read))


def _read(told: Mapping[str, bytes]) -> tuple[float, int, int, int | None, bool]:
    limit, expires = timeout_in(told.get(HEADER_TIMEOUT)) or 0, millis_in(told.get(HEADER_EXPIRES)) or 0
    attempt, enqueued = millis_in(told.get(HEADER_ATTEMPT)) or 1, millis_in(told.get(HEADER_TIMESTAMP))
    return limit, expires, attempt, enqueued, told.get(HEADER_REPLY) == b"1"


def unpack_jobs(frame: bytes) -> Iterator[tuple[int, Given]]:
    """Yield the jobs of a frame, each with its number: as a rule without a step in Python for each."""
    first, topic, values, keys, columns, limit, read = pickle.loads(frame)
    numbers = array("i"), array("q"), array("q")
    for column, data in zip(numbers, columns, strict=True):
        column.frombytes(data)
    partitions, offsets, times = numbers
    places = zip(repeat(topic), partitions, offsets, keys, times, repeat(1))
    given = zip(values, repeat(limit or 0), repeat(0), places, repeat(False))
    return enumerate(
        (_with(*one, read.get(number), limit) for number, one in enumerate(given)) if read else given, first
    )


def _with(
    value: bytes | tuple[bytes], limit: float, _: int, where: Where, __: bool, read: Any, override: float | None
) -> Given:
    """Return a job with what its headers say, if they say anything."""
    if read is None:
        return value, limit, 0, where, False
    own, expires, attempt, enqueued, is_asked = read
    return value, own if override is None else limit, expires, (*where[:4], enqueued or where[4], attempt), is_asked


def _write_said(shared: Any, number: int, said: Said) -> None:
    """Write down what a job said of how far it is. One process writes."""
    at, (fraction, words) = Shared.SAID_AT, said
    text = words.encode("utf-8", "replace")[: Shared.LONGEST_SAID]
    (version, *_) = Shared.SAID.unpack_from(shared, at)
    Shared.SAID.pack_into(shared, at, version | 1, 0, NEVER, 0)
    begin = at + Shared.SAID.size
    shared[begin : begin + len(text)] = text
    Shared.SAID.pack_into(shared, at, (version | 1) + 1, number, NEVER if fraction is None else fraction, len(text))


class SharedReport(Report):
    """Tells how far a job is where the worker sees it without a message, whatever the job does meanwhile."""

    __slots__ = ("_number", "_shared", "_words")

    def __init__(self, shared: Any, number: int) -> None:
        super().__init__()
        self._shared, self._number = shared, number
        self._words: str | None = None

    def tell(self, said: Said) -> None:
        self.said = said
        fraction, words = said
        if words == self._words:  # in an inner loop, mostly
            Shared.FRACTION.pack_into(self._shared, Shared.FRACTION_AT, NEVER if fraction is None else fraction)
            return
        _write_said(self._shared, self._number, said)
        self._words = words


def read_said(shared: Any, number: int) -> Said | None:
    """Return what a job said last of how far it is; None where it said nothing, or is saying it."""
    version, of, fraction, length = Shared.SAID.unpack_from(shared, Shared.SAID_AT)
    begin = Shared.SAID_AT + Shared.SAID.size
    text = bytes(shared[begin : begin + min(length, Shared.LONGEST_SAID)])
    if version % 2 or of != number or Shared.SAID.unpack_from(shared, Shared.SAID_AT)[0] != version:
        return None
    return None if fraction == NEVER else fraction, text.decode("utf-8", "replace")


def blocking(descriptor: int) -> socket.socket:
    """Return a socket for a descriptor, without the default timeout that a script or a job may have set.

    Programs that a job starts do not inherit it.
    """
    os.set_inheritable(descriptor, False)
    adopted = socket.socket(fileno=descriptor)
    adopted.setblocking(True)
    return adopted
