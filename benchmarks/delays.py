"""How delays do: how late jobs are, how much pending ones cost, and how long an owner takes to load them.

Run it with ``python benchmarks/delays.py [lateness|burst|pending|flat]``; without a word it runs all but the last,
which takes long. It starts a Kafka of its own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import psutil
from kafka import KafkaAdminClient, KafkaConsumer

import kq
from kq.scheduling import Owner


def nothing(number: int = 0) -> None:
    """Do nothing."""


def fired(topic: str, hosts: str, count: int, timeout: float) -> list[Any]:
    """Return so many records of a topic, or fewer when the time is up."""
    consumer = KafkaConsumer(topic, bootstrap_servers=hosts, auto_offset_reset="earliest", group_id=None)
    records: list[Any] = []
    deadline = time.monotonic() + timeout
    while len(records) < count and time.monotonic() < deadline:
        for polled in consumer.poll(100).values():
            records += polled
    consumer.close()
    return records


def late_ms(record: Any) -> float:
    return record.timestamp - int(dict(record.headers)["kq-at"])


class Owning:
    """An owner in a thread."""

    def __init__(self, topic: str, hosts: str) -> None:
        self.owner, self._stopping = Owner(topic, hosts, {}), threading.Event()
        self._thread = threading.Thread(target=self.owner.run, args=(self._stopping,))

    def __enter__(self) -> Owner:
        self._thread.start()
        return self.owner

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self.owner.close()


def new_topic(hosts: str, partitions: int = 4) -> kq.Queue:
    queue = kq.Queue(f"bench-{uuid.uuid4().hex[:8]}", hosts=hosts)
    queue.ensure_topic(partitions)
    return queue


def lateness(hosts: str) -> None:
    """A thousand jobs that are due within ten seconds."""
    queue = new_topic(hosts)
    with Owning(queue.topic, hosts):
        queue.enqueue_many([])
        base = time.time() + 5
        for number in range(1000):
            queue.using(at=base + number / 100).enqueue(nothing, number)
        late = sorted(map(late_ms, fired(queue.topic, hosts, 1000, 60)))
    p99 = late[int(len(late) * 0.99)]
    print(f"lateness: {len(late)} jobs, p50 {statistics.median(late):.0f} ms, p99 {p99:.0f} ms, max {late[-1]:.0f} ms")


def burst(hosts: str) -> None:
    """Ten thousand jobs that are due in one second, not kept in memory."""
    queue = new_topic(hosts)
    queue.using(delay=3600).enqueue_many((nothing, (number,)) for number in range(90_000))
    at = time.time() + 75
    queue.using(at=at).enqueue_many((nothing, (number,)) for number in range(10_000))
    with Owning(queue.topic, hosts) as owner:
        while owner.stats()["pending"] < 100_000 and time.time() < at - 3:
            time.sleep(0.1)
        records = fired(queue.topic, hosts, 10_000, 100)
    late = sorted(map(late_ms, records))
    print(f"burst: {len(late)} jobs due at once, the first after {late[0]:.0f} ms, the last after {late[-1]:.0f} ms")


def load(topic: str, hosts: str, count: int) -> None:
    """In a process of its own: load what is pending, and say how long that took and what it cost."""
    before = psutil.Process().memory_info().rss
    with Owning(topic, hosts) as owner:
        while not owner.stats()["partitions"]:
            time.sleep(0.005)
        begun = time.monotonic()
        while owner.stats()["pending"] < count or not owner.is_loaded:
            time.sleep(0.01)
        seconds = time.monotonic() - begun
        time.sleep(1)
        cost = (psutil.Process().memory_info().rss - before) / 2**20
    print(f"  {count:,} pending: loaded in {seconds:.1f} s, {cost:.0f} MB with all clients")


def _load_elsewhere(queue: kq.Queue, hosts: str, count: int) -> None:
    subprocess.run([sys.executable, __file__, "load", queue.topic, hosts, str(count)], check=True)


def pending(hosts: str) -> None:
    """A hundred thousand jobs that are due in an hour; beside them none, to tell what clients cost."""
    queue = new_topic(hosts)
    print("pending:")
    queue.using(delay=3600).enqueue(nothing)
    _load_elsewhere(queue, hosts, 1)
    queue.using(delay=3600).enqueue_many((nothing, (number,)) for number in range(100_000))
    _load_elsewhere(queue, hosts, 100_001)


def flat(hosts: str) -> None:
    """A million delays that come and go, beside one that is due in a year: the load time stays what it was."""
    queue = new_topic(hosts, 1)
    queue.using(delay=365 * 86400).enqueue(nothing)
    with KafkaAdminClient(bootstrap_servers=hosts) as admin:
        print("flat:")
        for rounds in range(10):
            with Owning(queue.topic, hosts) as owner:
                queue.using(delay=1).enqueue_many((nothing, (number,)) for number in range(100_000))
                while owner.stats()["pending"] > 1 or not owner.is_loaded:
                    time.sleep(0.1)
            print(f" after {(rounds + 1) * 100_000:,} that came and went, {admin_size(admin, queue.topic):,} offsets:")
            _load_elsewhere(queue, hosts, 1)


def admin_size(admin: KafkaAdminClient, topic: str) -> int:
    from kafka import OffsetSpec, TopicPartition

    tp = TopicPartition(f"{topic}.later", 0)
    return int(admin.list_partition_offsets({tp: OffsetSpec.LATEST})[tp].offset)


def main() -> None:
    if sys.argv[1:2] == ["load"]:
        load(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    benches: dict[str, Callable[[str], None]]
    benches = {"lateness": lateness, "burst": burst, "pending": pending, "flat": flat}
    chosen = sys.argv[1:] or ["lateness", "burst", "pending"]
    hosts = os.environ.get("KQ_HOSTS")
    if hosts:
        for name in chosen:
            benches[name](hosts)
        return
    with kq.LocalKafka() as local:
        for name in chosen:
            benches[name](local.hosts)


if __name__ == "__main__":
    main()
