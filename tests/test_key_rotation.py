"""Keys change while queues and workers are at work, and no message is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import json_jobs
import pytest
import retry_jobs
from helpers import at_work, wait_until
from jobs import Calls
from journal import QUICK
from test_retries import records

import kq
from kq import Queue, Signer, Worker, signing
from kq.signing import read_keys

OLD, NEW = f"old:{'6f' * 32}\n", f"new:{'6e' * 32}\n"


class Place:
    """A queue or a worker with a file of keys of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.reads = 0
        self.write(OLD)
        self.signer = Signer(self._read)

    def _read(self) -> Any:
        self.reads += 1
        return read_keys(self._path)

    def write(self, text: str) -> None:
        """Have other keys, as a deploy brings them: at once, and not before they are whole."""
        new = self._path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(text)
        new.replace(self._path)

    def change(self, text: str) -> None:
        """Have other keys, and return when they are read."""
        self.write(text)
        before = self.reads
        wait_until(lambda: self.reads > before, timeout=30)


def test_keys_change_under_load(
    make_topic: Callable[..., str], hosts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One queue and worker after another, in the order that the page tells; jobs run again meanwhile, signed anew."""
    monkeypatch.setattr(signing, "READ_EVERY", 0.05)
    topic, calls, sent = make_topic(2), Calls(), list[str]()
    producer, first, second = (Place(tmp_path / name) for name in ("producer", "first", "second"))
    options: dict[str, Any] = {
        "retry": kq.Retry(1, delay=0.05),
        "executor": "thread",
        "concurrency": 2,
        "config": QUICK,
    }
    workers = [Worker(topic, hosts=hosts, callback=calls, signer=one.signer, **options) for one in (first, second)]
    is_over = threading.Event()

    def enqueue() -> None:
        with Queue(topic, hosts=hosts, signer=producer.signer) as queue:
            while not is_over.wait(0.02):
                made = [(json_jobs.add, (number,)) for number in range(20)]
                sent.extend(job.id for job in queue.enqueue_many([*made, retry_jobs.flaky]))

    thread = threading.Thread(target=enqueue)
    with at_work(workers[0]), at_work(workers[1]):
        thread.start()
        wait_until(lambda: all(worker.stats().done > 20 for worker in workers), timeout=60)
        for keys in (OLD + NEW, NEW + OLD):
            for place in (second, producer, first):
                place.change(keys)
        before = len(calls)
        wait_until(lambda: len(calls) > before + 100, timeout=60)
        is_over.set()
        thread.join()
        wait_until(lambda: {call.job.id for call in calls} == set(sent), timeout=60)
    assert {call.status for call in calls} == {"success", "failure"}
    signatures = [dict(record.headers)["kq-signature"] for record in records(hosts, topic)]
    assert {text.partition(b":")[0] for text in signatures} == {b"old", b"new"}


def test_a_key_that_came_a_moment_ago_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all have one file, and one has read the new key before another looked: that one looks again."""
    monkeypatch.setattr(signing, "READ_EVERY", 3600.0)
    place = Place(tmp_path / "keys")
    place.write(NEW + OLD)
    other = Signer(lambda: read_keys(tmp_path / "keys"))
    record = other.sign("job", kq.message.Record("t", b"v", None, [("kq-id", b"1")], 0, 0), 1)
    message = kq.Message("t", 0, 0, None, b"v", 0, tuple(record.headers))
    place.signer.verify("job", message, 1)
    assert place.reads == 2
