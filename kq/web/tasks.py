"""Tasks: what somebody has asked for, done in a thread, and what became of it in words.

1. ``begin`` has it done. Who asked waits a moment: most of it is over by then.
2. What takes longer tells how far it is. The last ones are kept, by a name that nobody can guess.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from kafka.errors import KafkaError

from kq.errors import KQError
from kq.producing import describe

__all__ = ["Task", "Tasks"]

_logger = logging.getLogger("kq.web")

#: Tasks that are kept, and that are at work at once.
_MOST, _AT_ONCE = 200, 4
#: Seconds that who asked waits for the end.
_PATIENCE = 3.0


class Task:
    """Something that was asked for.

    :ivar words: What becomes of it, in words.
    :ivar state: ``"running"``, ``"done"`` or ``"failed"``.
    """

    def __init__(self, title: str) -> None:
        self.id = secrets.token_urlsafe(12)
        self.title = title
        self.words = f"{title} …"
        self.state = "running"

    def progress(self, done: int, total: int) -> None:
        """Note how far it is."""
        self.words = f"{self.title}: {done:,} of {total:,} …"

    def run(self, work: Callable[[Task], str]) -> None:
        """Do it, and note what became of it."""
        try:
            self.words = work(self)
            self.state = "done"
        except (KQError, KafkaError) as error:
            self.words, self.state = f"{self.title}: {describe(error)}", "failed"
        except Exception as error:  # the door of the thread: the page says it, the log has all
            _logger.exception("%s failed", self.title)
            self.words, self.state = f"{self.title}: {type(error).__name__}; the log says more", "failed"


class Tasks:
    """The last tasks, by name. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="kq-web-task")

    def begin(self, title: str, work: Callable[[Task], str]) -> Task:
        """Have something done, and return when it is, or after a moment.

        :param work: Returns in words what it has done.
        """
        task = Task(title)
        with self._lock:
            self._tasks[task.id] = task
            while len(self._tasks) > _MOST:
                self._tasks.popitem(last=False)
        done: Future[None] = self._pool.submit(task.run, work)
        wait([done], _PATIENCE)
        return task

    def get(self, name: str) -> Task | None:
        """Return a task; None where there is none of this name."""
        return self._tasks.get(name)

    def close(self) -> None:
        """Take no more; what has not begun never does."""
        self._pool.shutdown(wait=False, cancel_futures=True)
