"""Jobs that write down when they start and end, and workers in processes of their own that run them.

1. A job appends whole lines to a file: what happened survives whatever kills the process.
2. ``WorkerProcess`` runs a worker in another process, which a test may kill.
3. ``Journal`` reads the file back: how often each job started and ended.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kq

#: A dead member is missed after six seconds, the least that a broker allows by default.
QUICK = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 500}

_numbers = itertools.count()


def note(path: str, word: str, name: Any) -> None:
    line = f"{time.monotonic():.4f} {os.getpid()} {word} {name}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def work(path: str, name: Any, seconds: float = 0.0) -> Any:
    """Take a while, in steps that let other threads run, and write down both ends."""
    note(path, "start", name)
    if seconds:
        time.sleep(seconds)
    note(path, "end", name)
    return name


def die(path: str, name: Any, seconds: float = 0.0) -> None:
    """Kill the whole worker."""
    note(path, "start", name)
    time.sleep(seconds)
    os._exit(1)


class Entry(NamedTuple):
    time: float
    pid: int
    word: str
    name: str


class Journal:
    """What jobs wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        path.touch()

    def entries(self) -> Iterator[Entry]:
        whole, _, _ = Path(self.path).read_text().rpartition("\n")  # of the last line there may be only a part yet
        for line in whole.splitlines():
            moment, pid, word, name = line.split(" ", 3)
            yield Entry(float(moment), int(pid), word, name)

    def count(self, word: str) -> collections.Counter[str]:
        return collections.Counter(entry.name for entry in self.entries() if entry.word == word)

    def names(self, word: str) -> set[str]:
        return set(self.count(word))


class WorkerProcess:
    """A worker in a process of its own. Its callback writes ``status`` lines into the journal."""

    def __init__(self, journal: Journal, topic: str, hosts: str, **options: Any) -> None:
        self.options = {"topic": topic, "hosts": hosts, "journal": journal.path, "config": QUICK, **options}
        self._log_path = Path(f"{journal.path}.{next(_numbers)}.log")
        folder = str(Path(__file__).parent)
        path = os.pathsep.join([folder, str(Path(kq.__file__).parent.parent)])
        self._log = self._log_path.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(self.options)],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    @property
    def generations(self) -> int:
        """How often the worker joined its group."""
        return self.log.count("Successfully joined group")

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def terminate(self, timeout: float = 30) -> int:
        """Ask for a warm stop and return the exit code."""
        self.process.terminate()
        code = self.process.wait(timeout)
        self._log.close()
        return code


def _main(options: dict[str, Any]) -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    logging.getLogger("kafka.coordinator").setLevel(logging.INFO)
    logging.getLogger("kq.worker").setLevel(logging.ERROR)
    logging.getLogger("kq.pump").setLevel(logging.DEBUG)
    journal = options.pop("journal")
    eager = options.pop("eager", False)

    def callback(status: str, message: kq.Message, *rest: Any) -> None:
        note(journal, status, f"{message.partition}/{message.offset}")

    if eager:
        from kafka.coordinator.assignors.range import RangePartitionAssignor

        options["config"] = {**options["config"], "partition_assignment_strategy": [RangePartitionAssignor]}
    note(journal, "worker", "up")
    kq.Worker(callback=callback, **options).start()
    note(journal, "worker", "down")


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
