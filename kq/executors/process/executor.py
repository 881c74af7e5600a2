"""The process executor: jobs run in children, which can really be killed.

1. ``open`` starts the fork server, which forks the children: each has a stream for jobs and outcomes, a socket for
   tokens, and a page of shared memory with start and deadline of what it runs, and with what ended last.
2. ``start`` takes a message, and ``flush`` gives what was taken to the children that have least to do: the jobs, then
   their tokens. While jobs are short several travel in one write.
3. A child that is idle while another's queue waits behind a slow job is given that queue: whoever reads a token owns
   the job, and the parent can read tokens back.
4. When a deadline passes, the child's group gets SIGTERM and ``kill_grace`` seconds later SIGKILL. Another child
   replaces it.
5. When a child dies, what ran is a failure, and what had not started runs elsewhere.
6. ``close`` ends the fork server, and with it everything that descends from it.

The loop may be busy elsewhere, in a slow callback for instance. So the watchdog's thread does the same tending by
``watch``; a lock guards the state. Under the lock no user code runs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import selectors
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kq.errors import ArgumentError, WorkerError
from kq.executors.base import Finished, Setting
from kq.executors.process.handle import Handle
from kq.executors.process.outcomes import Outcomes
from kq.executors.process.protocol import READY, UNREADY, ChildSettings
from kq.executors.process.spawner import Died, Spawned, Spawner
from kq.message import Message
from kq.serializers import ByValue

__all__ = ["ProcessExecutor"]

_logger = logging.getLogger("kq.executors")

#: Seconds of work that a child may have queued: no message waits longer behind short ones that turn out longer.
QUEUE_TIME = 0.004
#: Messages that a child may have queued, however short they are: more make nothing faster.
QUEUE_COUNT = 256
#: Bytes that a busy child may have queued: they must fit the socket, since it reads only between jobs.
QUEUE_BYTES = 64 * 1024
#: Seconds that a job may keep others in its child's queue while another child is idle.
STEAL_AFTER = 0.002
#: Seconds between looks at deadlines.
LOOK_EVERY = 0.05
#: Seconds that the watchdog's thread reads at once, at most.
_WATCH_TIME = 0.1
#: Seconds that a child which has closed its stream may take to end by itself.
_EXIT_GRACE = 0.1
#: Seconds after which a child that starts nothing of what it was given is replaced: a thread that a job has left there
#: may hold the interpreter's lock for ever.
_UNRESPONSIVE_AFTER = 3.0
#: Weight of the latest message in the mean of sizes.
_LATEST = 0.1
#: Children in a row that may fail to become ready before the worker gives up.
_MAX_FAILED_STARTS = 3
#: Seconds until another child is tried after one that failed to become ready: what ``on_start`` needs, a connection for
#: instance, will not be there sooner.
_RESTART_WAIT = 0.5


class ProcessExecutor:
    """Runs jobs in child processes: a timeout really kills, and a crash touches nobody else.

    :param kill_grace: Seconds between SIGTERM and SIGKILL for a job whose time is up.
    :param max_jobs: How many jobs a child runs before it is replaced; None for no limit.
    :param max_memory: Bytes of resident memory beyond which a child is replaced, between jobs; None for no limit.
    :param preload: Names of modules that are imported once, before children are forked.
    :param on_start: Called without arguments in each child before its first job, to open connections for instance.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        kill_grace: float = 2.0,
        max_jobs: int | None = None,
        max_memory: int | None = None,
        preload: Sequence[str] = (),
        on_start: Callable[[], Any] | None = None,
    ) -> None:
        if not (isinstance(kill_grace, (int, float)) and kill_grace >= 0):
            raise ArgumentError("kill_grace must be an int or float of 0 or greater")
        for name, limit in (("max_jobs", max_jobs), ("max_memory", max_memory)):
            if not (limit is None or (isinstance(limit, int) and limit > 0)):
                raise ArgumentError(f"{name} must be an int of 1 or greater")
        if not isinstance(preload, (list, tuple)) or not all(isinstance(name, str) for name in preload):
            raise ArgumentError("preload must be a list or tuple of module names")
        if not (on_start is None or callable(on_start)):
            raise ArgumentError("on_start must be a callable")
        if not hasattr(os, "fork"):
            raise ArgumentError('executor="process" needs a system with fork; use executor="thread" here')
        self._kill_grace = kill_grace
        self._max_jobs = max_jobs
        self._max_memory = max_memory
        self._preload = tuple(preload)
        self._on_start = on_start
        #: Guards everything below, between the loop and the watchdog.
        self._lock = threading.Lock()
        self._is_open = False

    def __repr__(self) -> str:
        return f"ProcessExecutor(kill_grace={self._kill_grace:g})"

    # -- life ----------------------------------------------------------------------------------------------------------

    def open(self, setting: Setting, concurrency: int) -> None:
        self._setting = setting
        self._outcomes = Outcomes(setting)
        self._children: list[Handle] = []
        #: What waits for a place in a child.
        self._unassigned: deque[Message] = deque()
        #: Children whose streams are not read, in the order in which that began.
        self._paused: deque[Handle] = deque()
        #: Bytes of a message, in the mean, the latest counting most.
        self._mean_bytes = 0.0
        self._failed_starts = 0
        #: What ends the worker; raised to the loop.
        self._failure: WorkerError | None = None
        self._killing = False
        self._looked = 0.0
        self._settings = self._pack_settings(setting)
        self._selector = selectors.DefaultSelector()
        try:
            self._spawner = Spawner(self._preload)
        except BaseException:
            self._selector.close()
            raise
        self._selector.register(self._spawner.socket, selectors.EVENT_READ, None)
        setting.watch(self._selector)
        for _ in range(concurrency):
            self._spawner.plan(0.0)
        self._is_open = True
        try:
            with self._lock:
                self._spawn(time.monotonic())
        except WorkerError:
            self.close()
            raise

    def kill(self) -> None:
        self._killing = True

    def release(self) -> None:
        pass

    def close(self) -> None:
        self._killing = True
        with self._lock:
            self._is_open = False
            self._read_ready()
            self._spawner.end()
            for child in self._children:
                self._read_rest(child)
                self._unassigned.extend(child.messages())
                child.close()
            self._outcomes.give_back(list(self._unassigned))  # what a stop has ended, or kept from starting
            self._setting.unwatch(self._selector)
            self._selector.close()

    def _pack_settings(self, setting: Setting) -> bytes:
        settings = ChildSettings(
            deserialize=setting.deserialize,
            on_start=self._on_start,
            timeout=setting.timeout,
            is_verbose=setting.logger.isEnabledFor(logging.INFO),
            wants_outcome=setting.wants_outcome,
            log_levels=_log_levels(),
            max_jobs=self._max_jobs,
            max_memory=self._max_memory,
        )
        try:
            file = io.BytesIO()
            ByValue(file, pickle.HIGHEST_PROTOCOL).dump(settings)  # a hook of the script brings what it uses
        except Exception as error:  # the door of user code
            raise ArgumentError(f"deserializer and on_start must be picklable to reach children: {error}") from error
        return file.getvalue()

    # -- for the loop --------------------------------------------------------------------------------------------------

    def room(self) -> int:
        with self._lock:
            return max(0, sum(space for _, space in self._spaces()) - len(self._unassigned))

    def start(self, message: Message) -> None:
        self._mean_bytes += _LATEST * (len(message.value or b"") - self._mean_bytes)
        self._unassigned.append(message)  # in one piece: no lock

    def flush(self) -> None:
        with self._lock:
            self._assign()

    def finished(self) -> list[Finished]:
        with self._lock:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            self._outcomes.release()
            if self._is_open:
                self._tend(time.monotonic())
            steps = self._outcomes.take()
            while not self._is_open and len(self._outcomes):
                steps += self._outcomes.take()
        finished: list[Finished] = []
        for step in steps:
            try:
                step[0](finished, *step[1:])
            except Exception:  # noqa: BLE001 - the door of the user's loggers: said as they say it, and no outcome lost
                traceback.print_exc()
        return finished

    def patience(self) -> float:
        """Return the seconds that the loop may wait before it asks for what has finished."""
        with self._lock:
            if self._failure is not None or len(self._outcomes) or (self._paused and self._outcomes.in_hand):
                return 0.0
            loads = [child.load() for child in self._children if child.is_ready]
            if loads and min(loads) == 0 and max(loads) > 1:
                return STEAL_AFTER
            return LOOK_EVERY if self._spawner.are_planned or self._unassigned or any(loads) else float("inf")

    def watch(self, now: float) -> None:
        """Tend the children while the loop is busy elsewhere. From the watchdog's thread."""
        if not self._lock.acquire(blocking=False):
            return  # the loop is at it
        try:
            if self._is_open and self._failure is None:
                self._tend(now)
                while self._read_ready() and time.monotonic() < now + _WATCH_TIME:
                    pass
                if len(self._outcomes):
                    self._setting.wake()
        except WorkerError as error:
            self._failure = error
            self._setting.wake()
        finally:
            self._lock.release()

    # -- tending -------------------------------------------------------------------------------------------------------

    def _tend(self, now: float) -> None:
        """Do what is due for the children. Runs no user code."""
        self._resume(now)
        self._read_ready()
        if now - self._looked > LOOK_EVERY or self._killing:
            self._looked = now
            self._watch_deadlines(now)
        self._share_work(now)
        if self._spawner.are_planned and not self._killing:
            self._spawn(now)
        if self._unassigned:
            self._assign()

    def _spaces(self) -> list[tuple[Handle, int]]:
        """Return the children that may be given more now, and how many messages."""
        mean, mean_bytes = max(self._outcomes.mean, 1e-6), max(self._mean_bytes, 1)
        depth = 1 + int(min(QUEUE_COUNT - 1, QUEUE_TIME / mean, QUEUE_BYTES / mean_bytes))
        now = time.monotonic()
        spaces = []
        for child in self._children:
            if not child.is_ready or child.kill_reason is not None or child.queued_bytes >= QUEUE_BYTES:
                continue
            # half of its queue must be done before it is filled again: fewer and larger writes
            load = child.load()
            if load * 2 <= depth and child.ran_for(now) < STEAL_AFTER:
                spaces.append((child, depth - load))
        return spaces

    def _assign(self) -> None:
        """Give what waits for a place to the children: one message to each, then the next to each."""
        waiting, spaces = self._unassigned, self._spaces()
        turn = 0
        while waiting and spaces:
            for child, _ in spaces[: len(waiting)]:
                child.put(waiting.popleft())
            turn += 1
            spaces = [(child, space) for child, space in spaces if space > turn]
        for child in self._children:
            if child.batch:
                child.send(self._setting.timeout)
                self._listen(child)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_ready(self) -> bool:
        """Read what there is, not more than a chunk of each; return whether there was anything."""
        ready = self._selector.select(0)
        for key, events in ready:
            if key.data is None:
                self._read_fork_server()
            elif not key.data.is_closed:  # it may have been reaped since the system told of it
                if events & selectors.EVENT_WRITE:
                    key.data.write_on()
                if events & selectors.EVENT_READ:
                    self._read_child(key.data)
                self._listen(key.data)
        return bool(ready)

    def _listen(self, child: Handle) -> None:
        """Wait for what a child says, and until it takes more where it did not take all."""
        wanted = selectors.EVENT_WRITE if child.has_more_to_write() else 0
        wanted |= 0 if child.is_paused else selectors.EVENT_READ
        if child.is_mute:
            wanted = 0
        key = self._selector.get_map().get(child.stream)
        if key is None and wanted:
            self._selector.register(child.stream, wanted, child)
        elif key is not None and not wanted:
            self._selector.unregister(child.stream)
        elif key is not None and key.events != wanted:
            self._selector.modify(child.stream, wanted, child)

    def _read_child(self, child: Handle) -> None:
        with contextlib.suppress(BlockingIOError):
            if not child.read():  # it is dying, or lives on without its stream and can tell us nothing more
                self._give_up_on(child, "closed its connection")
                return
        self._hear_all(child)
        if not child.is_mute and not self._outcomes.has_room(child, others_wait=bool(self._paused)):
            child.is_paused = True
            self._paused.append(child)

    def _resume(self, now: float) -> None:
        """Read on where there is room again, in the order in which it ran out."""
        while self._paused and self._outcomes.has_room(self._paused[0]):
            child = self._paused.popleft()
            child.resume(now)
            self._listen(child)

    def _give_up_on(self, child: Handle, why: str) -> None:
        """Listen no more to a child, and end it if it does not end by itself."""
        self._forget(child)
        if child.kill_reason is None:
            child.kill_reason, child.kill_at = why, time.monotonic() + _EXIT_GRACE

    def _forget(self, child: Handle) -> None:
        """Expect nothing more from a child."""
        child.is_mute = True
        self._outcomes.forget(child)
        if child in self._paused:
            self._paused.remove(child)
        self._listen(child)

    def _catch_up(self, child: Handle) -> None:
        """Settle what shared memory shows to have ended."""
        ended = child.ended()
        if 0 < child.first() <= ended:
            self._read_all(child)  # whatever there was to tell of these was sent before
            self._outcomes.succeed_through(child, ended)

    def _read_all(self, child: Handle) -> None:
        """Read all that a child has said, but for a frame that must wait: that tells of what has not ended."""
        with contextlib.suppress(BlockingIOError):
            while not child.is_paused and not child.is_mute and child.read():
                self._hear_all(child)
                if not self._outcomes.has_room(child):
                    break

    def _hear_all(self, child: Handle) -> None:
        try:
            for size, frame in child.frames():
                self._hear(child, size, *frame)
        except (ValueError, TypeError) as error:  # of what a job has written into the stream: no frame, or a wrong one
            self._give_up_on(child, f"was ended because {error}")

    def _hear(self, child: Handle, size: int, kind: int, *rest: Any) -> None:
        if kind == READY:
            child.is_ready = True
            self._failed_starts = 0
            self._assign()
        elif kind == UNREADY:
            child.kill_reason = "failed to start"
            _logger.error("A child failed to start:\n%s", *rest)
        else:
            self._outcomes.hear(child, size, kind, *rest)

    # -- children ------------------------------------------------------------------------------------------------------

    def _spawn(self, now: float) -> None:
        for child in self._spawner.ask(now, is_alone=not self._children):
            child.write(self._settings)
            self._listen(child)

    def _read_fork_server(self) -> None:
        for news in self._spawner.read():
            if isinstance(news, Spawned):
                news.child.pid = news.pid
                self._children.append(news.child)
                self._assign()  # it may have said that it is ready before
            elif isinstance(news, Died):
                self._reap(news.pid, news.status)
            else:
                self._replace_fork_server(news.pending)

    def _replace_fork_server(self, pending: list[Handle]) -> None:
        """Begin with another fork server: the one that is gone took its children with it."""
        self._selector.unregister(self._spawner.socket)
        self._spawner.end()
        if self._killing:
            return
        _logger.error("The fork server of the process executor is gone; it is replaced")
        self._spawner.start()
        self._selector.register(self._spawner.socket, selectors.EVENT_READ, None)
        for child in [*pending, *self._children]:
            if child.pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
            self._lose(child, None)

    def _reap(self, pid: int, status: int) -> None:
        for child in self._children:
            if child.pid == pid:
                self._lose(child, status)
                return

    def _lose(self, child: Handle, status: int | None) -> None:
        """Settle what a dead child ran, have the rest run elsewhere, and replace it."""
        child.pid = None
        self._read_rest(child)
        if child in self._children:
            self._children.remove(child)
        self._forget(child)
        self._settle_dead(child, status)
        self._unassigned.extend(child.messages())
        child.close()
        has_failed = not child.is_ready and status is not None
        if has_failed:
            self._note_failed_start()
        if not self._killing:
            self._spawner.plan(time.monotonic() + (_RESTART_WAIT if has_failed else 0.0))
            self._assign()

    def _note_failed_start(self) -> None:
        self._failed_starts += 1
        if self._failed_starts < _MAX_FAILED_STARTS or self._killing:
            return
        if not any(child.is_ready for child in self._children):
            raise WorkerError("children of the process executor fail to start; the log says why")

    def _read_rest(self, child: Handle) -> None:
        """Settle what a dead child had still to say, also where that was to wait, or left to be seen."""
        with contextlib.suppress(BlockingIOError):
            while child.read():
                pass
        self._hear_all(child)
        self._outcomes.succeed_through(child, child.ended())

    def _settle_dead(self, child: Handle, status: int | None) -> None:
        if child.expired is not None and child.expired.number == child.first():
            self._outcomes.expire(child)
        elif child.running() is None or child.kill_reason == "timeout":
            return  # nothing ran, or what ran was killed for the job before it: it runs again
        elif self._killing:
            self._outcomes.give_back([child.pop()])
        else:
            how = child.kill_reason if child.was_killed and child.kill_reason is not None else _how_it_ended(status)
            self._outcomes.lose(child, how, status)

    def _watch_deadlines(self, now: float) -> None:
        for child in self._children:
            self._catch_up(child)
            if child.kill_reason is None:
                self._watch_child(child, now)
            elif child.kill_at is not None and now > child.kill_at:
                child.kill_at = now + max(LOOK_EVERY, self._kill_grace)
                child.was_killed = True
                self._signal(child, signal.SIGKILL)

    def _watch_child(self, child: Handle, now: float) -> None:
        """End a child that must end: because of a stop, its job's limit, or because it starts nothing."""
        running = child.running()
        if self._killing and child.load():
            self._signal(child, signal.SIGKILL)
        elif running is not None and child.is_late(running, now):
            if child.expire(now):
                child.kill_at = now + self._kill_grace
                self._signal(child, signal.SIGTERM)
                self._reassign(child)
        elif child.waits_for(now) > _UNRESPONSIVE_AFTER:
            _logger.error("A child has started nothing of its work for %g s; it is replaced", _UNRESPONSIVE_AFTER)
            child.kill_reason, child.kill_at = "started nothing", now

    def _share_work(self, now: float) -> None:
        """Give what waits behind a slow job to children that are idle."""
        idle = [child for child in self._children if child.is_ready and child.kill_reason is None and not child.load()]
        if not idle:
            return
        for child in self._children:
            if len(child.queue) > 1 and child.ran_for(now) > STEAL_AFTER:
                self._catch_up(child)
                self._reassign(child)

    def _reassign(self, child: Handle) -> None:
        """Take back what waits in a child, and give it to others."""
        self._unassigned.extend(child.take_back())
        self._assign()

    def _signal(self, child: Handle, signum: int) -> None:
        if child.pid is not None:
            self._spawner.signal(child.pid, signum)


def _log_levels() -> dict[str, int]:
    """Return the levels that were set for loggers of this process, the root's by an empty name."""
    loggers = logging.getLogger().manager.loggerDict.items()
    levels = {name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger) and logger.level}
    return {"": logging.getLogger().level, **levels}


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "was lost with its fork server"
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
