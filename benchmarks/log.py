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
from datetime import timedelta
from typing import Any

from drain import WARM, line, worker
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

import kq
from kq.messagelog import position
from kq.messagelog.writing import Writer
from kq.producing import new_ids


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


#: A traceback of the usual length.
TRACEBACK = "Traceback (most recent call last):\n" + "".join(
    f'  File "/srv/app/tasks/module_{number}.py", line {number * 17}, in step_{number}\n    return call(*args)\n'
    for number in range(12)
)


def make_million(url: str, count: int) -> None:
    """Fill a log as workers would in 30 days: of twenty jobs one has failed, and each has its own message."""
    store, ids, now = kq.MessageStore(url, keep=None), new_ids(256), int(time.time() * 1000)
    writer = Writer(store._engine)
    begun = time.perf_counter()
    for first in range(0, count, 10_000):
        rows, at = [], now - (count - first) * 30 * 86_400_000 // count
        for number in range(first, first + 10_000):
            is_bad = number % 20 == 0
            status = "FAILED" if is_bad else "COMPLETED"
            name = f"tasks.module_{number % 50}.run"
            row = (next(ids), position(status), status, 1, f"topic-{number % 5}", number % 8, number, None, name, name)
            texts = (
                f"{number}, 'a'",
                None,
                f"builtins.ValueError: order {number}",
                TRACEBACK + f"order {number}",
                None,
            )
            rows.append((*row, at, at, at + 5, "host:1-abc", *(texts if is_bad else ())))
        writer.write(rows, {}, at)
    line("filling", count / (time.perf_counter() - begun), "rows/s")
    store.close()


def reading(url: str, count: int) -> None:
    """Read, search and prune a log of a million entries: each call with a connection of its own, as of a command."""
    make_million(url, count)
    ago, one = time.time() - 864_000, f"order {count // 2}"
    calls: dict[str, Callable[[kq.MessageStore], Any]] = {
        "list": lambda store: store.list(),
        "list, status": lambda store: store.list("FAILED"),
        "list, a status that none has": lambda store: store.list("IN_PROGRESS"),
        "list, function": lambda store: store.list(function="tasks.module_7.run"),
        "list, function and status": lambda store: store.list("FAILED", function="tasks.module_40.run"),
        "list, topic": lambda store: store.list(topic="topic-3"),
        "list, a topic that none has": lambda store: store.list(topic="nowhere"),
        "list, the 10,000 before those": lambda store: store.list(offset=10_000),
        "list, six hours ten days ago": lambda store: store.list(since=ago, until=ago + 21_600),
        "get": lambda store: [store.get(store.list(limit=1)[0].job_id)],
        "tail": lambda store: list(store.tail(10, follow=False)),
        "search, found at once": lambda store: store.search("step_7"),
        "search, one of 50,000 tracebacks": lambda store: store.search(one),
        "search, in none": lambda store: store.search("nothing like this"),
        "count, status": lambda store: store.count("FAILED"),
        "count, the usual status": lambda store: store.count("COMPLETED"),
        "count": lambda store: store.count(),
        "prune, one part in a hundred": lambda store: store.prune(timedelta(days=30 * 0.99)),
        "prune, nothing": lambda store: store.prune(timedelta(days=30)),
    }
    for what, call in calls.items():
        with kq.MessageStore(url, keep=None) as store:
            begun = time.perf_counter()
            found = call(store)
            seconds = time.perf_counter() - begun
        told = f"{found:,}" if isinstance(found, int) else f"{len(found)} entries"
        line(f"{count:,} entries: {what}", seconds * 1000, "ms", told, "at most 1,000")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", help="a broker that runs; one is started if left out")
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--url", default="sqlite:///{folder}/{turn}.db", help="address of the database")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--only-read", action="store_true", help="no drains, and no Kafka")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        if options.only_read:
            reading(options.url.format(folder=folder, turn="million"), options.entries)
        elif options.hosts:
            measure(options.hosts, options, folder)
        else:
            with kq.LocalKafka() as kafka:
                measure(kafka.hosts, options, folder)
    return 0


def measure(hosts: str, options: argparse.Namespace, folder: str) -> None:
    nothing = (operator.add, 1, 2)
    drains(hosts, options.jobs, options.repeats, folder, nothing, "jobs that do nothing", options.url)
    enqueues(hosts, options.jobs, folder)
    reading(options.url.format(folder=folder, turn="million"), options.entries)


if __name__ == "__main__":
    sys.exit(main())
