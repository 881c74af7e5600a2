"""Canaries: whatever an attacker makes of messages that others have signed, nobody who has the keys unpickles it.

What is tried is the same everywhere: on the topic of jobs, of results, of letters; and who reads is a worker, its
children, a reader of results, the message log, or the command line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import json_jobs
import pytest
from conftest import Told
from jobs import Calls
from kafka import KafkaAdminClient, KafkaProducer
from test_retries import records
from test_signed import SIGNER, canary, now, send
from test_signer_cli import TEXT

import kq
from kq import Queue, Signer, Worker
from kq.message import Record
from kq.signing import CONTROL, DEAD, JOB, LATER, RESULT
from kq.testing import drain

STRICT = Signer({"new": b"n" * 32, "old": b"o" * 32}, max_age=60)
PURPOSES = [JOB, LATER, RESULT, DEAD, CONTROL]
ALTERED = "the signature is not that of this message: it was altered, or made for another place"
UNSIGNED = "the message is not signed"
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")
Attack = tuple[str, Record, str]


def flipped(data: bytes, place: int = -1) -> bytes:
    made = bytearray(data)
    made[place] ^= 1
    return bytes(made)


def with_header(record: Record, place: int, *instead: tuple[str, bytes]) -> Record:
    """Return a record with others in place of one of its headers."""
    headers = list(record.headers)
    headers[place : place + 1] = instead
    return record._replace(headers=headers)


def of_headers(good: Record) -> Iterator[Attack]:
    """Yield what can be done to the headers of a message that is signed, the signature and its time among them."""
    for place, (name, value) in enumerate(good.headers):
        if not name.startswith("kq-"):
            continue
        without = UNSIGNED if name.endswith("signature") else ALTERED
        yield f"{name} removed", with_header(good, place), without
        yield f"{name} doubled", with_header(good, place, (name, value), (name, value)), f"header '{name}' stands twice"
        yield f"{name} renamed", with_header(good, place, (f"{name}x", value)), without
        yield f"a bit of {name}", with_header(good, place, (name, flipped(value, len(value) // 2))), ALTERED
        yield f"no {name}", with_header(good, place, (name, b"")), without
    yield "a header added", with_header(good, 0, ("kq-new", b"1"), good.headers[0]), ALTERED


def moved(good: Record, **other: Any) -> Record:
    """Return a record with the signature of another one."""
    return good._replace(headers=SIGNER.sign(JOB, good._replace(**other), now()).headers)


def attacks(purpose: str, record: Record, *, has_age: bool = True) -> list[Attack]:
    """Return what may be made of a record, and why each is refused.

    :param record: Not signed. What its value does is seen.
    """
    good = SIGNER.sign(purpose, record, now())
    harmless = record._replace(value=b"harmless")
    own = {DEAD}.__contains__

    def signed_as(other: Record, at: int | None = None) -> Record:
        return record._replace(headers=SIGNER.sign(purpose, other, at or now()).headers)

    made = [
        ("raw", record, UNSIGNED),
        ("bare", record._replace(headers=[]), UNSIGNED),
        ("another value", signed_as(harmless), ALTERED),
        ("a bit of the value", good._replace(value=flipped(good.value)), ALTERED),
        ("another key", signed_as(record._replace(key=b"another")), ALTERED),
        ("no key", signed_as(record._replace(key=None)), ALTERED),
        ("another topic", signed_as(record._replace(topic="another")), ALTERED),
        ("a removed key", Signer({"gone": b"g" * 32}).sign(purpose, record, now()), "key 'gone', which is not known"),
        ("a wrong key", Signer({"new": b"g" * 32}).sign(purpose, record, now()), ALTERED),
        *of_headers(good),
    ]
    for other in PURPOSES:
        if other != purpose:
            why = UNSIGNED if own(other) != own(purpose) else ALTERED
            made.append((f"of a {other}", SIGNER.sign(other, record, now()), why))
    if has_age:
        made.append(("too old", SIGNER.sign(purpose, record, now() - 10**7), "s old, and may be 60 s"))
        made.append(("of the future", SIGNER.sign(purpose, record, now() + 10**7), "s in the future"))
    return made


def job_record(topic: str, value: bytes, partition: int = 0) -> Record:
    """Return a record as a queue writes it, with all headers that a job may have, but for the signature."""
    own = [("kq-id", b"1"), ("kq-func", b"a.b"), ("kq-timeout", b"5"), ("kq-expires", b"%d" % (now() + 10**6))]
    return Record(topic, value, b"key", [*own, ("kq-reply", b"1"), ("mine", b"1")], partition, 0)


@pytest.mark.parametrize("executor", ["inline", pytest.param("process", marks=linux)])
def test_a_worker_and_its_children(
    topic: str, hosts: str, client: KafkaProducer, executor: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is invalid, with its reason in the log, the letter and the message log; it can be neither replayed nor
    enqueued again.
    """
    path, calls, tried = tmp_path / "canary", Calls(), attacks(JOB, job_record(topic, canary(tmp_path / "canary")))
    store = kq.MessageStore(f"sqlite:///{tmp_path / 'kq.db'}")
    for _, record, _ in tried:
        send(client, record)
    client.flush()
    worker = Worker(
        topic, hosts=hosts, callback=calls, signer=STRICT, executor=executor, dead_letters=True, message_log=store
    )
    with caplog.at_level(logging.ERROR, "kq.worker"):
        worker.start(max_messages=len(tried))
    assert calls.statuses == ["invalid"] * len(tried)
    lines = [one.getMessage() for one in caplog.records if one.name == "kq.worker"]
    letters = kq.DeadLetters(topic, hosts, signer=STRICT)
    assert store.flush()
    entries = {entry.offset: entry for entry in store.list(limit=500)}
    for number, (line, letter) in enumerate(zip(lines, letters.iterate(), strict=True)):
        name, _, why = tried[number]
        assert (why in line, why in letter.error) == (True, True), name
    assert any(ALTERED in (entry.exception or "") for entry in entries.values())
    with pytest.raises(kq.KQError, match=rf"^1 letters were replayed and marked, {len(tried) - 1} were not"):
        letters.replay(all=True)  # what was signed long ago: the age is not asked where somebody wants it so
    for entry in entries.values():
        if "future" not in (entry.exception or "") and "old, and" not in (entry.exception or ""):
            with pytest.raises(kq.KQError, match="is not requeued: "):
                kq.requeue(entry, hosts, signer=STRICT)
    store.close()
    assert len(records(hosts, topic)) == len(tried) + 1
    assert not path.exists()


def test_a_reader_of_results(
    topic: str, hosts: str, admin: KafkaAdminClient, client: KafkaProducer, tmp_path: Path, tell: Callable[..., Told],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """What is not signed is no end of the job, whatever it says; the true one is found behind all of them."""
    admin.create_topics({f"{topic}.results": {"num_partitions": 1, "replication_factor": 1}})
    path = tmp_path / "canary"
    with Queue(topic, hosts=hosts, signer=SIGNER, results=True) as queue:
        job = queue.using(partition=0).enqueue(json_jobs.add, 1, 2)
        headers = [("kq-event", b"success"), ("kq-attempt", b"2")]
        record = Record(f"{topic}.results", canary(path), job.id.encode(), headers, 0, 0)
        tried = [one for one in attacks(RESULT, record, has_age=False) if one[1].key == record.key]
        for _, forged, _ in tried:
            send(client, forged)
        client.flush()
        keys = tmp_path / "keys"
        keys.touch(mode=0o600)
        keys.write_text(TEXT)
        asked = ("result", "--topic", topic, "--signer-keys", keys, job.id)
        assert tell(*asked, "--wait-timeout", 1)[0] == 4
        Worker(topic, hosts=hosts, signer=SIGNER, results=True).start(max_messages=1)
        with caplog.at_level(logging.WARNING), kq.Results(topic, hosts, signer=STRICT) as results:
            caplog.clear()
            assert results.get(job, timeout=30) == 3
            lines = [line for line in (one.getMessage() for one in caplog.records) if "is passed over" in line]
        assert tell(*asked)[:2] == (0, "3\n")
    for (name, _, why), line in zip(tried, lines, strict=True):
        assert why in line, name
    assert not path.exists()


def test_letters(
    topic: str, hosts: str, client: KafkaProducer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither shown nor replayed; the good one is."""
    path = tmp_path / "canary"
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.enqueue(json_jobs.add, 1, "a")
    Worker(topic, hosts=hosts, signer=SIGNER, dead_letters=True).start(max_messages=1)
    (good,) = records(hosts, f"{topic}.dead")
    headers = [header for header in good.headers if not header[0].startswith("kq-dead-sign")]
    forged = Record(f"{topic}.dead", canary(path), b"", headers, 0, 0)
    tried = attacks(DEAD, forged, has_age=False)
    for number, (_, record, _) in enumerate(tried):  # one key for each: of one key the last letter counts
        send(client, record._replace(key=b"%d" % number))
    client.flush()
    letters = kq.DeadLetters(topic, hosts, signer=SIGNER)
    with caplog.at_level(logging.WARNING, "kq.dead_letters"):
        assert [letter.value for letter in letters.iterate()] == [good.value]
    lines = [one for one in caplog.records if one.name == "kq.dead_letters"]
    assert len(tried) / 2 < len(lines) <= len(tried)  # some have not even what makes a letter
    with pytest.raises(kq.KQError, match=r"^1 letters were replayed and marked"):
        letters.replay(all=True)
    assert {record.value for record in records(hosts, topic)} == {good.value}
    assert not path.exists()


def test_the_command_line(
    make_topic: Callable[..., str], hosts: str, client: KafkaProducer, tmp_path: Path, tell: Callable[..., Told]
) -> None:
    """``kq worker --check`` reads nothing of them, and says of each why."""
    topic, path, keys = make_topic(6), tmp_path / "canary", tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text(TEXT)
    tried = attacks(JOB, job_record(topic, canary(path)))
    for number, (_, record, _) in enumerate(tried):
        send(client, record._replace(partition=number % 6))
    client.flush()
    given = ("worker", "--topic", topic, "--signer-keys", keys, "--signer-max-age", 60)
    code, stdout, stderr = tell(*given, "--check")
    assert (code, f"{len(tried)} of the next {len(tried)} messages" in stderr) == (1, True)
    assert stdout.count("can run") == 0
    code, _, stderr = tell(*given, "--inline", "--burst", "--dead-letters")
    assert (code, f"{len(tried)} messages processed: 0 well, {len(tried)} invalid" in stderr) == (0, True)
    assert tell("dead", "list", topic, "--signer-keys", keys)[0] == 0
    assert tell("dead", "replay", topic, "--all", "--yes", "--signer-keys", keys)[0] == 1
    assert not path.exists()


def test_delayed_jobs(topic: str, hosts: str, client: KafkaProducer, tmp_path: Path) -> None:
    """What is due goes to the workers without a signature that holds, and is invalid there."""
    path = tmp_path / "canary"
    with Queue(topic, hosts=hosts, signer=STRICT) as queue:
        queue.using(delay=0.1).enqueue(json_jobs.add, 1)  # makes the topic
        headers = [("kq-at", b"%d" % now()), ("kq-id", b"1"), ("kq-func", b"a.b")]
        forged = Record(f"{topic}.later", canary(path), b"", headers, 0, 0)
        count = len(attacks(LATER, forged, has_age=False))  # which counts from when it is due
        for number in range(count):  # one key for each: of one key the last record counts
            send(client, attacks(LATER, forged._replace(key=b"job:1:%d" % number), has_age=False)[number][1])
        client.flush()
        statuses = sorted(one.status for one in drain(queue))
    assert statuses == ["invalid"] * (len(statuses) - 1) + ["success"]
    assert count - 6 < len(statuses) <= count + 1  # some have no time, or another one, and are not due
    assert not path.exists()
