"""Dead letters: whatever fails for good is kept as it was, can be looked at, and runs again when somebody says so."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from io import StringIO
from types import SimpleNamespace
from typing import Any

import jobs
import pytest
import retry_jobs
from helpers import wait_until
from jobs import Calls
from journal import Journal
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from test_retries import records

import kq
from kq import DeadLetters
from kq.clients import topics
from kq.letter import DEAD, SUFFIX, letter_of, parsed
from kq.message import Message

Tell = Callable[..., tuple[int, str, str]]
#: What stands in each letter, whatever it is of.
ALWAYS = {
    *("kq-dead-reason", "kq-dead-error", "kq-dead-traceback", "kq-dead-attempts", "kq-dead-origin", "kq-dead-at"),
    *("kq-dead-worker", "kq-dead-timestamp"),
}


def run(topic: str, hosts: str, count: int, **options: Any) -> Calls:
    """Have a worker with dead letters run so many messages."""
    calls = Calls()
    kq.Worker(topic, hosts=hosts, callback=calls, dead_letters=True, **options).start(max_messages=count)
    return calls


def test_a_letter_is_the_message_and_why_it_is_dead(topic: str, hosts: str, client: KafkaProducer) -> None:
    """Value, key, headers and timestamp byte for byte, and every header of the wire format."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.using(key=b"\xff\x00", headers=[("a", b"\x00"), ("a", b"2")], timeout=7).enqueue(retry_jobs.wrong)
    before = time.time()
    (call,) = run(topic, hosts, 1)
    (record,) = records(hosts, f"{topic}.dead")
    told = dict(record.headers)
    message = call.message
    assert record.key == f"{topic}-0-0".encode()
    assert record.value == message.value
    assert [header for header in record.headers if not header[0].startswith("kq-dead-")] == list(message.headers)
    assert {name for name in told if name.startswith("kq-dead-")} == ALWAYS | {"kq-dead-key"}
    assert told["kq-dead-key"] == b"\xff\x00"
    assert int(told["kq-dead-timestamp"]) == message.timestamp
    assert told["kq-dead-reason"] == b"failure"
    assert told["kq-dead-error"] == b"builtins.ValueError: wrong for ever"
    assert told["kq-dead-traceback"].endswith(b"ValueError: wrong for ever\n")
    assert (told["kq-dead-attempts"], told["kq-dead-origin"]) == (b"1", f"{topic}/0/0".encode())
    assert before <= int(told["kq-dead-at"]) / 1000 + 0.001 <= time.time() + 0.001
    (letter,) = DeadLetters(topic, hosts).iterate()
    assert (letter.id, letter.key, letter.value, letter.headers, letter.timestamp) == (
        *(f"{topic}-0-0", message.key, message.value, message.headers, message.timestamp),
    )
    assert (letter.topic, letter.partition, letter.offset, letter.replayed_at) == (topic, 0, 0, None)
    assert letter.at == datetime.fromtimestamp(int(told["kq-dead-at"]) / 1000, timezone.utc)
    assert letter.worker == told["kq-dead-worker"].decode()


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_each_reason(topic: str, hosts: str, client: KafkaProducer, executor: str) -> None:
    """Each message that failed for good is one letter; what did well, or runs again, is none."""
    with kq.Queue(topic, hosts=hosts) as queue:
        made = {
            "failure": queue.enqueue(retry_jobs.wrong),
            "timeout": queue.using(timeout=0.2).enqueue(retry_jobs.stay),
            "expired": queue.using(expires=0.001).enqueue(retry_jobs.wrong),
            "success": queue.enqueue(jobs.add),
            "again": queue.using(retry=kq.Retry(1, delay=3600)).enqueue(retry_jobs.flaky),
        }
        if executor == "process":
            made["lost"] = queue.enqueue(retry_jobs.die)
    client.send(topic, b"no job", headers=[("a", b"b")]).get(10)
    client.send(topic, None, key=b"k").get(10)
    count = len(made) + 2
    run(topic, hosts, count, executor=executor, unimportable="invalid")
    letters = {letter.offset: letter for letter in DeadLetters(topic, hosts).iterate()}
    assert len(letters) == len(made) - 2 + 2
    by_id = {dict(letter.headers).get("kq-id", b"").decode(): letter for letter in letters.values()}
    assert {reason: by_id[job.id].reason for reason, job in made.items() if job.id in by_id} == {
        reason: reason for reason in made if reason not in ("success", "again")
    }
    assert by_id[made["timeout"].id].error == "kq.errors.JobTimeout: the job ran longer than its limit of 0.2 s"
    assert by_id[made["expired"].id].error.startswith("kq.errors.JobExpired: ")
    broken, null = letters[count - 2], letters[count - 1]
    assert (broken.reason, broken.value, broken.headers) == ("invalid", b"no job", (("a", b"b"),))
    assert "Error: " in broken.error
    assert broken.traceback.startswith("Traceback")
    assert (null.reason, null.value, null.key) == ("invalid", None, b"k")
    if executor == "process":
        assert by_id[made["lost"].id].error.startswith("kq.errors.ChildLost: ")


def test_poison_is_a_letter(topic: str, hosts: str, journal: Journal) -> None:
    """The message that kills its workers is kept, and the next one runs."""
    from journal import WorkerProcess, die

    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(die, journal.path, "bad", 0.5)  # by then its start is committed
        queue.enqueue(jobs.add)
    for _ in range(2):
        with WorkerProcess(journal, topic, hosts, dead_letters=True, max_deliveries=2) as worker:
            assert worker.process.wait(40) == 1
    run(topic, hosts, 2, max_deliveries=2)
    (letter,) = DeadLetters(topic, hosts).iterate()
    assert (letter.reason, letter.offset) == ("poison", 0)
    assert "was not run again" in letter.error


def test_letters_are_off_by_default(topic: str, hosts: str, admin: KafkaAdminClient) -> None:
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(retry_jobs.wrong)
    kq.Worker(topic, hosts=hosts).start(max_messages=1)
    assert f"{topic}.dead" not in admin.list_topics()


def test_the_topic_of_letters_keeps_them_by_its_own_time(
    make_topic: Callable[..., str], hosts: str, admin: KafkaAdminClient
) -> None:
    """As many partitions as the jobs' topic; a named topic is made the same way."""
    topic = make_topic(partitions=3)
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(retry_jobs.wrong)
    name = f"{topic}-graves"
    kq.Worker(topic, hosts=hosts, dead_letters=name).start(max_messages=1)
    resource = ConfigResource(ConfigResourceType.TOPIC, name)
    settings = admin.describe_configs([resource], config_filter="all")["topic"][name]
    assert {setting: settings[setting]["value"] for setting in DEAD} == dict(DEAD)
    (described,) = admin.describe_topics([name])
    assert len(described["partitions"]) == 3
    assert [letter.topic for letter in DeadLetters(topic, hosts, letters=name).iterate()] == [topic]
    assert list(DeadLetters("other", hosts, letters=name).iterate()) == []


@pytest.mark.parametrize("value", [3, None, "not a topic!"])
def test_dead_letters_must_be_a_topic(value: Any) -> None:
    with pytest.raises(kq.ArgumentError, match=r"dead_letters must be|topic must be"):
        kq.Worker("topic", hosts="127.0.0.1:1", dead_letters=value)
    with pytest.raises(kq.ArgumentError, match="must not be the topic of the jobs"):
        kq.Worker("topic", hosts="127.0.0.1:1", dead_letters="topic")


def test_a_letter_that_is_too_large_is_written_without_its_value(
    topic: str, hosts: str, admin: KafkaAdminClient, caplog: pytest.LogCaptureFixture, journal: Journal
) -> None:
    """Loudly; replay takes the value from where it is, and says so where that is gone."""
    admin.create_topics(
        {f"{topic}.dead": {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "30000"}}}
    )
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(retry_jobs.fail_and_tell, journal.path, "x" * 50_000, 1)
    run(topic, hosts, 1)
    assert "is too large for topic" in caplog.text
    letters = DeadLetters(topic, hosts)
    (letter,) = letters.iterate()
    assert (letter.is_left_out, letter.value) == (True, None)
    assert letters.replay(all=True) == 1
    assert run(topic, hosts, 1).statuses == ["success"]
    (record,) = [one for one in records(hosts, topic) if one.offset == 0]
    assert letters.value_of(letter) == record.value
    with pytest.raises(kq.KQError, match="the original is gone"):
        letters.value_of(letter._replace(timestamp=1))


def test_replay_runs_a_letter_once(topic: str, hosts: str, journal: Journal) -> None:
    """From attempt 1, with key, value and headers; marked letters only when they are named; a new failure is new."""
    with kq.Queue(topic, hosts=hosts) as queue:
        spec = queue.using(retry=kq.Retry(1, delay=0), key=b"k", headers=[("a", b"b")])
        spec.enqueue(retry_jobs.fail_and_tell, journal.path, "once", 2)
        queue.using(expires=0.001).enqueue(retry_jobs.fail_and_tell, journal.path, "late", 0)
    first = run(topic, hosts, 3)
    letters = DeadLetters(topic, hosts)
    assert {letter.reason for letter in letters.iterate()} == {"failure", "expired"}
    assert letters.replay(all=True) == 2
    assert letters.replay(all=True) == 0
    assert list(letters.iterate()) == []
    assert letters.count(replayed=True) == 2
    again = run(topic, hosts, 2)
    assert again.statuses == ["success"] * 2
    call = next(call for call in again if call.job.args[1] == "once")
    original = next(one.message for one in first if one.job.id == call.job.id)
    (letter,) = [one for one in letters.iterate(replayed=True) if one.key == b"k"]
    kept = [header for header in original.headers if header[0] != "kq-attempt"]
    timestamps = [header for header in letter.headers if header[0] == "kq-timestamp"]
    (when,) = [header for header in call.message.headers if header[0] == "kq-renewed"]
    assert abs(int(when[1]) / 1000 - time.time()) < 60
    assert list(call.message.headers) == [*kept, *timestamps, when, ("kq-replayed-from", letter.id.encode())]
    assert (call.message.key, call.message.value) == (original.key, original.value)
    assert letter.replayed_at is not None
    assert letters.replay(letter.id) == 1
    assert letters.purge(all=True) == 2
    assert letters.count(replayed=True) == 0


def test_a_replayed_job_that_fails_again_is_a_new_letter(topic: str, hosts: str) -> None:
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(retry_jobs.wrong)
    run(topic, hosts, 1)
    letters = DeadLetters(topic, hosts)
    (first,) = letters.iterate()
    letters.replay(first.id)
    run(topic, hosts, 1)
    (second,) = letters.iterate()
    assert (second.id, second.attempts) == (f"{topic}-0-1", 1)
    assert {letter.id for letter in letters.iterate(replayed=True)} == {first.id, second.id}


def write(topic: str, hosts: str, count: int, size: int = 200) -> None:
    """Write letters of a topic, as workers would have: every second is a timeout, one a minute."""
    topics.companion_at(hosts, {}, topic, SUFFIX, DEAD)
    begun = int(time.time() * 1000) - count * 60_000
    with kq.Queue(topic, hosts=hosts) as queue:
        value = kq.dumps(kq.Job(id="x", timestamp=1, topic=topic, func=jobs.add, args=(1, 2), kwargs={}))
        producer = queue.producer
        for number in range(count):
            headers = (("kq-id", b"%d" % number), ("kq-func", b"jobs.add"))
            message = Message(topic, 0, number, b"k%d" % number, value, 1000 + number, headers)
            told: dict[str, Any] = {"error": "builtins.ValueError: no", "traceback": "x" * size, "worker": "here:1"}
            reason: Any = ("failure", "timeout")[number % 2]
            producer.send(*letter_of(f"{topic}.dead", message, reason, **told, now=begun + number * 60_000))
        producer.flush()


def test_letters_are_found_by_reason_and_time(topic: str, hosts: str) -> None:
    """And counted, and one by its ID."""
    write(topic, hosts, 10)
    letters = DeadLetters(topic, hosts)
    ids = [letter.id for letter in letters.iterate()]
    assert ids == [f"{topic}-0-{number}" for number in range(10)]
    assert [letter.offset for letter in letters.iterate(reason="timeout")] == [1, 3, 5, 7, 9]
    third = next(letter for letter in letters.iterate() if letter.offset == 3).at
    assert [letter.offset for letter in letters.iterate(since=third)] == list(range(3, 10))
    assert [letter.offset for letter in letters.iterate(until=third.timestamp())] == [0, 1, 2]
    later = third + timedelta(minutes=2)
    assert [letter.offset for letter in letters.iterate("timeout", third, later)] == [3]
    assert (letters.count("failure"), letters.count(since=later)) == (5, 5)
    found = letters.get(f"{topic}-0-4")
    assert found is not None
    assert (found.offset, found.key, kq.loads(found.value or b"").func) == (4, b"k4", jobs.add)
    assert letters.get("nonesuch") is None
    assert letters.replay(reason="timeout") == 5
    assert letters.purge(since=later) == 5
    assert sorted(letter.offset for letter in letters.iterate(replayed=True)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("change", [DeadLetters.replay, DeadLetters.purge], ids=["replay", "purge"])
def test_what_is_asked_for_must_be_said(topic: str, hosts: str, change: Any) -> None:
    """Nothing is changed by a call that is wrong, or that names a letter which is gone."""
    write(topic, hosts, 3)
    letters = DeadLetters(topic, hosts)
    for wrong in ({}, {"all": True, "reason": "lost"}, {"ids": ["a"], "all": True}, {"ids": ["a"], "since": 1}):
        with pytest.raises(kq.ArgumentError, match="say which letters"):
            change(letters, **wrong)
    with pytest.raises(kq.ArgumentError, match="reason must be one of invalid"):
        change(letters, reason="sadness")
    with pytest.raises(kq.ArgumentError, match="aware datetime"):
        change(letters, since=datetime(2030, 1, 1))
    with pytest.raises(kq.ArgumentError, match="ids must be"):
        change(letters, ids=[3])
    with pytest.raises(kq.KQError, match=rf"there is no letter gone on topic {topic}.dead; nothing was done"):
        change(letters, ids=[f"{topic}-0-0", "gone"])
    assert letters.count() == 3
    assert records(hosts, topic) == []


def test_a_replay_to_a_topic_that_is_gone_changes_nothing(
    make_topic: Callable[..., str], hosts: str, admin: KafkaAdminClient
) -> None:
    topic = make_topic()
    write(topic, hosts, 2)
    admin.delete_topics([topic])
    wait_until(lambda: topic not in admin.list_topics())
    letters = DeadLetters(topic, hosts)
    with pytest.raises(kq.KQError, match=rf"topic {topic} is gone: make it again \(kq topic create {topic}\)"):
        letters.replay(all=True)
    assert letters.count() == 2


def test_no_letters_at_all(topic: str, hosts: str, admin: KafkaAdminClient) -> None:
    """A look makes no topic."""
    letters = DeadLetters(topic, hosts)
    assert (list(letters.iterate()), letters.count(), letters.get("a")) == ([], 0, None)
    assert (letters.replay(all=True), letters.purge(all=True)) == (0, 0)
    assert f"{topic}.dead" not in admin.list_topics()


def test_an_interrupted_replay_goes_on_where_it_was(topic: str, hosts: str) -> None:
    """What was put onto the topic is marked: nothing runs twice, and nothing is left out."""
    write(topic, hosts, 6000)
    letters = DeadLetters(topic, hosts)

    def interrupt(done: int, total: int) -> None:
        if done >= 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        letters.replay(all=True, on_progress=interrupt)
    left = letters.count()
    assert 0 < left <= 5700
    assert letters.replay(all=True) == left
    replayed = [dict(record.headers)["kq-replayed-from"] for record in records(hosts, topic)]
    assert (len(replayed), len(set(replayed))) == (6000, 6000)


@pytest.mark.long
def test_a_hundred_thousand_letters(topic: str, hosts: str) -> None:
    """They are listed with flat memory, and replayed in one go."""
    import resource

    write(topic, hosts, 100_000, size=800)
    letters = DeadLetters(topic, hosts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    assert sum(1 for _ in letters.iterate(reason="timeout")) == 50_000
    assert time.monotonic() - begun < 60
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 60
    assert letters.replay(all=True) == 100_000
    assert letters.count() == 0


@pytest.mark.parametrize(
    ("headers", "key", "value"),
    [
        ([], b"k", b"v"),
        ([("kq-dead-reason", b"sadness"), ("kq-dead-origin", b"t/0/1"), ("kq-dead-at", b"1")], b"k", b"v"),
        ([("kq-dead-reason", b"lost"), ("kq-dead-origin", b"t/0"), ("kq-dead-at", b"1")], b"k", b"v"),
        ([("kq-dead-reason", b"lost"), ("kq-dead-origin", b"t/0/1"), ("kq-dead-at", b"soon")], b"k", b"v"),
        ([("kq-dead-reason", b"lost"), ("kq-dead-origin", b"t/0/\xc2\xb2"), ("kq-dead-at", b"1")], b"k", b"v"),
        ([("kq-dead-reason", b"lost"), ("kq-dead-origin", b"t/0/1"), ("kq-dead-at", b"1")], None, b"v"),
        ([("kq-dead-reason", b"lost"), ("kq-dead-origin", b"t/0/1"), ("kq-dead-at", b"1")], b"k", None),
        ([("kq-dead-reason", None), ("kq-dead-origin", b"t/0/1"), ("kq-dead-at", b"1")], b"k", b"v"),
    ],
)
def test_what_is_no_letter_is_none(headers: list[tuple[str, bytes]], key: bytes | None, value: bytes | None) -> None:
    """Other programs may write there."""
    assert parsed(SimpleNamespace(key=key, value=value, headers=headers)) is None


def test_a_foreign_letter_is_bounded() -> None:
    """Whatever it says of itself."""
    headers = [
        *[("kq-dead-reason", b"lost"), ("kq-dead-origin", b"t/0/1"), ("kq-dead-at", b"9" * 15)],
        *[("kq-dead-error", b"\xff" * 5000), ("kq-dead-traceback", b"x" * 50_000), ("kq-dead-attempts", b"-1")],
    ]
    letter = parsed(SimpleNamespace(key=b"\xff", value=b"v", headers=headers))
    assert letter is not None
    assert (len(letter.error), len(letter.traceback), letter.attempts, letter.at.year) == (1000, 8000, 1, 9999)


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_lists_pages_and_filters(topic: str, hosts: str, tell: Tell) -> None:
    """The newest first, as a table and as JSON."""
    write(topic, hosts, 7)
    code, out, err = tell("dead", "list", topic, "--limit", "2")
    assert (code, out.count("ValueError"), "2 of 7 letters" in err) == (0, 2, True)
    assert "jobs.add" in out
    told = json.loads(tell("dead", "list", topic, "--json", "--limit", "2", "--offset", "1")[1])
    assert ([letter["offset"] for letter in told["letters"]], told["total"]) == ([5, 4], 7)
    assert "value" not in told["letters"][0]
    told = json.loads(tell("dead", "list", topic, "--json", "--reason", "timeout", "--since", "210")[1])
    assert [letter["offset"] for letter in told["letters"]] == [5]
    assert tell("dead", "list", topic, "--since", "yesterday")[0] == 2


def test_the_command_shows_a_letter(topic: str, hosts: str, tell: Tell) -> None:
    """Without unpickling anything; one that is gone is one line."""
    write(topic, hosts, 2)
    code, out, _ = tell("dead", "show", topic, f"{topic}-0-1")
    assert code == 0
    for text in ("timeout", "ValueError: no", "header kq-func", "here:1", "jobs.add", "xxxx", "k1"):
        assert text in out
    told = json.loads(tell("dead", "show", topic, f"{topic}-0-1", "--json")[1])
    assert (told["key"], told["reason"]) == ("k1", "timeout")
    code, out, err = tell("dead", "show", topic, "gone")
    assert (code, err.count("\n")) == (1, 1)
    assert "no letter 'gone'" in err


@pytest.mark.parametrize("change", ["replay", "purge"])
def test_the_command_asks_before_it_changes_several(
    topic: str, hosts: str, tell: Tell, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is named needs no question; a bar shows how far it is."""
    monkeypatch.setattr(sys, "stdin", StringIO())
    write(topic, hosts, 12)
    done = {"replay": "replayed", "purge": "purged"}[change]
    code, _, err = tell("dead", change, topic, "--all")
    assert (code, "--yes does it without a question" in err) == (2, True)
    assert tell("dead", change, topic)[0] == 2
    assert tell("dead", change, topic, f"{topic}-0-0") == (
        0,
        f"1 letter {done}\n",
        "letters: 1 of 1\n",
    )
    code, out, err = tell("dead", change, topic, "--reason", "timeout", "--yes")
    assert (code, out.startswith("6 letters "), "letters: 6 of 6" in err) == (0, True, True)
    left = 5 + (0 if change == "purge" else 7)
    assert DeadLetters(topic, hosts).count(replayed=True) == left
    code, out, err = tell("dead", change, topic, "gone")
    assert (code, "there is no letter gone" in err) == (1, True)


def test_secrets_of_a_configuration_are_in_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    letters = DeadLetters("t", "127.0.0.1:1", {"sasl_plain_password": "geheim", "sasl_mechanism": "PLAIN"})
    assert "geheim" not in repr(letters) + caplog.text
