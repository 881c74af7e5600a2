"""What jobs print: children share the worker's standard output and error, which may be one pipe for all of them.

1. ``open_output`` makes both streams anew in the fork server, which children inherit: whole lines go out at once.
2. ``flush_output`` lets the rest out after each job. A stream that the job closed is opened again.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
from typing import Any

__all__ = ["flush_output", "open_output"]


#: Held while one thread of a job writes. A fork waits for that, or its copy could print nothing.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class _Lines(io.FileIO):
    """A file that takes whole lines, as many at once as a pipe keeps together, and the rest when it is flushed."""

    #: Whether any of these files was closed, or has something that does not end a line.
    is_due = False

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.rest = bytearray()

    def write(self, data: Any, /) -> int:
        with _lock:
            self.rest += data
            end = self.rest.rfind(b"\n") + 1
            self._put(end if end or len(self.rest) < select.PIPE_BUF else len(self.rest))
            _Lines.is_due = _Lines.is_due or bool(self.rest)
        return len(data)

    def flush(self) -> None:
        with _lock:
            self._put(len(self.rest))

    def close(self) -> None:
        _Lines.is_due = True
        super().close()

    def _put(self, end: int) -> None:
        while end > 0:
            size = end
            if size > select.PIPE_BUF:
                size = self.rest.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF
            written = super().write(self.rest[:size])
            del self.rest[:written]
            end -= written


def open_output() -> None:
    """Make standard output and error anew where they are Python's own."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if type(old) is io.TextIOWrapper:  # not what a module has put there
            with contextlib.suppress(OSError):  # there is no such descriptor any more
                new = io.TextIOWrapper(_Lines(descriptor), old.encoding, old.errors, write_through=True)
                setattr(sys, name, new)
                setattr(sys, f"__{name}__", new)


def flush_output() -> None:
    """Let out what is left of what a job printed. Quick where it printed nothing."""
    if not _Lines.is_due and sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:
        return
    _Lines.is_due = False
    for stream in (sys.__stdout__, sys.__stderr__, sys.stdout, sys.stderr):
        try:
            stream.flush()  # type: ignore[union-attr]  # None where it is closed
        except Exception:  # noqa: BLE001 - the door of the user's object: a job may put anything there, and close it
            if getattr(stream, "closed", False):
                open_output()
