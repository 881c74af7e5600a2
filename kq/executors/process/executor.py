"""The process executor: jobs run in children, which can really be killed.

1. ``open`` starts the fork server, which forks the children.
2. ``start`` takes a message, and ``flush`` gives what was taken to the children that have least to do.
3. ``finished`` tends the children, and makes outcomes of what they said.
4. ``close`` ends the fork server, and with it everything that descends from it.

The loop may be busy elsewhere, in a slow callback for instance. So the watchdog's thread does the same tending by
``watch``. A lock guards the children; under it no user code runs.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from kq.errors import ArgumentError, WorkerError
from kq.executors.base import Executor, Finished, Setting, check_hooks
from kq.executors.calling import Around
from kq.executors.process.children import Children
from kq.executors.process.outcomes import Outcomes
from kq.executors.process.protocol import ChildSettings
from kq.executors.process.spawner import Spawner
from kq.executors.running import Run
from kq.message import Message, bytes_of
from kq.serializers import ByValue

__all__ = ["ProcessExecutor"]

#: Seconds that the watchdog's thread reads at once, at most.
_WATCH_TIME = 0.1
#: Weight of the latest message in the mean of sizes.
_LATEST = 0.1


class ProcessExecutor(Executor):
    """Runs jobs in child processes: a timeout really kills, and a crash touches nobody else.

    :param kill_grace: Seconds between SIGTERM and SIGKILL for a job whose time is up.
    :param max_jobs: How many jobs a child runs before it is replaced; None for no limit.
    :param max_memory: Bytes of resident memory beyond which a child is replaced, between jobs; None for no limit.
    :param preload: Names of modules that are imported once, before children are forked.
    :param on_start: Called without arguments in each child before its first job, to open connections for instance.
    :param around: Called without arguments for each job; the job runs inside the context manager that it returns.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        kill_grace: float = 2.0,
        max_jobs: int | None = None,
        max_memory: int | None = None,
        preload: Sequence[str] = (),
        on_start: Callable[[], Any] | None = None,
        around: Around | None = None,
    ) -> None:
        if not (isinstance(kill_grace, (int, float)) and kill_grace >= 0):
            raise ArgumentError("kill_grace must be an int or float of 0 or greater")
        for name, limit in (("max_jobs", max_jobs), ("max_memory", max_memory)):
            if not (limit is None or (isinstance(limit, int) and limit > 0)):
                raise ArgumentError(f"{name} must be an int of 1 or greater")
        if not isinstance(preload, (list, tuple)) or not all(isinstance(name, str) for name in preload):
            raise ArgumentError("preload must be a list or tuple of module names")
        check_hooks(on_start, around)
        if not hasattr(os, "fork"):
            raise ArgumentError('executor="process" needs a system with fork; use executor="thread" here')
        self._kill_grace = kill_grace
        self._max_jobs = max_jobs
        self._max_memory = max_memory
        self._preload = tuple(preload)
        self._on_start = on_start
        self._around = around
        #: Guards everything below, between the loop and the watchdog.
        self._lock = threading.Lock()
        self._is_open = False

    def __repr__(self) -> str:
        return f"ProcessExecutor(kill_grace={self._kill_grace:g})"

    # -- life ----------------------------------------------------------------------------------------------------------

    def open(self, setting: Setting, concurrency: int) -> None:
        self._setting = setting
        self._outcomes = Outcomes(setting)
        #: What ends the worker; raised to the loop.
        self._failure: Exception | None = None
        spawner = Spawner(self._preload, self._pack_settings(setting), concurrency)
        try:
            self._children = Children(spawner, self._outcomes, setting, self._kill_grace)
        except OSError:  # there is no room for more open files
            spawner.end()
            raise
        setting.watch(self._children.selector)
        self._is_open = True
        try:
            with self._lock:
                spawner.ask(time.monotonic(), is_alone=True)
        except WorkerError:
            self.close()
            raise

    def kill(self) -> None:
        if self._is_open:
            self._children.is_killing = True

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            self._setting.unwatch(self._children.selector)
            self._children.close()

    def _pack_settings(self, setting: Setting) -> bytes:
        settings = ChildSettings(
            deserialize=setting.deserialize,
            on_start=self._on_start,
            around=self._around,
            timeout=setting.timeout,
            is_verbose=setting.logger.isEnabledFor(logging.INFO),
            wants_outcome=setting.wants_outcome,
            wants_errors=setting.wants_errors,
            log_levels=_log_levels(),
            max_jobs=self._max_jobs,
            max_memory=self._max_memory,
            packs=setting.packs,
            reports=setting.runs is not None,
            captures=setting.most_lines > 0,
            hides=setting.hides,
        )
        try:
            file = io.BytesIO()
            ByValue(file, pickle.HIGHEST_PROTOCOL).dump(settings)  # a hook of the script brings what it uses
        except Exception as error:  # the door of user code
            raise ArgumentError(f"hooks and deserializer must be picklable to reach children: {error}") from error
        return file.getvalue()

    # -- for the loop --------------------------------------------------------------------------------------------------

    def room(self) -> int:
        with self._lock:
            spaces, waiting = self._children.spaces(), len(self._children.unassigned)
        return max(0, sum(space for _, space in spaces) - waiting)

    def start(self, message: Message) -> None:
        self.start_all([message])

    def start_all(self, messages: Sequence[Message]) -> None:
        children, count = self._children, len(messages)
        weight = 1 - (1 - _LATEST) ** count
        children.mean_bytes += weight * (bytes_of(messages) / count - children.mean_bytes)
        children.unassigned.extend(messages)  # in one piece: no lock

    def flush(self) -> None:
        with self._lock:
            self._children.assign()

    def finished(self) -> list[Finished]:
        with self._lock:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            self._outcomes.release()
            if self._is_open:
                self._children.tend(time.monotonic())
            steps = self._outcomes.take()
            while not self._is_open and len(self._outcomes):
                steps += self._outcomes.take()
        finished: list[Finished] = []
        for step in steps:
            try:
                step[0](finished, *step[1:])
            except Exception:  # noqa: BLE001 - the door of the user's loggers: said as they say it, and no outcome lost
                traceback.print_exc()
        return finished

    def patience(self) -> float:
        """Return the seconds that the loop may wait before it asks for what has finished."""
        with self._lock:
            outcomes, children = self._outcomes, self._children
            if self._failure is not None or len(outcomes) or (children.paused and outcomes.in_hand):
                return 0.0
            return children.patience()

    def withdraw(self, is_meant: Callable[[Message], bool]) -> list[Message]:
        with self._lock:
            return self._children.withdraw(is_meant) if self._is_open else []

    def terminate(self, messages: Sequence[Message]) -> None:
        with self._lock:
            if self._is_open:
                self._children.terminate(messages, time.monotonic())

    def tell_cancelled(self, messages: Sequence[Message]) -> None:
        with self._lock:
            for child in self._children.all if self._is_open else ():
                child.tell_cancelled(messages)

    def running(self) -> list[Run]:
        with self._lock:
            runs = [child.run() for child in self._children.all] if self._is_open else []
        return [run for run in runs if run is not None]

    def watch(self, now: float) -> None:
        """Tend the children while the loop is busy elsewhere. From the watchdog's thread."""
        if not self._lock.acquire(blocking=False):
            return  # the loop is at it
        try:
            if self._is_open and self._failure is None:
                self._children.tend(now)
                while self._children.read_ready() and time.monotonic() < now + _WATCH_TIME:
                    pass
                if len(self._outcomes):
                    self._setting.wake()
        except Exception as error:  # noqa: BLE001 - the door of this thread: the loop is to end of it
            self._failure = error
            self._setting.wake()
        finally:
            self._lock.release()


def _log_levels() -> dict[str, int]:
    """Return the levels that were set for loggers of this process, the root's by an empty name."""
    loggers = logging.getLogger().manager.loggerDict.items()
    levels = {name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger) and logger.level}
    return {"": logging.getLogger().level, **levels}
