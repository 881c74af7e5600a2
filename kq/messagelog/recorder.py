"""The recorder: a thread that writes what queues and workers have to say, and slows none of them down.

1. A queue or a worker has a ``Feed``. ``put`` takes what there is to say as it is, and returns at once. There is a
   bound: what comes while it is reached is dropped, and counted.
2. Several times a second the thread has each feed turn that into rows, merges those of one job, and writes them.
3. Where the database refuses, the rows stay, are merged with what comes, and are tried again after a pause. There is a
   bound to that, too. A job of which something was dropped is mended by its next status.
4. What is dropped, and why, is logged once a minute.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from kq.errors import StoreError
from kq.messagelog.rows import FIELDS, Row, merged, size_of

__all__ = ["Feed", "Recorder"]

_logger = logging.getLogger("kq.message_log")

#: Seconds between two writes. What was not written when a worker is killed is this old at most, beyond what its feed
#: holds back.
WRITE_EVERY = 0.25
#: Rows that a feed keeps until the thread takes them, and that are kept while the database is away: half a kB each, and
#: beyond that so many characters of tracebacks and the like.
MOST, MOST_TEXT = 50_000, 16 * 1024 * 1024
#: Seconds until a write that failed is tried again, at first and at most; each failure doubles it.
RETRY_WAIT = (0.25, 5.0)
#: Seconds between two lines in the log about a database that refuses, and between two signs of life of a worker.
COMPLAIN_EVERY, BEAT_EVERY = 60.0, 2.0
#: Seconds between two looks for what is too old.
TIDY_EVERY = 60.0
#: Seconds that writing the rest may take at interpreter exit.
EXIT_PATIENCE = 2.0
#: Rows after which the thread lets others have Python's lock, and for how many seconds. It would keep it for longer
#: than children have work.
_SLICE, _BREATH = 64, 0.0002
#: Columns of a row without long texts.
_PLAIN = len(FIELDS)

#: Turns what was put into rows, some at a time. Called with nothing several times a second, too.
RowsOf = Callable[[Sequence[Any]], Iterable[Sequence[Row]]]


class _Writer(Protocol):
    def write(self, rows: Sequence[Row], seen: Mapping[str, bool]) -> int: ...

    def tidy(self) -> bool: ...

    def forget(self) -> None: ...


class Feed:
    """What one queue or worker has to say, until the thread of the recorder takes it. ``Recorder.feed`` makes it.

    It does without a lock: one thread takes, and what threads that put at once may miscount is of batches of one.

    :param worker: The name of the worker, if it is one.
    """

    def __init__(self, begin: Callable[[], None], rows_of: RowsOf, worker: str | None) -> None:
        self._begin = begin
        self._rows_of = rows_of
        self.worker = worker
        self.dropped = 0
        self.is_closed = False
        self.reset()

    def reset(self) -> None:
        """Begin anew: what was put is another process's."""
        self._batches: deque[tuple[int, int, Any]] = deque()
        #: Rows and characters that were put, and that were taken.
        self._put = self._put_text = self._taken = self._taken_text = 0
        self._has_begun = False

    def put(self, batch: Any, count: int = 1, size: int = 0) -> None:
        """Take what there is to say of so many messages, with so many characters of long texts, or drop it."""
        is_full = self._put - self._taken >= MOST or self._put_text - self._taken_text >= MOST_TEXT
        if is_full or len(self._batches) >= MOST or self.is_closed:
            self.dropped += count
            return
        self._put += count
        self._put_text += size
        self._batches.append((count, size, batch))
        if not self._has_begun:
            self._has_begun = True
            self._begin()

    def take(self) -> Iterable[Sequence[Row]]:
        """Return the rows of what was put, some at a time. From the thread of the recorder."""
        batches = [self._batches.popleft() for _ in range(len(self._batches))]
        self._taken += sum(count for count, _, _ in batches)
        self._taken_text += sum(size for _, size, _ in batches)
        if not self._batches:  # threads that put at once may have miscounted
            self._put = self._taken
        return self._rows_of([batch for _, _, batch in batches])


class Recorder:
    """Writes for one store. Its thread begins when there is something to write.

    :param writer: Used by that thread alone.
    """

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer
        #: What was dropped by feeds that are no more, and by the thread.
        self._dropped = 0
        self._feeds: list[Feed] = []
        self._reset()
        _recorders.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._end_by: float | None = None
        #: How often a flush was asked for, and how many of those are answered: all that was put before is written.
        self._asked = self._answered = 0
        self._is_answered = threading.Condition()
        #: What is to be written, by the ID of its job, and the characters of its long texts.
        self._rows: dict[str, Row] = {}
        self._text = 0
        #: Workers that have ended, until that is written.
        self._gone: set[str] = set()
        self._try_at = self._beat_at = self._tidy_at = self._complain_at = 0.0
        self._wait, self._failed_since, self._told = RETRY_WAIT[0], 0.0, 0

    @property
    def dropped(self) -> int:
        """Of how many statuses the database has not heard, and never will."""
        return self._dropped + sum(feed.dropped for feed in list(self._feeds))

    def feed(self, rows_of: RowsOf, worker: str | None = None) -> Feed:
        """Return a feed of which the thread takes from now on."""
        made = Feed(self.begin, rows_of, worker)
        self._feeds.append(made)
        if worker is not None:  # it is known to live before it runs anything
            self._beat_at = 0.0
            self.begin()
        return made

    def remove(self, feed: Feed, timeout: float) -> bool:
        """Take what a feed still has, and no more; return whether that is written within so many seconds."""
        feed.is_closed = True
        return self.flush(timeout)

    def begin(self) -> None:
        """Have the thread run."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and self._end_by is None:
                self._thread = threading.Thread(target=self._run, name="kq-message-log", daemon=True)
                self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Return whether all that was put is written, as soon as it is, or after so many seconds."""
        if self._thread is None:
            return True
        with self._is_answered:
            self._asked += 1
            asked = self._asked
            self._wake.set()
            return self._is_answered.wait_for(lambda: self._answered >= asked, max(0.0, timeout))

    def close(self, timeout: float) -> None:
        """End the thread, which writes the rest within so many seconds. What it cannot write is dropped."""
        with self._lock:
            self._end_by = time.monotonic() + timeout
            thread = self._thread
        for feed in self._feeds:
            feed.is_closed = True
        self._wake.set()
        if thread is not None:
            thread.join(timeout + 1.0)

    def start_anew(self) -> None:
        """Be another process's: in a child of a fork the thread is not there, nor are the connections ours."""
        was_running = self._thread is not None
        self._reset()
        for feed in self._feeds:
            feed.reset()
        if was_running:
            self._writer.forget()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(WRITE_EVERY)
            self._wake.clear()
            asked = self._asked
            try:
                is_all = self._work(time.monotonic())
            except Exception:  # the door of the thread: it must not end in silence, nor try the same for ever
                _logger.exception("The message log drops %d entries", len(self._rows))
                self._drop_rows()
                is_all = False
            if is_all:
                with self._is_answered:
                    self._answered = asked
                    self._is_answered.notify_all()
            if self._end_by is not None and (is_all or time.monotonic() >= self._end_by):
                self._drop_rows()
                return

    def _work(self, now: float) -> bool:
        """Take what there is and write what can be written; return whether nothing is left."""
        self._gather()
        if now < self._try_at:
            return False
        seen = {feed.worker: False for feed in list(self._feeds) if feed.worker is not None}
        seen = {} if now < self._beat_at and not self._gone else {**seen, **dict.fromkeys(self._gone, True)}
        if self._rows or seen:
            try:
                self._dropped += self._writer.write(list(self._rows.values()), seen)
            except StoreError as error:
                self._note_failure(error, time.monotonic())
                return False
            self._note_success(time.monotonic())
        if now >= self._tidy_at:
            try:
                self._tidy_at = now + (0.0 if self._writer.tidy() else TIDY_EVERY)
            except StoreError as error:
                self._note_failure(error, now)
        return True

    def _gather(self) -> None:
        count = 0
        for feed in list(self._feeds):
            is_closed = feed.is_closed
            for rows in feed.take():
                self._keep_all(rows)
                count += len(rows)
                if count >= _SLICE:
                    time.sleep(_BREATH)
                    count = 0
            if is_closed:
                self._feeds.remove(feed)
                self._dropped += feed.dropped
                if feed.worker is not None:
                    self._gone.add(feed.worker)

    def _keep_all(self, rows: Sequence[Row]) -> None:
        """Keep rows until they are written."""
        fresh = {row[0]: row for row in rows}
        is_plain = len(fresh) == len(rows) and all(len(row) == _PLAIN for row in rows)
        if is_plain and len(self._rows) + len(rows) <= MOST and self._rows.keys().isdisjoint(fresh):
            self._rows.update(fresh)  # nearly always, and several times as fast as one by one
            return
        for row in rows:
            self._keep(row)

    def _keep(self, row: Row) -> None:
        """Keep a row until it is written, and merge it with what is there of its job."""
        rows = self._rows
        before = rows.get(row[0])
        if before is not None:
            row = merged(before, row)
        elif len(rows) >= MOST:
            self._dropped += 1
            return
        if len(row) > _PLAIN:
            self._text += size_of(row)
            if self._text > MOST_TEXT:  # the status is worth more than the traceback
                row = row[:_PLAIN]
        rows[row[0]] = row

    def _drop_rows(self) -> None:
        self._dropped += len(self._rows)
        self._rows, self._text = {}, 0

    def _note_success(self, now: float) -> None:
        self._rows, self._text, self._gone = {}, 0, set()
        self._beat_at, self._wait = now + BEAT_EVERY, RETRY_WAIT[0]
        if self._failed_since:
            line = "The message log takes entries again, after %.0f s; statuses dropped so far: %d"
            _logger.warning(line, now - self._failed_since, self.dropped)
            self._failed_since, self._complain_at, self._told = 0.0, 0.0, self.dropped
        elif self.dropped > self._told and now >= self._complain_at:
            self._complain_at, self._told = now + COMPLAIN_EVERY, self.dropped
            _logger.error("The message log cannot keep up; statuses dropped so far: %d", self.dropped)

    def _note_failure(self, error: StoreError, now: float) -> None:
        self._try_at = now + self._wait
        self._wait = min(self._wait * 2, RETRY_WAIT[1])
        self._failed_since = self._failed_since or now
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY
            line = "%s; jobs go on, and it is tried again; statuses dropped so far: %d"
            _logger.error(line, error, self.dropped)


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _close_all() -> None:
    deadline = time.monotonic() + EXIT_PATIENCE
    for recorder in list(_recorders):
        recorder.close(max(0.0, deadline - time.monotonic()))


def _start_all_anew() -> None:
    for recorder in list(_recorders):
        recorder.start_anew()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_anew)
