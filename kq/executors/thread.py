"""The thread executor: many jobs at once, each in a thread of this process.

1. ``open`` makes the threads. Each calls ``on_start`` until that succeeds, then waits for messages on one queue.
2. A thread runs a message to its end, puts what became of it on the list of the finished, and wakes the worker.
3. A thread survives whatever is raised in it. What it was running then has failed; what it had not begun is run.
4. ``close`` interrupts what runs, and ``release`` waits for the threads. One whose job cannot be interrupted is left
   behind; it does not keep the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from kq.errors import WorkerError
from kq.executors import coroutine
from kq.executors.base import Executor, Finished, Setting, check_hooks, failed, run_message
from kq.executors.calling import Around, Caller
from kq.executors.interrupt import REPEAT, ThreadInterrupter
from kq.executors.lines import log_own
from kq.executors.running import Run
from kq.message import Message

__all__ = ["ThreadExecutor"]

#: Seconds that ``close`` waits for interrupted jobs to end: one interrupt and its repetition.
_GRACE = 2 * REPEAT
#: Seconds between looks at whether they have.
_LOOK_EVERY = 0.1
#: Calls of ``on_start`` in a row that may fail in a thread before the worker gives up, if no other thread works.
_MAX_FAILED_STARTS = 3
#: Seconds until ``on_start`` is tried again: what it wants, a connection for instance, is not there sooner.
_RESTART_WAIT = 0.5


class ThreadExecutor(Executor):
    """Runs jobs in threads of this process: for jobs that wait rather than compute.

    A timeout interrupts a job only when it comes back to Python code.

    :param on_start: Called without arguments in each thread before its first job, to open connections for instance.
    :param around: Called without arguments for each job; the job runs inside the context manager that it returns.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(self, on_start: Callable[[], Any] | None = None, around: Around | None = None) -> None:
        check_hooks(on_start, around)
        self._on_start = on_start
        self._around = around

    def __repr__(self) -> str:
        return "ThreadExecutor()"

    def open(self, setting: Setting, concurrency: int) -> None:
        self._running = 0
        self._setting = setting
        self._crew = _Crew(setting, self._on_start, Caller(self._around))
        self._threads = [
            threading.Thread(target=self._crew.work, name=f"kq-job-{number}", daemon=True)
            for number in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def room(self) -> int:
        return len(self._crew.ready) - self._running

    def start(self, message: Message) -> None:
        self._running += 1
        self._crew.messages.append(message)
        self._crew.tokens.put(None)

    def finished(self) -> list[Finished]:
        crew = self._crew
        if crew.unready and not crew.ready and not crew.closing.is_set():
            raise WorkerError("threads of the thread executor fail to start; the log says why") from crew.unready[0]
        ended = [crew.finished.popleft() for _ in range(len(crew.finished))]
        self._running -= len(ended)
        return ended

    def running(self) -> list[Run]:
        if self._setting.runs is not None:
            return list(self._setting.runs.values())
        return [Run(message, since) for message, since in self._crew.interrupter.running()]

    def terminate(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._crew.interrupter.end(message)

    def kill(self) -> None:
        self._crew.interrupter.interrupt_all()

    def close(self) -> None:
        crew = self._crew
        crew.closing.set()
        for _ in self._threads:
            crew.tokens.put(None)
        deadline = time.monotonic() + _GRACE
        while self._running > len(crew.finished) and time.monotonic() < deadline:
            crew.interrupter.interrupt_all()
            time.sleep(_LOOK_EVERY)
        crew.interrupter.close()

    def release(self) -> None:
        deadline = time.monotonic() + _GRACE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class _Crew:
    """What the threads of one start work with. One that was left behind by a start must not serve the next."""

    def __init__(self, setting: Setting, on_start: Callable[[], Any] | None, caller: Caller) -> None:
        self._setting = setting
        self._on_start = on_start
        self._caller = caller
        self.interrupter = ThreadInterrupter()
        self.messages: deque[Message] = deque()
        #: One for each message, and at the end one for each thread.
        self.tokens: SimpleQueue[None] = SimpleQueue()
        self.finished: deque[Finished] = deque()
        #: Threads that can run jobs, and errors of threads that have tried to become ready often enough.
        self.ready: deque[int] = deque()
        self.unready: deque[BaseException] = deque()
        self.closing = threading.Event()

    def work(self) -> None:
        """Run messages until the end. This is what a thread runs."""
        is_over = not self._get_ready()
        while not is_over:
            try:
                is_over = not self._run_next()
            except BaseException as error:  # what a job left behind raised it here, too late  # noqa: BLE001
                log_own("An exception was raised in a thread outside its job; the thread goes on:", exc_info=error)
        coroutine.close()

    def _get_ready(self) -> bool:
        failures = 0
        while not self.closing.wait(_RESTART_WAIT if failures else 0):
            try:
                if self._on_start is not None:
                    with self._caller:
                        self._on_start()
                self.ready.append(threading.get_ident())
                return True
            except BaseException as error:  # the door of the user's hook: it is called again  # noqa: BLE001
                log_own("on_start raised an exception in a thread:", exc_info=error)
                failures += 1
                if failures == _MAX_FAILED_STARTS:
                    self.unready.append(error)
            finally:
                self._setting.wake()
        return False

    def _run_next(self) -> bool:
        """Run the next message; return False at the end."""
        message, finished = None, None
        try:
            self.tokens.get()
            if self.messages:
                message = self.messages.popleft()
                finished = run_message(message, self._setting, self.interrupter, self._caller)
            return message is not None or not self.closing.is_set()
        except BaseException as error:
            if message is None:
                self.tokens.put(None)  # the message is still there
            else:
                finished = finished or failed(message, error, self._setting)
            raise
        finally:
            if finished is not None:
                self.finished.append(finished)
                self._setting.wake()
