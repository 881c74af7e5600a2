"""The protocol that parent, child and fork server speak: what they share is defined here once.

1. A stream carries frames in both directions: a length, then a pickle. The parent sends ``ChildSettings``, then jobs;
   the child sends tuples that begin with a kind, such as ``RESULT``.
2. A token, the number of a job, lets the child start that job. The parent can take back what is not read yet.
3. A page of shared memory says what the child runs, since when, until when, and what ended last.
4. The fork server's socket carries messages of one size: a verb, a process ID, and a number.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from kq.executors.calling import Around
from kq.job import Status

__all__ = [
    *("LENGTH", "MESSAGE", "NEVER", "TOKEN"),
    *("ChildSettings", "Frame", "Packed", "Result", "Shared", "Verb", "blocking"),
]

#: Number of a job that may be started.
TOKEN = struct.Struct("=Q")
#: Length of what follows on the stream.
LENGTH = struct.Struct("=Q")
#: A request to the fork server or its answer: a verb, a process ID, and a signal, an exit status or an error number.
MESSAGE = struct.Struct("=Bii")
#: A deadline that does not come.
NEVER = float("inf")
#: What a job returned or raised: pickled, or in a tuple as it is, or nothing.
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
    #: Levels of the worker's loggers, by their names; the root's is "".
    log_levels: dict[str, int]
    max_jobs: int | None
    max_memory: int | None


def blocking(descriptor: int) -> socket.socket:
    """Return a socket for a descriptor, without the default timeout that a script or a job may have set.

    Programs that a job starts do not inherit it.
    """
    os.set_inheritable(descriptor, False)
    adopted = socket.socket(fileno=descriptor)
    adopted.setblocking(True)
    return adopted
