"""What one task logs: kept apart from what other threads log at the same time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["ListHandler", "LoggingTask"]

#: Lines that are kept of one task, the latest ones: a task that logs in a loop must not fill the memory.
MOST_LINES = 10_000


class ListHandler(logging.Handler):
    """Keeps the lines that one thread logs.

    :param thread_name: The name of the thread.
    :param level: What is less important is not kept.
    """

    def __init__(self, thread_name: str, level: int) -> None:
        super().__init__(level)
        self.thread_name = thread_name
        #: The lines, oldest first.
        self.output: deque[str] = deque(maxlen=MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, if it comes from the thread."""
        if record.threadName == self.thread_name:
            try:
                self.output.append(self.format(record))
            except Exception:  # noqa: BLE001 - the door of the user's log call: logging's own way to say so
                self.handleError(record)


class LoggingTask:
    """A function, its arguments, and what it logs while it runs.

    :param task: The function.
    :param logger: Whose lines are kept; those of loggers below it are among them.
    :param thread_name: The name of the thread that is to run it.
    """

    def __init__(
        self, task: Callable[..., Any], logger: logging.Logger, thread_name: str, *args: Any, **kwargs: Any
    ) -> None:
        self.task = task
        self.logger = logger
        self.args = args
        self.kwargs = kwargs
        self.handler = ListHandler(thread_name, logger.getEffectiveLevel())

    def run(self) -> Any:
        """Call the function, and return what it returns."""
        self.logger.addHandler(self.handler)
        try:
            return self.task(*self.args, **self.kwargs)
        finally:
            self.logger.removeHandler(self.handler)

    def get_logs(self) -> str:
        """Return what was logged, one line below the other."""
        return "\n".join(self.handler.output)
