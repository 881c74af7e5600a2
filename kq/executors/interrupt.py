"""Interrupting a job from outside: when its time is up, or when the worker must stop now.

1. ``call`` notes that a job is running, with its deadline, and calls it.
2. When the deadline passes, or ``interrupt_all`` is called, ``Interrupt`` is raised inside the job, and again every
   ``REPEAT`` seconds for as long as the job swallows it.
3. When the job has ended nothing is raised any more, however late an alarm comes.

``SignalInterrupter`` uses SIGALRM and interrupts whatever the main thread does, system calls included.
``ThreadInterrupter`` is the best there is elsewhere: the interpreter raises the exception at the next bytecode, so a
job is interrupted only when it comes back from C code.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not in typeshed
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Literal, NamedTuple

from kq.executors.coroutine import wake

__all__ = ["Called", "Interrupt", "Interrupter", "SignalInterrupter", "ThreadInterrupter", "best_interrupter"]

#: Seconds until a swallowed interrupt is raised again: time for a job's own ``finally`` blocks, not for another try.
REPEAT = 0.5
#: An itimer is exact; its clock may disagree with ours by this much, in seconds.
_EARLY = 0.002
#: Seconds within which no job can have had an event loop, which takes the wakeup descriptor for itself. To set that
#: costs system calls, more than all else that is done for a job.
_BRIEF = 2e-5
#: What ``setitimer`` takes for certain: less than a microsecond would disarm it, more than about three years overflow.
_SHORTEST, _LONGEST = 1e-6, 1e8

Reason = Literal["timeout", "stop", "cancel"]


class Interrupt(BaseException):
    """Raised inside a job to end it. Not an ``Exception``, so that ``except Exception`` does not swallow it."""


class Called(NamedTuple):
    """How a call ended: interrupted for a reason, or with a result, or with an error."""

    interrupted: Reason | None
    result: Any = None
    error: BaseException | None = None


def _enter(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the job. This frame marks on the stack where user code begins."""
    return func(*args, **kwargs)


#: The public one looks for an enum member of each handler, which takes longer than all else here; after every job.
_getsignal: Callable[[int], Any] = _signal.getsignal
#: The signals by which a worker is stopped. A job that takes one for itself makes the worker deaf.
_SIGINT, _SIGTERM = int(signal.SIGINT), int(signal.SIGTERM)


class SignalInterrupter:
    """Interrupts jobs of the main thread by SIGALRM, while it is open. One job at a time."""

    def __init__(self) -> None:
        self._previous = signal.signal(signal.SIGALRM, self._on_alarm)
        self._timer = signal.getitimer(signal.ITIMER_REAL)
        self._opened = time.monotonic()
        self._running = False
        #: What runs, as ``call`` was told, and since when.
        self._source: Any = None
        self._since = 0.0
        #: What is to end, and when that is said again.
        self._ended: Any = None
        self._end_at = 0.0
        self._deadline = 0.0
        self._stop = False
        self._fired: Reason | None = None
        #: Held while an alarm is sent, so that none is after the handler is gone: it would end the process.
        self._lock = threading.Lock()
        #: Where the interpreter writes down signals.
        self._wakeup_fd = signal.set_wakeup_fd(-1)  # there is no other way to read it
        signal.set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)

    def call(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], timeout: float,
        source: Any = None,
    ) -> Called:  # fmt: skip
        handlers = ((_SIGINT, _getsignal(_SIGINT)), (_SIGTERM, _getsignal(_SIGTERM)))
        self._fired = None
        begun = time.monotonic()
        self._deadline = begun + timeout if timeout else 0.0
        self._source, self._since = source, begun
        self._running = True
        if timeout:
            signal.setitimer(signal.ITIMER_REAL, max(_SHORTEST, min(timeout, _LONGEST)), REPEAT)
        result, error = None, None
        try:
            result = _enter(func, args, kwargs)
        except BaseException as caught:  # the door of user code: what it was becomes the outcome  # noqa: BLE001
            error = caught
        self._running = False
        if timeout:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._mend_signals(handlers)
        if time.monotonic() - begun > _BRIEF:
            signal.set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)
        return Called(self._fired, result, error)

    def running(self) -> list[tuple[Any, float]]:
        """Return what runs, and since when. From any thread."""
        return [(self._source, self._since)] if self._running else []

    def end(self, source: Any) -> None:
        """Interrupt what was called for a source. From any thread; again, after ``REPEAT`` seconds at the soonest."""
        with self._lock:
            now = time.monotonic()
            if not self._running or self._source is not source or (self._ended is source and now < self._end_at):
                return
            self._ended, self._end_at = source, now + REPEAT
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def interrupt_all(self) -> None:
        with self._lock:
            self._stop = True
            if self._running:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def close(self) -> None:
        with self._lock:
            signal.signal(signal.SIGALRM, self._previous)
        delay, interval = self._timer
        if delay:  # somebody's alarm was running, such as a test runner's: it goes on
            left = delay - (time.monotonic() - self._opened)
            signal.setitimer(signal.ITIMER_REAL, max(left, _EARLY), interval)

    def _mend_signals(self, handlers: Sequence[tuple[int, Any]]) -> None:
        """Take back what the job took for itself: the next one needs its limit, and the worker must hear of a stop."""
        if _getsignal(signal.SIGALRM) != self._on_alarm:
            signal.signal(signal.SIGALRM, self._on_alarm)
        for signum, handler in handlers:
            if _getsignal(signum) is not handler and handler is not None:  # None: it is not Python's
                signal.signal(signum, handler)

    def _on_alarm(self, _signum: int, frame: FrameType | None) -> None:
        """Raise inside the job; anywhere else a late alarm does nothing."""
        if not (self._running and _is_inside_job(frame)):
            return
        if self._stop:
            self._fired = "stop"
        elif self._deadline and time.monotonic() >= self._deadline - _EARLY:
            self._fired = "timeout"
        elif self._ended is not None and self._ended is self._source:
            self._fired = "cancel"
        else:
            return
        raise Interrupt(self._fired)


def _is_inside_job(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is _enter.__code__:
            return True
        frame = frame.f_back
    return False


class _Running:
    """A job that runs in a thread."""

    def __init__(self, thread_id: int, deadline: float, source: Any, since: float) -> None:
        self.thread_id = thread_id
        self.source, self.since = source, since
        self.deadline = deadline
        self.fired: Reason | None = None
        #: When it may be interrupted again because it is to end.
        self.end_at = 0.0
        #: Whether it has ended; nothing is raised in its thread from then on.
        self.over = False


class ThreadInterrupter:
    """Interrupts jobs of any threads by raising an exception at their next bytecode."""

    def __init__(self) -> None:
        #: Held while exceptions are raised and jobs come and go, so that none is raised in a thread whose job ended.
        self._lock = threading.Lock()
        self._jobs: set[_Running] = set()
        self._alarm = threading.Event()
        self._closed = False
        self._watcher: threading.Thread | None = None

    def call(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], timeout: float,
        source: Any = None,
    ) -> Called:  # fmt: skip
        begun = time.monotonic()
        running = _Running(threading.get_ident(), begun + timeout if timeout else 0.0, source, begun)
        result, error = None, None
        try:
            self._begin(running)
            try:
                result = _enter(func, args, kwargs)
            except BaseException as caught:  # the door of user code: what it was becomes the outcome  # noqa: BLE001
                error = caught
            self._end(running)
        except Interrupt:  # it came before the job began, or after it ended
            self._end_again(running)
        return Called(running.fired, result, error)

    def running(self) -> list[tuple[Any, float]]:
        """Return what runs, and since when. From any thread."""
        with self._lock:
            return [(running.source, running.since) for running in self._jobs]

    def end(self, source: Any) -> None:
        """Interrupt what was called for a source. From any thread; again, after ``REPEAT`` seconds at the soonest."""
        now = time.monotonic()
        with self._lock:
            for running in self._jobs:
                if running.source is source and now >= running.end_at:
                    running.end_at = now + REPEAT
                    self._raise_in(running, "cancel")

    def interrupt_all(self) -> None:
        with self._lock:
            for running in self._jobs:
                self._raise_in(running, "stop")

    def close(self) -> None:
        self._closed = True
        self._alarm.set()

    def _begin(self, running: _Running) -> None:
        with self._lock:
            self._jobs.add(running)
            if running.deadline and self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="kq-deadlines", daemon=True)
                self._watcher.start()
            if running.deadline:
                self._alarm.set()

    def _end_again(self, running: _Running) -> None:
        try:
            self._end(running)
        except Interrupt:  # the last: it was being raised when the first was caught
            self._end(running)

    def _end(self, running: _Running) -> None:
        running.over = True
        with self._lock:
            self._jobs.discard(running)
            _raise_async(running.thread_id, None)

    def _watch(self) -> None:
        while not self._closed:
            self._alarm.wait(self._fire_due())
            self._alarm.clear()

    def _fire_due(self) -> float | None:
        """Interrupt what is due; return the seconds until the next is."""
        now = time.monotonic()
        with self._lock:
            for running in self._jobs:
                if running.deadline and now >= running.deadline:
                    self._raise_in(running, "timeout")
                    running.deadline = now + REPEAT
            deadlines = [running.deadline for running in self._jobs if running.deadline]
        return min(min(deadlines) - now, _LONGEST, threading.TIMEOUT_MAX) if deadlines else None

    def _raise_in(self, running: _Running, reason: Reason) -> None:
        if running.over:
            return
        running.fired = running.fired or reason
        _raise_async(running.thread_id, Interrupt)
        wake(running.thread_id)


def _raise_async(thread_id: int, kind: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), None if kind is None else ctypes.py_object(kind)
    )


#: Calls jobs with a time limit in seconds, 0 for none, and can interrupt them from any thread, any number of times.
Interrupter = SignalInterrupter | ThreadInterrupter


def best_interrupter() -> Interrupter:
    """Return what interrupts the jobs of this thread best: by signals in the main thread, where there are any."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return SignalInterrupter()
    return ThreadInterrupter()
