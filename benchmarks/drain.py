"""How fast a topic of jobs is run dry, beside the least that anybody could do with the same client.

Run it in an environment with ``kq[broker]``: ``python benchmarks/drain.py``. All figures of a line come from one run,
in turns, on one broker and one topic; take the ratios, not the rates, from one machine to another.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import operator
import os
import statistics
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import dill
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic

import kq

#: Jobs that are run before the clock starts: joins, first fetches and first forks are not what is measured.
WARM = 200


def fill(hosts: str, jobs: int, partitions: int = 1, job: kq.Job | None = None, value: bytes | None = None) -> str:
    """Make a topic full of jobs, by default jobs that do nothing, and return its name."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    with KafkaAdminClient(bootstrap_servers=hosts) as admin:
        admin.create_topics([NewTopic(topic, partitions, 1)])
    job = job or kq.Job(func=operator.add, args=(1, 2))
    job = job._replace(id=uuid.uuid4().hex, topic=topic, args=job.args or (), kwargs={}, timeout=0)
    value = value or kq.dumps(job)
    with KafkaProducer(bootstrap_servers=hosts, linger_ms=20, batch_size=1 << 18) as producer:
        for number in range(jobs):
            producer.send(topic, value, partition=number % partitions, headers=[("kq-id", uuid.uuid4().bytes)])
        producer.flush()
    return topic


def consume(hosts: str, topic: str, jobs: int, handle: Callable[[KafkaConsumer, list[Any]], None]) -> float:
    """Poll so many records and hand them on; return the rate after the first ones."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=hosts,
        group_id=uuid.uuid4().hex,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    seen, begun, warm = 0, 0.0, 0
    while seen < jobs:
        # long: of a join that a shorter poll ends in the middle of, this client may never hear again
        records = [record for polled in consumer.poll(1000).values() for record in polled]
        if records and not begun and seen:
            begun, warm = time.perf_counter(), seen
        handle(consumer, records)
        seen += len(records)
    rate = (seen - warm) / (time.perf_counter() - begun)
    consumer.close()
    return rate


def poll_only(hosts: str, topic: str, jobs: int) -> float:
    return consume(hosts, topic, jobs, lambda consumer, records: None)


def bare_loop(hosts: str, topic: str, jobs: int) -> float:
    def handle(consumer: KafkaConsumer, records: list[Any]) -> None:
        for record in records:
            job = dill.loads(record.value)
            job.func(*job.args, **job.kwargs)
        if records:
            consumer.commit()

    return consume(hosts, topic, jobs, handle)


def worker(hosts: str, topic: str, jobs: int, group: str | None = None, **options: Any) -> float:
    """Run so many jobs by a worker; return the rate after the first ones."""
    runner = kq.Worker(topic, hosts=hosts, group=group or uuid.uuid4().hex, **options)
    marks: list[tuple[float, int]] = []

    def watch() -> None:
        while not marks:
            done = runner.stats().done
            if done >= WARM:
                marks.append((time.perf_counter(), done))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    runner.start(max_messages=jobs)
    ended = time.perf_counter()
    watcher.join()
    begun, done = marks[0]
    return (jobs - done) / (ended - begun)


KQ2_VALUE = """
    import operator, sys
    import dill
    from kq import Job
    job = Job(id="x" * 32, timestamp=0, topic="", func=operator.add, args=(1, 2), kwargs={}, timeout=0)
    sys.stdout.buffer.write(dill.dumps(job))
"""
KQ2_WORKER = """
    import os, sys, time
    from kafka import KafkaConsumer
    from kq import Worker
    hosts, topic, group = sys.argv[1:4]
    times = []
    def callback(status, *rest):
        assert status == "success", status
        times.append(time.time())
    consumer = KafkaConsumer(bootstrap_servers=hosts, group_id=group, auto_offset_reset="earliest",
                             enable_auto_commit=False, consumer_timeout_ms=5000)
    try:
        Worker(topic=topic, consumer=consumer, callback=callback).start()
    except StopIteration:
        pass
    print(len(times), *(times[:1] + times[-1:]), flush=True)
    os._exit(0)
"""


def kq2(python: str, hosts: str, jobs: int) -> float:
    """Run two workers of KQ 2.2.1, each on its partition of a topic; return their rate together."""
    # it must not find this checkout's kq
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    make = [python, "-c", textwrap.dedent(KQ2_VALUE)]
    value = subprocess.run(make, stdout=subprocess.PIPE, check=True, env=plain, cwd="/").stdout
    topic = fill(hosts, jobs, partitions=2, value=value)
    command = [python, "-c", textwrap.dedent(KQ2_WORKER), hosts, topic, uuid.uuid4().hex]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=plain, cwd="/") for _ in range(2)]
    told = [[float(word) for word in process.communicate()[0].split()] for process in running]
    worked = [figures for figures in told if figures[0] > 0]
    begun, ended = min(figures[1] for figures in worked), max(figures[2] for figures in worked)
    return sum(figures[0] for figures in worked) / (ended - begun)


def two(run: Callable[..., float], hosts: str, topic: str, jobs: int, **options: Any) -> float:
    """Run the same in two processes, on two partitions of one topic each their own; return the sum of the rates."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        runs = [pool.apply_async(run, (hosts, fill(hosts, jobs), jobs), options) for _ in range(2)]
        return sum(each.get() for each in runs)


def in_turns(repeats: int, **runs: Callable[[], float]) -> dict[str, float]:
    """Run everything in turns; return the medians."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            figures[name].append(run())
    return {name: statistics.median(values) for name, values in figures.items()}


def line(what: str, value: float, unit: str, beside: str = "", wanted: str = "") -> None:
    print(f"{what:<44} {value:10,.2f} {unit:<8} {beside:<34} {wanted}", flush=True)


def measure_drains(hosts: str, jobs: int, repeats: int, python: str | None) -> None:
    topic = fill(hosts, jobs)
    figures = in_turns(
        repeats,
        poll=lambda: poll_only(hosts, topic, jobs),
        bare=lambda: bare_loop(hosts, topic, jobs),
        two_bare=lambda: two(bare_loop, hosts, "", jobs),
        inline=lambda: worker(hosts, topic, jobs),
        threads=lambda: worker(hosts, topic, jobs, executor="thread", concurrency=8),
        children=lambda: worker(hosts, topic, jobs, executor="process", concurrency=2),
    )
    for name in ("poll", "bare", "two_bare", "threads"):
        line(name.replace("_", " "), figures[name], "jobs/s")
    line("inline", figures["inline"], "jobs/s", f"{figures['inline'] / figures['bare']:.2f} of bare", "at least 0.6")
    share = figures["children"] / figures["two_bare"]
    line("two children", figures["children"], "jobs/s", f"{share:.2f} of two bare", "at least 0.5")
    share = figures["children"] / figures["poll"]
    line("", figures["children"], "jobs/s", f"{share:.2f} of poll", "aim 0.8")
    if python:
        old = kq2(python, hosts, 10_000)
        times = figures["children"] / old
        line("two workers of KQ 2.2.1", old, "jobs/s", f"two children are {times:.1f} times that", "at least 6")


def measure_two_workers(hosts: str, jobs: int, repeats: int) -> None:
    figures = in_turns(
        repeats,
        bare=lambda: two(bare_loop, hosts, "", jobs),
        inline=lambda: two(worker, hosts, "", jobs),
    )
    share = figures["inline"] / figures["bare"]
    line("two inline workers", figures["inline"], "jobs/s", f"{share:.2f} of two bare loops", "at least 0.6")


def burn(seconds: float) -> None:
    """Compute for so long, by the processor's clock."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def measure_scale(hosts: str) -> None:
    job = kq.Job(func=burn, args=(0.01,))
    rates = []
    for children in (1, 2):
        topic = fill(hosts, 400 + WARM, job=job)
        rates.append(worker(hosts, topic, 400 + WARM, executor="process", concurrency=children))
    line(
        "10 ms of processor, two children",
        rates[1],
        "jobs/s",
        f"{rates[1] / rates[0]:.2f} of one child",
        "at least 1.8",
    )


def measure_sleeps(hosts: str) -> None:
    topic = fill(hosts, 400, job=kq.Job(func=time.sleep, args=(0.1,)))
    rate = worker(hosts, topic, 400, executor="process", concurrency=16)
    line("sleeps of 100 ms, 16 children", rate, "jobs/s", f"{160 / rate:.2f} of the ideal time", "at most 1.15")


def stamp() -> float:
    return time.time()


def measure_latency(hosts: str) -> None:
    """Enqueue 50 jobs a second, and take the time from before the enqueue to the start of the job."""
    topic, waits, sent = fill(hosts, WARM), [], {}

    def callback(status: str, message: kq.Message, job: kq.Job, result: float, *rest: Any) -> None:
        if job.id in sent:
            waits.append((result - sent[job.id]) * 1000)

    runner = kq.Worker(topic, hosts=hosts, callback=callback, executor="process", concurrency=2)

    def feed() -> None:
        while runner.stats().done < WARM:
            time.sleep(0.01)
        with kq.Queue(topic, hosts=hosts) as queue:
            for number in range(500):
                time.sleep(0.02)
                sent[f"job-{number}"] = time.time()
                queue.enqueue(kq.Job(id=f"job-{number}", func=stamp))
        while len(waits) < 500:
            time.sleep(0.01)
        runner.stop()

    feeder = threading.Thread(target=feed)
    feeder.start()
    runner.start()
    feeder.join()
    waits.sort()
    line("enqueue to start, 50 jobs a second", waits[250], "ms p50", f"{waits[495]:.1f} ms p99", "5 and 30 at most")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", help="a broker that runs; one is started if left out")
    parser.add_argument("--jobs", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kq2", metavar="PYTHON", help="a Python with KQ 2.2.1, to compare with")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    if options.hosts:
        measure(options.hosts, options)
    else:
        with kq.LocalKafka() as kafka:
            measure(kafka.hosts, options)
    return 0


def measure(hosts: str, options: argparse.Namespace) -> None:
    measure_drains(hosts, options.jobs, options.repeats, options.kq2)
    measure_two_workers(hosts, options.jobs, options.repeats)
    measure_scale(hosts)
    measure_sleeps(hosts)
    measure_latency(hosts)


if __name__ == "__main__":
    sys.exit(main())
