"""The agent: how a worker takes part in control.

1. ``open`` asks for the topic ``T.control``. While there is none there is no thread and no client: now and then the
   worker's own consumer asks again.
2. Where it is there, the agent reads it. Until all of it is known no job starts: it may have been cancelled.
3. What is wished from then on is known at once. Every other second the agent reports what its worker does.
4. One agent, the first by its name, removes what others have left: reports of workers that are gone, and wishes that
   are over.
5. At the end a tombstone takes the report away.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from kq.clients import denied, settings_for, topics
from kq.context import Place, note_cancelled
from kq.controlling import (
    CONTROL,
    REPORT_EVERY,
    SUFFIX,
    Board,
    Cancels,
    RunningJob,
    Seal,
    Wish,
    key_of,
    report_of,
)
from kq.errors import KQError
from kq.executors import Run
from kq.message import HEADER_ID, Message, attempt_of, name_of
from kq.producing import Delivery
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
#: Seconds between looks at what may be removed, and without a report until that of another worker is.
_SWEEP_EVERY, _LEFT_AFTER = 30.0, 60.0
#: Settings of the producer: a report that cannot be had soon is not worth a wait.
_WRITING = {"allow_auto_create_topics": False, "max_block_ms": 1_000, "linger_ms": 0, "delivery_timeout_ms": 10_000,
            "request_timeout_ms": 5_000}  # fmt: skip
#: What the package says that it is; this module is beneath it.
_VERSION = str(getattr(sys.modules["kq"], "__version__", ""))
#: Seconds for the last words.
_LAST_PATIENCE = 1.0


class Agent(ThreadedCompanion):
    """Carries out what is wished of one worker, and reports what it does.

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
        self._is_paused = False
        #: Where the runs are that know that they are cancelled.
        self._told: set[Place] = set()
        #: How many cancels there were when the loop was told last.
        self._seen = 0
        #: Set where a report is to go out before its time.
        self._news = threading.Event()
        self._pong: str | None = None
        #: Whether it was said that reports are not taken.
        self._has_told = False

    def open(self, context: Context) -> None:
        self.context = context
        self._topic = f"{context.topic}.{SUFFIX}"
        self._seal = Seal(context.topic, context.signer)
        host = socket.gethostname()
        self.id = f"{host}-{os.getpid()}-{os.urandom(2).hex()}"
        self._about = {
            "host": host,
            "pid": os.getpid(),
            "group": context.group,
            "version": _VERSION,
            "executor": context.steering.executor,
            "concurrency": context.steering.concurrency,
            "since": round(time.time(), 3),
        }
        now = time.monotonic()
        self._ready_by, self._ask_at, self._make_at = now + _ANSWER_PATIENCE, now + _ASK_EVERY, 0.0
        context.ask_for(self._topic, partial(self._hear, is_first=True))

    def prepare(self, topic: str) -> None:
        hosts, config, of = self.context.hosts, self.context.config, self.context.topic
        topics.companion_at(hosts, config, of, SUFFIX, CONTROL, partitions=1)

    def look(self, now: float) -> None:
        if not self.has_begun and now >= self._ask_at:
            self._ask_at = now + _ASK_EVERY
            self.context.ask_for(self._topic, self._hear)
        if self._cancels.ids or self._told:
            self._cancel_runs()

    def _cancel_runs(self) -> None:
        """Let what runs know that it is cancelled, and end what is to end: again and again, until it has ended."""
        steering = self.context.steering
        told = [run.message for run in steering.running() if self._is_cancelled(run.message)]
        if told or self._told:
            places = {message[:3] for message in told}
            note_cancelled(places, self._told - places)
            self._told = places
            terminated = self._cancels.terminated
            steering.cancel(told, [message for message in told if _id_of(message) in terminated])

    def holds(self) -> bool:
        if not self._is_ready and time.monotonic() >= self._ready_by:
            self._is_ready = True
            if self._is_there:
                line = "Topic %s could not be read within %g s: jobs start, also those that may have been cancelled"
                _logger.warning(line, self._topic, _READ_PATIENCE)
        return self._is_paused or not self._is_ready

    def refusal(self) -> Refusal | None:
        return self._is_cancelled if self._cancels.ids else None

    @property
    def refusals(self) -> int:
        return self._cancels.count

    def rouse(self) -> None:
        self._news.set()

    def _is_cancelled(self, message: Message) -> bool:
        return _id_of(message) in self._cancels.ids

    # -- on the client's thread, and the reader's ----------------------------------------------------------------------

    def _hear(self, is_there: bool, *, is_first: bool = False) -> None:
        """Note whether there is a topic."""
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

    def _note(self) -> None:
        """Take note of what is on the board."""
        board, context = self._board, self.context
        if board is None or not (self._is_ready or board.wait_loaded(0)):
            return
        is_paused = board.is_paused(context.group)
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            line = "Topic %s is paused for group %s: no job starts until it is resumed" if is_paused else (
                "Topic %s is resumed for group %s"
            )  # fmt: skip
            _logger.info(line, context.topic, context.group)
            self._news.set()
            context.steering.wake()
        if self.id in board.stops and not self.is_stopping:
            _logger.info("Worker %s is asked to stop", self.id)
            board.stops.discard(self.id)
            context.steering.stop()
            self._news.set()
        if board.ping != self._pong:
            self._pong = board.ping
            self._news.set()
        if self._cancels.count != self._seen:
            self._seen = self._cancels.count
            context.steering.wake()

    # -- the agent's thread --------------------------------------------------------------------------------------------

    def run(self, stopping: threading.Event) -> None:
        context = self.context
        board = self._board = Board(
            context.topic, context.hosts, context.config, cancels=self._cancels, seal=self._seal, on_change=self._note
        )
        writing = {**settings_for(KafkaProducer.DEFAULT_CONFIG, context.config), **_WRITING}
        delivery = Delivery(f"the agent of {self._topic}", context.topic, None, context.hosts, writing)
        board.start()
        try:
            while not (board.wait_loaded(_LOOK_EVERY) or stopping.is_set()):
                pass
            self._note()
            self._is_ready = True
            context.steering.wake()
            sweep_at = time.monotonic() + _SWEEP_EVERY
            while not stopping.is_set():
                self._news.clear()
                self._write(delivery, key_of(Wish.WORKER, self.id), self._report())
                if time.monotonic() >= sweep_at:
                    sweep_at = time.monotonic() + _SWEEP_EVERY
                    self._sweep(delivery, board)
                self._news.wait(REPORT_EVERY)
            for kind in (Wish.WORKER, Wish.STOP):
                self._write(delivery, key_of(kind, self.id), None)
        finally:
            board.close()
            delivery.close(_LAST_PATIENCE)

    def _report(self) -> bytes:
        steering = self.context.steering
        stats = steering.stats()
        state = stats.state.value
        if state == "running" and self._is_paused:
            state = "paused"
        return report_of(self._about, state, stats._asdict(), map(_running, steering.running()), self._pong)

    def _write(self, delivery: Delivery, key: bytes, value: bytes | None) -> None:
        """Write a report or a tombstone; one that is not taken costs nothing: the next is soon due."""
        try:
            sent = self._seal.write(delivery.producer, key, value)
        except (KafkaError, KQError) as error:
            self._note_refusal(error)
        else:
            sent.add_errback(self._note_refusal)

    def _note_refusal(self, error: BaseException) -> None:
        """Say once that this worker is not seen for want of a right."""
        reason = denied(error)
        level = logging.DEBUG if reason is None or self._has_told else logging.WARNING
        self._has_told = self._has_told or reason is not None
        _logger.log(level, "Topic %s did not take a report: %s", self._topic, reason or error)

    def _sweep(self, delivery: Delivery, board: Board) -> None:
        """Remove what is left behind; one of all agents does."""
        over = self._cancels.over(int(time.time() * 1000))
        if min(board.present(), default=self.id) == self.id:
            for key in [*(key_of(Wish.CANCEL) + job_id for job_id in over), *_left(board)]:
                self._write(delivery, key, None)


def _left(board: Board) -> Iterator[bytes]:
    """Yield the keys of what workers that are gone have left."""
    there = board.present(_LEFT_AFTER)
    yield from (key_of(Wish.WORKER, name) for name in list(board.reports) if name not in there)
    yield from (key_of(Wish.STOP, name) for name in list(board.stops) if name not in there)


def _id_of(message: Message) -> bytes:
    for name, text in message.headers:
        if name == HEADER_ID:
            return text
    return b""


def _running(run: Run) -> RunningJob:
    job_id: Any = next((text for name, text in run.message.headers if name == HEADER_ID), None)
    started = datetime.now(timezone.utc) - timedelta(seconds=max(0.0, time.monotonic() - run.since))
    name = None if job_id is None else job_id.decode("utf-8", "replace")
    return RunningJob(name, name_of(run.message), started, attempt_of(run.message))
