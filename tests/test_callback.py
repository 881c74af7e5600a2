"""Callbacks: what a worker tells of every kind of message, and what a callback may do to it."""

from __future__ import annotations

import functools
import logging
import re
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import dill
import jobs
import pytest
from kafka import KafkaConsumer, KafkaProducer

import kq
from kq import Job, Queue, Worker
from kq.testing import drain, eager

#: What is enqueued, by name: a function and its arguments.
CALLS: dict[str, tuple[Any, ...]] = {
    "success": (jobs.add, 1, 2),
    "none": (print,),
    "failure": (jobs.fail, "no good"),
    "exit": (jobs.leave, 3),
    "exit without code": (jobs.leave,),
    "ctrl-c": (jobs.press_ctrl_c,),
    "base exception": (jobs.raise_odd,),
    "mute exception": (jobs.raise_mute,),
    "bent exception": (jobs.raise_bent,),
    "unprintable result": (jobs.make_unprintable,),
    "unprintable argument": (jobs.echo, jobs.Unprintable()),
    "wrong arguments": (jobs.add, 1, "x"),
    "lambda": (lambda a: a + 1, 41),
    "method": (jobs.Account(10).after, 5),
}


class Bomb:
    """Cannot be unpickled."""

    def __reduce__(self) -> Any:
        return jobs.fail, ("cannot be loaded",)


class Quitter:
    """Ends the process when it is unpickled."""

    def __reduce__(self) -> Any:
        return jobs.leave, (4,)


#: What is on the topic beside that, by name: the values of records.
VALUES: dict[str, bytes | None] = {
    "tombstone": None,
    "garbage": b"garbage",
    "empty": b"",
    "no job": dill.dumps(5),
    "empty job": dill.dumps(Job()),
    "bomb": dill.dumps(Job("1", func=jobs.echo, args=(Bomb(),), kwargs={})),
    "quitter": dill.dumps(Job("1", func=jobs.echo, args=(Quitter(),), kwargs={})),
    "bad arguments": dill.dumps(Job("1", func=jobs.add, args=5, kwargs={})),  # type: ignore[arg-type]
    "bad names": dill.dumps(Job("1", func=jobs.echo, args=(), kwargs={1: 2})),  # type: ignore[dict-item]
    "bad timeout": dill.dumps(Job("1", func=jobs.add, args=(1, 2), kwargs={}, timeout="soon")),  # type: ignore[arg-type]
    "negative timeout": dill.dumps(Job("1", func=jobs.add, args=(1, 2), kwargs={}, timeout=-1)),
    "not callable": dill.dumps(Job("1", func=5, args=(1, 2), kwargs={})),  # type: ignore[arg-type]
    "look-alike": dill.dumps(
        types.SimpleNamespace(id="1", func=jobs.add, args=[1, 2], kwargs={}, timeout=None, more="than a Job has")
    ),
}

INVALID = {
    *("tombstone", "garbage", "empty", "no job", "empty job", "bomb", "quitter"),
    *("bad arguments", "bad names", "bad timeout", "negative timeout"),
}


class Run(NamedTuple):
    """What one worker said of all of the above."""

    processed: int
    told: dict[str, list[jobs.Call]]
    #: (level, text), by name.
    lines: dict[str, list[tuple[str, str]]]
    jobs: dict[str, Job]

    def call(self, name: str) -> jobs.Call:
        (call,) = self.told[name]
        return call


class Lines(logging.Handler):
    """Remembers records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def enqueued(hosts: str, make_topic: Callable[..., str]) -> tuple[str, dict[str, Job]]:
    """Return a topic with one message of every kind, and its jobs."""
    topic = make_topic()
    with KafkaProducer(bootstrap_servers=hosts) as producer:
        queue = Queue(topic, producer)
        made = {name: queue.using(key=b"k").enqueue(*call) for name, call in CALLS.items()}
        for value in VALUES.values():
            producer.send(topic, value, key=b"k").get(10)
    return topic, made


@pytest.fixture(scope="module", params=["inline", "thread"])
def run(request: pytest.FixtureRequest, hosts: str, enqueued: tuple[str, dict[str, Job]]) -> Run:
    """Run them all once, by each executor."""
    topic, made = enqueued
    names = [*CALLS, *VALUES]
    calls, lines = jobs.Calls(), Lines()
    logger = logging.Logger("gallery", logging.DEBUG)
    logger.addHandler(lines)
    consumer = KafkaConsumer(
        bootstrap_servers=hosts,
        group_id=f"{topic}-{request.param}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=15_000,
    )
    try:
        worker = Worker(topic, consumer, calls, logger=logger, executor=request.param)
        processed = worker.start(max_messages=len(names))
    finally:
        consumer.close()
    told: dict[str, list[jobs.Call]] = {name: [] for name in names}
    for call in calls:
        told[names[call.message.offset]].append(call)
    texts: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
    for record in lines.records:
        if hasattr(record, "offset"):
            texts[names[record.offset]].append((record.levelname, record.getMessage()))
    return Run(processed, told, texts, made)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_message_is_told_of_once(run: Run) -> None:
    """Whatever it was, and whatever its job did."""
    assert run.processed == len(CALLS) + len(VALUES)
    assert {name: len(told) for name, told in run.told.items()} == dict.fromkeys([*CALLS, *VALUES], 1)


def test_a_status_is_a_plain_str(run: Run) -> None:
    """It can be printed and compared."""
    assert {type(told[0].status) for told in run.told.values()} == {str}


def test_a_success_has_the_result(run: Run) -> None:
    """And nothing of a failure."""
    call = run.call("success")
    assert call == ("success", call.message, run.jobs["success"], 3, None, None)


def test_the_message_is_what_came_from_kafka(run: Run, enqueued: tuple[str, dict[str, Job]]) -> None:
    """With its raw key, its timestamp and its headers."""
    message, job = run.call("success").message, run.jobs["success"]
    assert type(message) is kq.Message
    assert message[:4] == (enqueued[0], 0, 0, b"k")
    assert kq.loads(message.value or b"") == job
    assert message.timestamp == job.timestamp
    assert message.headers == (("kq-id", str(job.id).encode()), ("kq-func", b"jobs.add"))


def test_a_failure_has_the_exception_and_its_stacktrace(run: Run) -> None:
    """The stacktrace is text, and shows where in the job it happened."""
    status, _, job, result, exception, stacktrace = run.call("failure")
    assert (status, job, result) == ("failure", run.jobs["failure"], None)
    assert type(exception) is ValueError
    assert exception.args == ("no good",)
    assert stacktrace is not None
    assert stacktrace.startswith("Traceback (most recent call last):\n")
    assert "in fail\n" in stacktrace
    assert stacktrace.endswith("ValueError: no good\n")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("exit", SystemExit),
        ("exit without code", SystemExit),
        ("ctrl-c", KeyboardInterrupt),
        ("base exception", jobs.Odd),
        ("mute exception", jobs.Mute),
        ("bent exception", SyntaxError),
        ("wrong arguments", TypeError),
        ("not callable", TypeError),
    ],
)
def test_whatever_a_job_raises_is_a_failure(name: str, kind: type[BaseException], run: Run) -> None:
    """Not the end of the worker."""
    call = run.call(name)
    assert call.status == "failure"
    assert type(call.exception) is kind
    assert isinstance(call.stacktrace, str)


@pytest.mark.parametrize("name", sorted(INVALID))
def test_what_is_no_job_is_invalid(name: str, run: Run) -> None:
    """The callback gets the message and nothing else."""
    call = run.call(name)
    assert call == ("invalid", call.message, None, None, None, None)
    assert call.message.value == VALUES[name]


@pytest.mark.parametrize(
    ("name", "result"),
    [("none", None), ("lambda", 42), ("method", 15), ("look-alike", 3)],
)
def test_whatever_can_be_called_runs(name: str, result: Any, run: Run) -> None:
    """And an object that only looks like a Job is one."""
    call = run.call(name)
    assert (call.status, call.result) == ("success", result)


@pytest.mark.parametrize("name", ["unprintable result", "unprintable argument"])
def test_a_repr_that_raises_changes_no_outcome(name: str, run: Run) -> None:
    """The log says what it can."""
    assert run.call(name).status == "success"
    assert any("<unprintable" in text for _, text in run.lines[name])


# -- the lines ---------------------------------------------------------------------------------------------------------


def processing(run: Run, name: str) -> tuple[str, str]:
    message = run.call(name).message
    return "INFO", f"Processing Message(topic={message.topic}, partition=0, offset={message.offset}) ..."


def place_of(run: Run, name: str) -> str:
    message = run.call(name).message
    return f"topic {message.topic}, partition 0, offset {message.offset}"


def test_the_lines_of_a_success(run: Run) -> None:
    """KQ's words, at KQ's levels; behind them where the job stands, and how long it ran."""
    job, place = run.jobs["success"], place_of(run, "success")
    first, executing, (level, last) = run.lines["success"]
    assert [first, executing] == [
        processing(run, "success"),
        ("INFO", f"Executing job {job.id}: jobs.add(1, 2) ({place})"),
    ]
    pattern = rf"{re.escape(f'Job {job.id} returned: 3 (jobs.add, {place}')}, ran for 0\.\d\d\d s\)"
    assert level == "INFO" and re.fullmatch(pattern, last)


@pytest.mark.parametrize("name", ["failure", "exit", "ctrl-c", "base exception", "mute exception", "bent exception"])
def test_the_lines_of_a_failure(name: str, run: Run) -> None:
    """An exception is an error, at any class."""
    job = run.jobs[name]
    first, executing, last = run.lines[name]
    assert first == processing(run, name)
    assert executing[0] == "INFO" and executing[1].startswith(f"Executing job {job.id}: jobs.")
    assert last[0] == "ERROR"
    pattern = rf"Job {job.id} raised an exception: jobs\.\w+, {place_of(run, name)}, ran for 0\.\d\d\d s"
    assert re.fullmatch(pattern, last[1].partition("\n")[0])


@pytest.mark.parametrize("name", sorted(INVALID))
def test_the_lines_of_an_invalid_message(name: str, run: Run) -> None:
    """Nothing is executed."""
    first, last = run.lines[name]
    assert first == processing(run, name)
    assert last[0] == "ERROR" and last[1].startswith("Job was invalid: ")
    assert place_of(run, name) in last[1].partition("\n")[0]


# -- what a callback may look like -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(hosts: str, make_topic: Callable[..., str]) -> str:
    """Return a topic with a job that succeeds, a message that is invalid and a job that fails."""
    topic = make_topic()
    with Queue(topic, hosts=hosts) as queue:
        queue.enqueue(jobs.add, 1, 2)
        queue.producer.send(topic, b"garbage").get(10)
        queue.enqueue(jobs.fail, "no good")
    return topic


@pytest.fixture
def told(three: str, consumer: Callable[..., KafkaConsumer]) -> Callable[..., None]:
    """Return a function that has a callback told of the three, by a group of its own."""

    def tell(callback: Callable[..., Any], **options: Any) -> None:
        worker = Worker(three, consumer(consumer_timeout_ms=15_000), callback, **options)
        assert worker.callback is callback
        assert worker.start(max_messages=3) == 3

    return tell


SEEN: list[tuple[Any, ...]] = []


@pytest.fixture
def seen() -> Iterator[list[tuple[Any, ...]]]:
    """Return what the callbacks below were called with."""
    SEEN.clear()
    yield SEEN
    SEEN.clear()


def two(status: str, message: kq.Message, job: Any, result: Any, exception: Any, stacktrace: Any) -> None:
    SEEN.append((status, message, job, result, exception, stacktrace))


def one(status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
    SEEN.append((status, job, result, exception, traceback))


def lax(*args: Any, **kwargs: Any) -> None:
    SEEN.append((*args, *kwargs))


def roomy(status: str, job: Any, result: Any, exception: Any, traceback: Any, more: Any = "default") -> None:
    SEEN.append((status, job, result, exception, traceback, more))


def tagged(tag: str, *args: Any) -> None:
    assert tag == "tag"
    SEEN.append(args)


def tagged_five(tag: str, status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
    one(status, job, result, exception, traceback)


class Told:
    """Callbacks that are objects and methods."""

    def __call__(self, status: str, message: Any, job: Any, result: Any, exception: Any, stacktrace: Any) -> None:
        two(status, message, job, result, exception, stacktrace)

    def five(self, status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        one(status, job, result, exception, traceback)


@pytest.mark.parametrize(
    "callback",
    [two, lax, roomy, functools.partial(tagged, "tag"), Told(), lambda s, m, j, r, e, t: two(s, m, j, r, e, t)],
    ids=["function", "any", "default", "partial", "object", "lambda"],
)
def test_a_callback_with_six_arguments_hears_of_all(
    callback: Callable[..., Any], told: Callable[..., None], seen: list[tuple[Any, ...]]
) -> None:
    """KQ 2.x's form."""
    told(callback)
    assert [args[0] for args in seen] == ["success", "invalid", "failure"]
    assert [type(args[1]) for args in seen] == [kq.Message] * 3
    assert [len(args) for args in seen] == [6] * 3


@pytest.mark.parametrize(
    "callback",
    [one, Told().five, functools.partial(tagged_five, "tag")],
    ids=["function", "method", "partial"],
)
def test_a_callback_with_five_arguments_is_kq_1s(
    callback: Callable[..., Any], told: Callable[..., None], seen: list[tuple[Any, ...]]
) -> None:
    """It has no message, and is not told of invalid ones."""
    told(callback)
    assert [args[0] for args in seen] == ["success", "failure"]
    assert seen[0][1].args == (1, 2)
    assert seen[0][2:] == (3, None, None)
    assert type(seen[1][3]) is ValueError
    assert "ValueError: no good" in seen[1][4]


def test_an_invalid_message_is_logged_for_a_kq_1_callback(
    told: Callable[..., None], seen: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    """It is not passed over in silence."""
    told(one)
    assert [text.partition(":")[0] for text in caplog.messages if "invalid" in text] == ["Job was invalid"]


def test_a_callback_without_a_signature_gets_six(hosts: str) -> None:
    """Some callables written in C tell none."""
    assert Worker("t", hosts=hosts, callback=print).callback is print
    assert Worker("t", hosts=hosts, callback=dict).callback is dict


@pytest.mark.parametrize(
    "callback",
    [lambda: None, lambda a, b, c, d: None, lambda a, b, c, d, e, f, g: None, lambda a, b, c, d, e, *, f: None],
    ids=["none", "four", "seven", "keyword"],
)
def test_any_other_number_of_arguments_is_refused(callback: Callable[..., Any], hosts: str) -> None:
    """At once, not when the first job is done."""
    with pytest.raises(kq.ArgumentError, match="callback must accept six positional arguments"):
        Worker("t", hosts=hosts, callback=callback)


# -- what a callback may do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), SystemExit(3), KeyboardInterrupt(), jobs.Odd("odd"), jobs.Mute(), RuntimeError()],
    ids=lambda error: type(error).__name__,
)
def test_a_callback_that_raises_changes_nothing(
    error: BaseException, told: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, with its traceback, and the next message is processed."""
    statuses = []

    def callback(status: str, *rest: Any, a: Any = None) -> None:
        statuses.append(status)
        raise error

    caplog.set_level(logging.INFO, "kq.worker")
    told(callback)
    assert statuses == ["success", "invalid", "failure"]
    lines = [record for record in caplog.records if record.message.startswith("Callback raised an exception:")]
    assert [(record.name, record.levelname) for record in lines] == [("kq.worker", "ERROR")] * 3
    assert all(record.exc_info and record.exc_info[1] is error for record in lines)


def test_the_callback_is_announced(told: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """One line for each."""
    caplog.set_level(logging.INFO, "kq.worker")
    told(jobs.Calls())
    assert caplog.messages.count("Executing callback ...") == 3


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_a_callback_runs_in_the_thread_that_called_start(executor: str, told: Callable[..., None]) -> None:
    """Wherever the job ran."""
    threads = set()
    told(lambda *args: threads.add(threading.current_thread()), executor=executor)
    assert threads == {threading.current_thread()}


async def later(status: Any, message: Any, job: Any, result: Any, exception: Any, stacktrace: Any) -> None: ...


class Later:
    async def method(self, *told: Any) -> None: ...

    async def run(self, *told: Any) -> None: ...


@pytest.mark.parametrize(
    "callback", [later, functools.partial(later), Later().method, functools.partial(Later().method)]
)
def test_what_nobody_awaits_is_refused_in_tests_too(callback: Any, topic: str, hosts: str) -> None:
    """As a partial, or a method; by a worker, and by the helpers for tests."""
    queue = kq.Queue(topic, hosts=hosts)
    for call in (
        lambda: kq.Worker(topic, hosts=hosts, callback=callback),
        lambda: drain(queue, callback),
        lambda: eager(callback).__enter__(),
    ):
        with pytest.raises(kq.ArgumentError, match="callback must not be a coroutine function"):
            call()
