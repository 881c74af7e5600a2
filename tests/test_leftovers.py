"""What is left of clients that could not be made: nothing, not even a warning at exit."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import kq

config = {"bootstrap_timeout_ms": 1000}
queue = kq.Queue("topic", hosts="127.0.0.1:1", config=config)
worker = kq.Worker("topic", hosts="127.0.0.1:1", config=config)
for call in (lambda: queue.enqueue(print), worker.start, queue.ensure_topic):
    try:
        call()
    except kq.KQError:
        print("one line")
"""


@pytest.mark.parametrize("closes", [True, False])
def test_a_program_without_a_broker_ends_quietly(closes: bool) -> None:
    """Whether it closes its queue or not; all warnings are on."""
    program = PROGRAM + ("queue.close()\n" if closes else "")
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-X", "dev", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one line\n" * 3, "")
