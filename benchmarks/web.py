"""How long the pages of the dashboard take, where there is much to show.

Run it in an environment with ``kq[broker,log,web]``: ``python benchmarks/web.py``. Pages come from ``kq web``, as a
browser gets them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

from drain import line
from log import make_million

import kq
from kq.clients import topics
from kq.letter import DEAD, SUFFIX, letter_of
from kq.message import Message

#: Seconds until all letters are read.
PATIENCE = 120


def write_letters(topic: str, hosts: str, count: int) -> None:
    """Write letters as workers would have: of ten functions, every second a timeout."""
    begun = int(time.time() * 1000) - count * 1000
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.ensure_topic(4)
        topics.companion_at(hosts, {}, topic, SUFFIX, DEAD)
        value, producer = kq.dumps(kq.Job("x", 1, topic, abs, (-1,), {})), queue.producer
        for number in range(count):
            headers = (("kq-id", b"job-%d" % number), ("kq-func", b"shop.step_%d" % (number % 10)))
            message = Message(topic, number % 4, number // 4, b"k%d" % number, value, begun + number, headers)
            told: dict[str, Any] = {
                "error": f"builtins.ValueError: order {number}",
                "traceback": "x" * 500,
                "worker": "a:1",
            }
            reason: Any = ("failure", "timeout")[number % 2]
            producer.send(*letter_of(f"{topic}.{SUFFIX}", message, reason, **told, now=begun + number * 1000))
        producer.flush()


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """Run ``kq web`` on a free port, and give its address."""
    command = [sys.executable, "-m", "kq", "web", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
        assert found is not None, process.stderr.read()
        yield found[0]
    finally:
        process.terminate()
        process.wait(30)


def pages(address: str, paths: dict[str, str]) -> None:
    """Get each page three times, and tell of the slowest."""
    for what, path in paths.items():
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            with urlopen(address + path) as answer:
                size = len(answer.read())
            seconds.append(time.perf_counter() - begun)
        line(what, max(seconds) * 1000, "ms", f"{size / 1000:,.0f} kB", "at most 1,000")


def measure(hosts: str, letters: int, entries: int) -> None:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    write_letters(topic, hosts, letters)
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/kq.db"
        make_million(store, entries)
        with serving("--hosts", hosts, "--topic", topic, "--store", store) as address:
            begun = time.monotonic()
            while f">{letters:,}<" not in (text := urlopen(address).read().decode()):
                assert time.monotonic() < begun + PATIENCE, text
                time.sleep(0.2)
            line(f"{letters:,} letters: read", time.monotonic() - begun, "s")
            of = f"/letters?topic={topic}"
            names = {
                "first page": of, "last page": f"{of}&begin={letters - 50}", "of a reason": f"{of}&reason=timeout",
                "of a function": f"{of}&function=shop.step_7", "with a text": f"{of}&text=order+{letters // 2}",
                "with a text that none has": f"{of}&text=nothing",
            }  # fmt: skip
            pages(address, {f"{letters:,} letters: {what}": path for what, path in names.items()})
            names = {
                "first page": "/jobs", "page 200": "/jobs?begin=10000", "last page": "/jobs?begin=100000",
                "of a status": "/jobs?status=FAILED", "of a function": "/jobs?function=tasks.module_7.run",
                "with a text": f"/jobs?text=order+{entries // 2}", "with a text that none has": "/jobs?text=nothing",
            }  # fmt: skip
            pages(address, {f"{entries:,} entries: {what}": path for what, path in names.items()})
            pages(address, {"overview": "/", "topic": f"/topics/{topic}", "workers": "/workers"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", help="a broker that runs; one is started if left out")
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--entries", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.hosts:
        measure(options.hosts, options.letters, options.entries)
    else:
        with kq.LocalKafka() as kafka:
            measure(kafka.hosts, options.letters, options.entries)
    return 0


if __name__ == "__main__":
    sys.exit(main())
