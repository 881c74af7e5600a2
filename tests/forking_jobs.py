"""Jobs that fork helpers from the worker's own process, as ``multiprocessing`` does by default on Linux."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time

_fork = multiprocessing.get_context("fork")


def compute() -> None:
    """Stay in C code for a minute: no Python handler runs."""
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 60_000_000)


def map_in_a_pool(count: int) -> int:
    """Use a pool, which ends its processes with SIGTERM."""
    with _fork.Pool(count) as pool:
        return sum(pool.map(abs, range(-count, 0)))


def terminate_helpers(count: int) -> list[int | None]:
    """Start processes that compute, end them with SIGTERM, and return their exit codes."""
    helpers = [_fork.Process(target=compute) for _ in range(count)]
    for helper in helpers:
        helper.start()
        helper.terminate()
    for helper in helpers:
        helper.join(20)
        helper.kill()
    return [helper.exitcode for helper in helpers]


def outlive_helpers(count: int) -> list[int | None]:
    """Start processes that wait, say so, and return their exit codes when all have ended."""
    helpers = [_fork.Process(target=time.sleep, args=(60,)) for _ in range(count)]
    for helper in helpers:
        helper.start()
    print("helpers run", flush=True)
    for helper in helpers:
        helper.join(30)
        helper.kill()
    return [helper.exitcode for helper in helpers]


def handlers_in_a_fork() -> tuple[str, str, int]:
    """Return the handlers of SIGINT and SIGTERM in a fork, and its wakeup descriptor, as that tells them."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        names = [getattr(handler, "__name__", str(handler)) for handler in map(signal.getsignal, (2, 15))]
        os.write(write, repr((*names, signal.set_wakeup_fd(-1))).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    told = eval(os.read(read, 1000))
    os.close(read)
    return told  # type: ignore[no-any-return]
