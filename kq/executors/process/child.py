"""A child of the process executor: runs jobs, one at a time, and knows nothing of Kafka.

1. It reads what it needs to know once (``ChildSettings``), calls ``on_start``, and says that it is ready.
2. A token, the number of a job, lets it start that job; the job itself came, or comes, over the stream. What has an
   number lower than the last token was given to another child meanwhile, and is dropped.
3. Start and deadline of the running job stand in shared memory, where the worker sees them without a message.
4. What became of the job goes back over the stream: status, texts for the log, and the outcome if anybody asks. A
   success of which nobody asks for more is told of together with those after it; shared memory knows of it at once.
5. It ends when the token socket ends, that is with the worker, or when it has done its share.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import dill

from kq.errors import ChildLost, RemoteError
from kq.executors import coroutine
from kq.executors.base import LONGEST, call_of, stacktrace_of
from kq.executors.calling import Around, Caller
from kq.executors.interrupt import Interrupt
from kq.job import FAILURE, INVALID, SUCCESS, Status
from kq.utils import get_call_repr, safe_str

__all__ = [
    "DONE",
    "EXPIRED",
    "IS_READ",
    "LENGTH",
    "LOG",
    "READY",
    "RESULT",
    "SLOT",
    "STARTED",
    "TOKEN",
    "UNREADY",
    "ChildSettings",
    "Packed",
    "run_child",
]

#: Number of a job that may be started.
TOKEN = struct.Struct("=Q")
#: Length of what follows on the stream.
LENGTH = struct.Struct("=Q")
#: Shared with the worker: number of the job that was started last, 0 while this is being written; when it was started,
#: by the monotonic clock; its deadline; and number of the job that ended last, of which, if there is more to tell than
#: a success, that was sent before. In the machine's own layout, so that each is read and written in one piece.
SLOT = struct.Struct("@QddQ")
#: Seconds after which successes are told of, if the child is not out of work before: a quarter of what a child may have
#: queued, so that there is more before it is out of it.
_TELL_AFTER = 0.001
#: Seconds that a job's second copy has to say that it returned too, where a job has forked and left a process behind.
_COPY_WAIT = 0.5
#: Bytes in shared memory, behind the slot: where that copy says so; whether the running job could be unpickled; and
#: whether the worker has had enough of this child, so that SIGTERM is meant for it.
_COPY_RETURNED, IS_READ, EXPIRED = range(SLOT.size, SLOT.size + 3)

READY, UNREADY, STARTED, RESULT, DONE, LOG = range(6)
_NEVER = float("inf")
#: Types that any process can unpickle, so that it need not be tried.
_PLAIN = (type(None), bool, int, float, str, bytes)
#: Pickled, or in a tuple as it is, or nothing.
Packed = bytes | tuple[Any] | None


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


def run_child(stream: int, tokens: int, shared: int) -> None:
    """Run jobs until there is no worker, or until the share of this child is done."""
    _Child(socket.socket(fileno=stream), socket.socket(fileno=tokens), mmap.mmap(shared, 0)).run()


class _Child:
    def __init__(self, stream: socket.socket, tokens: socket.socket, shared: mmap.mmap) -> None:
        self._stream = stream
        self._tokens = tokens
        self._shared = shared
        words = memoryview(shared)[: SLOT.size]
        self._words, self._times = words.cast("Q"), words.cast("d")
        self.pid = os.getpid()
        #: Number, value and limit of jobs that came, ascending.
        self._jobs: deque[tuple[int, bytes, float]] = deque()
        #: A job's own threads may log while the job's outcome is sent.
        self._sending = threading.Lock()
        #: The thread that runs jobs, where signals arrive.
        self._main = threading.get_ident()
        #: Whether a SIGTERM must wait, and whether one does.
        self._puts_off_end, self._must_end = False, False
        self._done = 0
        #: Number of the job that ended last.
        self._ended = 0
        #: Successes that were not told of, the seconds that they took, and when something was told of last.
        self._untold, self._busy, self._told = 0, 0.0, 0.0
        self._forked = False
        #: Whether a SIGTERM that was meant for this child has come.
        self._is_ending = False
        self.running_id: str | None = None

    def run(self) -> None:
        if not self._begin():
            return
        while (number := self._next_token()) is not None:
            self._run(number)
            self._ended = number
            self._done += 1
            if self._is_ending or self._has_done_its_share():
                break
        self._tell_done()
        self._words[3] = self._ended
        coroutine.close()

    def _begin(self) -> bool:
        try:
            self._settings: ChildSettings = dill.loads(self._read_frame())
            self._caller = Caller(self._settings.around, self._end_forked_copy)
            self._set_up_logging()
            os.register_at_fork(after_in_parent=self._note_fork, after_in_child=_reset_signals)
            signal.signal(signal.SIGTERM, self._on_sigterm)
            if self._settings.on_start is not None:
                self._settings.on_start()
        except BaseException as error:  # noqa: BLE001 - the door of the user's hook: the worker hears of it
            self._send((UNREADY, stacktrace_of(error)))
            return False
        self._send((READY,))
        return True

    def _set_up_logging(self) -> None:
        root = logging.getLogger()
        root.handlers[:] = [_ToWorker(self)]
        for name, level in self._settings.log_levels.items():
            logging.getLogger(name).setLevel(level)

    def _note_fork(self) -> None:
        self._forked = True

    def _on_sigterm(self, *_: object) -> None:
        """End the job, which may clean up. A SIGTERM that others send to all of a service is for the worker alone."""
        if not self._shared[EXPIRED]:
            return
        self._is_ending = True
        if self._puts_off_end:
            self._must_end = True
        else:
            raise Interrupt

    def _next_token(self) -> int | None:
        token = None
        try:
            token = self._tokens.recv(TOKEN.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._tell_done()
        self._words[3] = self._ended  # not before a socket was used: the job may have closed them, which is no success
        if self._shared[EXPIRED]:  # it is to end because of the job before: what a token is for runs elsewhere
            return None
        if token is None:
            token = self._tokens.recv(TOKEN.size, socket.MSG_WAITALL)
            self._told = time.monotonic()
        return TOKEN.unpack(token)[0] if len(token) == TOKEN.size else None

    def _job(self, number: int) -> tuple[bytes, float]:
        jobs = self._jobs
        while True:
            while jobs:
                first, value, limit = jobs.popleft()
                if first == number:  # those before it were withdrawn
                    return value, limit
            first, values, limits = pickle.loads(self._read_frame())
            jobs.extend(zip(range(first, first + len(values)), values, limits, strict=True))

    def _run(self, number: int) -> None:
        settings = self._settings
        self._shared[IS_READ] = 0
        begun = time.monotonic()
        self._tell_start(number, begun, 0)  # what happens from here on, for want of memory for instance, is its doing
        value, limit = self._job(number)
        if limit:
            self._tell_start(number, begun, limit)
        try:
            job = settings.deserialize(value)
            func, args, kwargs, timeout = call_of(job, settings.timeout)
            job_id = job.id if job.id is None else safe_str(job.id)
            text = get_call_repr(func, *args, **kwargs) if settings.is_verbose else ""
        except BaseException as error:  # the door of user code: unpickling imports  # noqa: BLE001
            self._send_result(number, INVALID, begun, safe_str(error), stacktrace_of(error))
            return
        self.running_id = job_id
        if settings.is_verbose:
            self._send((STARTED, number, job_id, text))
        self._forked = False
        self._shared[IS_READ] = 1
        self._tell_start(number, time.monotonic(), timeout)
        try:
            result = self._caller.call(job_id, func, args, kwargs)
        except BaseException as error:  # the door of user code: what it was becomes the outcome  # noqa: BLE001
            self._end_forked_copy()
            self._fail(number, begun, error)
        else:
            self._end_forked_copy()
            self._succeed(number, begun, result)
        self.running_id = None

    def _succeed(self, number: int, begun: float, result: Any) -> None:
        if self._forked and self._has_forked_copy():
            self._is_ending = True  # with all that such a job has left
            self._fail(number, begun, ChildLost("the job forked and returned twice"))
            return
        settings = self._settings
        if settings.is_verbose or settings.wants_outcome:
            text = safe_str(result) if settings.is_verbose else ""
            packed = self._pack(result) if settings.wants_outcome else None
            self._send_result(number, SUCCESS, begun, text, packed=packed)
            return
        now = time.monotonic()
        self._ended = number
        self._untold += 1
        self._busy += now - begun
        if now - self._told > _TELL_AFTER:
            self._tell_done()

    def _tell_done(self) -> None:
        """Tell of the successes that were not told of."""
        if self._untold:
            self._send((DONE, self._ended, self._untold, self._busy))
            self._untold, self._busy, self._told = 0, 0.0, time.monotonic()

    def _tell_start(self, number: int, now: float, limit: float) -> None:
        deadline = now + min(limit, LONGEST) if limit else _NEVER
        # the worker may look, and this process be paused, at any moment: number and times must never be of two jobs
        self._words[0] = 0
        self._times[1] = now
        self._times[2] = deadline
        self._words[0] = number

    def _end_forked_copy(self, _error: object = None) -> None:
        """End here what is a copy of this child, made by a job that forked and came back twice."""
        if os.getpid() != self.pid:
            self._shared[_COPY_RETURNED] = 1
            os._exit(0)

    def _has_forked_copy(self) -> bool:
        """Return whether a copy of this child came back from the job too. A job that never forked has none."""
        deadline = time.monotonic() + _COPY_WAIT
        while self._forked and not self._shared[_COPY_RETURNED] and time.monotonic() < deadline and _has_descendants():
            time.sleep(0.001)
        has_copy, self._shared[_COPY_RETURNED] = bool(self._shared[_COPY_RETURNED]), 0
        return has_copy

    def _fail(self, number: int, begun: float, error: BaseException) -> None:
        stacktrace = stacktrace_of(error)
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            error = ChildLost(f"the job called sys.exit({safe_str(error.code)})", code)
        packed = self._pack_error(error) if self._settings.wants_outcome else None
        self._send_result(number, FAILURE, begun, "", stacktrace, packed)

    def _send_result(
        self, number: int, status: Status, begun: float, text: str, stacktrace: str = "", packed: Packed = None
    ) -> None:
        self._send((RESULT, number, status, begun, time.monotonic(), text, stacktrace, packed))

    def _pack_error(self, error: BaseException) -> Packed:
        """Return an exception as bytes; one that would not come back as what it is, by its name and text."""
        name = type(error).__name__
        packed = self._pack(_bare(error), lambda copy: isinstance(copy, BaseException) and type(copy).__name__ == name)
        return packed or pickle.dumps(RemoteError(type(error).__qualname__, safe_str(error)))

    def _pack(self, thing: Any, is_good: Callable[[Any], bool] = lambda _: True) -> Packed:
        """Return bytes that can be unpickled, tried here where it hurts nobody else; None if there are none.

        What any process can unpickle is returned as it is, in a tuple.
        """
        if type(thing) in _PLAIN:
            return (thing,)
        for dumps in (pickle.dumps, dill.dumps):
            try:
                packed: bytes = dumps(thing)
                if not is_good(dill.loads(packed)):
                    continue
            except BaseException:  # the door of user code: __reduce__ and __init__ may raise anything  # noqa: BLE001
                continue
            return packed
        return None

    def _has_done_its_share(self) -> bool:
        settings = self._settings
        if settings.max_jobs is not None and self._done >= settings.max_jobs:
            return True
        return settings.max_memory is not None and _resident_bytes() > settings.max_memory

    def _read_frame(self) -> bytes:
        (length,) = LENGTH.unpack(_read_exactly(self._stream, LENGTH.size))
        return _read_exactly(self._stream, length)

    def _send(self, message: tuple[Any, ...]) -> None:
        data = pickle.dumps(message)
        is_main = threading.get_ident() == self._main
        try:
            if is_main:  # half of a frame would be the end of all understanding
                self._puts_off_end = True
            with self._sending:
                self._stream.sendall(LENGTH.pack(len(data)) + data)
        finally:
            if is_main:
                self._puts_off_end = False
        if is_main and self._must_end:
            self._must_end = False
            raise Interrupt

    def send_log(self, record: dict[str, Any]) -> None:
        self._send((LOG, record))


class _ToWorker(logging.Handler):
    """Hands log records to the worker, with the ID of the job that runs."""

    def __init__(self, child: _Child) -> None:
        super().__init__()
        self._child = child

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._child.pid:  # a copy of the child would speak into its words
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
            return
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
            plain = {"msg": text, "args": None, "exc_info": None, "job_id": self._child.running_id}
            kept = {name: value for name, value in record.__dict__.items() if type(value) in _PLAIN}
            self._child.send_log({**kept, **plain})
        except Exception:  # noqa: BLE001 - the door of the user's log call: logging's own way to say so
            self.handleError(record)


def _bare(error: BaseException) -> BaseException:
    """Return an exception without what it hangs on: frames cannot cross, and the text of the traceback does."""
    for name in ("__traceback__", "__cause__", "__context__"):
        BaseException.__setattr__(error, name, None)  # its class may have another way, which may raise
    return error


def _reset_signals() -> None:
    """Have a process that a job forks end on SIGTERM, as its maker expects."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _read_exactly(stream: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = stream.recv_into(view)
        if count == 0:
            raise EOFError("the worker is gone")
        view = view[count:]
    return bytes(data)


def _has_descendants() -> bool:
    """Return whether this process has child processes, dead ones included; where the system does not tell, True."""
    try:
        return any((task / "children").read_text() for task in Path("/proc/self/task").iterdir())
    except OSError:
        return True


def _resident_bytes() -> int:
    """Return this process's resident memory; where the system does not tell, its highest so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        import resource  # not on every system

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
