"""The fork server: the process that children of the process executor are forked from.

1. The worker starts it, in a session of its own, with a socket for its standard input. It imports what children need.
2. On request it forks a child, hands it its descriptors, and answers with the process ID of the child's group.
3. It reaps what dies, answers with the exit status, and kills what the dead left behind.
4. When the worker closes the socket, or dies, the fork server kills all children with their descendants and ends.

It has one thread, so forking is safe, and it never loads a Kafka client nor the worker's ``__main__``.

On Linux each child has a *keeper*, a process between it and the fork server, which leads the child's group. The system
gives the keeper what the child's jobs orphan, and it reaps that. The child could not: it cannot tell an adopted process
from one that a job has started and wants to wait for.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from kq.executors.process.child import run_child
from kq.executors.process.output import flush_output, open_output
from kq.executors.process.protocol import MESSAGE, Verb, blocking

__all__ = ["main"]

#: Seconds that the fork server takes at most to see its children dead before it ends: they were sent SIGKILL.
_LAST_WAIT = 1.0
#: Seconds between two looks for what the dead left behind.
_STRAY_WAIT = 0.01
#: Seconds between tries to fork where the system had no room for another process.
_FORK_WAIT = 0.2
#: Seconds between complaints about that.
_COMPLAIN_EVERY = 5.0
#: Seconds between looks whether the worker lives: a fork of it may hold its end of the socket open.
_WORKER_WAIT = 0.5
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


def main(preload: Sequence[str]) -> None:
    """Run a fork server on the socket that is its standard input; children have none.

    :param preload: Names of modules to import before the first fork.
    """
    worker, descriptor, nothing = os.getppid(), os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # a signal from the terminal, or from a service manager that sends it to all, is for the worker alone
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    open_output()
    for name in preload:
        importlib.import_module(name)
    flush_output()  # what is left in a buffer would be printed by each child
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _ForkServer(blocking(descriptor), worker).run()


class _ForkServer:
    def __init__(self, socket_: socket.socket, worker: int) -> None:
        self._socket = socket_
        self._socket.settimeout(_WORKER_WAIT)
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
        self._tell(Verb.UP, os.getpid(), 0)
        while self._has_worker():
            wait = _FORK_WAIT if self._waiting else _WORKER_WAIT
            readable, _, _ = select.select([self._socket, self._deaths], [], [], wait)
            if self._deaths in readable:
                self._deaths.recv(4096)
                self._reap()
            if self._socket in readable and not self._serve():
                break
            while self._waiting and self._fork(self._waiting[0]):
                self._waiting.popleft()
        self._kill_all()

    def _has_worker(self) -> bool:
        return os.getppid() == self._worker

    def _serve(self) -> bool:
        """Do what the worker asks; return whether it is still there."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE.size, 8)
        except OSError:
            return False
        if len(data) < MESSAGE.size:
            return False
        verb, pid, signum = MESSAGE.unpack(data)
        if verb == Verb.FORK:
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
                self._tell(Verb.NO_ROOM, 0, error.errno or 0)
            return False
        if pid == 0:
            self._become_child(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._children.add(pid)
        self._tell(Verb.SPAWNED, pid, 0)
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
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for mine in (self._socket, self._deaths, self._wake):
                mine.close()
            for others in self._waiting:
                for descriptor in set(others) - set(descriptors):
                    os.close(descriptor)
            if sys.platform == "linux":
                _keep(descriptors)
            run_child(*descriptors)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come still, and here would end nothing but this
            flush_output()

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
                self._tell(Verb.DIED, pid, os.waitstatus_to_exitcode(status))

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
        while self._has_worker():
            try:
                self._socket.sendall(MESSAGE.pack(verb, pid, status))
            except TimeoutError:  # the worker stands still; so small a message was not taken in part
                continue
            except OSError:  # nobody listens: the next read says so
                pass
            return


def _keep(descriptors: Sequence[int]) -> None:
    """Fork a child and return in it. Stay as its keeper here: reap what it orphans, and end as it ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.getpid()
    if (child := _fork_in_the_end()) == 0:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)
        return
    for descriptor in descriptors:  # that a child has closed its stream must be seen
        os.close(descriptor)
    pid = 0
    while pid != child:
        pid, status = os.waitpid(-1, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        _prctl(_PR_SET_DUMPABLE, 0)  # the child has left its core
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def _fork_in_the_end() -> int:
    """Fork, as soon as the system has room for another process."""
    while True:
        try:
            return os.fork()
        except OSError:
            time.sleep(_FORK_WAIT)


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
