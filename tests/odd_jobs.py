"""Jobs for the process executor that fork, print, or change what their child has from Python.

Children import this module by its name, from the ``sys.path`` of the worker.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from journal import note

#: What a job leaves for a later one.
_LEFT: list[Any] = []
_fork = multiprocessing.get_context("fork")


# -- jobs that fork ----------------------------------------------------------------------------------------------------


def orphan() -> None:
    """Leave a process that ends by itself a moment later."""
    os.system("(sleep 0.05 &)")


def start_and_leave(code: int) -> int:
    """Start a process that a later job is to wait for."""
    _LEFT.append(subprocess.Popen([sys.executable, "-c", f"import sys; sys.exit({code})"]))
    return os.getpid()


def wait_for_what_was_left() -> tuple[int, int]:
    process = _LEFT.pop()
    assert isinstance(process, subprocess.Popen)
    return os.getpid(), process.wait(30)


def fork_by_multiprocessing() -> int | None:
    process = _fork.Process(target=int)
    process.start()
    process.join(30)
    return process.exitcode


def leave_a_helper() -> None:
    """Leave a process that multiprocessing has forked, and that waits."""
    _fork.Process(target=time.sleep, args=(60,), daemon=True).start()


def map_in_a_pool() -> list[int]:
    """Use a pool, which ends by SIGTERM."""
    with _fork.Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


def terminate_at_once(count: int) -> set[int | None]:
    """Fork and terminate at the same moment; return how these processes ended."""
    processes = [_fork.Process(target=time.sleep, args=(60,)) for _ in range(count)]
    for process in processes:
        process.start()
        process.terminate()
    for process in processes:
        process.join(10)
    codes = {process.exitcode for process in processes}
    for process in processes:
        process.kill()
    return codes


def fork_and_exit(code: int) -> int:
    """Fork the classic way: the copy calls ``sys.exit``."""
    pid = os.fork()
    if pid == 0:
        sys.exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_and_return_later(path: str) -> int:
    """Return at once here, and in a copy later."""
    pid = os.fork()
    if pid == 0:
        time.sleep(0.3)
        note(path, "returned", os.getpid())
    return pid


class ForksWhenRead:
    """Forks the process that unpickles it, and comes back twice."""

    def __reduce__(self) -> Any:
        return os.fork, ()


def take(*args: Any) -> int:
    return len(args)


def give_forking() -> ForksWhenRead:
    return ForksWhenRead()


# -- jobs that print ---------------------------------------------------------------------------------------------------


def say_lines(number: int) -> None:
    """Print lines one by one, and many at once."""
    for line in range(30):
        print("job", number, "line", line, "x" * 60, "end")
    print("\n".join(f"job {number} line {line} {'x' * 60} end" for line in range(30, 150)))
    print("job", number, "line 150 end", file=sys.stderr)


def _write_lines(number: int) -> None:
    for line in range(150):
        sys.stdout.write(f"job {number} line {line} {'x' * 60} end\n")


def say_from_threads(number: int) -> None:
    """Print lines from threads, and from a fork in the midst of that."""
    threads = [threading.Thread(target=_write_lines, args=(number,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    process = _fork.Process(target=_write_lines, args=(number,))
    process.start()
    process.join(30)
    for thread in threads:
        thread.join()


def say_partly(way: str) -> None:
    """Print a line without an end; then return, fail, or never come back."""
    print("said by the job", end="")
    print("complained by the job", end="", file=sys.stderr)
    if way == "failure":
        raise ValueError(way)
    if way == "timeout":
        time.sleep(60)


def close_output() -> None:
    sys.stdout.close()
    sys.stderr.close()


def replace_output() -> None:
    """Leave something else in the place of standard output, and part of a line in what was there."""
    print("said before", end="")
    sys.stdout = io.StringIO()


def echo() -> int:
    """Have a program print."""
    return subprocess.run(["sh", "-c", "echo said by a program; echo complained >&2"], check=True).returncode


# -- what children know ------------------------------------------------------------------------------------------------


def draw() -> tuple[int, float, float]:
    """Return the child and random numbers of it, after all children had the time to come."""
    time.sleep(0.2)
    numbers: Any = sys.modules["numpy.random"]
    return os.getpid(), random.random(), numbers.random()


def set_default_timeout(seconds: float) -> int:
    socket.setdefaulttimeout(seconds)
    return os.getpid()


def fork_twice_at_start() -> None:
    os.fork()


def note_and_sleep(path: str, seconds: float) -> None:
    note(path, "start", os.getpid())
    time.sleep(seconds)
    note(path, "end", os.getpid())


def log_much(path: str, size: int) -> None:
    """Log more than a socket takes, and write down the end."""
    for _ in range(size // 1000):
        logging.getLogger("shop").warning("x" * 1000)
    note(path, "end", "log")


def give_much(size: int) -> bytearray:
    return bytearray(size)


# -- what only the worker cannot read ----------------------------------------------------------------------------------


class Hurts:
    """Can be unpickled in every process but one."""

    def __init__(self, pid: int, way: str) -> None:
        self.parts = pid, way

    def __reduce__(self) -> Any:
        return hurt, self.parts


def hurt(pid: int, way: str) -> Hurts:
    if os.getpid() == pid:
        _PAINS[way]()
    return Hurts(pid, way)


def _dig() -> None:
    _dig()


def _exhaust() -> None:
    raise MemoryError


_PAINS = {"recursion": _dig, "memory": _exhaust, "exit": sys.exit}


def give(thing: Any) -> Any:
    return thing


def fail_with(thing: Any) -> None:
    raise ValueError(thing)


def descendants(pid: int) -> list[int]:
    """Return the processes below one, dead ones included."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Return whether there is such a process that has not ended: nobody says when init reaps what it was given."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
