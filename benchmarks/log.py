"""What a message log costs a drain, and how fast a log of a million entries is read.

Run it in an environment with ``kq[broker,log]``: ``python benchmarks/log.py``. Drains with the log and without run in
turns, on one topic; take the ratios, not the rates, from one machine to another.
"""

from __future__ import annotations

import argparse
import logging
import operator
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drain import WARM, line, worker
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

import kq


def fill(hosts: str, jobs: int, call: tuple[Any, ...], **options: Any) -> tuple[str, float]:
    """Make a topic full of jobs, as a queue does; return its name, and how many went there in a second."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    with KafkaAdminClient(bootstrap_servers=hosts) as admin:
        admin.create_topics([NewTopic(topic, 1, 1)])
    with kq.Queue(topic, hosts=hosts, **options) as queue:
        queue.enqueue(*call)  # the first one connects
        begun = time.perf_counter()
        queue.enqueue_many((call[0], call[1:]) for _ in range(jobs))
        return topic, jobs / (time.perf_counter() - begun)


def drains(hosts: str, jobs: int, repeats: int, folder: str, call: tuple[Any, ...], what: str, url: str) -> None:
    """Compare drains with a log, and without."""
    topic, _ = fill(hosts, jobs + WARM, call)
    for name, options in {"two children": {"executor": "process", "concurrency": 2}, "inline": {}}.items():
        figures: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(repeats):
            for is_logged in figures:
                given = {"message_log": url.format(folder=folder, turn=f"{name[:3]}{turn}")} if is_logged else {}
                figures[is_logged].append(worker(hosts, topic, jobs, **options, **given))
        off, on = (statistics.median(figures[is_logged]) for is_logged in (False, True))
        ratios = [with_log / without for with_log, without in zip(figures[True], figures[False], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        line(f"{what}, {name}, no log", off, "jobs/s")
        line(f"{what}, {name}, with a log", on, "jobs/s", f"{on / off:.2f} of that ({spread})", "at least 0.8")


def enqueues(hosts: str, jobs: int, folder: str) -> None:
    """Compare enqueueing with a log, and without."""
    call = (operator.add, 1, 2)
    off = statistics.median(fill(hosts, jobs, call)[1] for _ in range(3))
    url = f"sqlite:///{folder}/enqueued.db"
    on = statistics.median(fill(hosts, jobs, call, message_log=url)[1] for _ in range(3))
    line("enqueue_many, no log", off, "jobs/s")
    line("enqueue_many, with a log", on, "jobs/s", f"{on / off:.2f} of that")


def timed(what: str, call: Callable[[], Any]) -> None:
    begun = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - begun
    told = f"{found:,}" if isinstance(found, int) else f"{len(found)} entries"
    line(what, seconds * 1000, "ms", told, "at most 1,000")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", help="a broker that runs; one is started if left out")
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--url", default="sqlite:///{folder}/{turn}.db", help="address of the database")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        if options.hosts:
            measure(options.hosts, options, folder)
        else:
            with kq.LocalKafka() as kafka:
                measure(kafka.hosts, options, folder)
    return 0


def measure(hosts: str, options: argparse.Namespace, folder: str) -> None:
    drains(hosts, options.jobs, options.repeats, folder, (operator.add, 1, 2), "jobs that do nothing", options.url)
    if Path(folder).exists():
        enqueues(hosts, options.jobs, folder)


if __name__ == "__main__":
    sys.exit(main())
