"""Thousands of damaged and made-up messages among good ones: all good ones run, and nothing else happens."""

from __future__ import annotations

import logging
import random
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import json_jobs
import pytest
from kafka import KafkaProducer
from test_retries import records
from test_signed import SIGNER, canary

import kq
from kq import Queue, Worker

SERIALIZER = kq.JSONSerializer(["json_jobs:*"])
#: A damaged message for each good one: so many. And bytes that memory may grow by while there are ten times as many.
BAD, MOST_GROWTH = 10, 64 << 20
NAMES = ["kq-id", "kq-expires", "kq-at", "kq-timeout", "kq-attempt", "kq-python", "kq-retry", "kq-signature"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")


class Told:
    """A callback that remembers what good ones returned, and of the others how many ended in which way."""

    def __init__(self) -> None:
        self.good: list[Any] = []
        self.others: Counter[str] = Counter()
        #: Value and ID of others that ran: so many different ones.
        self.ran: set[tuple[Any, Any]] = set()

    def __call__(self, status: str, message: kq.Message, job: Any, result: Any, *_: Any) -> None:
        if job is not None and str(job.id).startswith("good-"):
            self.good.append(result)
            return
        self.others[status] += 1
        if status == "success":
            self.ran.add((message.value, job.id))


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    """Log nothing: pytest keeps every line, and memory is looked at."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def damaged(chance: random.Random, value: bytes) -> bytes:
    """Return a value with bits flipped, bytes cut out or put in, or something else altogether."""
    way = chance.randrange(5)
    if way == 0:
        return chance.randbytes(chance.randrange(200))
    made = bytearray(value)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(made) or 1)
        if way == 1 and made:
            made[place] ^= 1 << chance.randrange(8)
        elif way == 2:
            del made[place : place + chance.randrange(1, 20)]
        elif way == 3:
            made[place:place] = chance.randbytes(chance.randrange(1, 20))
        else:
            end = chance.randrange(len(made) + 1)
            made[place:place] = made[place:end]
    return bytes(made)


def spoilt(chance: random.Random, record: Any, path: Path | None) -> tuple[bytes | None, bytes | None, list[Any]]:
    """Return value, key and headers of a message that nobody has sent."""
    headers = list(record.headers)
    way = chance.randrange(6)
    if way == 0 and path is not None:
        return canary(path), record.key, headers
    if way == 1:
        return None, b"k", headers
    if way == 2 and headers:
        place = chance.randrange(len(headers))
        headers[place] = (headers[place][0], damaged(chance, headers[place][1]))
    if way == 3:
        headers.append(
            (chance.choice(["kq-id", "kq-expires", "kq-at", "kq-timeout", "kq-attempt"]), chance.randbytes(9))
        )
    return damaged(chance, record.value), record.key if way != 4 else chance.randbytes(4), headers


@pytest.mark.parametrize(
    ("kind", "executor"),
    [
        *((kind, "inline") for kind in ("json", "signed json", "signed pickles")),
        *(pytest.param(kind, "process", marks=linux) for kind in ("json", "signed json", "signed pickles", "pickles")),
    ],
)
@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.long)])
def test_good_ones_run_among_them(
    make_topic: Any, hosts: str, client: KafkaProducer, tmp_path: Path, kind: str, executor: str, count: int
) -> None:
    """Each once; the others are invalid, but for those that differ in nothing that is read.

    Pickles that nobody has signed may do what they like, and are given no canary. That they may ask for any amount of
    memory is what the limit in the children is for.
    """
    topic, path, chance = make_topic(), tmp_path / "canary", random.Random(f"{kind} {count}")
    signer = SIGNER if "signed" in kind else None
    dumps, loads = (kq.dumps, kq.loads) if "pickles" in kind else (SERIALIZER.dumps, SERIALIZER.loads)
    with Queue(topic, hosts=hosts, signer=signer, serializer=dumps) as queue:
        sample = queue.enqueue(json_jobs.give, ["a sample", 1, {"x": 2.5}])
        (record,) = records(hosts, topic)
        jobs = []
        for number in range(count):
            for _ in range(BAD):
                value, key, headers = spoilt(chance, record, None if kind == "pickles" else path)
                client.send(topic, value, key, headers)
            jobs.append(kq.Job(id=f"good-{number}", func=json_jobs.give, args=(number,)))
            if len(jobs) % 20 == 0:
                client.flush()
                queue.enqueue_many(jobs[-20:])
    client.flush()
    told, before = Told(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    where = kq.ProcessExecutor(on_start=json_jobs.bound_memory) if kind == "pickles" else executor
    worker = Worker(topic, hosts=hosts, callback=told, deserializer=loads, signer=signer, executor=where)  # type: ignore[arg-type]
    assert worker.start(max_messages=1 + count * (BAD + 1)) == 1 + count * (BAD + 1)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert told.good == [*range(count)]
    assert sum(told.others.values()) == 1 + count * BAD
    if signer is not None:
        assert told.others.keys() == {"success", "invalid"}
        assert told.ran == {(record.value, sample.id)}
    assert not path.exists()
    assert grown < MOST_GROWTH
