"""Restarting a worker when its source changes, for development.

1. When each source file was written is noted: in the current folder, and of modules imported from elsewhere.
2. A thread looks again and again. At the first change it notes the file and asks the worker for a warm stop.
3. The same command is executed again, in the same process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

__all__ = ["Watcher", "restart"]

#: Seconds between two looks: about as long as it takes to turn from the editor to the terminal.
LOOK_EVERY = 0.5
#: Folders that hold no source of the user's own.
_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


class Watcher:
    """Looks for changes of source files."""

    def __init__(self) -> None:
        self._before = _written({*_files_here(), *_files_of_modules()})
        self._ended = threading.Event()
        #: The file that has changed, if one has.
        self.changed: str | None = None

    def start(self, on_change: Callable[[], object]) -> None:
        """Look in a thread, until the first change."""
        threading.Thread(target=lambda: self.wait() and on_change(), name="kq-reload", daemon=True).start()

    def wait(self) -> bool:
        """Look until the first change, or until ``stop``; return whether there was a change."""
        while not self._look():
            if self._ended.wait(LOOK_EVERY):
                return False
        return True

    def stop(self) -> None:
        """Stop looking."""
        self._ended.set()

    def _look(self) -> bool:
        here = set(_files_here())
        now = _written({*here, *_files_of_modules()})
        changed = [path for path in self._before if now.get(path) != self._before[path]]
        changed += here - self._before.keys()  # a module of elsewhere that was imported meanwhile has not changed
        self.changed = min(changed, default=None)
        self._before = {**now, **self._before}
        return self.changed is not None


def restart() -> NoReturn:
    """Run the command of this process again, in its place."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _written(paths: Iterable[str]) -> dict[str, int]:
    """Return when each file was written, in nanoseconds."""
    times = {}
    for path in paths:
        try:
            times[path] = os.stat(path).st_mtime_ns
        except OSError:  # deleted between the two looks
            continue
    return times


def _files_here() -> Iterator[str]:
    for folder, subfolders, files in os.walk(os.getcwd()):
        subfolders[:] = [name for name in subfolders if _is_source(Path(folder, name))]
        yield from (os.path.join(folder, name) for name in files if name.endswith(".py"))


def _is_source(folder: Path) -> bool:
    return not (folder.name in _SKIPPED or folder.name.startswith(".") or (folder / "pyvenv.cfg").exists())


def _files_of_modules() -> Iterator[str]:
    """Yield the files of modules that are neither Python's own nor installed."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None) or ""
        if path.endswith(".py") and not path.startswith(sys.base_prefix) and "site-packages" not in path:
            yield os.path.abspath(path)
