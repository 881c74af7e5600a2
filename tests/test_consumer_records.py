"""Records that another program wrote: a consumer with tasks of its own runs them, and unpickles nothing."""

from __future__ import annotations

import json
import re
import textwrap
import threading
from pathlib import Path
from typing import Any

import jobs
import pytest
from consumers import Noting, Resizer, consuming, wait_for_end
from journal import Journal, work
from kafka import KafkaProducer

import kq
from kq import DeadLetters

EXECUTORS = ["inline", "thread", "process"]


def send_records(hosts: str, topic: str, journal: Journal, *tasks: tuple[str, str]) -> None:
    """Write records as another program does."""
    with KafkaProducer(bootstrap_servers=hosts) as producer:
        for number, (task, name) in enumerate(tasks):
            value = json.dumps({"path": journal.path, "name": name, "px": number}).encode()
            producer.send(topic, value, headers=[("task", task.encode())])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_records_of_another_program_run(executor, hosts, topic, journal):
    """Each names a task; what names none, or cannot be read, is refused and kept as it was."""
    names = [f"cat-{number}" for number in range(30)]
    send_records(hosts, topic, journal, *(("resize", name) for name in names), ("explode", "x"), ("fail", "y"))
    with KafkaProducer(bootstrap_servers=hosts) as producer:
        producer.send(topic, b"{", headers=[("task", b"resize")]).get(10)
    worker = {"executor": executor, "dead_letters": True, "concurrency": 1 if executor == "inline" else 3}
    with consuming(Resizer, hosts, topic, worker=worker) as consumer:
        wait_for_end(consumer, 33)
    resized = [entry.name for entry in journal.entries()]
    assert sorted(resized) == sorted([f"cat-{number}/{number}" for number in range(30)] + ["bad y/0"])
    errors = {log.offset: err for log, err in consumer.errors}
    assert {offset: type(error) for offset, error in errors.items()} == {
        30: kq.MessageRefused,
        31: ZeroDivisionError,
        32: json.JSONDecodeError,
    }
    assert str(errors[30]) == "there is no task type 'explode'; this consumer has: resize, fail"
    letters = {letter.offset: letter for letter in DeadLetters(topic, hosts).iterate()}
    assert {offset: letter.reason for offset, letter in letters.items()} == {
        30: "invalid",
        31: "failure",
        32: "invalid",
    }
    assert json.loads(letters[31].value or b"")["name"] == "y"
    assert ("task", b"fail") in letters[31].headers


def test_ten_lines_of_the_documentation_run(hosts, topic, capsys):
    """As they stand on the page."""
    page = (Path(__file__).parent.parent / "docs" / "consumers.rst").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"testcode::\n\n((?:    .*\n|\n)+)", page) if "class Resizer" in text]
    source = textwrap.dedent(block)
    assert len([line for line in source.splitlines() if line]) <= 10
    namespace: dict[str, Any] = {"kq": kq}
    exec(source, namespace)
    with KafkaProducer(bootstrap_servers=hosts) as producer:
        value = json.dumps({"path": "cat.png", "px": 200}).encode()
        producer.send(topic, value, headers=[("task", b"resize")]).get(10)
    with consuming(namespace["Resizer"], hosts, topic) as consumer:
        wait_for_end(consumer, 1)
    assert capsys.readouterr().out == "resize cat.png 200\n"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_consumer_with_tasks_unpickles_nothing(executor, hosts, queue, journal):
    """Neither for a name that it has, nor for one that it has not."""
    queue.enqueue(work, journal.path, "evil")
    with KafkaProducer(bootstrap_servers=hosts) as producer:
        value = kq.dumps(kq.Job(func=work, args=(journal.path, "evil"), kwargs={}))
        producer.send(queue.topic, value, headers=[("task", b"resize"), ("kq-id", b"x")]).get(10)
    with consuming(Resizer, hosts, queue.topic, worker={"executor": executor}) as consumer:
        wait_for_end(consumer, 2)
    assert list(journal.entries()) == []
    assert consumer.stats().invalid == 2


def test_a_record_is_retried_as_it_was(hosts, topic, journal):
    """Its next attempt is read anew, with the same ID."""
    send_records(hosts, topic, journal, ("fail", "y"))
    calls = jobs.Calls()
    worker = {"retry": kq.Retry(max=1, delay=0), "callback": calls, "executor": "process"}
    with consuming(Resizer, hosts, topic, worker=worker) as consumer:
        wait_for_end(consumer, 2)
    assert [call.message.value for call in calls] == [calls[0].message.value] * 2
    assert calls[0].job.id == f"{topic}-0-0"
    assert calls[0].job.args == (journal.path, "y")
    assert journal.count("resize") == {"bad y/0": 2}


def test_a_plain_subclass_reads_json(hosts, topic):
    """An object is keyword arguments, an array positional ones, and anything else is refused."""
    seen = []

    class Plain(Noting):
        task_types = {"note": lambda *args, **kwargs: seen.append((args, kwargs))}

    with KafkaProducer(bootstrap_servers=hosts) as producer:
        for value in (b'{"a": 1}', b"[1, 2]", b"3"):
            producer.send(topic, value, headers=[("kq-task-type", b"note")]).get(10)
    with consuming(Plain, hosts, topic) as consumer:
        wait_for_end(consumer, 3)
    assert seen == [((), {"a": 1}), ((1, 2), {})]
    assert str(consumer.errors[0][1]) == "the value is a int, and neither an object nor an array"


def test_a_job_that_cannot_cross_is_refused(hosts, topic, caplog):
    """Arguments that cannot be pickled are said where they are, and the consumer goes on."""

    class Locked(Noting):
        task_types = {"note": print}

        def serializer(self, message: kq.Message) -> tuple[Any, Any]:
            return [threading.Lock() if message.value == b"lock" else message.offset], {}

    with KafkaProducer(bootstrap_servers=hosts) as producer:
        for value in (b"lock", b"other"):
            producer.send(topic, value, headers=[("kq-task-type", b"note")]).get(10)
    with consuming(Locked, hosts, topic, worker={"executor": "process"}) as consumer:
        wait_for_end(consumer, 2)
    assert (consumer.stats().invalid, consumer.stats().failed) == (1, 0)
    assert "argument 1 of builtins.print cannot be serialized" in str(consumer.errors[0][1])
