"""The process between a local Kafka and its owner, so that no Java outlives the program that started it.

1. The owner makes a ``Supervisor``, which starts a small Python in a session of its own. That locks the folder.
2. The owner sends requests, one line of JSON each: start, signal or poll a node. The supervisor answers each in a line.
3. When its input ends (the owner closed it, or is dead) it ends every node, removes the folder if it was temporary, and
   exits.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kq.errors import LocalKafkaError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["Supervisor", "await_frozen"]

#: Seconds between two checks whether the owner is alive.
WATCH = 0.5
#: Seconds between SIGTERM and SIGKILL. A node shuts down in 0.3; nobody should wait for more than 2.
GRACE = 1.5
#: Seconds between two tries to lock.
POLL = 0.02
#: Seconds that a process may take to stop after SIGSTOP; on a busy machine it may answer something until then.
FREEZE = 5.0


def await_frozen(pid: int) -> None:
    """Return when all threads of a process are stopped; at once where the system does not tell."""
    deadline = time.monotonic() + FREEZE
    while time.monotonic() < deadline:
        try:
            stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        except OSError:  # a thread has just ended
            continue
        if all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats):
            return
        time.sleep(POLL)


class Supervisor:
    """The owner's handle of the supervisor's process, which is the parent of all nodes."""

    def __init__(self, folder: Path, temporary: bool) -> None:
        home = str(Path(__file__).resolve().parents[2])
        code = "import sys; sys.path.append(sys.argv[1]); import kq.local.supervisor as s; s._supervise(*sys.argv[2:])"
        self._owner = os.getpid()
        self._numbers = itertools.count()
        self._lock = threading.RLock()  # a signal handler may stop what its own thread is just starting
        with open(folder / "supervisor.log", "ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the owner, who may want to stop things in order.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code, home, str(folder), "temporary" if temporary else "kept"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        if not self._receive():
            self.close()
            raise LocalKafkaError(f"another local Kafka uses {folder}")

    def ask(self, verb: str, node: int, *args: Any) -> Any:
        """Send a request and return the answer."""
        with self._lock:
            number = next(self._numbers)
            self._send([number, verb, node, *args])
            answered = None
            while answered != number:  # Ctrl-C may have left the answer to an earlier request unread
                answered, value, problem = self._receive()
        if problem is not None:
            raise LocalKafkaError(problem)
        return value

    def _send(self, request: list[Any]) -> None:
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        except (OSError, ValueError) as error:
            raise LocalKafkaError("the process that keeps the local Kafka is gone") from error

    def _receive(self) -> Any:
        try:
            return json.loads(self._answers.readline())
        except (OSError, ValueError) as error:
            raise LocalKafkaError("the process that keeps the local Kafka is gone") from error

    def close(self) -> None:
        """End all nodes and the supervisor. In a fork of the owner, do nothing: they are not its own."""
        if self._owner != os.getpid():
            return
        with self._lock:
            try:
                self._requests.close()
            except OSError:  # it is gone already
                pass
            self._process.wait()
            self._answers.close()


# -- in the supervisor's process --------------------------------------------------------------------------------------


def _supervise(folder: str, kind: str) -> None:
    """Lock a folder and run its nodes for the owner; when the input ends, end them all."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    threading.Thread(target=_watch_owner, args=[os.getppid()], daemon=True).start()
    try:
        # Kafka's own lock comes late: a second node in a folder damages the log of the first before it gives up.
        with open(os.path.join(folder, "lock"), "ab") as lock:
            locked = _try_to_lock(lock.fileno())
            print(json.dumps(locked), flush=True)  # noqa: T201
            if locked:
                _run_nodes(clean=kind == "kept")
    finally:
        if kind == "temporary":
            shutil.rmtree(folder, ignore_errors=True)


def _run_nodes(clean: bool) -> None:
    nodes: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for line in sys.stdin:
            print(json.dumps(_carry_out(nodes, *json.loads(line))), flush=True)  # noqa: T201
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all(nodes.values(), clean)


def _try_to_lock(file: int) -> bool:
    """Lock a file; give the supervisor of an owner that was just killed the time to end its nodes."""
    deadline = time.monotonic() + 2 * GRACE
    while True:
        try:
            if sys.platform == "win32":
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)


def _watch_owner(owner: int) -> None:
    """End this process when the owner is dead although a fork of it still holds the other end of our input."""
    while os.getppid() == owner:
        time.sleep(WATCH)
    os.kill(os.getpid(), signal.SIGTERM)


def _carry_out(nodes: dict[int, subprocess.Popen[bytes]], number: int, verb: str, node: int, *args: Any) -> list[Any]:
    """Carry out a request. Return its number, the answer, and the error."""
    try:
        if verb == "start":
            nodes[node] = _start_java(*args)
            return [number, nodes[node].pid, None]
        return [number, getattr(nodes[node], verb)(*args), None]
    except (OSError, KeyError) as error:
        return [number, None, f"cannot {verb} node {node} of the local Kafka: {error!r}"]


def _start_java(command: list[str], folder: str) -> subprocess.Popen[bytes]:
    # Paths are relative to the folder, so that nothing in its name needs an escape in Kafka's own file. And Java opens
    # no folder with a letter that the locale does not have: the plain C locale has but ASCII.
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    with open(os.path.join(folder, "kafka.log"), "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _end_all(processes: Collection[subprocess.Popen[bytes]], clean: bool) -> None:
    """End these processes: cleanly where there is data to keep, else at once."""
    deadline = time.monotonic() + (GRACE if clean else 0.0)
    for process in processes if clean else ():
        if hasattr(signal, "SIGCONT"):  # a paused process acts on no other signal
            process.send_signal(signal.SIGCONT)
        process.terminate()
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
