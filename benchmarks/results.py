"""What results cost a worker, and how soon they are there.

Run it in an environment with ``kq[broker]``: ``python benchmarks/results.py``. All drains come from one run, in turns,
on one broker and one topic; take the ratios, not the rates, from one machine to another.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from drain import fill, in_turns, line, worker

import kq
from kq.context import Report, enter, leave


def pause(seconds: float) -> None:
    time.sleep(seconds)


def end(seconds: float) -> float:
    """Return when the job ended, by the clock."""
    time.sleep(seconds)
    return time.time()


def drain(hosts: str, jobs: int, repeats: int, job: kq.Job | None = None, what: str = "") -> None:
    """Compare drains with results and without."""
    topic = fill(hosts, jobs, job=job)
    runs: dict[str, Callable[[], float]] = {}
    for name, options in {"inline": {}, "children": {"executor": "process", "concurrency": 2}}.items():
        runs[name] = lambda options=options: worker(hosts, topic, jobs, **options)  # type: ignore[misc]
        for way in (True, "asked"):
            told: dict[str, Any] = {**options, "results": way}
            runs[f"{name} {way}"] = lambda told=told: worker(hosts, topic, jobs, **told)  # type: ignore[misc]
    figures = in_turns(repeats, **runs)
    for name in ("inline", "children"):
        line(f"{name}{what}", figures[name], "jobs/s")
        share = figures[f"{name} True"] / figures[name]
        line("  with results", figures[f"{name} True"], "jobs/s", f"{share:.2f} of that", "at least 0.6")
        share = figures[f"{name} asked"] / figures[name]
        line("  with results that nobody asks for", figures[f"{name} asked"], "jobs/s", f"{share:.2f} of that")


def latency(hosts: str, seconds: float = 0.05, count: int = 100) -> None:
    """Measure how long after the end of a job its result is there."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results:
        queue.ensure_topic(4)
        runner = kq.Worker(topic, hosts=hosts, executor="process", concurrency=2, results=True)
        thread = threading.Thread(target=runner.start)
        thread.start()
        waits = []
        for _ in range(count):
            ended = results.get(queue.enqueue(end, seconds), timeout=60)
            waits.append((time.time() - ended) * 1000)
        runner.stop()
        thread.join()
    middle, late = statistics.median(waits), statistics.quantiles(waits, n=100)[-1]
    line("from the end of a job to its result", middle, "ms", f"p99 {late:.0f} ms", "at most 20")


def progress(count: int = 1_000_000) -> None:
    """Measure a million reports of a job that does nothing else."""
    enter("job", 0, time.monotonic(), ("topic", 0, 0, None, 0, 1), Report())
    begun = time.perf_counter()
    for number in range(count):
        kq.progress(number, count)
    line("kq.progress, a million times", time.perf_counter() - begun, "s", "", "at most 1")
    leave()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", help="brokers; by default a Kafka of its own is started")
    parser.add_argument("--jobs", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.hosts:
        _measure(options.hosts, options)
        return
    with kq.LocalKafka() as local:
        _measure(local.hosts, options)


def _measure(hosts: str, options: argparse.Namespace) -> None:
    progress()
    latency(hosts)
    drain(hosts, options.jobs, options.repeats)
    drain(hosts, min(5_000, options.jobs), options.repeats, kq.Job(func=pause, args=(0.001,)), ", jobs of 1 ms")


if __name__ == "__main__":
    main()
