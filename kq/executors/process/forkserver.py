"""The fork server: the process that children of the process executor are forked from.

1. The worker starts it, in a session of its own, with one end of a socket pair. It imports what children need.
2. On request it forks a child, hands it its descriptors, and answers with its process ID.
3. It reaps what dies, answers with the exit status, and kills what the dead left behind.
4. When the worker closes its end, or dies, the fork server kills all children with their descendants and ends.

It has one thread, so forking is safe, and it never loads a Kafka client nor the worker's ``__main__``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

__all__ = ["DIED", "FORK", "KILL", "MESSAGE", "NO_ROOM", "SPAWNED", "main"]

#: A request or an answer: a verb, a process ID, and a signal, an exit status or a number of an error.
MESSAGE = struct.Struct("=Bii")
FORK, KILL, SPAWNED, DIED, READY, NO_ROOM = range(6)

#: Seconds that the fork server takes at most to see its children dead before it ends: they were sent SIGKILL.
_LAST_WAIT = 1.0
#: Seconds between two looks for what the dead left behind.
_STRAY_WAIT = 0.01
#: Seconds between tries to fork where the system had no room for another process.
_FORK_WAIT = 0.2
#: Seconds between complaints about that.
_COMPLAIN_EVERY = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(descriptor: int, path: str, preload: str) -> None:
    """Run a fork server on a socket that was inherited.

    :param path: ``sys.path`` of the worker, as JSON.
    :param preload: Names of modules to import before the first fork, as JSON.
    """
    sys.path[:] = json.loads(path)
    # a signal from the terminal, or from a service manager that sends it to all, is for the worker alone
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    for name in ["kq.executors.process.child", *json.loads(preload)]:
        importlib.import_module(name)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _ForkServer(socket.socket(fileno=descriptor)).run()


class _ForkServer:
    def __init__(self, worker: socket.socket) -> None:
        self._worker = worker
        self._children: set[int] = set()
        #: Descriptors of children that are to be forked as soon as the system has room for another process.
        self._waiting: deque[Sequence[int]] = deque()
        self._complain_at = 0.0
        self._deaths, wake = socket.socketpair()
        self._deaths.setblocking(False)
        wake.setblocking(False)
        self._wake = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        self._tell(READY, os.getpid(), 0)
        while True:
            readable, _, _ = select.select([self._worker, self._deaths], [], [], _FORK_WAIT if self._waiting else None)
            if self._deaths in readable:
                self._deaths.recv(4096)
                self._reap()
            if self._worker in readable and not self._serve():
                break
            while self._waiting and self._fork(self._waiting[0]):
                self._waiting.popleft()
        self._kill_all()

    def _serve(self) -> bool:
        """Do what the worker asks; return whether it is still there."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._worker, MESSAGE.size, 8)
        except ConnectionError:
            return False
        if len(data) < MESSAGE.size:
            return False
        verb, pid, signum = MESSAGE.unpack(data)
        if verb == FORK:
            self._waiting.append(descriptors)
        elif pid in self._children:  # not reaped yet, so the ID is still its own
            _signal_group(pid, signum)
        return True

    def _fork(self, descriptors: Sequence[int]) -> bool:
        """Fork a child; return False where the system has no room for another process now."""
        try:
            pid = os.fork()
        except OSError as error:
            if time.monotonic() > self._complain_at:
                self._complain_at = time.monotonic() + _COMPLAIN_EVERY
                self._tell(NO_ROOM, 0, error.errno or 0)
            return False
        if pid == 0:
            self._become_child(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._children.add(pid)
        self._tell(SPAWNED, pid, 0)
        return True

    def _become_child(self, descriptors: Sequence[int]) -> None:
        status = 1
        try:
            self._run_child(descriptors)
            status = 0
        finally:
            os._exit(status)

    def _run_child(self, descriptors: Sequence[int]) -> None:
        try:
            os.setsid()
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for mine in (self._worker, self._deaths, self._wake):
                mine.close()
            for others in self._waiting:
                for descriptor in set(others) - set(descriptors):
                    os.close(descriptor)
            from kq.executors.process.child import run_child

            run_child(*descriptors)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come still, and here would end nothing but this
            _flush_standard_streams()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                self._children.discard(pid)
                self._kill_strays()
                self._tell(DIED, pid, os.waitstatus_to_exitcode(status))

    def _kill_strays(self) -> None:
        """Kill what dead children left behind in other sessions: the system has made that ours."""
        deadline = time.monotonic() + _LAST_WAIT
        while (strays := _children_of_mine() - self._children) and time.monotonic() < deadline:
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(_STRAY_WAIT)

    def _kill_all(self) -> None:
        for pid in self._children:
            _signal_group(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._children.clear()
        self._kill_strays()

    def _tell(self, verb: int, pid: int, status: int) -> None:
        with contextlib.suppress(OSError):  # nobody listens: the next read says so
            self._worker.sendall(MESSAGE.pack(verb, pid, status))


def _signal_group(pid: int, signum: int) -> None:
    """Signal a child and its group, once: before its ``setsid`` it has none."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, signum)
            return


def _children_of_mine() -> set[int]:
    """Return the IDs of our child processes; on systems that do not tell, none."""
    try:
        return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
    except OSError:
        return set()


def _prctl(option: int, value: int) -> None:
    """Set an attribute of this process, on Linux; elsewhere groups and sockets must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _flush_standard_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
