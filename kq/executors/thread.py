"""The thread executor: many jobs at once, each in a thread of this process.

1. ``open`` makes the threads; they wait for messages on one queue.
2. A thread runs a message to its end, puts what became of it on the list of the finished, and wakes the worker.
3. ``close`` lets the threads end. One whose job cannot be interrupted is left behind; it does not keep the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from queue import SimpleQueue

from kq.executors import coroutine
from kq.executors.base import Finished, Setting, run_message
from kq.executors.interrupt import REPEAT, Interrupter, ThreadInterrupter
from kq.message import Message

__all__ = ["ThreadExecutor"]

#: Seconds that ``close`` waits for interrupted jobs to end: one interrupt and its repetition.
_GRACE = 2 * REPEAT


class ThreadExecutor:
    """Runs jobs in threads of this process: for jobs that wait rather than compute.

    A timeout interrupts a job only when it comes back to Python code.
    """

    def __repr__(self) -> str:
        return "ThreadExecutor()"

    def open(self, setting: Setting, concurrency: int) -> None:
        self._setting = setting
        self._interrupter = ThreadInterrupter()
        self._finished: deque[Finished] = deque()
        self._running = 0
        self._concurrency = concurrency
        self._messages: SimpleQueue[Message | None] = SimpleQueue()
        # a thread that is left behind by one start must not serve the next: what it works with is its own
        parts = (setting, self._interrupter, self._messages, self._finished)
        self._threads = [
            threading.Thread(target=_work, args=parts, name=f"kq-job-{number}", daemon=True)
            for number in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def room(self) -> int:
        return self._concurrency - self._running

    def start(self, message: Message) -> None:
        self._running += 1
        self._messages.put(message)

    def finished(self) -> list[Finished]:
        ended = [self._finished.popleft() for _ in range(len(self._finished))]
        self._running -= len(ended)
        return ended

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
        for _ in self._threads:
            self._messages.put(None)
        deadline = time.monotonic() + _GRACE
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < deadline:
            if self._running > len(self._finished):
                self._interrupter.interrupt_all()
            for thread in self._threads:
                thread.join(max(0.0, min(0.1, deadline - time.monotonic())))
        self._interrupter.close()


def _work(
    setting: Setting, interrupter: Interrupter, messages: SimpleQueue[Message | None], finished: deque[Finished]
) -> None:
    while (message := messages.get()) is not None:
        finished.append(run_message(message, setting, interrupter))
        setting.wake()
    coroutine.close()
