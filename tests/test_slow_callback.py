"""A callback that takes long: what moved meanwhile is another worker's, and starts nowhere twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jobs
import pytest
from helpers import wait_until
from journal import QUICK, Journal, work

import kq

WORKER = f"""
import os, pathlib, sys, time
import kq
topic, hosts, executor, gate = sys.argv[1:]
gate = pathlib.Path(gate)
def callback(status, message, *_):
    if message.offset == 49 and not gate.exists():  # what comes next is of the other partition
        print("waits", flush=True)
        while not gate.exists():
            time.sleep(0.01)
        print("goes on", flush=True)
kq.Worker(topic, hosts=hosts, executor=executor, callback=callback, config={QUICK}).start()
"""


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_what_moved_during_a_callback_does_not_start(
    executor: str, hosts: str, make_topic: Callable[..., str], journal: Journal, tmp_path: Path
) -> None:
    """Another worker has run it by then."""
    topic, gate, opened = make_topic(partitions=2), tmp_path / "gate", tmp_path / "opened"
    opened.touch()
    with kq.Queue(topic, hosts=hosts) as queue:
        for partition in (0, 1):
            spec = queue.using(partition=partition)
            spec.enqueue_many((work, (str(journal.path), f"{partition}:{number}")) for number in range(50))
    with jobs.Program(WORKER, topic, hosts, executor, str(gate)) as slow:
        slow.wait_for("waits")
        with jobs.Program(WORKER, topic, hosts, executor, str(opened)) as quick:
            wait_until(lambda: len(journal.names("end")) == 100, timeout=40)
            gate.touch()
            slow.wait_for("goes on")
            slow.process.terminate()
            quick.process.terminate()
            assert (slow.end(), quick.end()) == (0, 0)
    entries = list(journal.entries())
    assert len({entry.name for entry in entries}) == 100
    done = {entry.name: entry.time for entry in entries if (entry.word, entry.pid) == ("end", quick.process.pid)}
    started = [entry for entry in entries if entry.word == "start" and entry.pid != quick.process.pid]
    assert [entry.name for entry in started if entry.time > done.get(entry.name, float("inf"))] == []
