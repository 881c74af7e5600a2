"""What jobs print: children share the worker's standard output and error, which may be one pipe for all of them.

1. ``open_output`` makes both streams anew in each child: a line goes out when it ends, in one piece.
2. ``flush_output`` lets the rest out after each job. A stream that the job closed is opened again.
"""

from __future__ import annotations

import contextlib
import io
import select
import sys
from typing import Any

__all__ = ["flush_output", "open_output"]

_STREAMS = (("stdout", 1), ("stderr", 2))


class _Lines(io.FileIO):
    """A file that takes whole lines, as many as a pipe keeps together; a longer line goes in pieces."""

    def write(self, data: Any, /) -> int:
        size = len(data)
        if size > select.PIPE_BUF:
            size = bytes(data[: select.PIPE_BUF]).rfind(b"\n") + 1 or select.PIPE_BUF
        return super().write(data[:size])


def open_output() -> None:
    """Make standard output and error anew where they are Python's own."""
    for name, descriptor in _STREAMS:
        old = getattr(sys, name)
        if type(old) is io.TextIOWrapper:  # not None, as where it is closed, and not what a module has put there
            with contextlib.suppress(OSError):  # there is no such descriptor any more
                file = io.BufferedWriter(_Lines(descriptor, "w", closefd=False))
                new = io.TextIOWrapper(file, old.encoding, old.errors, line_buffering=True)
                setattr(sys, name, new)
                setattr(sys, f"__{name}__", new)


def flush_output() -> None:
    """Let out what is left of what a job printed."""
    for stream, usual in ((sys.stdout, sys.__stdout__), (sys.stderr, sys.__stderr__)):
        _flush(stream)
        if stream is not usual:
            _flush(usual)


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:  # noqa: BLE001 - the door of the user's object: a job may put anything there, and close it
        if getattr(stream, "closed", False):
            open_output()
