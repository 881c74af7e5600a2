"""The worker: what it accepts and what it says."""

from __future__ import annotations

import json
import logging
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import dill
import jobs
import pytest
from kafka import KafkaConsumer, KafkaProducer

import kq
from kq import ArgumentError, Job, Queue, Worker

#: Calls that are wrong, and what KQ 2.x says of each.
BAD_CALLS = [
    ("Worker(None, consumer)", "topic must be a str"),
    ("Worker(1, consumer)", "topic must be a str"),
    ("Worker('t')", 'bad consumer instance; pass a KafkaConsumer, or hosts="127.0.0.1:9092"'),
    ("Worker('t', 'consumer')", 'bad consumer instance; pass a KafkaConsumer, or hosts="127.0.0.1:9092"'),
    ("Worker('', consumer)", "topic must be 1 to 249 letters, digits, '.', '_' and '-', as Kafka has it, not ''"),
    (
        "Worker('t', consumer, executor=kq.ProcessExecutor)",
        "executor must be an object, not the class: pass ProcessExecutor()",
    ),
    (
        "Worker('t', consumer, tell_later)",
        "callback must not be a coroutine function: it is called, and nothing awaits it",
    ),
    ("Worker('t', consumer=groupless)", "consumer must have group_id"),
    ("Worker('t', consumer, callback='x')", "callback must be a callable"),
    ("Worker('t', consumer, deserializer='x')", "deserializer must be a callable"),
    ("Worker('t', consumer, logger='x')", "bad logger instance"),
    ("Worker('t', consumer, timeout='1')", "timeout must be an int or float"),
    ("Worker('t', consumer, timeout=-1)", "timeout must be 0 or greater"),
    ("Worker('t', consumer, timeout=float('nan'))", "timeout must be 0 or greater"),
]

#: Calls that KQ 2.x did not know.
MORE_BAD_CALLS = [
    ("Worker(hosts=1)", "hosts must be a str"),
    ("Worker(hosts='')", "hosts must be a str"),
    ("Worker('t', consumer, hosts='h:1')", "pass hosts, or a consumer of your own, not both"),
    ("Worker('t', consumer, group='g')", "group and config go with hosts"),
    ("Worker('t', consumer, config={})", "group and config go with hosts"),
    ("Worker('t', hosts='h:1', group=1)", "group must be a str"),
    ("Worker('t', hosts='h:1', group='')", "group must be a str"),
    (
        "Worker('t', hosts='h:1', config={'nonsense': 1})",
        "config has settings that kafka-python does not know: nonsense",
    ),
    ("Worker('t', hosts='h:1', config={'enable_auto_commit': True})", "config must not set what KQ sets itself"),
    ("Worker('t', hosts='h:1', config={'value_deserializer': str})", "config must not set what KQ sets itself"),
    ("Worker('t', keyed)", "consumer must not have a key_deserializer"),
    ("Worker('t', valued)", "consumer must not have a value_deserializer"),
    ("Worker('t', consumer, executor='magic')", 'executor must be "inline"'),
    ("Worker('t', consumer, executor=1)", 'executor must be "inline"'),
    ("Worker('t', consumer, concurrency=2)", "an inline executor runs one job at a time"),
    ("Worker('t', consumer, concurrency=0)", "concurrency must be an int of 1 or greater"),
    ("Worker('t', consumer, concurrency=1.5)", "concurrency must be an int of 1 or greater"),
    ("Worker('t', consumer, ordering='random')", 'ordering must be "key", "partition" or "none"'),
    ("Worker('t', consumer, commit_interval=-1)", "commit_interval must be an int or float of 0 or greater"),
    ("Worker('t', consumer, shutdown_timeout='x')", "shutdown_timeout must be an int or float of 0 or greater"),
    ("Worker('t', consumer, max_deliveries=0)", "max_deliveries must be an int of 1 or greater"),
    ("Worker('t', consumer).start(max_messages=-1)", "max_messages must be an int of 0 or greater"),
    ("Worker('t', consumer).start(max_messages='1')", "max_messages must be an int of 0 or greater"),
]

CONSUMERS = """
import kq
from kafka import KafkaConsumer
from kafka.serializer import Deserializer

class Text(Deserializer):
    def deserialize(self, *args):
        return args[-1]

async def tell_later(*outcome):
    pass

def make(hosts):
    common = dict(bootstrap_servers=hosts, group_id="g")
    return {
        "consumer": KafkaConsumer(**common),
        "groupless": KafkaConsumer(bootstrap_servers=hosts),
        "keyed": KafkaConsumer(key_deserializer=Text(), **common),
        "valued": KafkaConsumer(value_deserializer=Text(), **common),
    }
"""

CHECK_CALLS = (
    CONSUMERS
    + """
import json, sys
from kq import Worker

names = {"Worker": Worker, "kq": kq, "tell_later": tell_later, **make(sys.argv[1])}
found = []
for call in json.loads(sys.argv[2]):
    try:
        eval(call, names)
    except AssertionError as error:
        found.append([isinstance(error, TypeError), str(error)])
    else:
        found.append(None)
print(json.dumps([__debug__, found]))
"""
)


@pytest.fixture(scope="module")
def names(hosts: str) -> Iterator[dict[str, Any]]:
    """Return what the wrong calls are made with."""
    scope: dict[str, Any] = {}
    exec(CONSUMERS, scope)
    consumers = scope["make"](hosts)
    yield {**scope, "Worker": Worker, **consumers}
    for consumer in consumers.values():
        consumer.close()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[tuple[str, str]]]:
    """Return a function that gives what a logger was told, at any level."""
    for name in ("kq.worker", "kq.queue", "kq.pump"):
        caplog.set_level(logging.DEBUG, name)

    def get(logger: str) -> list[tuple[str, str]]:
        return [(record.levelname, record.message) for record in caplog.records if record.name == logger]

    return get


# -- what a worker says of itself --------------------------------------------------------------------------------------


def test_a_worker_tells_what_it_was_made_of(hosts: str, group: str, consumer: Callable[..., KafkaConsumer]) -> None:
    """The properties are the arguments."""
    client, callback, deserializer = consumer(), jobs.Calls(), dill.loads
    worker = Worker("t", client, callback, deserializer)
    assert worker.hosts == hosts
    assert worker.topic == "t"
    assert worker.group == group
    assert worker.consumer is client
    assert worker.callback is callback
    assert worker.deserializer is deserializer
    assert worker.state.value == "new"


def test_the_repr_is_kqs(hosts: str, group: str, consumer: Callable[..., KafkaConsumer]) -> None:
    """It names hosts, topic and group."""
    assert repr(Worker("t", consumer())) == f"Worker(hosts={hosts}, topic=t, group={group})"


def test_defaults_with_hosts(hosts: str) -> None:
    """The topic is KQ 1.x's, the group is the topic's name, and nothing is opened yet."""
    worker = Worker(hosts=hosts)
    assert (worker.topic, worker.group, worker.consumer, worker.callback) == ("default", "default", None, None)
    assert worker.deserializer is kq.loads
    assert Worker("t", hosts=hosts).group == "t"
    assert repr(Worker("t", hosts=hosts, group="g")) == f"Worker(hosts={hosts}, topic=t, group=g)"


@pytest.mark.parametrize(("call", "words"), BAD_CALLS, ids=lambda value: value)
def test_a_bad_argument_is_told_in_kqs_words(call: str, words: str, names: dict[str, Any]) -> None:
    """The error is a TypeError, and an AssertionError as in KQ 2.x."""
    with pytest.raises(ArgumentError) as caught:
        eval(call, names)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value) == words


@pytest.mark.parametrize(("call", "words"), MORE_BAD_CALLS, ids=lambda value: value)
def test_a_bad_new_argument_is_told_clearly(call: str, words: str, names: dict[str, Any]) -> None:
    """What KQ 2.x did not have is checked in the same way."""
    with pytest.raises(ArgumentError, match=re.escape(words)):
        eval(call, names)


def test_bad_arguments_are_told_under_python_o(hosts: str) -> None:
    """The checks are no assertions."""
    calls = json.dumps([call for call, _ in BAD_CALLS])
    with jobs.Program(CHECK_CALLS, hosts, calls, flags=["-O"]) as program:
        assert program.end() == 0, program.text
    assert json.loads(program.lines[-1]) == [False, [[True, words] for _, words in BAD_CALLS]]


# -- what it is given --------------------------------------------------------------------------------------------------


def test_a_deserializer_of_the_user_makes_the_job(
    topic: str, client: KafkaProducer, consumer: Callable[..., KafkaConsumer]
) -> None:
    """It gets the value, and may return any object with a job's attributes."""

    def serialize(job: Job) -> bytes:
        assert job.args is not None
        return json.dumps([job.id, *job.args]).encode()

    def deserialize(value: bytes) -> Any:
        job_id, *args = json.loads(value)
        return types.SimpleNamespace(id=job_id, func=jobs.add, args=args, kwargs={}, timeout=0)

    job = Queue(topic, client, serializer=serialize).enqueue(jobs.add, 20, 22)
    calls = jobs.Calls()
    Worker(topic, consumer(), calls, deserializer=deserialize).start(max_messages=1)
    assert (calls[0].result, calls[0].job.id) == (42, job.id)


def test_plain_dill_serves_as_deserializer(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> None:
    """As programs for KQ 2.0 pass it."""
    queue.enqueue(jobs.add, 1, 2)
    calls = jobs.Calls()
    Worker(queue.topic, consumer(), calls, dill.loads).start(max_messages=1)
    assert calls.results == [3]


# -- what it says ------------------------------------------------------------------------------------------------------


def test_an_undisturbed_run_says_what_kq_says_and_nothing_else(
    hosts: str,
    group: str,
    queue: Queue,
    consumer: Callable[..., KafkaConsumer],
    lines: Callable[[str], list[tuple[str, str]]],
) -> None:
    """At any level, on both of KQ's loggers."""
    job = queue.enqueue(jobs.echo, 1, "b", c=None)
    client = consumer()
    Worker(queue.topic, client, jobs.Calls()).start(max_messages=1)
    assert lines("kq.queue") == [("INFO", f"Enqueueing {job} ...")]
    place = f"topic {queue.topic}, partition 0, offset 0"
    assert [(level, re.sub(r"ran for [\d.]+ s", "ran for # s", text)) for level, text in lines("kq.worker")] == [
        ("INFO", f"Starting Worker(hosts={hosts}, topic={queue.topic}, group={group}) ..."),
        ("INFO", f"Processing Message(topic={queue.topic}, partition=0, offset=0) ..."),
        ("INFO", f"Executing job {job.id}: jobs.echo(1, 'b', c=None) ({place})"),
        ("INFO", f"Job {job.id} returned: ((1, 'b'), {{'c': None}}) (jobs.echo, {place}, ran for # s)"),
        ("INFO", "Executing callback ..."),
    ]


def test_processing_is_said_when_the_job_starts(
    queue: Queue, consumer: Callable[..., KafkaConsumer], lines: Callable[[str], list[tuple[str, str]]]
) -> None:
    """Not when its message is polled."""
    said: list[int] = []
    jobs.HOOKS["count"] = lambda: said.append(sum(text.startswith("Processing") for _, text in lines("kq.worker")))
    for _ in range(3):
        queue.enqueue(jobs.hook, "count")
    Worker(queue.topic, consumer()).start(max_messages=3)
    assert said == [1, 2, 3]


def test_a_logger_of_the_user_gets_the_lines(
    queue: Queue, consumer: Callable[..., KafkaConsumer], caplog: pytest.LogCaptureFixture
) -> None:
    """And ``kq.worker`` gets none."""
    caplog.set_level(logging.INFO)
    queue.enqueue(jobs.fail, "no good")
    Worker(queue.topic, consumer(), logger=logging.getLogger("mine")).start(max_messages=1)
    loggers = [record.name for record in caplog.records if record.name in ("mine", "kq.worker")]
    assert loggers == ["mine"] * 4


def test_lines_have_data(
    queue: Queue, consumer: Callable[..., KafkaConsumer], caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that wants fields finds them on the record."""
    caplog.set_level(logging.INFO, "kq.worker")
    job = queue.enqueue(jobs.add, 1, 2)
    Worker(queue.topic, consumer()).start(max_messages=1)
    (record,) = [record for record in caplog.records if "returned" in record.message]
    found = [getattr(record, name) for name in ("job_id", "topic", "partition", "offset")]
    assert found == [job.id, queue.topic, 0, 0]


@pytest.mark.parametrize(("reset", "warned"), [("latest", True), ("earliest", False)])
def test_a_consumer_that_skips_is_warned_about(
    reset: str, warned: bool, queue: Queue, consumer: Callable[..., KafkaConsumer], lines: Callable[[str], Any]
) -> None:
    """Its new group would not run what was enqueued before; once a worker, on the pump's logger."""
    worker = Worker(queue.topic, consumer(auto_offset_reset=reset, consumer_timeout_ms=100))
    worker.start()
    worker.start()
    found = [text for level, text in lines("kq.pump") if level == "WARNING" and "SKIPPED" in text]
    assert len(found) == warned
