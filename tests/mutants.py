"""Break the safety of KQ on purpose, one way at a time, and show that the suite notices.

Run it by hand from the root of a checkout, in an environment where the tests pass: ``python tests/mutants.py``. It
takes some minutes. Each mutant is one edit of a copy of the library; the tests named with it must fail there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    """One edit: what it breaks, where, and which tests are to notice."""

    name: str
    file: str
    before: str
    after: str
    tests: str


MUTANTS = [
    Mutant(
        "no epoch check",
        "kq/consuming/tracker.py",
        "return current is not None and current.epoch == epoch",
        "return current is not None",
        "tests/test_tracker.py",
    ),
    Mutant(
        "no seek on assignment",
        "kq/consuming/pump.py",
        "self._consumer.seek(tp, committed.offset)",
        "pass",
        "tests/test_pump.py",
    ),
    Mutant(
        "commit from the highest seen",
        "kq/consuming/tracker.py",
        "        for offset in self.incomplete:\n            return offset\n        return self.position",
        "        return self.position",
        "tests/test_tracker.py",
    ),
    Mutant(
        "auto-commit left on",
        "kq/worker.py",
        'coordinator.config["enable_auto_commit"] = False',
        "pass",
        "tests/test_offsets.py tests/test_worker.py",
    ),
    Mutant(
        "done-map without topic id",
        "kq/consuming/metadata.py",
        "if topic_id is not None and body[:16] not in (topic_id.bytes, _NO_TOPIC.bytes):",
        "if False:",
        "tests/test_metadata.py tests/test_offsets.py",
    ),
    Mutant(
        "completion without identity check",
        "kq/consuming/tracker.py",
        "partition.running.get(offset) is not message",
        "offset not in partition.running",
        "tests/test_tracker.py",
    ),
    Mutant(
        "records left where the client has parked them",
        "kq/consuming/pump.py",
        "kafka_python.unpark(self._consumer)",
        "pass",
        "tests/test_kafka_python.py",
    ),
    Mutant(
        "successes forgotten when their child dies",
        "kq/executors/process/children.py",
        "self._outcomes.succeed_through(child, child.ended())",
        "pass",
        "tests/test_process_successes.py",
    ),
    Mutant(
        "a raising signal handler",
        "kq/working/stop.py",
        "        self.look()\n        if self._arrivals is None or",
        "        raise KeyboardInterrupt\n        if self._arrivals is None or",
        "tests/test_stop.py",
    ),
]


def is_noticed(mutant: Mutant) -> bool:
    """Run the tests of a mutant against a copy of the library with its edit; return whether one failed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("kq", "tests"):
            shutil.copytree(ROOT / part, copy / part)
        shutil.copy(ROOT / "pyproject.toml", copy)
        file = copy / mutant.file
        text = file.read_text()
        assert text.count(mutant.before) == 1, f"{mutant.name}: the place to edit is not there once"
        file.write_text(text.replace(mutant.before, mutant.after))
        command = [sys.executable, "-m", "pytest", "-q", "-x", *mutant.tests.split()]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode not in (0, 1):
            print(ended.stdout[-2000:], ended.stderr[-2000:])
        return ended.returncode == 1


def main() -> int:
    survivors = []
    for mutant in MUTANTS:
        begun = time.monotonic()
        noticed = is_noticed(mutant)
        print(
            f"{'noticed' if noticed else 'SURVIVED':8}  {mutant.name}  ({time.monotonic() - begun:.0f} s)", flush=True
        )
        survivors += [] if noticed else [mutant.name]
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
