"""Workers with a signer: what is not signed as it must be is invalid, whoever wrote it, and never unpickled."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import json_jobs
import pytest
import retry_jobs
from helpers import at_work, wait_until
from jobs import Calls
from kafka import KafkaProducer
from test_retries import records

import kq
from kq import Message, Queue, Signer, Worker
from kq.executors import Finished
from kq.job import Outcome
from kq.message import Record
from kq.scheduling.stamp import Stamp
from kq.signing import CONTROL, DEAD, JOB, LATER, RESULT
from kq.testing import drain
from kq.working import Context, Retrier
from kq.working.recording import Rows

SIGNER = Signer({"new": b"n" * 32, "old": b"o" * 32})
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")
EXECUTORS = ["inline", "thread", pytest.param("process", marks=linux)]

Alter = Callable[[Record], Record]


def now() -> int:
    return int(time.time() * 1000)


def send(client: KafkaProducer, record: Record) -> None:
    client.send(record.topic, record.value, record.key, record.headers, record.partition)


def run(topic: str, hosts: str, count: int, **options: Any) -> Calls:
    calls = Calls()
    Worker(topic, hosts=hosts, callback=calls, **{"signer": SIGNER, **options}).start(max_messages=count)
    return calls


def canary(path: Path) -> bytes:
    """Return a pickle that makes a directory."""
    return pickle.dumps(json_jobs.Grumpy(str(path), 1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_signed_jobs_run(topic: str, hosts: str, executor: str) -> None:
    """Of the first key and of another, of any serializer; they have two more headers, at the end."""
    plain = kq.JSONSerializer(["json_jobs:*"])
    old = Signer({"old": b"o" * 32})
    for signer, serializer in ((SIGNER, kq.dumps), (old, kq.dumps), (SIGNER, plain.dumps)):
        with Queue(topic, hosts=hosts, signer=signer, serializer=serializer) as queue:
            queue.using(key=b"k", headers=[("mine", b"1")], timeout=5).enqueue(json_jobs.add, 1, 2)
            assert queue.signer is signer
    read = kq.by_content_type(json=plain.loads, dill=kq.loads)
    calls = run(topic, hosts, 3, deserializer=read, executor=executor)
    assert (calls.statuses, calls.results) == (["success"] * 3, [3] * 3)
    assert [[name for name, _ in call.message.headers][-3:] for call in calls] == [
        ["mine", "kq-signed-at", "kq-signature"]
    ] * 3


def headers_of(record: Record, name: str, value: bytes | None) -> Record:
    """Return a record with another value of a header, or without it."""
    kept = [header for header in record.headers if header[0] != name]
    return record._replace(headers=kept if value is None else [*kept, (name, value)])


def sign(record: Record, **other: Any) -> Record:
    """Return a record with the signature that it would have if it were another one."""
    signed = SIGNER.sign(JOB, record._replace(**other), now())
    return record._replace(headers=signed.headers)


def doubled(record: Record) -> Record:
    return record._replace(headers=[("kq-id", b"2"), *sign(record).headers])


#: What an attacker may do to a message that would make a directory, and why it is refused.
ATTACKS: dict[str, tuple[Alter, str]] = {
    "raw": (lambda record: record, "the message is not signed"),
    "bare": (lambda record: record._replace(headers=[]), "the message is not signed"),
    "no signature": (lambda record: headers_of(sign(record), "kq-signature", None), "the message is not signed"),
    "unknown key": (
        lambda record: Signer({"gone": b"g" * 32}).sign(JOB, record, now()),
        "signed with key 'gone', which is not known here",
    ),
    "wrong key": (lambda record: Signer({"new": b"g" * 32}).sign(JOB, record, now()), "it was altered"),
    "another value": (lambda record: sign(record, value=b""), "it was altered"),
    "another key": (lambda record: sign(record, key=b"x"), "it was altered"),
    "another topic": (lambda record: sign(record, topic="x"), "or made for another place"),
    "of a delayed job": (lambda record: SIGNER.sign(LATER, record, now()), "or made for another place"),
    "of a result": (lambda record: SIGNER.sign(RESULT, record, now()), "or made for another place"),
    "of a wish": (lambda record: SIGNER.sign(CONTROL, record, now()), "or made for another place"),
    "of a letter": (lambda record: SIGNER.sign(DEAD, record, now()), "the message is not signed"),
    "a header added": (lambda record: headers_of(sign(record), "kq-expires", b"1"), "it was altered"),
    "a header removed": (lambda record: headers_of(sign(record), "kq-id", None), "it was altered"),
    "a header altered": (lambda record: headers_of(sign(record), "kq-id", b"2"), "it was altered"),
    "a header doubled": (doubled, "header 'kq-id' stands twice"),
    "another time": (lambda record: headers_of(sign(record), "kq-signed-at", b"%d" % (now() + 5)), "it was altered"),
    "too old": (lambda record: SIGNER.sign(JOB, record, now() - 10**7), "s old, and may be 60 s"),
}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_attack_is_unpickled(
    topic: str, hosts: str, client: KafkaProducer, executor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the worker nor in a child; each is invalid, with its reason in the log and in its letter."""
    path = tmp_path / "canary"
    record = Record(topic, canary(path), b"key", [("kq-id", b"1"), ("kq-func", b"a.b")], 0, 0)
    for alter, _ in ATTACKS.values():
        send(client, alter(record))
    send(
        client,
        SIGNER.sign(JOB, record._replace(value=kq.dumps(kq.Job("1", func=json_jobs.add, args=(1,), kwargs={}))), now()),
    )
    client.flush()
    strict = Signer({"new": b"n" * 32, "old": b"o" * 32}, max_age=60)
    with caplog.at_level(logging.ERROR, "kq.worker"):
        calls = run(topic, hosts, len(ATTACKS) + 1, signer=strict, executor=executor, dead_letters=True)
    assert not path.exists()
    assert calls.statuses == ["invalid"] * len(ATTACKS) + ["success"]
    assert [call[2:] for call in calls[:-1]] == [(None, None, None, None)] * len(ATTACKS)
    reasons = [reason for _, reason in ATTACKS.values()]
    lines = [one.getMessage() for one in caplog.records if one.name == "kq.worker"]
    letters = list(kq.DeadLetters(topic, hosts).iterate())
    assert len(lines) == len(letters) == len(reasons)
    for reason, line, letter in zip(reasons, lines, letters, strict=True):
        assert line.startswith("Job was invalid: ") and reason in line
        assert letter.error.startswith("kq.errors.SignatureError: ") and reason in letter.error
        assert letter.reason == "invalid"
    assert not path.exists()


def test_invalid_signatures_pull_no_brake(topic: str, hosts: str, client: KafkaProducer) -> None:
    """A hundred of them say nothing about what can be imported here; and a worker without a signer asks for none."""
    for _ in range(100):
        client.send(topic, b"\x80")
    client.flush()
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.enqueue(json_jobs.add, 1)
    assert run(topic, hosts, 101).statuses == ["invalid"] * 100 + ["success"]
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.enqueue(json_jobs.add, 1)
    assert run(topic, hosts, 1, signer=None).statuses == ["success"]


def test_a_message_sent_again_is_refused_when_it_is_old(topic: str, hosts: str, client: KafkaProducer) -> None:
    """Whatever timestamp its record has by then."""
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.enqueue(json_jobs.add, 1)
    (first,) = run(topic, hosts, 1)
    client.send(topic, first.message.value, first.message.key, list(first.message.headers)).get(10)
    young = Signer({"new": b"n" * 32}, max_age=0, clock_skew=0)
    (again,) = run(topic, hosts, 1, signer=young)
    assert again.status == "invalid"


# -- delays and schedules ----------------------------------------------------------------------------------------------


def test_a_delayed_job_is_signed_anew_when_it_is_fired(topic: str, hosts: str) -> None:
    """At its own time, for its own place."""
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.using(delay=600, key=b"k").enqueue(json_jobs.add, 1)
        (waiting,) = records(hosts, f"{topic}.later")
        SIGNER.verify(LATER, waiting, now())
        (ran,) = drain(queue, ahead=601)
    assert ran.status == "success"
    told, before = dict(ran.message.headers), dict(waiting.headers)
    assert int(told["kq-signed-at"]) > int(before["kq-signed-at"])
    assert told["kq-signature"] != before["kq-signature"]


def test_the_age_of_a_delayed_job_counts_from_when_it_is_due() -> None:
    """It was signed when it was enqueued, days ago; one that is sent again is as old as any."""
    stamp = Stamp("t.later", Signer({"new": b"n" * 32}, max_age=30, clock_skew=1))
    for age, is_fired in ((0, True), (29_000, True), (40_000, False)):
        headers = [("kq-at", b"%d" % (now() - age))]
        entry = SIGNER.sign(LATER, Record("t.later", b"v", b"job:1:a", headers, 0, 0), now() - 10**8)
        fired = stamp.anew(SimpleNamespace(**entry._asdict(), offset=1), Record("t", b"v", None, headers, 0, 0))
        assert ("kq-signature" in dict(fired.headers)) is is_fired


def test_a_forged_delayed_job_is_invalid(
    topic: str, hosts: str, client: KafkaProducer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unsigned, moved there from the topic of the jobs, or altered; the owner says why, the worker tells of it."""
    path = tmp_path / "canary"
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.using(delay=0.1).enqueue(json_jobs.add, 1)
        wait_until(lambda: records(hosts, f"{topic}.later"))
        due = [("kq-at", b"%d" % now()), ("kq-id", b"1")]
        forged = Record(f"{topic}.later", canary(path), b"job:1:a", due, 0, 0)
        send(client, forged)
        send(client, SIGNER.sign(JOB, forged._replace(key=b"job:1:b"), now()))
        send(
            client, SIGNER.sign(LATER, forged._replace(key=b"job:1:c", value=b"x"), now())._replace(value=canary(path))
        )
        client.flush()
        with caplog.at_level(logging.ERROR, "kq.scheduling"):
            ran = drain(queue)
    assert sorted(one.status for one in ran) == ["invalid", "invalid", "invalid", "success"]
    lines = [one.getMessage() for one in caplog.records if one.name == "kq.scheduling"]
    assert len(lines) == 3
    assert all(f"A delayed job of topic {topic}.later, at offset" in line for line in lines)
    assert not path.exists()


def test_a_schedule_is_signed(topic: str, hosts: str) -> None:
    """However old its definition is; each run is, at its own time."""
    strict = Signer({"new": b"n" * 32}, max_age=0.001, clock_skew=30)
    with Queue(topic, hosts=hosts, signer=strict) as queue:
        made = queue.schedule("ours", kq.Every(600), json_jobs.add, 1)
        assert queue.schedule("ours", kq.Every(600), json_jobs.add, 1).next_due == made.next_due
        (ran,) = drain(queue, ahead=601)
    assert (ran.status, ran.job.id.partition("@")[0]) == ("success", "ours")


def test_a_forged_schedule_is_left_alone(
    topic: str, hosts: str, client: KafkaProducer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That is said, and the others run on."""
    path, calls = tmp_path / "canary", Calls()
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.schedule("ours", kq.Every(1), json_jobs.add, 1)
    told = dict(records(hosts, f"{topic}.later")[0].headers)["kq-schedule"]
    client.send(f"{topic}.later", canary(path), b"schedule:theirs", [("kq-schedule", told)], partition=0).get(10)
    worker = Worker(topic, hosts=hosts, callback=calls, signer=SIGNER)
    with caplog.at_level(logging.ERROR, "kq.scheduling"), at_work(worker):
        wait_until(lambda: len(calls) >= 3 and "theirs" in caplog.text, timeout=30)
    assert f"Schedule 'theirs' of topic {topic}.later does not run: the message is not signed" in caplog.text
    assert set(calls.statuses) == {"success"}
    assert not path.exists()


def test_what_a_forged_schedule_says_is_not_taken_over(topic: str, hosts: str, client: KafkaProducer) -> None:
    """When it began would be signed with the one that takes its place."""
    with Queue(topic, hosts=hosts) as queue:
        queue.schedule("ours", kq.Every(3600), json_jobs.add, 1)
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.schedule("ours", kq.Every(3600), json_jobs.add, 1)
        queue.schedule("ours", kq.Every(3600), json_jobs.add, 2)
    since = [json.loads(dict(record.headers)["kq-schedule"])["since"] for record in records(hosts, f"{topic}.later")]
    assert since[0] < since[1] == since[2]


# -- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "ordering"),
    [
        (kq.Retry(2, delay=0), "key"),
        (kq.Retry(2, delay=0.2, jitter=0), "key"),
        (kq.Retry(2, delay=0.2, ordered=True), "key"),
        (kq.Retry(2, delay=0.1), "partition"),
    ],
    ids=["at once", "later", "in place", "by partition"],
)
def test_each_attempt_is_signed(topic: str, hosts: str, policy: kq.Retry, ordering: Any) -> None:
    """By the worker that had verified the one before; and so can be the letter in the end."""
    calls = Calls()
    worker = Worker(topic, hosts=hosts, callback=calls, signer=SIGNER, ordering=ordering, dead_letters=True)
    thread = threading.Thread(target=worker.start)
    with Queue(topic, hosts=hosts, signer=SIGNER, retry=policy) as queue:
        queue.using(key=b"k").enqueue(retry_jobs.wrong)
        thread.start()
        try:
            wait_until(lambda: len(calls) == 3, timeout=30)
            wait_until(lambda: kq.DeadLetters(topic, hosts).count() == 1, timeout=30)
        finally:
            worker.stop()
            thread.join()
    assert calls.statuses == ["failure"] * 3
    for call in calls:
        SIGNER.verify(JOB, call.message, now())
    (letter,) = kq.DeadLetters(topic, hosts).iterate()
    assert letter.attempts == 3
    SIGNER.verify(JOB, Message(topic, 0, 0, letter.key, letter.value, None, letter.headers), now())


def test_a_retry_that_goes_elsewhere_is_signed_again() -> None:
    """Its headers are others then."""
    retrier = Retrier(None, "key", lambda: None)
    retrier.open(Context("t", "t", "", {}, signer=SIGNER))
    message = Message("t", 3, 0, b"k", b"v")
    record = SIGNER.sign(LATER, Record("t.later", b"v", b"job:1", [("kq-at", b"1")], 3, 0), now())
    other = retrier.on_refused(message, record, ValueError("no such partition"))
    assert other is not None and dict(other.headers)["kq-partition"] == b"3"
    SIGNER.verify(LATER, Message("t.later", 0, 0, other.key, other.value, None, tuple(other.headers)), now())


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", [{"a": b"a" * 32}, "key", b"a" * 32, Signer])
def test_a_signer_must_be_one(signer: Any) -> None:
    """Not keys, nor the class."""
    with pytest.raises(kq.ArgumentError, match=r"signer must be a kq\.Signer"):
        Queue("t", hosts="127.0.0.1:9", signer=signer)
    with pytest.raises(kq.ArgumentError, match=r"signer must be a kq\.Signer"):
        Worker("t", hosts="127.0.0.1:9", signer=signer)


def test_keys_do_not_reach_children(topic: str, hosts: str) -> None:
    """A job finds no signer in the process that runs it."""
    with Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.enqueue(json_jobs.signers)
    assert run(topic, hosts, 1, executor="process").results == [0]


@pytest.mark.parametrize("hides", [False, True])
def test_a_row_of_the_log_is_the_same_whether_its_message_is_signed_or_not(hides: bool) -> None:
    """Also where other headers stand among them; keys are in it unless they are to stay out."""
    rows = Rows("worker", has_letters=False, hides_keys=hides)
    record = Record("t", b"v", b"key", [("kq-id", b"1a"), ("kq-func", b"a.b")], 0, 0)
    attempt = record._replace(headers=[*record.headers, ("kq-attempt", b"2")])
    made = []
    for one in (record, attempt):
        for _ in range(2):  # the second time the function's name is known
            for sent in (one, SIGNER.sign(JOB, one, now())):
                message = Message("t", 0, 7, b"key", b"v", 5, tuple(sent.headers))
                made += rows.of_ends([Finished(message, None, Outcome("success"))], 9)
    assert made[:4] == [made[0]] * 4
    assert made[4:] == [made[4]] * 4
    assert made[4] != made[0]
    assert {row[7] for row in made} == {None if hides else b"key"}
