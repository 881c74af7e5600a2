"""The spawner: how the process executor gets children.

1. The fork server, the process that children are forked from, is started with the worker and ends with it.
2. Children that are due are requested, not so many at once that the fork server's socket is full.
3. The fork server reports each child that it has forked, and how each ended: ``read`` gives that.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

from kq.errors import WorkerError
from kq.executors.lines import log_own
from kq.executors.process.handle import Handle
from kq.executors.process.protocol import MESSAGE, Verb

__all__ = ["Died", "Spawner"]

#: Seconds until another try where there is no room for a child.
_ROOM_WAIT = 0.5
#: Children that are requested and not there yet, at most.
_MAX_PENDING = 16
#: Seconds that the fork server may take to import what it is to import.
_START_PATIENCE = 60.0
#: Seconds that the fork server may take to end.
_END_PATIENCE = 3.0


class Died(NamedTuple):
    """A child ended: by an exit code, or by the signal of the negative number."""

    pid: int
    status: int


class Spawner:
    """A fork server and the children that are to come from it.

    :param preload: Names of modules that are imported before the first child is forked.
    :param settings: What each child is told once, pickled.
    :param count: How many children are due now.
    :raises kq.WorkerError: The fork server does not start.
    """

    def __init__(self, preload: Sequence[str], settings: bytes, count: int) -> None:
        self._preload = preload
        self._settings = settings
        #: When children are to be requested, by the monotonic clock.
        self._due = deque([0.0] * count)
        #: Children that were requested, in that order, and are not there yet.
        self._pending: deque[Handle] = deque()
        self._start()

    def restart(self) -> None:
        """Start another fork server: the one that is gone took all children with it, also those not there yet."""
        for _ in self._pending:
            self.plan(0.0)
        self.end()
        self._start()

    def _start(self) -> None:
        path = [entry for entry in sys.path if isinstance(entry, str)]  # what else is there, Python itself ignores
        code = f"import sys; sys.path[:] = {path!a}; from kq.executors.process.forkserver import main; "
        # where Python found an output closed, its number may be any file by now
        closed = [subprocess.DEVNULL if stream is None else None for stream in (sys.__stdout__, sys.__stderr__)]
        try:
            self.socket, theirs = socket.socketpair()
            with theirs, ExitStack() as stack:
                stack.callback(self.socket.close)
                self._process = subprocess.Popen(
                    [sys.executable, "-c", f"{code}main({self._preload!a})"],
                    stdin=theirs.fileno(),
                    stdout=closed[0],
                    stderr=closed[1],
                    start_new_session=True,
                )
                stack.pop_all()
        except OSError as error:
            raise WorkerError(f"the fork server of the process executor did not start: {error}") from error
        self.socket.settimeout(_START_PATIENCE)
        try:
            is_ready = len(self.socket.recv(MESSAGE.size, socket.MSG_WAITALL)) == MESSAGE.size
        except TimeoutError:
            is_ready = False
        if not is_ready:
            self.end()
            raise WorkerError(
                "the fork server of the process executor did not start; what it said is on standard error"
            )
        self.socket.setblocking(False)

    def end(self) -> None:
        """End the fork server, and with it all that descends from it."""
        with suppress(OSError):  # it is gone
            self.socket.shutdown(socket.SHUT_RDWR)  # a fork of this process may hold the socket open
        self.socket.close()
        try:
            self._process.wait(_END_PATIENCE)
        except subprocess.TimeoutExpired:
            log_own("The fork server does not end; it is killed, and its children with it")
            self._process.kill()
            self._process.wait()
        while self._pending:
            self._pending.popleft().close()

    def plan(self, when: float) -> None:
        """Have a child requested at a time, by the monotonic clock."""
        insort(self._due, when)

    @property
    def are_planned(self) -> bool:
        """Whether a child is still to be requested."""
        return bool(self._due)

    def ask(self, now: float, *, is_alone: bool) -> None:
        """Request the children that are due.

        :param is_alone: There is no other child: one that there is no room for is an error.
        :raises kq.WorkerError: There is no room.
        """
        while self._due and self._due[0] <= now and len(self._pending) < _MAX_PENDING:
            self._due.popleft()
            try:
                child = Handle()
            except OSError as error:
                if is_alone and not self._pending:
                    raise WorkerError(f"there is no room for a child of the process executor: {error}") from error
                log_own("There is no room for another child, which is tried again: %s", error)
                self.plan(now + _ROOM_WAIT)
                break
            self._ask_for(child)

    def _ask_for(self, child: Handle) -> None:
        try:
            socket.send_fds(self.socket, [MESSAGE.pack(Verb.FORK, 0, 0)], child.descriptors)
        except OSError:  # the fork server is gone, as ``read`` will tell; or it is busy
            child.close()
            self.plan(time.monotonic() + _ROOM_WAIT)
        else:
            child.write(self._settings)
            self._pending.append(child)
        finally:
            for descriptor in child.descriptors:
                os.close(descriptor)

    def read(self) -> Iterator[Handle | Died | None]:
        """Yield the news: children that are there, those that ended, and None once the fork server is gone."""
        while True:
            try:
                data = self.socket.recv(MESSAGE.size)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                yield None
                return
            verb, pid, status = MESSAGE.unpack(data)
            if verb == Verb.SPAWNED:
                child = self._pending.popleft()
                child.pid = pid
                yield child
            elif verb == Verb.NO_ROOM:
                log_own("A child cannot be forked, which is tried again: %s", os.strerror(status))
            else:
                yield Died(pid, status)

    def signal(self, pid: int, signum: int) -> None:
        """Have the fork server send a signal to a child and its group, if it lives."""
        try:
            self.socket.send(MESSAGE.pack(Verb.KILL, pid, signum))
        except OSError:  # the fork server is gone, as ``read`` will tell; or it is busy, and there is another time
            return
