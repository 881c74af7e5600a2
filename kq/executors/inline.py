"""The inline executor: KQ's way. Jobs run one at a time in the thread that called ``Worker.start``."""

from __future__ import annotations

import logging

from kq.executors import coroutine
from kq.executors.base import Finished, Setting, run_message
from kq.executors.interrupt import ThreadInterrupter, best_interrupter
from kq.message import Message

__all__ = ["InlineExecutor"]

_logger = logging.getLogger("kq.executors")


class InlineExecutor:
    """Runs one job at a time, in the thread that called :meth:`kq.Worker.start`.

    In the main thread a timeout interrupts the job wherever it is, also in a system call. In other threads, and on
    Windows, it does so only when the job comes back to Python code.
    """

    def __repr__(self) -> str:
        return "InlineExecutor()"

    def open(self, setting: Setting, concurrency: int) -> None:
        self._setting = setting
        self._finished: list[Finished] = []
        self._interrupter = best_interrupter()
        if isinstance(self._interrupter, ThreadInterrupter):
            _logger.warning(
                "Jobs run outside the main thread, or on a system without SIGALRM: a timeout interrupts a job only "
                "when it comes back to Python code, so a long call into C code runs to its end."
            )

    def room(self) -> int:
        return 0 if self._finished else 1

    def start(self, message: Message) -> None:
        self._finished.append(run_message(message, self._setting, self._interrupter))

    def finished(self) -> list[Finished]:
        finished, self._finished = self._finished, []
        return finished

    def flush(self) -> None:
        pass

    def patience(self) -> float:
        return float("inf")

    def watch(self, now: float) -> None:
        pass

    def release(self) -> None:
        pass

    def kill(self) -> None:
        self._interrupter.interrupt_all()

    def close(self) -> None:
        self._interrupter.close()
        coroutine.close()
