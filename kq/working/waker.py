"""The waker: what a thread waits on when it has nothing to do."""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Any

__all__ = ["Waker"]


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
