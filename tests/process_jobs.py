"""Jobs for the process executor: they crash, resist, fork, or bring back what cannot cross.

1. Children import this module by its name, from the ``sys.path`` of the worker.
2. What they start they write down, by process ID, so that a test can see it end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from journal import note

#: What jobs keep, so that their child grows.
_KEPT: list[bytearray] = []
_here = os.environ.get("KQ_TEST_STARTED")


def exists(pid: int) -> bool:
    """Return whether there is such a process, if only as a zombie."""
    return Path(f"/proc/{pid}").exists()


def name_of(function: Any) -> str:
    return str(function.__name__)


def nothing() -> None:
    pass


def pid_of_child() -> int:
    return os.getpid()


def pids() -> tuple[int, int]:
    """Return the IDs of child and fork server."""
    return os.getpid(), int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])


def nap(seconds: float, result: Any = "rested") -> Any:
    time.sleep(seconds)
    return result


# -- jobs that do not end ----------------------------------------------------------------------------------------------


def meet(path: str, count: int) -> None:
    """Return when so many have come; raise where they do not."""
    note(path, "came", os.getpid())
    deadline = time.monotonic() + 100
    while len(Path(path).read_text().splitlines()) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("the others do not come")
        time.sleep(0.05)


def endure(path: str, way: str) -> None:
    """Never end, in one of many ways."""
    note(path, "start", way)
    _ENDURE[way](path)


def _sleep(path: str) -> None:
    time.sleep(60)


def _spin(path: str) -> None:
    while True:
        pass


def _match(path: str) -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def _resist(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


def _swallow(path: str) -> None:
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


def _with_subprocess(path: str) -> None:
    with subprocess.Popen(["sleep", "300"]) as process:
        note(path, "started", process.pid)


def _with_session(path: str) -> None:
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as process:
        note(path, "started", process.pid)


def _with_daemon(path: str) -> None:
    done = subprocess.run(["sh", "-c", "setsid sleep 300 >&2 & echo $!"], stdout=subprocess.PIPE, check=True)
    note(path, "started", int(done.stdout))
    time.sleep(300)


_ENDURE: dict[str, Callable[[str], None]] = {
    "sleep": _sleep,
    "busy loop": _spin,
    "regular expression": _match,
    "resists": _resist,
    "swallows": _swallow,
    "subprocess": _with_subprocess,
    "subprocess with a session": _with_session,
    "daemon": _with_daemon,
}


def clean_up(path: str) -> None:
    """Sleep, and write down that there was time to clean up."""
    note(path, "start", "job")
    try:
        time.sleep(60)
    finally:
        note(path, "cleaned", "job")


def leave_behind(path: str) -> None:
    """Return, leaving a daemon."""
    done = subprocess.run(["sh", "-c", "setsid sleep 300 >&2 & echo $!"], stdout=subprocess.PIPE, check=True)
    note(path, "started", int(done.stdout))


# -- jobs that end their process ---------------------------------------------------------------------------------------


def exit_at_once() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_its_group() -> None:
    os.killpg(0, signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def leave() -> None:
    sys.exit("enough")


def overflow_stack() -> None:
    """Call C from Python from C, on a small stack, until there is no more of it."""
    import resource

    resource.setrlimit(resource.RLIMIT_STACK, (256 * 1024, resource.RLIM_INFINITY))
    sys.setrecursionlimit(10**9)

    def deeper(_: int) -> Any:
        return sorted([0], key=deeper)

    deeper(0)


def babble() -> None:
    """Write into everything that is open."""
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, struct.pack("=Q", 8) + b"nonsense")
    time.sleep(60)


def log_long_lines() -> None:
    """Log lines that go out in pieces, also while ending."""
    log = logging.getLogger("shop")
    try:
        while True:
            log.warning("x" * 300_000)
    finally:
        log.warning("y" * 300_000)


def leave_a_thread_that_keeps_the_gil(path: str) -> None:
    """Return; a moment later nothing more can run in this process."""

    def keep() -> None:
        time.sleep(0.1)
        note(path, "keeps", "all")
        ctypes.PyDLL(None).sleep(600)

    threading.Thread(target=keep, daemon=True).start()


def close_descriptors() -> None:
    os.closerange(0, 4096)


def fork_and_return_twice() -> int:
    return os.fork()


def exhaust_memory() -> None:
    """Ask for more than the limit that ``limit_resources`` sets."""
    bytearray(8 << 30)


def limit_memory() -> None:
    """Set a hard limit that a few hundred megabytes pass."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))


def limit_resources() -> None:
    """Set hard limits, as ``on_start`` may."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


#: Each way to die, and how the child ends: None where only its job fails.
DEATHS: dict[Callable[[], Any], set[int | None]] = {
    exit_at_once: {3},
    kill_itself: {-signal.SIGKILL},
    kill_its_group: {-signal.SIGKILL},
    segfault: {-signal.SIGSEGV},
    abort: {-signal.SIGABRT},
    leave: {1},
    overflow_stack: {-signal.SIGSEGV},
    close_descriptors: {1, -signal.SIGKILL},  # it fails to answer, or is killed because it cannot
    fork_and_return_twice: {None},
}


def fork_and_wait() -> str:
    """Fork as multiprocessing does: the copy never comes back."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "waited"


class ExitsWhenRead:
    """Ends whatever process unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


class HangsWhenRead:
    """Keeps whatever process unpickles it."""

    def __reduce__(self) -> Any:
        return time.sleep, (60,)


class Traced:
    """Writes down which process unpickles it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _trace, (self.path,)


def _trace(path: str) -> Traced:
    note(path, "unpickled", "Traced")
    return Traced(path)


def take(*args: Any) -> int:
    return len(args)


def give_traced(path: str) -> Traced:
    return Traced(path)


# -- what does not cross -----------------------------------------------------------------------------------------------


def give_generator() -> Any:
    return (number for number in ())


def give_memoryview() -> memoryview:
    return memoryview(b"")


def give_bytes(size: int) -> bytes:
    return bytes(size)


class Fussy(Exception):
    """Cannot be made from its ``args``."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Holding(Exception):
    """Holds what cannot be pickled."""


class NotReduced(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


class ReducedToText(Exception):
    """Arrives as something else."""

    def __reduce__(self) -> Any:
        return str, ("text",)


class ReducedToOther(Exception):
    """Arrives as another exception."""

    def __reduce__(self) -> Any:
        return ValueError, ("other",)


class Leaving(Exception):
    """Leaves where it is made."""

    def __reduce__(self) -> Any:
        return sys.exit, (1,)


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class Frozen(Exception):
    """Takes no attributes."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)

    def with_traceback(self, *_: Any) -> Any:
        raise AttributeError


class Odd(BaseException):
    """Not an ``Exception``."""


def bring_up(way: str) -> None:
    raise _ERRORS[way]()


_ERRORS: dict[str, Callable[[], BaseException]] = {
    "fussy": lambda: Fussy(1, 2),
    "holding": lambda: Holding(give_generator()),
    "not reduced": NotReduced,
    "reduced to text": ReducedToText,
    "reduced to other": ReducedToOther,
    "leaving": Leaving,
    "wordless": Wordless,
    "mute": Mute,
    "frozen": lambda: Frozen("cold"),
    "odd": lambda: Odd("odd"),
    "bent": lambda: SyntaxError("bent", ("file.py", 1, "not a number", "text")),  # type: ignore[arg-type]
    "interrupt": KeyboardInterrupt,
    "local": lambda: type("Local", (Exception,), {})("here"),
}


def fail_with_cause() -> None:
    try:
        raise KeyError("deeper")
    except KeyError as error:
        raise ValueError("above") from error


# -- what children know ------------------------------------------------------------------------------------------------


def start_well() -> None:
    os.environ["KQ_TEST_STARTED"] = str(os.getpid())


def start_badly() -> None:
    raise RuntimeError("no database")


def start_alone(path: str) -> None:
    """Fail in every child but the one that was first, as where there is one connection; write down each try."""
    note(path, "try", os.getpid())
    os.mkdir(path + ".taken")


def die_at_start() -> None:
    os._exit(4)


def was_started() -> bool:
    return os.environ.get("KQ_TEST_STARTED") == str(os.getpid())


def is_loaded(*names: str) -> list[str]:
    return [name for name in names if name in sys.modules]


def grow(size: int) -> int:
    _KEPT.append(bytearray(os.urandom(1024) * (size // 1024)))
    return os.getpid()


def log_a_line(text: str) -> None:
    logging.getLogger("shop").warning("sold %s", text)
    logging.getLogger("shop.detail").debug("detail of %s", text)


def log_from_everywhere() -> None:
    """Log from a thread and from a process of its own."""
    thread = threading.Thread(target=log_a_line, args=("thread",))
    thread.start()
    thread.join()
    pid = os.fork()
    if pid == 0:
        log_a_line("x" * 100_000)
        os._exit(0)
    os.waitpid(pid, 0)


def read_input() -> str:
    return sys.stdin.read()


def signal_everything(signum: int) -> str:
    """Signal the child and what it comes from, as a terminal does, or a service manager that stops a control group."""
    for pid in (os.getppid(), os.getpid()):
        os.kill(pid, signum)
    time.sleep(0.3)
    return "went on"


async def nap_async(path: str, name: Any, seconds: float) -> Any:
    """Sleep on an event loop, and write down both ends."""
    note(path, "start", name)
    await asyncio.sleep(seconds)
    note(path, "end", name)
    return name


async def fail_async() -> None:
    await asyncio.sleep(0)
    raise ValueError("async")


def give_unpicklable() -> Any:
    """Return what no pickle can hold."""
    return Holding(give_generator())
