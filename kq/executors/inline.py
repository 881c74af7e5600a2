"""The inline executor: KQ's way. Jobs run one at a time in the thread that called ``Worker.start``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kq.errors import WorkerError
from kq.executors import coroutine
from kq.executors.base import Executor, Finished, Setting, check_hooks, run_message
from kq.executors.calling import Around, Caller
from kq.executors.interrupt import ThreadInterrupter, best_interrupter
from kq.executors.lines import log_own, warn_own
from kq.executors.running import Run
from kq.message import Message

__all__ = ["InlineExecutor"]


class InlineExecutor(Executor):
    """Runs one job at a time, in the thread that called :meth:`kq.Worker.start`.

    In the main thread a timeout interrupts the job wherever it is, also in a system call. In other threads, and on
    Windows, it does so only when the job comes back to Python code.

    :param on_start: Called without arguments by each ``start``, before its first job.
    :param around: Called without arguments for each job; the job runs inside the context manager that it returns.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(self, on_start: Callable[[], Any] | None = None, around: Around | None = None) -> None:
        check_hooks(on_start, around)
        self._on_start = on_start
        self._around = around

    def __repr__(self) -> str:
        return "InlineExecutor()"

    def open(self, setting: Setting, concurrency: int) -> None:
        self._setting = setting
        self._finished: list[Finished] = []
        self._caller = Caller(self._around)
        if self._on_start is not None:
            self._get_ready(self._on_start)
        self._interrupter = best_interrupter()
        if isinstance(self._interrupter, ThreadInterrupter):
            warn_own(
                "Jobs run outside the main thread, or on a system without SIGALRM: a timeout interrupts a job only "
                "when it comes back to Python code, so a long call into C code runs to its end."
            )

    def _get_ready(self, on_start: Callable[[], Any]) -> None:
        try:
            with self._caller:
                on_start()
        except BaseException as error:  # the door of the user's hook: no job can run
            log_own("on_start raised an exception:", exc_info=error)
            raise WorkerError("on_start of the inline executor failed; the log says why") from error

    def room(self) -> int:
        return 0 if self._finished else 1

    def start(self, message: Message) -> None:
        self._finished.append(run_message(message, self._setting, self._interrupter, self._caller))

    def finished(self) -> list[Finished]:
        finished, self._finished = self._finished, []
        return finished

    def running(self) -> list[Run]:
        if self._setting.runs is not None:
            return list(self._setting.runs.values())
        return [Run(message, since) for message, since in self._interrupter.running()]

    def terminate(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._interrupter.end(message)

    def kill(self) -> None:
        self._interrupter.interrupt_all()

    def close(self) -> None:
        self._interrupter.close()

    def release(self) -> None:
        coroutine.close()
