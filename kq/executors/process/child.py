"""A child of the process executor: runs jobs, one at a time, and knows nothing of Kafka.

1. It reads its settings once, calls ``on_start``, and says that it is ready.
2. A token, the number of a job, lets it start that job. The job itself comes over the stream, before its token or
   after. Jobs with a lower number than the last token were given to another child meanwhile, and are dropped.
3. Start and deadline of the running job stand in shared memory, where the worker sees them without a message.
4. The outcome goes back over the stream: status, texts for the log, and the result if anybody asks for it. Plain
   successes are sent together; shared memory shows each at once.
5. The child ends when the token socket ends, which is when the worker ends, or when it has done its share.

A job may fork. The copy shares our sockets, and one word of it would desynchronise the stream: a copy that comes back
from the job ends before it can send anything.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import dill

from kq.context import Report, ask_too, enter, leave
from kq.errors import ChildLost, JobExpired
from kq.executors import coroutine
from kq.executors.base import LONGEST, call_of, cause_of, stacktrace_of
from kq.executors.calling import Caller
from kq.executors.interrupt import Interrupt
from kq.executors.packing import PLAIN, why_not
from kq.executors.process.output import flush_output
from kq.executors.process.packing import pack, pack_error
from kq.executors.process.protocol import (
    LENGTH,
    NEVER,
    TOKEN,
    ChildSettings,
    Frame,
    Given,
    Packed,
    Result,
    Shared,
    SharedReport,
    blocking,
    unpack_jobs,
)
from kq.executors.telling import of_exit, told
from kq.job import FAILURE, INVALID, SUCCESS, Status
from kq.logs import Router
from kq.serializers import JSONSerializer, is_unimportable, loads, serializer_of
from kq.utils import MASKED, call_repr, safe_str

__all__ = ["run_child"]

#: Seconds after which successes are sent, if the child does not run out of work before: a quarter of what it may have
#: queued, so that more comes before it does.
_SEND_AFTER = 0.001
#: Seconds that a forked copy which still computes may take to come back from the job as well.
_COPY_WAIT = 0.5
#: Modules that keep a state of random numbers, which forks would share.
_RANDOM = ("random", "numpy.random")


def run_child(stream: int, tokens: int, shared: int) -> None:
    """Run jobs until there is no worker, or until the share of this child is done."""
    _Child(blocking(stream), blocking(tokens), mmap.mmap(shared, 0)).run()


class _Child:
    def __init__(self, stream: socket.socket, tokens: socket.socket, shared: mmap.mmap) -> None:
        self._stream, self._reader = stream, stream.makefile("rb")
        self._tokens = tokens
        self._shared = shared
        words = memoryview(shared)[: Shared.CANCELLED + 8]
        self._words, self._times = words.cast("Q"), words.cast("d")
        self.pid = os.getpid()
        #: Jobs that came, each with its number, ascending.
        self._jobs: deque[tuple[int, Given]] = deque()
        #: A job's own threads may log while the job's outcome is sent.
        self._sending = threading.Lock()
        #: The thread that runs jobs, where signals arrive.
        self._main = threading.get_ident()
        #: The signals that a thread had blocked before it forked.
        self._masks = threading.local()
        #: Whether a SIGTERM must wait, and whether one does.
        self._puts_off_end, self._must_end = False, False
        self._done = 0
        #: Number of the job that ended last.
        self._ended = 0
        #: Successes that were not sent, the seconds that they took, and when something was sent last.
        self._unsent, self._busy, self._sent_at = 0, 0.0, 0.0
        self._forked = False
        #: Whether a SIGTERM that was meant for this child has come.
        self._is_ending = False
        self.running_id: str | None = None
        #: Of the job that runs: its number, 0 for none; whether its result is wanted as bytes; where it tells how far
        #: it is; and whether it has logged something that is captured.
        self.running_number, self._packs, self._report, self.has_logged = 0, False, _NOBODY, False
        #: By what the running job came, where that was JSON: so does its result.
        self._serializer: JSONSerializer | None = None

    def run(self) -> None:
        if not self._begin():
            return
        while (number := self._next_token()) is not None:
            self._run(number)
            self._ended = number
            self._done += 1
            if self._is_ending or self._has_done_its_share():
                break
        self._send_done()
        self._words[3] = self._ended
        coroutine.close()

    def _begin(self) -> bool:
        try:
            self._settings: ChildSettings = dill.loads(self._read_frame())
            self._caller = Caller(self._settings.around, self._come_back)
            self._set_up_logging()
            ask_too(lambda place: self._words[6] == self._words[0] and place == self._place)
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._become_copy
            )
            signal.signal(signal.SIGTERM, self._on_sigterm)
            for name in _RANDOM:
                if name in sys.modules:  # all children of one fork server would draw the same numbers
                    sys.modules[name].seed()
            if self._settings.on_start is not None:
                self._settings.on_start()
        except BaseException as error:  # noqa: BLE001 - the door of the user's hook: the worker logs it
            self.send((Frame.UNREADY, stacktrace_of(error)))
            return False
        self.send((Frame.READY,))
        return True

    def _set_up_logging(self) -> None:
        root = logging.getLogger()
        root.handlers[:] = [_ToWorker(self)]
        for name, level in self._settings.log_levels.items():
            logging.getLogger(name).setLevel(level)
        #: Listens to loggers that hand nothing on to the root logger.
        self._router = Router(_ToWorker(self, is_for_capture=True), with_root=False)

    def _on_sigterm(self, *_: object) -> None:
        """End the job, which may clean up. A SIGTERM that others send to all of a service is for the worker alone."""
        if not self._shared[Shared.EXPIRED]:
            return
        self._is_ending = True
        if self._puts_off_end:
            self._must_end = True
        else:
            raise Interrupt

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def _next_token(self) -> int | None:
        token = None
        try:
            token = self._tokens.recv(TOKEN.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._send_done()
        self._words[3] = self._ended  # not before a socket was used: a job that closed them all is no success
        if self._shared[Shared.EXPIRED]:  # it is to end because of the job before: the token's job runs elsewhere
            return None
        if token is None:
            token = self._tokens.recv(TOKEN.size, socket.MSG_WAITALL)
            self._sent_at = time.monotonic()
        return TOKEN.unpack(token)[0] if len(token) == TOKEN.size else None

    def _job(self, number: int) -> Given:
        jobs = self._jobs
        while True:
            while jobs:
                first, job = jobs.popleft()
                if first == number:  # those before it were withdrawn
                    return job
            jobs.extend(unpack_jobs(self._read_frame()))

    def _run(self, number: int) -> None:
        settings, hides = self._settings, self._settings.hides
        self._shared[Shared.IS_READ] = self._shared[Shared.IS_TELLING] = 0
        self._report, self.has_logged = _NOBODY, False  # what the job before it said is not its own
        begun = time.monotonic()
        self._note_start(number, begun, 0)  # from here on everything, a lack of memory for instance, is the job's doing
        value, limit, expires, where = self._take(number)
        self._place = where[:3]
        if expires and time.time() * 1000 >= expires:  # while it waited for the one before it
            error = JobExpired("the job had not started when it expired: it waited in its child")
            packed = pack_error(error, self._serializer)
            self._send_result(number, FAILURE, begun, "", stacktrace_of(error), packed, error=error)
            return
        if limit:
            self._note_start(number, begun, limit)
        try:
            job = loads(value[0]) if isinstance(value, tuple) else settings.deserialize(value)
            func, args, kwargs, timeout = call_of(job, settings.timeout)
            job_id = job.id if job.id is None else safe_str(job.id)
            text = call_repr(func, args, kwargs, hides) if settings.is_verbose else ""
        except BaseException as error:  # the door of user code: unpickling imports  # noqa: BLE001
            self._send_result(number, INVALID, begun, told(error, hides), stacktrace_of(error, hides), error=error)
            return
        self.running_id = job_id
        if settings.is_verbose:
            self.send((Frame.STARTED, number, job_id, text))
        self._forked = False
        self._shared[Shared.IS_READ] = 1
        self._note_start(number, started := time.monotonic(), timeout)
        self._listen(number)
        enter(job_id, timeout, started, where, self._report if settings.reports else None)
        try:
            result = self._caller.call(job_id, func, args, kwargs)
        except BaseException as error:  # the door of user code: what it was becomes the outcome  # noqa: BLE001
            self._come_back(error)
            self._fail(number, begun, error)
        else:
            self._come_back()
            self._succeed(number, begun, result)
        self.running_id, self.running_number = None, 0
        leave()

    def _take(self, number: int) -> tuple[Any, float, int, Any]:
        """Return what there is of a job, and note how its result is to go back."""
        value, limit, expires, where, is_asked = self._job(number)
        packs = self._settings.packs
        self._packs = packs == "all" or (packs == "asked" and is_asked)
        self._serializer = None if isinstance(value, tuple) else serializer_of(self._settings.deserialize, value)
        return value, limit, expires, where

    def _listen(self, number: int) -> None:
        """Have a job that begins heard, by who is interested."""
        if self._settings.reports:
            self._report = SharedReport(self._shared, number)
        if self._settings.captures:
            self.running_number = number
            self._router.attach()

    def _note_start(self, number: int, now: float, limit: float) -> None:
        deadline = now + min(limit, LONGEST) if limit else NEVER
        # the worker may look, and this process be paused, at any moment: number and times must never be of two jobs
        self._words[0] = 0
        self._times[1] = now
        self._times[2] = deadline
        self._words[0] = number

    def _come_back(self, error: BaseException | None = None) -> None:
        """Let out what the job printed; and end here if this is a copy of the child, which the job has forked."""
        flush_output()
        if os.getpid() == self.pid:
            return
        if isinstance(error, SystemExit):  # as such copies end
            os._exit(_exit_code(error) & 0xFF)
        self._words[4] = self._words[0]
        os._exit(0)

    def _succeed(self, number: int, begun: float, result: Any) -> None:
        if self._forked and self._has_forked_copy(number):
            self._is_ending = True  # with all that such a job has left
            self._fail(number, begun, ChildLost("the job forked and returned twice"))
            return
        settings, hides = self._settings, self._settings.hides
        wants_result = settings.wants_outcome or self._packs
        if wants_result or settings.is_verbose or self._report.said is not None or self.has_logged:
            text = "" if not settings.is_verbose else MASKED if hides else safe_str(result)
            errors: list[BaseException] = []
            packed = pack(result, errors, self._serializer, self._packs) if wants_result else None
            self._send_result(number, SUCCESS, begun, text, why_not([] if packed else errors, hides), packed)
            return
        now = time.monotonic()
        self._ended = number
        self._unsent += 1
        self._busy += now - begun
        if now - self._sent_at > _SEND_AFTER:
            self._send_done()

    def _fail(self, number: int, begun: float, error: BaseException) -> None:
        settings, hides = self._settings, self._settings.hides
        stacktrace = stacktrace_of(error, hides)
        if isinstance(error, SystemExit):
            error = ChildLost(of_exit(error, hides), _exit_code(error))
        packed: Packed = None
        if settings.wants_outcome or settings.wants_errors or self._packs:
            packed = pack_error(error, self._serializer)
        self._send_result(number, FAILURE, begun, "", stacktrace, packed, error=error)

    def _has_done_its_share(self) -> bool:
        settings = self._settings
        if settings.max_jobs is not None and self._done >= settings.max_jobs:
            return True
        return settings.max_memory is not None and _resident_bytes() > settings.max_memory

    # -- forks ---------------------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        # a SIGTERM for the copy must wait until it has the usual handler, or ours would swallow it
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)
        # what multiprocessing forks never comes back from the job
        self._forked = not str(sys._getframe(1).f_globals.get("__name__")).startswith("multiprocessing.")

    def _become_copy(self) -> None:
        """Have a process that a job forks end on SIGTERM, as its maker expects."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _has_forked_copy(self, number: int) -> bool:
        """Return whether a copy of this child came back from the job too.

        One that is on its way is waited for. One that waits itself, as helpers do, is not; if it comes back later it
        ends, and nothing else.
        """
        deadline = time.monotonic() + _COPY_WAIT
        while self._words[4] != number and _computes_a_copy() and time.monotonic() < deadline:
            time.sleep(0.001)
        return self._words[4] == number

    # -- the stream ----------------------------------------------------------------------------------------------------

    def _send_done(self) -> None:
        """Send the successes that were not sent."""
        if self._unsent:
            self.send((Frame.DONE, self._ended, self._unsent, self._busy))
            self._unsent, self._busy, self._sent_at = 0, 0.0, time.monotonic()

    def _send_result(
        self,
        number: int,
        status: Status,
        begun: float,
        text: str,
        stacktrace: str = "",
        packed: Packed = None,
        *,
        error: BaseException | None = None,
    ) -> None:
        self._shared[Shared.IS_TELLING] = 1
        is_foreign = status == INVALID and error is not None and is_unimportable(error)
        # of a class that the worker may not know
        cause = None if error is None else tuple(cause_of(error, hides=self._settings.hides))
        said = self._report.said
        result = Result(number, status, begun, time.monotonic(), text, stacktrace, packed, is_foreign, cause, said)
        self.send((Frame.RESULT, *result))

    def _read_frame(self) -> bytes:
        (length,) = LENGTH.unpack(self._reader.read(LENGTH.size))  # fails where the worker is gone
        return self._reader.read(length)

    def send(self, message: tuple[Any, ...]) -> None:
        if os.getpid() != self.pid:  # a copy, made by a hook or by what unpickles or pickles
            os._exit(1)
        data = pickle.dumps(message)
        is_main = threading.get_ident() == self._main
        try:
            if is_main:  # a partial frame would desynchronise the stream
                self._puts_off_end = True
            with self._sending:
                self._stream.sendall(LENGTH.pack(len(data)) + data)
        finally:
            if is_main:
                self._puts_off_end = False
        if is_main and self._must_end:
            self._must_end = False
            raise Interrupt


#: What nothing is told to.
_NOBODY = Report()


class _ToWorker(logging.Handler):
    """Hands log records to the worker, with the ID of the job that runs.

    :param is_for_capture: Whether they are to be captured alone: they have handlers of their own.
    """

    def __init__(self, child: _Child, *, is_for_capture: bool = False) -> None:
        super().__init__()
        self._child, self._is_for_capture = child, is_for_capture

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._child.pid:  # a fork shares the socket and would corrupt the stream
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
            return
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
            plain = {"msg": text, "args": None, "exc_info": None, "job_id": self._child.running_id}
            kept = {name: value for name, value in record.__dict__.items() if type(value) in PLAIN}
            number = self._child.running_number
            self._child.has_logged = number > 0
            self._child.send((Frame.LOG, {**kept, **plain}, number, self._is_for_capture))
        except Exception:  # noqa: BLE001 - the door of the user's log call: logging's own way to say so
            self.handleError(record)


def _exit_code(error: SystemExit) -> int:
    return error.code if isinstance(error.code, int) else int(error.code is not None)


def _computes_a_copy() -> bool:
    """Return whether a process that this one has forked computes; where the system does not tell, True."""
    try:
        own = Path("/proc/self/cmdline").read_bytes()
        pids = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    except OSError:
        return True
    for pid in pids:
        with suppress(OSError):  # it has just ended
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
            if state in b"RD" and Path(f"/proc/{pid}/cmdline").read_bytes() == own:
                return True
    return False


def _resident_bytes() -> int:
    """Return this process's resident memory; where the system does not tell, its highest so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        import resource  # not on every system

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
