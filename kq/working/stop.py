"""Requests to stop a worker: from any thread, or by signals.

1. A request is noted and the worker is woken; nothing else happens in the thread, or the handler, that makes it.
2. The first asks for a warm stop: what runs may finish within a time. The second ends what runs.
3. The third signal ends the process at once: whoever sends it no longer believes in the second. A thread that looks
   at the clock counts as well: while a job is in a call of C code, no handler runs.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["Stop", "Waker", "signals_handled"]

#: Requests after which what runs is ended, and after which the process is.
KILL, EXIT = 2, 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Waker:
    """Wakes one waiting thread, from any other or from a signal handler. By sockets: Windows selects nothing else."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read, selectors.EVENT_READ)

    def wake(self) -> None:
        """Have the next, or the present, ``wait`` return."""
        # a full buffer wakes as well; a closed waker has nobody to wake
        with contextlib.suppress(OSError):
            self._write.send(b"\0")

    def wait(self, timeout: float) -> None:
        """Wait until woken, or for a number of seconds."""
        if self._selector.select(timeout):
            with contextlib.suppress(OSError):
                self._read.recv(4096)

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Wake also when one of a selector's files is ready; its users read them."""
        self._selector.register(_Watched(selector), selectors.EVENT_READ)

    def unwatch(self, selector: selectors.BaseSelector) -> None:
        """Watch a selector no more."""
        self._selector.unregister(_Watched(selector))

    def close(self) -> None:
        """Let the descriptors go."""
        self._selector.close()
        self._read.close()
        self._write.close()


class _Watched:
    """A selector as a file: those of Linux, macOS and the BSDs are files themselves."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector: Any = selector

    def fileno(self) -> int:
        return int(self._selector.fileno())


class Stop:
    """The requests to stop one worker."""

    def __init__(self) -> None:
        #: When the first request came, by the monotonic clock.
        self.since: float | None = None
        #: The signal that asked first, if one did.
        self.signum: int | None = None
        self._is_called_for = False
        #: Only ever appended to while signals are handled: safe in a signal handler.
        self._signals: list[int] = []
        self._arrivals: _Arrivals | None = None
        self._waker: Waker | None = None

    @property
    def requests(self) -> int:
        """How often a stop was asked for: once by calls, and by each signal."""
        return max(int(self._is_called_for), len(self._signals))

    def request(self) -> None:
        """Ask for a warm stop. Asking again changes nothing."""
        if self.since is None:
            self.since = time.monotonic()
        self._is_called_for = True
        self._wake()

    def attach(self, waker: Waker | None) -> None:
        """Name who is to be woken by requests."""
        self._waker = waker

    def reset(self) -> None:
        """Forget the requests: they are spent."""
        self.since = None
        self.signum = None
        self._is_called_for = False
        self._signals = []

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
        self._signals.append(signum)
        if self.since is None:
            self.since = time.monotonic()
        if self.signum is None:
            self.signum = signum
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


@contextlib.contextmanager
def signals_handled(stop: Stop) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into requests to stop, in the main thread; elsewhere do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrivals = _Arrivals()
    stop.listen(arrivals)
    previous = {}
    for signum in _SIGNALS:
        handler = signal.getsignal(signum)
        # a signal that is ignored stays so (nohup), and a handler that is not Python's could not be put back
        if handler not in (signal.SIG_IGN, None):
            previous[signum] = signal.signal(signum, stop.on_signal)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        stop.listen(None)
        arrivals.close()
