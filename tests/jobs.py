"""Jobs that tests enqueue, the callback that watches them, and programs that run in processes of their own.

1. A test enqueues functions of this module; a worker imports them, in this process or another.
2. ``HOOKS`` lets a job run code of the test that waits for it, where both are in one process.
3. ``Calls`` is a callback that remembers; ``Program`` is a script whose lines can be waited for.
"""

from __future__ import annotations

import hashlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kq

#: What ``hook`` calls.
HOOKS: dict[str, Callable[[], Any]] = {}


def add(a: int = 0, b: int = 0) -> int:
    return a + b


def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def hook(name: str) -> Any:
    return HOOKS[name]()


def fail(text: str) -> None:
    raise ValueError(text)


def leave(code: Any = None) -> None:
    sys.exit(code)


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


class Odd(BaseException):
    """An exception that is not an ``Exception``."""


def raise_odd() -> None:
    raise Odd("odd")


class Mute(Exception):
    """An exception that cannot be turned into text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def raise_mute() -> None:
    raise Mute


def raise_bent() -> None:
    """Raise an exception that the ``traceback`` module cannot print."""
    raise SyntaxError("bent", ("file.py", 1, "not a number", "text"))


class Unprintable:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def make_unprintable() -> Unprintable:
    return Unprintable()


class Account:
    """Has a method to be enqueued, and can be called itself."""

    def __init__(self, balance: int) -> None:
        self.balance = balance

    def after(self, amount: int) -> int:
        return self.balance + amount

    def __call__(self, amount: int) -> int:
        return self.balance - amount


def spin(seconds: float) -> str:
    """Keep the interpreter busy without ever waiting."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "spun"


def nap(seconds: float) -> str:
    """Sleep in steps that let a thread be interrupted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)
    return "rested"


def catch_exceptions(seconds: float) -> str:
    try:
        nap(seconds)
    except Exception:
        return "swallowed"
    return "rested"


def catch_everything_once(seconds: float) -> str:
    try:
        nap(seconds)
    except BaseException:
        nap(seconds)
    return "rested"


def catch_everything(seconds: float) -> None:
    """Never end, whatever is raised."""
    say("stubborn")
    while True:
        try:
            nap(seconds)
        except BaseException:
            pass


def say(word: Any) -> None:
    print(word, flush=True)


def say_and_nap(seconds: float) -> str:
    """Print both ends: what a test in another process waits for."""
    say("begin")
    nap(seconds)
    say("end")
    return "rested"


def compute_in_c(seconds: float) -> None:
    """Stay in one call of C code that lets other threads run, and looks at no signal."""
    say("begin")
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", int(2_000_000 * seconds))


def send_signals(*signums: int) -> str:
    """Send signals to this process, then go on for a while."""
    for signum in signums:
        os.kill(os.getpid(), signum)
    nap(0.3)
    return "finished"


class Call(NamedTuple):
    """What a worker told of one message."""

    status: str
    message: kq.Message
    job: Any
    result: Any
    exception: BaseException | None
    stacktrace: str | None


class Calls(list[Call]):
    """A callback that remembers what it was told."""

    def __call__(self, *args: Any) -> None:
        self.append(Call(*args))

    @property
    def statuses(self) -> list[str]:
        return [call.status for call in self]

    @property
    def results(self) -> list[Any]:
        return [call.result for call in self]


#: Seconds until a program is too slow: far longer than any of them takes on a machine that is not stuck.
PATIENCE = 40.0
ROOT = Path(kq.__file__).parent.parent


class Program:
    """A script in a process of its own, killed at the end of the ``with`` block if it still runs."""

    def __init__(self, source: str, *args: str, flags: Sequence[str] = (), folder: Path | None = None) -> None:
        path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
        command = [sys.executable, *flags, "-c", source, *args]
        if folder is not None:
            script = folder / "script.py"
            script.write_text(source)
            command[len(flags) + 1 :] = [str(script), *args]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
        self.lines: list[str] = []
        #: When it closed its output, which it does when it ends, by the wall clock.
        self.ended = float("inf")
        self._coming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for(self, start: str, timeout: float = PATIENCE) -> None:
        """Wait until the program prints a line that starts so."""
        deadline = time.monotonic() + timeout
        while not any(line.startswith(start) for line in self.lines):
            try:
                got = self._coming.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{start!r} was not printed: {self.text}") from None
            assert got is not None, f"the program ended without {start!r}: {self.text}"
            self.lines.append(got)

    def end(self, timeout: float = PATIENCE) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(timeout)
        self._reader.join()
        while (got := self._coming.get()) is not None:
            self.lines.append(got)
        return code

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._coming.put(line.rstrip("\n"))
        self.ended = time.time()
        self._coming.put(None)
