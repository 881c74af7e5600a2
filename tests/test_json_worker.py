"""Jobs as JSON on a real topic: written by anybody, run by each executor, and never unpickled on their way back."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import json_jobs
import pytest
from jobs import Calls
from json_jobs import Box, Color, Point
from kafka import KafkaProducer
from process_bench import Bench
from test_retries import records

import kq
from kq import Queue, Worker, testing
from kq.executors.process.packing import unpack_error
from kq.executors.process.protocol import Result

SERIALIZER = kq.JSONSerializer(allow=["json_jobs:*"])
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")
EXECUTORS = ["inline", "thread", pytest.param("process", marks=linux)]


def run(topic: str, hosts: str, count: int, deserializer: Any = SERIALIZER.loads, **options: Any) -> Calls:
    calls = Calls()
    Worker(topic, hosts=hosts, callback=calls, deserializer=deserializer, **options).start(max_messages=count)
    return calls


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_record_made_by_hand_runs(topic: str, hosts: str, client: KafkaProducer, executor: str) -> None:
    """By a plain client that knows no KQ; its job has what the message tells."""
    value = json.dumps({"id": "by hand", "func": "json_jobs:where", "args": [], "kwargs": {}, "timeout": 5}).encode()
    client.send(topic, value, key=b"k").get(10)
    bare = '{"func": "json_jobs:give", "args": [[1, "ä"]]}'.encode()
    client.send(topic, bare, headers=[("kq-id", b"in a header")]).get(10)
    first, second = run(topic, hosts, 2, executor=executor)
    assert (first.status, first.result) == ("success", (topic, b"k"))
    assert first.job == (*("by hand", first.message.timestamp, topic, json_jobs.where, (), {}, 5, b"k", 0),)
    assert (second.result, second.job.id, second.job.timeout) == ([1, "ä"], "in a header", None)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_a_queue_writes_comes_back(topic: str, hosts: str, executor: str) -> None:
    """Arguments and results of each kind, whatever process they cross."""
    values = [Point(1, 0.5), {"a": (1, {2})}, Color.RED, Box([b"\xff"], "n"), None, "text", {"$kq": [1]}]
    with Queue(topic, hosts=hosts, serializer=SERIALIZER.dumps) as queue:
        jobs = queue.enqueue_many((json_jobs.give, (value,)) for value in values)
        with pytest.raises(kq.ArgumentError, match=r"argument 1 of json_jobs\.give cannot .* as JSON \(object\)"):
            queue.enqueue(json_jobs.give, object())
    calls = run(topic, hosts, len(values), executor=executor)
    assert calls.results == values
    assert [call.job for call in calls] == [job._replace(partition=0) for job in jobs]


def test_the_header_says_what_the_value_is(topic: str, hosts: str) -> None:
    """Of JSON alone: the pickles of KQ have never had one."""
    with Queue(topic, hosts=hosts, serializer=SERIALIZER.dumps) as queue:
        queue.enqueue(json_jobs.add, 1)
    with Queue(topic, hosts=hosts) as queue:
        queue.enqueue(json_jobs.add, 1)
    found = [dict(record.headers).get("kq-content-type") for record in records(hosts, topic)]
    assert found == [b"application/json", None]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_worker_reads_both_kinds(topic: str, hosts: str, executor: str) -> None:
    """While a topic moves from one to the other."""
    for serializer in (SERIALIZER.dumps, kq.dumps):
        with Queue(topic, hosts=hosts, serializer=serializer) as queue:
            queue.enqueue(json_jobs.box, 1)
    both = kq.by_content_type(json=SERIALIZER.loads, dill=kq.loads)
    assert run(topic, hosts, 2, both, executor=executor).results == [Box(1, "b"), Box(1, "b")]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_not_on_the_list_is_invalid(
    topic: str, hosts: str, client: KafkaProducer, executor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pickle, a function of another module, a class: neither the worker nor a child does what they ask for."""
    path = tmp_path / "canary"
    values = [
        canary(path),
        json.dumps({"func": "os:mkdir", "args": [str(path)]}).encode(),
        json.dumps({"func": "json_jobs:os.mkdir", "args": [str(path)]}).encode(),
        json.dumps({"func": "json_jobs:give", "args": [{"$kq": "enum", "type": "os:mkdir", "value": "A"}]}).encode(),
    ]
    for value in values:
        client.send(topic, value)
    client.send(topic, b'{"func": "json_jobs:add", "args": [1]}')
    client.flush()
    with caplog.at_level(logging.ERROR, "kq.worker"):
        calls = run(topic, hosts, len(values) + 1, executor=executor, concurrency=1)
    assert calls.statuses == ["invalid"] * len(values) + ["success"]
    assert not path.exists()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" (")[0] for line in lines] == [
        "Job was invalid: the value is a pickle, and this worker reads JSON alone",
        "Job was invalid: os:mkdir is not in the list of what is allowed",
        "Job was invalid: 'json_jobs:os.mkdir' is no name such as \"package.module:function\"",
        "Job was invalid: os:mkdir is no class of a module that is in the list of what is allowed",
    ]


def canary(path: Path) -> bytes:
    """Return a pickle that makes a directory."""
    return pickle.dumps(json_jobs.Grumpy(str(path), 1))


def json_bench(**options: Any) -> Bench:
    return Bench(kq.ProcessExecutor(), deserialize=SERIALIZER.loads, **options)


def message(bench: Bench, func: Callable[..., Any], *args: Any, headers: Any = ()) -> kq.Message:
    """Return a message of JSON."""
    made = bench.message(func)
    return made._replace(value=SERIALIZER.dumps(kq.Job("an ID", func=func, args=args)), headers=tuple(headers))


@linux
def test_what_a_job_returns_is_never_unpickled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What has no form in JSON stays where it is, and that is said; a pickle of it would make the directory here."""
    path = tmp_path / "canary"
    with json_bench() as bench:
        (one,) = bench.run(message(bench, json_jobs.canary, str(path)))
    assert one.outcome is not None
    assert (one.outcome.status, one.outcome.result, path.exists()) == ("success", None, False)
    assert "json_jobs.canary.<locals>.Canary has no form in JSON" in caplog.text


@linux
def test_an_exception_is_told_in_words(tmp_path: Path) -> None:
    """Name of its type, text and traceback; it is not made again, which here would make a directory."""
    path = tmp_path / "canary"
    with json_bench() as bench:
        (one,) = bench.run(message(bench, json_jobs.bring_up, str(path)))
    assert one.outcome is not None and one.outcome.exception is not None
    error = one.outcome.exception
    assert (type(error), error.args) == (kq.RemoteError, ("json_jobs.Grumpy", f"grumpy about {path}"))
    assert "in bring_up" in str(error.__cause__)
    assert "in bring_up" in str(one.outcome.stacktrace)
    assert one.outcome.cause is not None and one.outcome.cause.kinds[0] == "json_jobs.Grumpy"
    assert not path.exists()


@linux
def test_failures_of_kq_are_what_they_are() -> None:
    """A job that leaves has an exit code; one that waited too long has expired."""
    with json_bench() as bench:
        late = message(bench, json_jobs.add, 1, headers=[("kq-expires", b"%d" % (time.time() * 1000 - 1))])
        left, expired = bench.run(message(bench, json_jobs.leave, 3), late)
    assert left.outcome is not None and expired.outcome is not None
    assert isinstance(left.outcome.exception, kq.ChildLost)
    assert (left.outcome.exception.exitcode, str(left.outcome.exception)) == (3, "the job called sys.exit(3)")
    assert isinstance(expired.outcome.exception, kq.JobExpired)


def test_a_child_cannot_have_the_worker_unpickle(tmp_path: Path) -> None:
    """Whatever it says of a job that came as JSON."""
    path = tmp_path / "canary"
    result = Result(1, "failure", 0.0, 1.0, "", "trace", canary(path), False, (("a.B",), "text", "", None))
    error = unpack_error(result, SERIALIZER)
    assert (type(error), str(error)) == (kq.RemoteError, "a.B: text")
    assert not path.exists()


def test_schedules_delays_and_retries_carry_json() -> None:
    """All that is published again, with its value as it was."""
    with (
        Queue("topic", hosts="127.0.0.1:9", serializer=SERIALIZER.dumps) as queue,
        testing.eager(deserializer=SERIALIZER.loads) as outcomes,
    ):
        queue.schedule("each", kq.Every(60), json_jobs.give, {1})
        queue.using(delay=30, key=b"k").enqueue(json_jobs.where)
        queue.using(retry=kq.Retry(1, delay=10)).enqueue(json_jobs.add, 1, "a")
        outcomes.advance(61)
    statuses = [(one.status, one.result) for one in outcomes]
    assert sorted(statuses, key=str) == [
        *(("failure", None), ("failure", None), ("success", ("topic", b"k")), ("success", {1})),
    ]
    assert {dict(one.message.headers)["kq-content-type"] for one in outcomes} == {b"application/json"}
    assert [one.job.id.partition("@")[0] for one in outcomes if one.result == {1}] == ["each"]
