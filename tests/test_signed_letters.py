"""Dead letters with a signer: nobody gets a message signed by way of a letter."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import json_jobs
import pytest
import retry_jobs
from jobs import Calls
from kafka import KafkaAdminClient, KafkaProducer
from test_retries import records
from test_signed import SIGNER, canary, now, run, send

import kq
from kq import DeadLetters, Message, Queue, Signer
from kq.letter import letter_of
from kq.message import Record
from kq.signing import DEAD, JOB

TOLD: dict[str, Any] = {"error": "a.B: no", "traceback": "", "worker": "here:1"}


def failed(topic: str, hosts: str, **options: Any) -> Calls:
    """Have one signed job fail for good, and its letter written."""
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.using(key=b"k", headers=[("mine", b"1")]).enqueue(retry_jobs.wrong)
    return run(topic, hosts, 1, dead_letters=True, **options)


def letter(topic: str, message: Message) -> Record:
    """Return the record of a letter as anybody could write it."""
    return letter_of(f"{topic}.dead", message, "failure", **TOLD, now=now())


def test_a_letter_has_two_signatures(topic: str, hosts: str) -> None:
    """The message's, as it was, and its own."""
    (call,) = failed(topic, hosts)
    (record,) = records(hosts, f"{topic}.dead")
    SIGNER.verify(DEAD, record, now())
    assert [header for header in record.headers if not header[0].startswith("kq-dead-")] == list(call.message.headers)
    (found,) = DeadLetters(topic, hosts, signer=SIGNER).iterate()
    assert found.headers == call.message.headers
    assert DeadLetters(topic, hosts, signer=SIGNER).get(found.id) == found


def test_a_replay_is_signed_anew(topic: str, hosts: str) -> None:
    """However old the message is; its mark keeps the letter's signature good, so that it can be replayed again."""
    failed(topic, hosts)
    strict = Signer({"new": b"n" * 32}, max_age=0.001, clock_skew=0)
    letters = DeadLetters(topic, hosts, signer=strict)
    (before,) = letters.iterate()
    assert letters.replay(all=True) == 1
    (marked,) = letters.iterate(replayed=True)
    assert marked.replayed_at is not None
    (call,) = run(topic, hosts, 1)
    assert (call.status, call.message.key) == ("failure", b"k")
    told, old = dict(call.message.headers), dict(before.headers)
    assert (told["mine"], told["kq-replayed-from"]) == (b"1", before.id.encode())
    assert int(told["kq-signed-at"]) > int(old["kq-signed-at"])
    assert letters.replay(marked.id) == 1
    assert run(topic, hosts, 1).statuses == ["failure"]


def test_a_letter_of_what_was_never_signed_is_not_replayed(
    topic: str, hosts: str, client: KafkaProducer, tmp_path: Path
) -> None:
    """The letter itself is good, as a worker wrote it; its message would get a signature."""
    path = tmp_path / "canary"
    client.send(topic, canary(path)).get(10)
    assert run(topic, hosts, 1, dead_letters=True).statuses == ["invalid"]
    letters = DeadLetters(topic, hosts, signer=SIGNER)
    (found,) = letters.iterate()
    assert found.error == "kq.errors.SignatureError: the message is not signed"
    with pytest.raises(kq.KQError, match=rf"0 letters .* 1 were not: {topic}-0-0: .*the message is not signed"):
        letters.replay(all=True)
    assert len(records(hosts, topic)) == 1
    assert letters.purge(all=True) == 1
    assert not path.exists()


def test_forged_letters_are_neither_shown_nor_replayed(
    topic: str, hosts: str, client: KafkaProducer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unsigned, with a signature for another purpose, or with another value than the one that was signed."""
    (call,) = failed(topic, hosts)
    (good,) = records(hosts, f"{topic}.dead")
    value = canary(tmp_path / "canary")
    plain = [letter(topic, call.message._replace(offset=offset, value=value)) for offset in (1, 2, 3)]
    send(client, plain[0]._replace(partition=0))
    send(client, SIGNER.sign(JOB, plain[1]._replace(partition=0), now()))
    send(client, Record(good.topic, value, good.key + b"4", list(good.headers), 0, 0))
    client.flush()
    letters = DeadLetters(topic, hosts, signer=SIGNER)
    with caplog.at_level(logging.WARNING, "kq.dead_letters"):
        assert [one.value for one in letters.iterate()] == [good.value]
    lines = [record.getMessage() for record in caplog.records if record.name == "kq.dead_letters"]
    assert [line.partition(", at")[0] for line in lines] == [f"A letter of topic {topic}.dead"] * 3
    with pytest.raises(kq.KQError, match="1 letters were replayed and marked, 3 were not"):
        letters.replay(all=True)
    assert [record.value for record in records(hosts, topic)] == [call.message.value] * 2
    assert not (tmp_path / "canary").exists()


def test_a_letter_whose_message_was_altered_is_not_replayed(topic: str, hosts: str, client: KafkaProducer) -> None:
    """Who has the key of letters alone, if these are others, does not write jobs."""
    (call,) = failed(topic, hosts)
    other = call.message._replace(value=kq.dumps(kq.Job("1", 0, topic, json_jobs.add, (1,), {})), offset=9)
    send(client, SIGNER.sign(DEAD, letter(topic, other), now())._replace(partition=0))
    client.flush()
    with pytest.raises(kq.KQError, match=f"were not: {topic}-0-9: .*the signature is not that of this message"):
        DeadLetters(topic, hosts, signer=SIGNER).replay(f"{topic}-0-9")
    assert len(records(hosts, topic)) == 1


def test_a_value_that_was_left_out_is_verified_where_it_is(topic: str, hosts: str, admin: KafkaAdminClient) -> None:
    """The letter has another value then, and is signed with that."""
    small = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "30000"}}
    admin.create_topics({f"{topic}.dead": small})
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.enqueue(json_jobs.add, "x" * 50_000, 1)
    assert run(topic, hosts, 1, dead_letters=True).statuses == ["failure"]
    letters = DeadLetters(topic, hosts, signer=SIGNER)
    (found,) = letters.iterate()
    assert found.is_left_out
    assert letters.replay(all=True) == 1
    SIGNER.verify(JOB, records(hosts, topic)[1], now())
