"""The agent: how a worker takes part in control.

1. ``open`` asks for the topic ``T.control``. While there is none there is no thread and no client: now and then the
   worker's own consumer asks again.
2. Where it is there, the agent reads it. Until all of it is known no job starts: it may have been cancelled.
3. What is wished from then on is known at once.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

from kq.clients import topics
from kq.controlling import CONTROL, SUFFIX, Board, Cancels
from kq.message import HEADER_ID, Message
from kq.working.companions import Context, Refusal, ThreadedCompanion, prepare_soon

__all__ = ["Agent"]

_logger = logging.getLogger("kq.control")

#: Seconds between two questions whether the topic has come into being, and between two tries to make it.
_ASK_EVERY, _MAKE_EVERY = 4.0, 30.0
#: Seconds between looks whether to stop, until all is read.
_LOOK_EVERY = 0.2
#: Seconds that the first job waits for the answer whether there is a topic, and until that is read. A worker that may
#: not read it should not stand still for ever.
_ANSWER_PATIENCE, _READ_PATIENCE = 5.0, 30.0
#: Seconds between looks at which cancels may be forgotten.
_SWEEP_EVERY = 60.0


class Agent(ThreadedCompanion):
    """Carries out what is wished of one worker.

    :param cancels: Where cancelled jobs are noted, for others of this worker too.
    :param makes_topic: Whether the topic is made where it is not there.
    """

    def __init__(self, cancels: Cancels, *, makes_topic: bool) -> None:
        super().__init__()
        self._cancels = cancels
        self._makes_topic = makes_topic
        self._board: Board | None = None
        #: Whether there is a topic; None while that is not known. Set on the client's thread.
        self._is_there: bool | None = None
        #: Whether all that was there at the start is known, or is not waited for.
        self._is_ready = False

    def open(self, context: Context) -> None:
        self.context = context
        self._topic = f"{context.topic}.{SUFFIX}"
        self._ready_by = time.monotonic() + _ANSWER_PATIENCE
        self._ask_at, self._make_at = time.monotonic() + _ASK_EVERY, 0.0
        context.ask_for(self._topic, partial(self._hear, is_first=True))

    def prepare(self, topic: str) -> None:
        hosts, config, of = self.context.hosts, self.context.config, self.context.topic
        topics.companion_at(hosts, config, of, SUFFIX, CONTROL, partitions=1)

    def look(self, now: float) -> None:
        if not self.has_begun and now >= self._ask_at:
            self._ask_at = now + _ASK_EVERY
            self.context.ask_for(self._topic, self._hear)

    def holds(self) -> bool:
        if not self._is_ready and time.monotonic() >= self._ready_by:
            self._is_ready = True
            if self._is_there:
                line = "Topic %s could not be read within %g s: jobs start, also those that may have been cancelled"
                _logger.warning(line, self._topic, _READ_PATIENCE)
        return not self._is_ready

    def refusal(self) -> Refusal | None:
        return self._is_cancelled if self._cancels.ids else None

    @property
    def refusals(self) -> int:
        return self._cancels.count

    def run(self, stopping: threading.Event) -> None:
        context = self.context
        board = self._board = Board(
            context.topic, context.hosts, context.config, cancels=self._cancels, on_change=context.steering.wake
        )
        board.start()
        try:
            while not (board.wait_loaded(_LOOK_EVERY) or stopping.is_set()):
                pass
            self._is_ready = True
            context.steering.wake()
            while not stopping.wait(_SWEEP_EVERY):
                self._cancels.over(int(time.time() * 1000))
        finally:
            board.close()

    def _hear(self, is_there: bool, *, is_first: bool = False) -> None:
        """Note whether there is a topic, on the client's thread."""
        self._is_there = is_there
        if is_there and not self.has_begun:
            if is_first:
                self._ready_by = time.monotonic() + _READ_PATIENCE
            self.begin()
        elif not is_there:
            if is_first:
                self._is_ready = True
                self.context.steering.wake()
            if self._makes_topic and time.monotonic() >= self._make_at:
                self._make_at = time.monotonic() + _MAKE_EVERY
                prepare_soon(self, self._topic, "Wishes", partial(self._hear, True))

    def _is_cancelled(self, message: Message) -> bool:
        for name, text in message.headers:
            if name == HEADER_ID:
                return text in self._cancels.ids
        return False
