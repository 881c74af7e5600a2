"""What jobs print: children share the worker's standard output and error, which may be one pipe for all of them.

1. ``open_output`` makes both streams anew in the fork server, which children inherit: whole lines go out at once.
2. ``flush_output`` lets the rest out after each job. A stream that the job closed is opened again.
"""

from __future__ import annotations

import contextlib
import io
import select
import sys
from typing import Any

__all__ = ["flush_output", "open_output"]


class _Lines(io.FileIO):
    """A file that takes whole lines, as many at once as a pipe keeps together, and the rest when it is flushed."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.rest = bytearray()

    def write(self, data: Any, /) -> int:
        self.rest += data
        end = self.rest.rfind(b"\n") + 1
        self._put(end if end or len(self.rest) < select.PIPE_BUF else len(self.rest))
        return len(data)

    def flush(self) -> None:
        self._put(len(self.rest))

    def _put(self, end: int) -> None:
        while end > 0:
            size = end
            if size > select.PIPE_BUF:
                size = self.rest.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF
            written = super().write(self.rest[:size])
            del self.rest[:written]
            end -= written


#: What ``open_output`` has made, by the names that it has in ``sys``.
_streams: dict[str, tuple[io.TextIOWrapper, _Lines]] = {}


def open_output() -> None:
    """Make standard output and error anew where they are Python's own."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if type(old) is io.TextIOWrapper:  # not what a module has put there
            with contextlib.suppress(OSError):  # there is no such descriptor any more
                lines = _Lines(descriptor)
                new = io.TextIOWrapper(lines, old.encoding, old.errors, write_through=True)
                _streams[name] = new, lines
                setattr(sys, name, new)
                setattr(sys, f"__{name}__", new)


def flush_output() -> None:
    """Let out what is left of what a job printed."""
    for name, (stream, lines) in _streams.items():
        if lines.rest or lines.closed or getattr(sys, name) is not stream:
            _flush()
            return


def _flush() -> None:
    for stream in (sys.__stdout__, sys.__stderr__, sys.stdout, sys.stderr):
        try:
            stream.flush()  # type: ignore[union-attr]  # None where it is closed
        except Exception:  # noqa: BLE001 - the door of the user's object: a job may put anything there, and close it
            if getattr(stream, "closed", False):
                open_output()
