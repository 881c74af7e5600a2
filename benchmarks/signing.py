"""What signatures cost: to enqueue many jobs, and to run a topic of them dry.

Run it in an environment with ``kq[broker]``: ``python benchmarks/signing.py``. Signed and unsigned take turns, on one
broker; take the ratios, not the rates, from one machine to another.
"""

from __future__ import annotations

import argparse
import logging
import operator
import secrets
import time
import uuid
from typing import Any

from drain import in_turns, line, worker
from kafka import KafkaConsumer, TopicPartition

import kq
from kq.signing import JOB

SIGNER = kq.Signer({"bench": secrets.token_bytes(32)}, max_age=86_400)
#: What the cost may be, as a share.
GOAL = "at least 0.90"


def enqueue(hosts: str, jobs: int, signer: kq.Signer | None, topic: str = "") -> float:
    """Enqueue so many jobs at once; return the rate."""
    topic = topic or f"bench-{uuid.uuid4().hex[:8]}"
    with kq.Queue(topic, hosts=hosts, signer=signer) as queue:
        queue.ensure_topic()
        queue.enqueue(operator.add, 1, 2)
        begun = time.perf_counter()
        queue.enqueue_many((operator.add, (number, 2)) for number in range(jobs))
        return jobs / (time.perf_counter() - begun)


def measure_signer(hosts: str, jobs: int) -> None:
    """Sign and verify alone, as a worker gets the messages."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    enqueue(hosts, jobs, SIGNER, topic)
    tp, messages = TopicPartition(topic, 0), []
    with KafkaConsumer(bootstrap_servers=hosts, auto_offset_reset="earliest", max_poll_records=jobs) as consumer:
        consumer.assign([tp])
        while len(messages) < jobs:
            messages += consumer.poll(1000).get(tp, [])
    now = int(time.time() * 1000)
    begun = time.perf_counter()
    for message in messages:
        SIGNER.verify(JOB, message, now)
    line("to verify one message", (time.perf_counter() - begun) / len(messages) * 1e6, "µs")


def measure(hosts: str, jobs: int, repeats: int) -> None:
    measure_signer(hosts, min(jobs, 10_000))
    figures = in_turns(repeats, plain=lambda: enqueue(hosts, jobs, None), signed=lambda: enqueue(hosts, jobs, SIGNER))
    line("enqueue_many", figures["plain"], "jobs/s")
    line("  signed", figures["signed"], "jobs/s", f"{figures['signed'] / figures['plain']:.2f} of that", GOAL)
    plain, signed = (f"bench-{uuid.uuid4().hex[:8]}" for _ in range(2))
    enqueue(hosts, jobs, None, plain)
    enqueue(hosts, jobs, SIGNER, signed)
    ways: dict[str, dict[str, Any]] = {"inline": {}, "two children": {"executor": "process", "concurrency": 2}}
    for name, options in ways.items():
        figures = in_turns(
            repeats,
            plain=lambda options=options: worker(hosts, plain, jobs, **options),  # type: ignore[misc]
            carried=lambda options=options: worker(hosts, signed, jobs, **options),  # type: ignore[misc]
            signed=lambda options=options: worker(hosts, signed, jobs, signer=SIGNER, **options),  # type: ignore[misc]
        )
        line(f"drain, {name}", figures["plain"], "jobs/s")
        line(
            "  signed, not verified",
            figures["carried"],
            "jobs/s",
            f"{figures['carried'] / figures['plain']:.2f} of that",
        )
        line("  verified", figures["signed"], "jobs/s", f"{figures['signed'] / figures['plain']:.2f} of that", GOAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", help="brokers; by default a Kafka of its own is started")
    parser.add_argument("--jobs", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    if options.hosts:
        measure(options.hosts, options.jobs, options.repeats)
        return
    with kq.LocalKafka() as local:
        measure(local.hosts, options.jobs, options.repeats)


if __name__ == "__main__":
    main()
