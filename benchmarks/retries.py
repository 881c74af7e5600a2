"""What retries and dead letters cost: while nothing fails, when many jobs fail, and when many letters are replayed.

Run it in an environment with ``kq[broker]``: ``python benchmarks/retries.py``. All drains come from one run, in turns,
on one broker and one topic; take the ratios, not the rates, from one machine to another.
"""

from __future__ import annotations

import argparse
import resource
import time
import uuid
from collections.abc import Callable
from typing import Any

from drain import fill, in_turns, line, worker

import kq
from kq.clients import topics
from kq.letter import DEAD, SUFFIX, letter_of
from kq.message import Message

#: What a worker has for all this.
ON: dict[str, Any] = {"retry": 3, "dead_letters": True}


def fail() -> None:
    raise ValueError("no")


def drain_well(hosts: str, jobs: int, repeats: int) -> None:
    """Compare drains in which nothing fails."""
    topic = fill(hosts, jobs)
    runs: dict[str, Callable[[], float]] = {}
    for name, options in {"inline": {}, "children": {"executor": "process", "concurrency": 2}}.items():
        runs[name] = lambda options=options: worker(hosts, topic, jobs, **options)  # type: ignore[misc]
        runs[f"{name} on"] = lambda options=options: worker(hosts, topic, jobs, **options, **ON)  # type: ignore[misc]
    figures = in_turns(repeats, **runs)
    for name in ("inline", "children"):
        line(name, figures[name], "jobs/s")
        share = figures[f"{name} on"] / figures[name]
        line("  with retries and letters", figures[f"{name} on"], "jobs/s", f"{share:.2f} of that", "at least 0.95")


def drain_badly(hosts: str, jobs: int) -> None:
    """Have each job fail once, with a retry a day later, or for good."""
    job = kq.Job(func=fail)
    for what, options in {"letters": {"dead_letters": True}, "retries": {"retry": kq.Retry(1, delay=86_400)}}.items():
        topic = fill(hosts, jobs, job=job)
        rate = worker(hosts, topic, jobs, later=False, **options)
        line(f"jobs that fail, {what}", rate, "jobs/s")


def replay(hosts: str, letters: int) -> None:
    """Find, replay and purge letters."""
    topic = fill(hosts, 1)
    topics.companion_at(hosts, {}, topic, SUFFIX, DEAD)
    with kq.Queue(topic, hosts=hosts, config={"linger_ms": 20}) as queue:
        value = kq.dumps(kq.Job(id=uuid.uuid4().hex, timestamp=0, topic=topic, func=print, args=(), kwargs={}))
        for number in range(letters):
            message = Message(topic, 0, number, None, value, number, (("kq-id", b"%d" % number),))
            told: dict[str, Any] = {"error": "builtins.ValueError: no", "traceback": "x" * 800, "worker": "here:1"}
            made = letter_of(f"{topic}.{SUFFIX}", message, "failure", **told, now=int(time.time() * 1000))
            queue.producer.send(*made)
        queue.producer.flush()
    dead, before = kq.DeadLetters(topic, hosts), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for what, act in {
        "list": lambda: sum(1 for _ in dead.iterate()),
        "filter": lambda: sum(1 for _ in dead.iterate(reason="timeout")),
        "replay": lambda: dead.replay(all=True),
        "purge": lambda: dead.purge(all=True),
    }.items():
        begun = time.perf_counter()
        count = act()
        seconds = time.perf_counter() - begun
        line(f"letters: {what}", letters / seconds, "a second", f"{count:,} in {seconds:.1f} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    line("memory that it took beyond the start", grown, "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", help="brokers; by default a Kafka of its own is started")
    parser.add_argument("--jobs", type=int, default=40_000)
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.hosts:
        _measure(options.hosts, options)
        return
    with kq.LocalKafka() as local:
        _measure(local.hosts, options)


def _measure(hosts: str, options: argparse.Namespace) -> None:
    drain_well(hosts, options.jobs, options.repeats)
    drain_badly(hosts, min(10_000, options.jobs))
    replay(hosts, options.letters)


if __name__ == "__main__":
    main()
