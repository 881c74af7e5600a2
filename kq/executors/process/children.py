"""The children of one run of a worker: what each is given, says and does, until it is replaced.

1. They are requested from the spawner, and say when they are ready.
2. Messages go to those that have least to do; while jobs are short, several travel in one write. What waits behind a
   slow job is taken back when another child is idle: whoever reads a token owns the job.
3. What they say is read while there is room for it.
4. A deadline that passes, and whatever else goes wrong, ends the child: SIGTERM, then SIGKILL.
5. What a dead child ran is settled, what it had not started is given to others, and another child replaces it.

No user code runs here. All of it is called under the executor's lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any

from kq.errors import WorkerError
from kq.executors.base import Setting
from kq.executors.lines import log_own
from kq.executors.process.handle import EXPIRING, Handle
from kq.executors.process.outcomes import Outcomes
from kq.executors.process.protocol import Frame
from kq.executors.process.spawner import Died, Spawner
from kq.message import Message

__all__ = ["Children"]

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
_EXIT_GRACE = 0.5
#: Seconds after which a child that starts nothing of what it was given is replaced: a thread that a job has left there
#: may hold the interpreter's lock for ever.
_UNRESPONSIVE_AFTER = 3.0
#: Children in a row that may fail to become ready before the worker gives up.
_MAX_FAILED_STARTS = 3
#: Seconds until another child is tried after one that failed to become ready: what ``on_start`` needs, a connection for
#: instance, will not be there sooner.
_RESTART_WAIT = 0.5


class Children:
    """The children, and the messages that wait for a place in one."""

    def __init__(self, spawner: Spawner, outcomes: Outcomes, setting: Setting, kill_grace: float) -> None:
        self.spawner = spawner
        self._outcomes = outcomes
        self._setting = setting
        self._kill_grace = kill_grace
        self.all: list[Handle] = []
        #: What waits for a place in a child.
        self.unassigned: deque[Message] = deque()
        #: Children whose streams are not read, in the order in which that began.
        self.paused: deque[Handle] = deque()
        #: Bytes of a message, in the mean.
        self.mean_bytes = 0.0
        self._failed_starts = 0
        #: Whether a stop ends what runs.
        self.is_killing = False
        self._looked = 0.0
        self.selector = DefaultSelector()
        self.selector.register(spawner.socket, EVENT_READ, None)

    def patience(self) -> float:
        """Return the seconds after which the children should be tended again, though none of them says anything."""
        loads = [child.load() for child in self.all if child.is_ready]
        if loads and min(loads) == 0 and max(loads) > 1:
            return STEAL_AFTER
        return LOOK_EVERY if self.spawner.are_planned or self.unassigned or any(loads) else float("inf")

    def close(self) -> None:
        """Let all children go, with what a stop has ended or kept from starting."""
        self.is_killing = True
        self.read_ready()
        self.spawner.end()
        for child in self.all:
            self._read_rest(child)
            if child.running() is not None:
                self._outcomes.interrupt(child)
            self.unassigned.extend(child.messages())
            child.close()
        self._outcomes.give_back(list(self.unassigned))
        self.selector.close()

    # -- tending -------------------------------------------------------------------------------------------------------

    def tend(self, now: float) -> None:
        """Do what is due for the children. Runs no user code."""
        self._resume(now)
        self.read_ready()
        if now - self._looked > LOOK_EVERY or self.is_killing:
            self._looked = now
            self._watch_deadlines(now)
        self._share_work(now)
        if self.spawner.are_planned and not self.is_killing:
            self.spawner.ask(now, is_alone=not self.all)
        if self.unassigned:
            self.assign()

    def spaces(self) -> list[tuple[Handle, int]]:
        """Return the children that may be given more now, and how many messages."""
        mean, mean_bytes = max(self._outcomes.mean, 1e-6), max(self.mean_bytes, 1)
        depth = 1 + int(min(QUEUE_COUNT - 1, QUEUE_TIME / mean, QUEUE_BYTES / mean_bytes))
        now = time.monotonic()
        spaces = []
        for child in self.all:
            if not child.is_ready or child.kill_reason is not None or child.has_more_to_write():
                continue
            # half of its queue must be done before it is filled again: fewer and larger writes
            load = child.load()
            if load * 2 <= depth and child.ran_for(now) < STEAL_AFTER:
                spaces.append((child, depth - load))
        return spaces

    def assign(self) -> None:
        """Give what waits for a place to the children: one message to each, then the next to each."""
        waiting, spaces = self.unassigned, self.spaces()
        turn = 0
        while waiting and spaces:
            for child, _ in spaces[: len(waiting)]:
                child.batch.append(waiting.popleft())
            turn += 1
            spaces = [(child, space) for child, space in spaces if space > turn]
        for child in self.all:
            if child.batch:
                child.send(self._setting.timeout, self._setting.given)
                self._listen(child)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read_ready(self) -> bool:
        """Read what there is, not more than a chunk of each; return whether there was anything."""
        ready = self.selector.select(0)
        for key, events in ready:
            if key.data is None:
                self._read_fork_server()
            elif not key.data.is_mute:  # it may have been reaped since the system reported it
                if events & EVENT_WRITE:
                    key.data.write_on()
                if events & EVENT_READ:
                    self._read_child(key.data)
                self._listen(key.data)
        return bool(ready)

    def _listen(self, child: Handle) -> None:
        """Wait for what a child says, and until it takes more where it did not take all."""
        wanted = EVENT_WRITE if child.has_more_to_write() else 0
        wanted |= 0 if child.is_paused else EVENT_READ
        if child.is_mute:
            wanted = 0
        key = self.selector.get_map().get(child.stream)
        if key is None and wanted:
            self.selector.register(child.stream, wanted, child)
        elif key is not None and not wanted:
            self.selector.unregister(child.stream)
        elif key is not None and key.events != wanted:
            self.selector.modify(child.stream, wanted, child)

    def _read_child(self, child: Handle) -> None:
        with contextlib.suppress(BlockingIOError):
            if not child.read():  # it is dying, or lives on without its stream and can tell us nothing more
                self._give_up_on(child, "closed its connection")
                return
        self._take_frames(child)
        if not child.is_mute and not self._outcomes.has_room(child, others_wait=bool(self.paused)):
            child.is_paused = True
            self.paused.append(child)

    def _resume(self, now: float) -> None:
        """Read on where there is room again, in the order in which it ran out."""
        while self.paused and self._outcomes.has_room(self.paused[0]):
            child = self.paused.popleft()
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
        if child in self.paused:
            self.paused.remove(child)
        self._listen(child)

    def _catch_up(self, child: Handle) -> None:
        """Settle what shared memory shows to have ended."""
        ended = child.ended()
        # whatever there was to tell of these was sent before
        if 0 < child.first() <= ended and not child.is_paused and self._read_all(child):
            self._outcomes.succeed_through(child, ended)

    def _read_all(self, child: Handle) -> bool:
        """Read all that a child has said; return False if something must wait for room."""
        with contextlib.suppress(BlockingIOError):
            while not child.is_mute and child.read():
                self._take_frames(child)
                if not self._outcomes.has_room(child):
                    return False
        return True

    def _take_frames(self, child: Handle) -> None:
        try:
            for size, frame in child.frames():
                self._take_frame(child, size, *frame)
        except (ValueError, TypeError) as error:  # of what a job has written into the stream: no frame, or a wrong one
            self._give_up_on(child, f"was ended because {error}")

    def _take_frame(self, child: Handle, size: int, kind: int, *rest: Any) -> None:
        if kind == Frame.READY:
            child.is_ready = True
            self._failed_starts = 0
            self.assign()
        elif kind == Frame.UNREADY:
            child.kill_reason = "failed to start"
            log_own("A child failed to start:\n%s", *rest)
        else:
            self._outcomes.add(child, size, kind, *rest)

    # -- children ------------------------------------------------------------------------------------------------------

    def _read_fork_server(self) -> None:
        for news in self.spawner.read():
            if news is None:
                self._replace_fork_server()
            elif isinstance(news, Died):
                for child in [child for child in self.all if child.pid == news.pid]:
                    self._lose(child, news.status)
            else:
                self.all.append(news)
                self._listen(news)

    def _replace_fork_server(self) -> None:
        """Begin with another fork server: the one that is gone took its children with it."""
        self.selector.unregister(self.spawner.socket)
        if self.is_killing:
            return
        log_own("The fork server of the process executor is gone; it is replaced")
        self.spawner.restart()
        self.selector.register(self.spawner.socket, EVENT_READ, None)
        for child in list(self.all):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            self._lose(child, None)

    def _lose(self, child: Handle, status: int | None) -> None:
        """Settle what a dead child ran, have the rest run elsewhere, and replace it."""
        self._read_rest(child)
        self.all.remove(child)
        self._forget(child)
        self._settle_dead(child, status)
        self.unassigned.extend(child.messages())
        child.close()
        if self.is_killing:
            return
        has_failed = not child.is_ready and status is not None
        self._failed_starts += has_failed
        if has_failed and self._failed_starts >= _MAX_FAILED_STARTS and not any(other.is_ready for other in self.all):
            raise WorkerError("children of the process executor fail to start; the log says why")
        self.spawner.plan(time.monotonic() + (_RESTART_WAIT if has_failed else 0.0))
        self.assign()

    def _read_rest(self, child: Handle) -> None:
        """Settle what a dead child had still to say, also where that was to wait, or left to be seen."""
        with contextlib.suppress(BlockingIOError):
            while child.read():
                pass
        self._take_frames(child)
        self._outcomes.succeed_through(child, child.ended())

    def _settle_dead(self, child: Handle, status: int | None) -> None:
        if child.expired is not None and child.expired.number == child.first():
            self._outcomes.expire(child)
        elif child.running() is None or child.kill_reason in EXPIRING:
            return  # nothing ran, or what ran was killed for the job before it: it runs again
        elif self.is_killing:
            self._outcomes.interrupt(child)
        else:
            how = child.kill_reason if child.was_killed and child.kill_reason is not None else _how_it_ended(status)
            self._outcomes.lose(child, how, status)

    def _watch_deadlines(self, now: float) -> None:
        for child in self.all:
            self._catch_up(child)
            if child.kill_reason is None:
                self._watch_child(child, now)
            elif child.kill_at is not None and now > child.kill_at:
                child.kill_at = now + max(LOOK_EVERY, self._kill_grace)
                child.was_killed = True
                self.spawner.signal(child.pid, signal.SIGKILL)

    def _watch_child(self, child: Handle, now: float) -> None:
        """End a child that must end: because of a stop, its job's limit, or because it starts nothing."""
        running = child.running()
        if self.is_killing and child.load():
            self.spawner.signal(child.pid, signal.SIGKILL)
        elif running is not None and child.is_late(running, now):
            if child.expire(now):
                self._kill(child, now)
        elif child.waits_for(now) > _UNRESPONSIVE_AFTER:
            log_own("A child has started nothing of its work for %g s; it is replaced", _UNRESPONSIVE_AFTER)
            child.kill_reason, child.kill_at = "started nothing", now

    def _share_work(self, now: float) -> None:
        """Give what waits behind a slow job to children that are idle."""
        idle = [child for child in self.all if child.is_ready and child.kill_reason is None and not child.load()]
        if not idle:
            return
        for child in self.all:
            if len(child.queue) > 1 and child.ran_for(now) > STEAL_AFTER:
                self._catch_up(child)
                self._reassign(child)

    def _kill(self, child: Handle, now: float) -> None:
        """Have a child end with the job that it runs; if need be after the grace."""
        child.kill_at = now + self._kill_grace
        self.spawner.signal(child.pid, signal.SIGTERM)
        self._reassign(child)

    def terminate(self, messages: Sequence[Message], now: float) -> None:
        """End the children that run these messages."""
        for child in self.all:
            if child.kill_reason is None and child.end(messages, now):
                self._kill(child, now)

    def withdraw(self, is_meant: Callable[[Message], bool]) -> list[Message]:
        """Take back what is meant of that which has not started; the rest of that goes to children anew."""
        for child in self.all:
            if len(child.queue) > 0 and any(is_meant(message) for _, message in child.queue):
                self.unassigned.extend(child.take_back())
        waiting = list(self.unassigned)
        withdrawn = [message for message in waiting if is_meant(message)]
        self.unassigned = deque(message for message in waiting if not is_meant(message))
        self.assign()
        return withdrawn

    def _reassign(self, child: Handle) -> None:
        """Take back what waits in a child, and give it to others."""
        self.unassigned.extend(child.take_back())
        self.assign()


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "was lost with its fork server"
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
