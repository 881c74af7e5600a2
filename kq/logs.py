"""Logs of a job: the lines that it logs itself, kept apart from those of all others.

``ListHandler`` and ``LoggingTask`` are for anybody. A worker that captures logs uses the same handler, one for each
run; a ``Router`` gives each record to the handler of the run that it comes from, so that the number of runs at a time
costs nothing.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

__all__ = ["Capture", "ListHandler", "LoggingTask", "Router", "capturing"]

#: What a line looks like.
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Records that a handler keeps: who logs in a loop must not fill the memory.
_MOST_RECORDS = 10_000
#: Characters of a line; what is longer is cut.
_LONGEST_LINE = 4000
#: Seconds between looks for loggers that keep their records to themselves.
_LOOK_EVERY = 1.0


class ListHandler(logging.Handler):
    """A handler that keeps the records of one thread in a list: the latest 10,000.

    :param thread_name: Name of the thread; records of others are passed over.
    :param level: The lowest level that is kept.
    :ivar records: The records, in order.
    """

    def __init__(self, thread_name: str, level: int) -> None:
        super().__init__(level)
        self.thread_name = thread_name
        self.records: deque[logging.LogRecord] = deque(maxlen=_MOST_RECORDS)
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record if it comes from the thread."""
        if record.threadName == self.thread_name:
            self.records.append(record)

    @property
    def lines(self) -> list[str]:
        """The records as text, one each."""
        return [self.format(record) for record in list(self.records)]


class LoggingTask:
    """A callable, and the records that it logs in a thread while it runs.

    :param task: What is called.
    :param logger: The logger that is listened to, with those below it.
    :param thread_name: Name of the thread whose records count: the one that calls ``run``.
    :param args: Its arguments.
    :param kwargs: Its keyword arguments.
    :ivar handler: The :class:`ListHandler` with its records.
    """

    def __init__(
        self, task: Callable[..., Any], logger: logging.Logger, thread_name: str, *args: Any, **kwargs: Any
    ) -> None:
        self.task = task
        self.logger = logger
        self.thread_name = thread_name
        self.args = args
        self.kwargs = kwargs
        self.handler = ListHandler(thread_name, logger.getEffectiveLevel())

    def run(self) -> Any:
        """Call it with the handler attached, and return what it returns."""
        self.logger.addHandler(self.handler)
        try:
            return self.task(*self.args, **self.kwargs)
        finally:
            self.logger.removeHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        """What it has logged, as text."""
        return self.handler.lines

    def get_logs(self) -> str:
        """Return what it has logged, one line below the other."""
        return "\n".join(self.lines)


class Capture(ListHandler):
    """Keeps the last lines of one run, as text: a record may hold on to anything.

    :param most: How many lines.
    """

    def __init__(self, most: int) -> None:
        super().__init__("", logging.NOTSET)
        self._lines: deque[str] = deque(maxlen=most)
        #: Lines that nobody has taken yet.
        self._news: deque[str] = deque(maxlen=most)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record: the router knows whose it is."""
        self.add(self.format(record))

    def add(self, line: str) -> None:
        """Keep a line."""
        line = line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 4]} ..."
        self._lines.append(line)
        self._news.append(line)

    @property
    def lines(self) -> list[str]:
        """The last lines, in order."""
        return list(self._lines)

    def take(self) -> list[str]:
        """Return the lines that came since this was called last, as many as are kept. From any thread."""
        news = self._news
        return [news.popleft() for _ in range(len(news))]


#: Where the run of this context logs to.
capturing: ContextVar[Capture | None] = ContextVar("kq_capture", default=None)


class _ByRun(logging.Handler):
    """Gives each record to the capture of the run that it comes from: its context's, or its thread's maker's."""

    def emit(self, record: logging.LogRecord) -> None:
        capture = capturing.get() or getattr(threading.current_thread(), _OF_THREAD, None)
        if capture is not None:
            capture.handle(record)


class Router:
    """Attaches a handler to the root logger, and to all loggers that hand nothing on to that.

    :param handler: Gets each record; if left out, it goes to the capture of the run that it comes from.
    :param with_root: Whether also what comes to the root logger is wanted.
    """

    def __init__(self, handler: logging.Handler | None = None, *, with_root: bool = True) -> None:
        self._handler = handler or _ByRun()
        self._with_root = with_root
        self._loggers: list[logging.Logger] = []
        self._look_at = 0.0

    def attach(self) -> None:
        """Listen to all loggers that there are by now. Cheap: called before each run."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY
        _watch_threads()
        known = logging.root.manager.loggerDict.copy().values()
        silent = [one for one in known if isinstance(one, logging.Logger) and not one.propagate]
        for logger in [*([logging.root] if self._with_root else []), *silent]:
            if self._handler not in logger.handlers:
                logger.addHandler(self._handler)
                self._loggers.append(logger)

    def detach(self) -> None:
        """Listen to nothing more."""
        for logger in self._loggers:
            logger.removeHandler(self._handler)
        self._loggers, self._look_at = [], 0.0


#: An attribute of threads: the capture of the run that started them.
_OF_THREAD = "_kq_capture"
_watched = threading.Event()


def _watch_threads() -> None:
    """Have threads that a job starts log for the job: they do not inherit its context."""
    if _watched.is_set():
        return
    _watched.set()
    if sys.version_info >= (3, 12):
        sys.addaudithook(_hear_of_thread)
    else:  # which tell nobody of a thread
        start = threading.Thread.start

        @functools.wraps(start)
        def note_and_start(self: threading.Thread) -> None:
            _note_thread(self)
            start(self)

        threading.Thread.start = note_and_start  # type: ignore[method-assign]


def _hear_of_thread(event: str, args: tuple[Any, ...]) -> None:
    if event.startswith("_thread.start") and args:
        _note_thread(getattr(args[0], "__self__", None))


def _note_thread(thread: Any) -> None:
    capture = capturing.get()
    if capture is not None and isinstance(thread, threading.Thread):
        setattr(thread, _OF_THREAD, capture)
