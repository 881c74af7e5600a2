"""Imported by a fork server, has its first forks fail, as where the system has no room for another process."""

from __future__ import annotations

import errno
import os

_fork, _failures = os.fork, [OSError(errno.EAGAIN, "no room")] * 3


def _try_to_fork() -> int:
    if _failures:
        raise _failures.pop()
    return _fork()


os.fork = _try_to_fork
