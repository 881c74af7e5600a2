"""The process executor: jobs run in children, which can really be killed.

1. ``open`` starts the fork server, which forks the children: each has a stream for jobs and outcomes, a socket for
   tokens, and a page of shared memory with start and deadline of what it runs, and with what ended last.
2. ``start`` queues a message on the child that has least to do, and ``flush`` writes what is queued, then the tokens.
   While jobs are short several travel in one write.
3. A child that is idle while another's queue waits behind a slow job is given that queue: whoever reads a token owns
   the job, and the parent can read tokens back.
4. A deadline that passes: SIGTERM to the child's group, ``kill_grace`` seconds later SIGKILL, and another child.
5. A child that dies: what ran is a failure, what had not started runs elsewhere.
6. ``close`` lets the fork server go, and with it everything that descends from it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import dill

from kq.errors import ArgumentError, ChildLost, ChildTraceback, RemoteError, WorkerError
from kq.executors.base import Finished, Setting, check_hooks, log_executing, log_invalid, log_outcome, log_processing
from kq.executors.calling import Around
from kq.executors.process.child import DONE, LOG, READY, RESULT, STARTED, UNREADY, ChildSettings, Packed
from kq.executors.process.handle import Handle
from kq.executors.process.spawner import Died, Spawned, Spawner
from kq.job import FAILURE, INVALID, SUCCESS, TIMEOUT, Outcome
from kq.message import Message, job_from_headers
from kq.serializers import ByValue
from kq.utils import safe_str

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
#: Seconds that a child which has closed its stream may take to end by itself.
_EXIT_GRACE = 0.1
#: Seconds after which a child that starts nothing of what it was given is replaced: a thread that a job has left there
#: may keep the interpreter for itself.
_UNRESPONSIVE_AFTER = 3.0
#: Weight of the latest job in the means.
_LATEST = 0.1
#: Children in a row that may fail to become ready before the worker gives up.
_MAX_FAILED_STARTS = 3
#: Seconds until another child is tried after one that failed to become ready: what it wants, a connection for instance,
#: is not there sooner.
_RESTART_WAIT = 0.5
#: What became of a job of which nobody asks for more.
_SUCCESS = Outcome(SUCCESS)


class ProcessExecutor:
    """Runs jobs in child processes: a timeout really kills, and a crash touches nobody else.

    :param kill_grace: Seconds between SIGTERM and SIGKILL for a job whose time is up.
    :param max_jobs: How many jobs a child runs before it is replaced; None for no limit.
    :param max_memory: Bytes of resident memory beyond which a child is replaced, between jobs; None for no limit.
    :param preload: Names of modules that are imported once, before children are forked.
    :param on_start: Called without arguments in each child before its first job, to open connections for instance.
    :param around: Called without arguments for each job; the job runs inside the context manager that it returns.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        kill_grace: float = 2.0,
        max_jobs: int | None = None,
        max_memory: int | None = None,
        preload: Sequence[str] = (),
        on_start: Callable[[], Any] | None = None,
        around: Around | None = None,
    ) -> None:
        if not (isinstance(kill_grace, (int, float)) and kill_grace >= 0):
            raise ArgumentError("kill_grace must be an int or float of 0 or greater")
        for name, limit in (("max_jobs", max_jobs), ("max_memory", max_memory)):
            if not (limit is None or (isinstance(limit, int) and limit > 0)):
                raise ArgumentError(f"{name} must be an int of 1 or greater")
        if not isinstance(preload, (list, tuple)) or not all(isinstance(name, str) for name in preload):
            raise ArgumentError("preload must be a list or tuple of module names")
        check_hooks(on_start, around)
        if not hasattr(os, "fork"):
            raise ArgumentError('executor="process" needs a system with fork; use executor="thread" here')
        self._kill_grace = kill_grace
        self._max_jobs = max_jobs
        self._max_memory = max_memory
        self._preload = tuple(preload)
        self._on_start = on_start
        self._around = around

    def __repr__(self) -> str:
        return f"ProcessExecutor(kill_grace={self._kill_grace:g})"

    # -- life ----------------------------------------------------------------------------------------------------------

    def open(self, setting: Setting, concurrency: int) -> None:
        self._setting = setting
        self._finished: list[Finished] = []
        self._children: list[Handle] = []
        self._unassigned: deque[Message] = deque()
        self._places: list[Handle] = []
        #: Seconds and bytes of a job, in the mean, the latest counting most.
        self._mean, self._mean_bytes = 1.0, 0.0
        self._failed_starts = 0
        self._killing = False
        self._is_closed = False
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
        try:
            self._spawn(time.monotonic())
        except WorkerError:
            self.close()
            raise

    def watch(self, now: float) -> None:
        pass

    def kill(self) -> None:
        self._killing = True

    def close(self) -> None:
        self._killing = self._is_closed = True
        self._read_ready(0)
        self._spawner.end()
        for child in self._children:
            self._read_rest(child)
            self._unassigned.extend(child.messages())
            child.close()
        # what a stop has ended, or kept from starting
        self._finished += [Finished(message, None, None) for message in self._unassigned]
        self._setting.unwatch(self._selector)
        self._selector.close()

    def release(self) -> None:
        pass

    def _pack_settings(self, setting: Setting) -> bytes:
        settings = ChildSettings(
            deserialize=setting.deserialize,
            on_start=self._on_start,
            around=self._around,
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
            raise ArgumentError(f"hooks and deserializer must be picklable to reach children: {error}") from error
        return file.getvalue()

    # -- for the loop --------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """Return how many messages may be started now, and decide where."""
        depth = 1 + int(
            min(QUEUE_COUNT - 1, QUEUE_TIME / max(self._mean, 1e-6), QUEUE_BYTES / max(self._mean_bytes, 1))
        )
        now = time.monotonic()
        spaces = []
        for child in self._children:
            if not child.is_ready or child.kill_reason is not None or child.queued_bytes >= QUEUE_BYTES:
                continue
            # half of its queue must be done before it is filled again: fewer and larger writes
            load = child.load()
            if load * 2 <= depth and child.ran_for(now) < STEAL_AFTER:
                spaces.append((child, depth - load))
        # one message for each child, then the next for each: reversed, so that the last is the next
        self._places = [child for turn in range(depth) for child, space in spaces if turn < space][::-1]
        return max(0, len(self._places) - len(self._unassigned))

    def start(self, message: Message) -> None:
        self._mean_bytes += _LATEST * (len(message.value or b"") - self._mean_bytes)
        if self._places or self.room():
            self._places.pop().put(message)
        else:
            self._unassigned.append(message)

    def flush(self) -> None:
        for child in self._children:
            if child.batch:
                child.send(self._setting.timeout)
                self._watch(child)

    def finished(self) -> list[Finished]:
        if not self._is_closed:
            self._tend()
        finished, self._finished = self._finished, []
        return finished

    def _tend(self) -> None:
        self._read_ready(0)
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY or self._killing:
            self._looked = now
            self._watch_deadlines(now)
        self._share_work(now)
        if self._spawner.are_planned and not self._killing:
            self._spawn(now)
        if self._unassigned:
            self._reassign()

    def patience(self) -> float:
        """Return the seconds that the loop may wait before it asks for what has finished."""
        loads = [child.load() for child in self._children if child.is_ready]
        if loads and min(loads) == 0 and max(loads) > 1:
            return STEAL_AFTER
        return LOOK_EVERY if self._spawner.are_planned or any(loads) else float("inf")

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_ready(self, timeout: float) -> None:
        for key, events in self._selector.select(timeout):
            if key.data is None:
                self._read_fork_server()
            elif not key.data.is_closed:  # it may have been reaped since the system told of it
                if events & selectors.EVENT_WRITE:
                    key.data.write_on()
                    self._watch(key.data)
                if events & selectors.EVENT_READ:
                    self._read_child(key.data)

    def _watch(self, child: Handle) -> None:
        """Hear of what a child says, and of when it takes more where it did not take all."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.has_more_to_write() else 0)
        key = self._selector.get_map().get(child.stream)
        if key is not None and key.events != events:
            self._selector.modify(child.stream, events, child)

    def _read_child(self, child: Handle) -> None:
        if child.read():
            self._hear_all(child)
        else:  # it is dying, or lives on without its stream and can tell us nothing more
            self._give_up_on(child, "closed its connection")

    def _give_up_on(self, child: Handle, why: str) -> None:
        """Listen no more to a child, and end it if it does not end by itself."""
        self._stop_listening(child)
        if child.kill_reason is None:
            child.kill_reason, child.kill_at = why, time.monotonic() + _EXIT_GRACE

    def _stop_listening(self, child: Handle) -> None:
        if child.stream in self._selector.get_map():
            self._selector.unregister(child.stream)

    def _catch_up(self, child: Handle) -> None:
        """Settle what shared memory says has ended and was not told of."""
        ended = child.ended()
        if 0 < child.first() <= ended:
            child.read_all()  # whatever there was to tell of these was sent before
            self._hear_all(child)
            self._succeed_through(child, ended)

    def _hear_all(self, child: Handle) -> None:
        try:
            for frame in child.frames():
                self._hear(child, frame)
        except ValueError as error:
            self._give_up_on(child, f"was ended because {error}")

    def _hear(self, child: Handle, frame: tuple[Any, ...]) -> None:
        kind = frame[0]
        if kind == DONE:
            self._hear_done(child, *frame[1:])
        elif kind == RESULT:
            self._hear_result(child, *frame[1:])
        elif kind == STARTED:
            self._hear_start(child, *frame[1:])
        elif kind == LOG:
            record = logging.makeLogRecord(frame[1])
            target = logging.getLogger(record.name)
            if target.isEnabledFor(record.levelno):
                target.handle(record)
        elif kind == READY:
            child.is_ready = True
            self._failed_starts = 0
            self._reassign()
        elif kind == UNREADY:
            child.kill_reason = "failed to start"
            _logger.error("A child failed to start:\n%s", frame[1])

    def _hear_start(self, child: Handle, number: int, job_id: Any, text: str) -> None:
        child.job_id, child.text = job_id, text
        if child.first() == number:
            message = child.queue[0][1]
            log_processing(self._setting.logger, message)
            log_executing(self._setting.logger, message, job_id, text)

    def _hear_done(self, child: Handle, number: int, count: int, seconds: float) -> None:
        self._mean += (1 - (1 - _LATEST) ** count) * (seconds / count - self._mean)
        self._succeed_through(child, number)

    def _succeed_through(self, child: Handle, number: int) -> None:
        """Settle what ended without anything to tell, up to a number: it succeeded."""
        self._finished += [Finished(message, None, _SUCCESS) for message in child.pop_through(number)]

    def _hear_result(
        self,
        child: Handle,
        number: int,
        status: Any,
        begun: float,
        ended: float,
        text: str,
        stacktrace: str,
        packed: Packed,
    ) -> None:
        self._succeed_through(child, number - 1)
        if child.first() != number:
            return
        if child.expired is not None and child.expired.number == number and ended > child.expired.deadline:
            return  # it is told of when nothing is left of it
        self._mean += _LATEST * (ended - begun - self._mean)
        message = child.pop()
        job_id = child.job_id
        child.job_id, child.text = None, ""
        if status == INVALID:
            log_processing(self._setting.logger, message)
            log_invalid(self._setting.logger, message, text, stacktrace)
            self._finished.append(Finished(message, None, Outcome(INVALID)))
        elif status == SUCCESS:
            self._finish(message, Outcome(SUCCESS, self._unpack(packed)), job_id, text)
        else:
            error = self._unpack_error(packed, stacktrace)
            self._finish(message, Outcome(FAILURE, None, error, stacktrace), job_id)

    def _finish(self, message: Message, outcome: Outcome, job_id: Any, text: str = "", *, is_read: bool = True) -> None:
        job = self._job(message, is_read)
        if outcome.status != SUCCESS or job_id is not None:
            job_id = job_from_headers(message).id if job_id is None else job_id
            log_outcome(self._setting.logger, message, job_id, outcome, text)
        self._finished.append(Finished(message, job, outcome))

    def _job(self, message: Message, is_read: bool) -> Any:
        """Return the job for the callback: where a child could unpickle it, this process probably can."""
        if not self._setting.wants_outcome:
            return None
        if not is_read:  # the attempt may have been what ended the child
            return job_from_headers(message)
        try:
            return self._setting.deserialize(message.value)  # type: ignore[arg-type]
        except BaseException as error:  # the door of user code: unpickling imports  # noqa: BLE001
            _logger.warning("A job that a child could read cannot be read here: %s", safe_str(error))
            return job_from_headers(message)

    def _unpack(self, packed: Packed) -> Any:
        if packed is None:
            return None
        if isinstance(packed, tuple):
            return packed[0]
        try:
            return dill.loads(packed)
        except BaseException as error:  # the door of user code: the child could, this process cannot  # noqa: BLE001
            _logger.warning("What a job returned or raised cannot be read here: %s", safe_str(error))
            return None

    def _unpack_error(self, packed: Packed, stacktrace: str) -> BaseException | None:
        if packed is None:
            return None
        unpacked = self._unpack(packed)
        last_line = stacktrace.rstrip().rpartition("\n")[2]
        error = unpacked if isinstance(unpacked, BaseException) else RemoteError(last_line)
        BaseException.__setattr__(error, "__cause__", ChildTraceback(stacktrace))  # its class may refuse attributes
        return error

    # -- children ------------------------------------------------------------------------------------------------------

    def _spawn(self, now: float) -> None:
        for child in self._spawner.ask(now, is_alone=not self._children):
            self._selector.register(child.stream, selectors.EVENT_READ, child)
            child.write(self._settings)
            self._watch(child)

    def _read_fork_server(self) -> None:
        for news in self._spawner.read():
            if isinstance(news, Spawned):
                news.child.pid = news.pid
                self._children.append(news.child)
                self._reassign()  # it may have said that it is ready before
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
        self._stop_listening(child)
        self._settle_dead(child, status)
        self._unassigned.extend(child.messages())
        child.close()
        wait = 0.0
        if not child.is_ready and status is not None:
            wait = _RESTART_WAIT
            self._failed_starts += 1
            if (
                self._failed_starts >= _MAX_FAILED_STARTS
                and not self._killing
                and not any(one.is_ready for one in self._children)
            ):
                raise WorkerError("children of the process executor fail to start; the log says why")
        if not self._killing:
            self._spawner.plan(time.monotonic() + wait)
            self._reassign()

    def _read_rest(self, child: Handle) -> None:
        """Settle what a dead child had still to say, or left to be seen."""
        child.read_all()
        self._hear_all(child)
        self._succeed_through(child, child.ended())

    def _settle_dead(self, child: Handle, status: int | None) -> None:
        was_timeout = child.expired is not None and child.expired.number == child.first()
        if not was_timeout and (child.running() is None or child.kill_reason == "timeout"):
            return  # nothing ran, or what ran was killed for the job before it: it runs again
        is_read = child.has_read(child.first())
        message = child.pop()
        if was_timeout:
            self._finish(message, Outcome(TIMEOUT), child.job_id, is_read=is_read)
        elif self._killing:
            self._finished.append(Finished(message, None, None))
        else:
            how = child.kill_reason if child.was_killed and child.kill_reason is not None else _how_it_ended(status)
            what = child.text or f"job {job_from_headers(message).id}"
            error = ChildLost(f"the child process {how} while it ran {what}", status)
            outcome = Outcome(FAILURE, None, error, f"kq.errors.ChildLost: {error}\n")
            self._finish(message, outcome, child.job_id, is_read=is_read)

    def _reassign(self) -> None:
        unassigned, self._unassigned = self._unassigned, deque()
        self._places = []
        for message in unassigned:
            self.start(message)
        self._places = []
        self.flush()

    def _watch_deadlines(self, now: float) -> None:
        for child in self._children:
            self._catch_up(child)
            running = child.running()
            if self._killing and child.load() and child.kill_reason is None:
                child.kill_at = now
                self._signal(child, signal.SIGKILL)
            elif running is not None and now > running.deadline and child.kill_reason is None:
                if child.expire(now):
                    child.kill_at = now + self._kill_grace
                    self._signal(child, signal.SIGTERM)
                    self._reassign_rest(child)
            elif child.kill_reason is None and child.waits_for(now) > _UNRESPONSIVE_AFTER:
                _logger.error(
                    "A child has started nothing of what it was given for %g s; it is replaced", _UNRESPONSIVE_AFTER
                )
                child.kill_reason, child.kill_at = "started nothing", now
            elif child.kill_at is not None and now > child.kill_at:
                child.kill_at = now + max(LOOK_EVERY, self._kill_grace)
                child.was_killed = True
                self._signal(child, signal.SIGKILL)

    def _share_work(self, now: float) -> None:
        """Give what waits behind a slow job to children that are idle."""
        idle = [child for child in self._children if child.is_ready and child.kill_reason is None and not child.load()]
        if not idle:
            return
        for child in self._children:
            if len(child.queue) > 1 and child.ran_for(now) > STEAL_AFTER:
                self._catch_up(child)
                self._reassign_rest(child)

    def _reassign_rest(self, child: Handle) -> None:
        """Take back what waits in a child, and start it elsewhere."""
        self._unassigned.extend(child.take_back())
        self._reassign()

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
