"""How fast jobs are enqueued, beside the least that anybody could do with the same client.

Run it in an environment with ``kq[broker]``: ``python benchmarks/enqueue.py``. All figures of a line come from one run,
in turns, on one broker and one topic; take the ratios, not the rates, from one machine to another.

With ``--kq2 PYTHON``, the interpreter of an environment with KQ 2.2.1, KQ 2.2.1 takes part.
"""

from __future__ import annotations

import argparse
import asyncio
import calendar
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from kafka import KafkaProducer

import kq

#: What KQ 2.2.1 does with as many jobs; prints its rate.
KQ2 = """
import calendar, logging, sys, time
from kafka import KafkaProducer
from kq import Queue

hosts, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
queue = Queue(topic, KafkaProducer(bootstrap_servers=hosts))
queue.enqueue(calendar.isleap, 2000)
begin = time.perf_counter()
for year in range(count):
    queue.enqueue(calendar.isleap, year)
print(count / (time.perf_counter() - begin), flush=True)
import os; os._exit(0)
"""

#: A way to enqueue so many jobs.
Way = Callable[[int], None]


class Ways:
    """The ways to enqueue that are compared, on one topic."""

    def __init__(self, hosts: str, stack: ExitStack) -> None:
        self.hosts, self.topic = hosts, f"bench-{uuid.uuid4().hex[:8]}"
        self.queue = stack.enter_context(kq.Queue(self.topic, hosts=hosts))
        self.queue.ensure_topic()
        self.producer = KafkaProducer(bootstrap_servers=hosts)
        stack.callback(self.producer.close, timeout=5)
        self.loop = asyncio.new_event_loop()
        stack.callback(self.loop.close)
        self.value = kq.dumps(self.queue.enqueue(calendar.isleap, 2000))

    def bare_one(self, count: int) -> None:
        """Send ready bytes, and wait for each."""
        for _ in range(count):
            self.producer.send(self.topic, self.value).get(30)

    def bare_many(self, count: int) -> None:
        """Send ready bytes, and look at each future at the end."""
        futures = [self.producer.send(self.topic, self.value) for _ in range(count)]
        for future in futures:
            future.get(30)

    def enqueue(self, count: int) -> None:
        """Enqueue one by one."""
        for year in range(count):
            self.queue.enqueue(calendar.isleap, year)

    def enqueue_many(self, count: int) -> None:
        """Enqueue all at once."""
        self.queue.enqueue_many((calendar.isleap, (year,), {}) for year in range(count))

    def aenqueue(self, count: int) -> None:
        """Await so many at once."""

        async def gather() -> None:
            await asyncio.gather(*(self.queue.aenqueue(calendar.isleap, year) for year in range(count)))

        self.loop.run_until_complete(gather())

    def aenqueue_many(self, count: int) -> None:
        """Enqueue all at once in asyncio code."""
        self.loop.run_until_complete(self.queue.aenqueue_many((calendar.isleap, (year,), {}) for year in range(count)))

    def kq2(self, python: str) -> Callable[[int], float]:
        """Return what measures KQ 2.2.1."""

        def rate(count: int) -> float:
            command = [python, "-c", KQ2, self.hosts, self.topic, str(count)]
            with tempfile.TemporaryDirectory() as folder:  # the kq of this checkout must not be found there
                environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
                done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise RuntimeError(done.stderr)
            return float(done.stdout.split()[-1])

        return rate


def rates(ways: list[tuple[Way, int]], repeats: int) -> Iterator[float]:
    """Measure ways in turns; yield of each the median rate, jobs a second."""
    measured: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for (way, count), found in zip(ways, measured, strict=True):
            begin = time.perf_counter()
            way(count)
            found.append(count / (time.perf_counter() - begin))
    yield from map(statistics.median, measured)


def tell(what: str, rate: float, base: float, of: str, goal: float) -> None:
    """Print a line."""
    print(f"{what:<44} {rate:>9,.0f} /s   {rate / base:>6.2f} of {of} (goal {goal:g})", flush=True)


def measure(ways: Ways, jobs: int, repeats: int, kq2: str | None) -> None:
    """Measure all, and print it."""
    many, single = jobs, max(50, jobs // 100)
    for way in (ways.bare_one, ways.enqueue, ways.bare_many, ways.enqueue_many, ways.aenqueue, ways.aenqueue_many):
        way(200)
    # short turns: what else the machine does hits both
    bare, one = rates([(ways.bare_one, single // 5), (ways.enqueue, single // 5)], repeats * 5)
    print(f"{'bare send(value).get(), one by one':<44} {bare:>9,.0f} /s")
    tell("enqueue, one by one", one, bare, "bare", 0.85)
    bulk = [(ways.bare_many, many), (ways.enqueue_many, many), (ways.aenqueue_many, many)]
    bare, rate, in_loop = rates(bulk, repeats)
    print(f"{'bare send(value), pipelined':<44} {bare:>9,.0f} /s")
    tell(f"enqueue_many of {many:,}", rate, bare, "bare", 0.8)
    tell(f"aenqueue_many of {many:,}", in_loop, bare, "bare", 0)
    one, awaited = rates([(ways.enqueue, single // 5), (ways.aenqueue, 1000)], repeats * 5)
    tell("1,000 concurrent aenqueue", awaited, one, "enqueue, one by one", 5)
    if kq2 is not None:
        measured = ways.kq2(kq2)
        old = statistics.median(measured(single * 2) for _ in range(repeats))
        (rate,) = rates([(ways.enqueue_many, many)], repeats)
        print(f"{'KQ 2.2.1 enqueue':<44} {old:>9,.0f} /s")
        tell(f"enqueue_many of {many:,}", rate, old, "KQ 2.2.1", 15)


def main() -> None:
    """Read the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", help="brokers; without it a local Kafka is started")
    parser.add_argument("--jobs", type=int, default=50_000, help="how many jobs are enqueued at once")
    parser.add_argument("--repeats", type=int, default=5, help="how often each way has its turn")
    parser.add_argument("--kq2", metavar="PYTHON", help="interpreter of an environment with KQ 2.2.1")
    args = parser.parse_args()
    with ExitStack() as stack:
        hosts = args.hosts or stack.enter_context(kq.LocalKafka()).hosts
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        measure(Ways(hosts, stack), args.jobs, args.repeats, args.kq2)


if __name__ == "__main__":
    main()
