"""Control with a signer: a wish that is not signed as it must be has no effect, nor has a report."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Told
from helpers import at_work, wait_until
from jobs import Calls
from kafka import KafkaProducer
from test_retries import records
from test_signed import SIGNER, now, send
from test_signer_cli import TEXT

import kq
from kq import Queue, Signer, Worker
from kq.controlling import Seal, Wish, key_of, packed
from kq.message import Record
from kq.signing import CONTROL, DEAD, JOB, LATER, RESULT

#: The same keys, and an age.
STRICT = Signer({"new": b"n" * 32, "old": b"o" * 32}, max_age=60)


def test_signed_wishes_have_their_effect(topic: str, hosts: str) -> None:
    """Reports are signed, too; what a worker leaves behind it takes away with a signature."""
    calls = Calls()
    worker = Worker(topic, hosts=hosts, callback=calls, control=True, signer=SIGNER, executor="thread")
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue, kq.Control(topic, hosts, signer=SIGNER) as control:
        with at_work(worker):
            control.pause()
            (shown,) = wait_until(control.workers, timeout=20)
            assert control.ping().keys() == {shown.id}
            wait_until(lambda: control.workers()[0].state == "paused", timeout=20)
            job = queue.enqueue(abs, -1)
            control.cancel(job)
            control.resume()
            wait_until(lambda: len(calls) == 1, timeout=20)
            assert control.shutdown() == [shown.id]
            wait_until(lambda: worker.state.value == "stopped", timeout=20)
        assert type(calls[0].exception) is kq.Cancelled
        wait_until(lambda: not control.workers(), timeout=10)
    written = records(hosts, f"{topic}.control")
    assert {record.value is None for record in written} == {True, False}
    for record in written:
        SIGNER.verify(CONTROL, record, now())


def forged(topic: str) -> dict[str, tuple[Record, str]]:
    """Return what an attacker may write to pause all workers, and why it is refused."""
    pause = Record(f"{topic}.control", packed(at=1), key_of(Wish.PAUSE), [], 0, 0)
    good = SIGNER.sign(CONTROL, pause, now())
    (at, signed_at), (name, mac) = good.headers
    altered, place = "it was altered", "or made for another place"
    elsewhere = [pause._replace(key=b"cancel:1"), pause._replace(topic="t.control")]
    to_key, to_topic = ({"headers": SIGNER.sign(CONTROL, other, now()).headers} for other in elsewhere)
    return {
        "unsigned": (pause, "the message is not signed"),
        "a bit of the value": (good._replace(value=bytes([good.value[0] ^ 1]) + good.value[1:]), altered),
        "a bit of the MAC": (good._replace(headers=[(at, signed_at), (name, mac[:-2] + b"AA")]), altered),
        "another time": (good._replace(headers=[(at, b"%d" % (int(signed_at) + 1)), (name, mac)]), altered),
        "no time": (good._replace(headers=[(name, mac)]), altered),
        "no signature": (good._replace(headers=[(at, signed_at)]), "the message is not signed"),
        "a header added": (good._replace(headers=[*good.headers, ("kq-id", b"1")]), altered),
        "a header doubled": (good._replace(headers=[(at, b"1"), *good.headers]), "header 'kq-signed-at' stands twice"),
        "of another wish": (pause._replace(**to_key), place),
        "of another topic": (pause._replace(**to_topic), place),
        "of a removed key": (Signer({"gone": b"g" * 32}).sign(CONTROL, pause, now()), "key 'gone', which is not known"),
        "too old": (SIGNER.sign(CONTROL, pause, now() - 10**6), "s old, and may be 60 s"),
        "of the future": (SIGNER.sign(CONTROL, pause, now() + 10**6), "s in the future"),
        **{f"of a {what}": (SIGNER.sign(what, pause, now()), place) for what in (JOB, LATER, RESULT)},
        "of a letter": (SIGNER.sign(DEAD, pause, now()), "the message is not signed"),
    }  # fmt: skip


def told(caplog: pytest.LogCaptureFixture, topic: str) -> list[str]:
    """Return what the log says of records that have no effect."""
    begin = f"Topic {topic}.control, offset "
    return [line for line in (one.getMessage() for one in caplog.records) if line.startswith(begin)]


def test_a_forged_wish_has_no_effect(
    topic: str, hosts: str, client: KafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    """On a worker that starts, and on one that is there; each is told of once, with its reason."""
    attacks, calls = forged(topic), Calls()
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue, kq.Control(topic, hosts, signer=STRICT) as control:
        control.cancel("nobody")  # makes the topic
        for record, _ in attacks.values():
            send(client, record)
        client.flush()
        worker = Worker(topic, hosts=hosts, callback=calls, control=True, signer=STRICT, executor="thread")
        with caplog.at_level(logging.ERROR, "kq.control"), at_work(worker):
            queue.enqueue(abs, -1)
            wait_until(lambda: len(calls) == 1, timeout=30)
            lines = told(caplog, topic)
            assert len(lines) == len(attacks)
            for line, (name, (_, reason)) in zip(lines, attacks.items(), strict=True):
                assert reason in line, name
            caplog.clear()
            attack(client, topic, control.workers()[0].id)
            wait_until(lambda: len(told(caplog, topic)) == 4 + len(attacks), timeout=20)  # worker and control
            queue.enqueue(abs, -2)
            wait_until(lambda: len(calls) == 2, timeout=20)
        assert (calls.statuses, control.pauses()) == (["success"] * 2, [])


def attack(client: KafkaProducer, topic: str, worker_id: str) -> None:
    """Write what nobody has signed: a stop, and the end of a report."""
    for key, value in ((key_of(Wish.STOP, worker_id), packed(at=1)), (key_of(Wish.WORKER, worker_id), None)):
        client.send(f"{topic}.control", value, key)
    client.flush()


def test_a_forged_report_is_not_shown(topic: str, hosts: str, client: KafkaProducer) -> None:
    """It would hide what workers do, or show some that are not there. Without a signer it is."""
    with kq.Control(topic, hosts, signer=SIGNER) as control, kq.Control(topic, hosts) as trusting:
        control.cancel("nobody")
        client.send(f"{topic}.control", b'{"host": "x"}', key_of(Wish.WORKER, "forged")).get(10)
        control.pause("mine")
        assert control.pauses() == ["mine"]
        assert (control.workers(), [one.id for one in trusting.workers()]) == ([], ["forged"])


def test_an_unsigned_tombstone_ends_nothing(topic: str, hosts: str, client: KafkaProducer) -> None:
    """Neither a pause nor a cancel of those that have read it."""
    with kq.Control(topic, hosts, signer=SIGNER) as control:
        control.pause()
        assert control.pauses() == [None]
        client.send(f"{topic}.control", None, key_of(Wish.PAUSE)).get(10)
        control.pause("mine")
        assert control.pauses() == [None, "mine"]
        control.resume()
        assert control.pauses() == []


def test_the_age_of_a_wish_is_that_which_it_had_when_it_was_written(topic: str) -> None:
    """By the broker's clock: a pause of last week holds; sent again today it is too old, whatever time it claims."""
    seal, week = Seal(topic, STRICT), 7 * 86_400_000
    before = now() - week
    made = SIGNER.sign(CONTROL, Record(f"{topic}.control", packed(at=1), key_of(Wish.PAUSE), [], 0, 0), before)

    def holds(timestamp: int, timestamp_type: int) -> bool:
        fields = made._asdict()
        return seal.holds(SimpleNamespace(**fields, timestamp=timestamp, timestamp_type=timestamp_type, offset=1))

    assert holds(before + 100, 1)
    assert not holds(now(), 1)
    assert not holds(before, 0)  # the writer's own timestamp


def test_a_control_without_keys_steers_nobody(
    topic: str, tell: Callable[..., Told], hosts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line; with ``--signer-keys``, or the environment's, it does."""
    (tmp_path / "keys").write_text(TEXT)
    (tmp_path / "keys").chmod(0o600)
    keys, calls = ("--signer-keys", str(tmp_path / "keys")), Calls()
    worker = Worker(topic, hosts=hosts, callback=calls, control=True, signer=SIGNER, executor="thread")
    with at_work(worker):
        assert tell("pause", topic)[:2] == (0, f"topic {topic}: paused for all groups\n")
        wait_until(lambda: tell("ps", topic, *keys)[0] == 0, timeout=20)
        (shown,) = json.loads(tell("ps", topic, "--json", *keys)[1])["workers"]
        assert shown["state"] == "running"
        assert tell("pause", topic, *keys)[0] == 0
        state: Any = lambda: json.loads(tell("ps", topic, "--json", *keys)[1])["workers"][0]["state"]  # noqa: E731
        wait_until(lambda: state() == "paused", timeout=20)
        monkeypatch.setenv("KQ_SIGNER_KEYS", TEXT.replace("\n", ","))
        assert tell("resume", topic)[:2] == (0, f"topic {topic}: not paused\n")
        assert tell("stop", topic, shown["id"])[0] == 0
        wait_until(lambda: worker.state.value == "stopped", timeout=20)
