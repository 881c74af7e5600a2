"""Requests to stop a worker: from any thread, or by signals.

1. A request is noted and the worker is woken; nothing else happens in the thread, or the handler, that makes it.
2. The first asks for a warm stop: what runs may finish within a time. The second ends what runs.
3. The third signal ends the process at once. A thread that looks at the clock counts signals as well: while a job is in
   a call of C code, no handler runs.
4. A fork of this process is another process: a signal to it is no request here, and it has the handlers of before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

from kq.working.waker import Waker

__all__ = ["EXIT", "KILL", "Stop", "signals_handled"]

#: Requests after which what runs is ended, and after which the process is.
KILL, EXIT = 2, 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Request(NamedTuple):
    """Somebody asked for a stop: when, by the monotonic clock, and by which signal; None for a call."""

    when: float
    signum: int | None
    #: Whether what runs is to be ended at once, as by a second signal.
    now: bool = False


class Stop:
    """The requests to stop one worker, in the order in which they came."""

    def __init__(self) -> None:
        #: Only ever appended to while signals are handled: safe in a signal handler and in the watchdog's thread.
        self._requests: list[_Request] = []
        self._arrivals: _Arrivals | None = None
        self._waker: Waker | None = None

    @property
    def requests(self) -> int:
        """How often a stop was asked for: once by calls, twice by those that want it now, and by each signal."""
        if not self._requests:  # so it is mostly, and the loop asks several times a turn
            return 0
        signals = [request for request in self._requests if request.signum is not None]
        count = len(signals) or min(1, len(self._requests))
        return max(count, KILL) if any(request.now for request in self._requests) else count

    @property
    def since(self) -> float | None:
        """When the first request came, by the monotonic clock."""
        return next((request.when for request in self._requests), None)

    @property
    def signum(self) -> int | None:
        """The signal that asked first, if one did."""
        return next((request.signum for request in self._requests if request.signum is not None), None)

    def request(self, *, now: bool = False) -> None:
        """Ask for a warm stop, or for one that ends what runs. Asking for the same again changes nothing."""
        self._requests.append(_Request(time.monotonic(), None, now))
        self._wake()

    def attach(self, waker: Waker | None) -> None:
        """Name who is to be woken by requests."""
        self._waker = waker

    def reset(self) -> None:
        """Forget the requests: they are spent."""
        self._requests = []

    def listen(self, arrivals: _Arrivals | None) -> None:
        """Name where signals arrive before any handler runs."""
        self._arrivals = arrivals

    def on_signal(self, signum: int, _frame: FrameType | None) -> None:
        """Note a signal; the third ends the process."""
        self.look()
        if self._arrivals is None or not self._arrivals.is_open():
            self._count(signum)
        self._wake()

    def look(self) -> None:
        """Note the signals that have arrived. Also for a thread that looks at the clock: while the main thread is in a
        call of C code no handler runs, and of signals that come together one handler runs.
        """
        if self._arrivals is not None:
            for signum in self._arrivals.read():
                self._count(signum)

    def _count(self, signum: int) -> None:
        self._requests.append(_Request(time.monotonic(), signum))
        if self.requests >= EXIT:
            os._exit(128 + signum)

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None:
            waker.wake()


class _Arrivals:
    """Numbers of signals, written down by the interpreter itself at the moment when they come."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def read(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [signum for signum in self._read.recv(4096) if signum in _SIGNALS]
        return []

    def is_open(self) -> bool:
        """Return whether signals arrive here still: a job may have taken that for itself, as event loops do."""
        own = self._write.fileno()
        present = signal.set_wakeup_fd(own, warn_on_full_buffer=False)
        if present != own:
            signal.set_wakeup_fd(present)
        return present == own

    def close(self) -> None:
        signal.set_wakeup_fd(self._previous)
        self._read.close()
        self._write.close()


class _Handling:
    """The handlers of SIGINT and SIGTERM that turn these into requests, until ``end``."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._arrivals = _Arrivals()
        stop.listen(self._arrivals)
        self._previous = {}
        for signum in _SIGNALS:
            handler = signal.getsignal(signum)
            # a signal that is ignored stays so (nohup), and a handler that is not Python's could not be put back
            if handler not in (signal.SIG_IGN, None):
                self._previous[signum] = signal.signal(signum, stop.on_signal)

    def end(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._stop.listen(None)
        self._arrivals.close()


@contextlib.contextmanager
def signals_handled(stop: Stop) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into requests to stop, in the main thread; elsewhere do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handling = _Handling(stop)
    _present.append(handling)
    try:
        yield
    finally:
        if handling in _present:  # not in a fork, where it has ended already
            _present.remove(handling)
            handling.end()


# -- forks of the worker's process ------------------------------------------------------------------------------------

#: What is in force in this process.
_present: list[_Handling] = []
#: For each thread, the signals that it had blocked before it began to fork.
_forking = threading.local()


def _before_fork() -> None:
    """Hold signals back until the fork has its own handlers: it would write them into what it shares with us."""
    if _present:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _after_fork() -> None:
    mask = getattr(_forking, "mask", None)
    if mask is not None:
        _forking.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    """Give a fork the handlers that were in force before the worker's: it is not the worker."""
    while _present:
        _present.pop().end()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
