"""What crosses between worker and children, and what becomes of what cannot."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import jobs
import process_jobs
import pytest
from journal import Journal
from kafka import KafkaProducer
from process_bench import Bench, pids, run_worker

import kq
from kq import ProcessExecutor, Queue, Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def test_a_result_that_cannot_cross_is_none(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """The job has succeeded all the same."""
    queue.enqueue(process_jobs.give_memoryview)
    calls = work(1)
    assert (calls.statuses, calls.results) == (["success"], [None])


@pytest.mark.parametrize(
    ("way", "expected", "text"),
    [
        ("fussy", kq.RemoteError, "Fussy: 1 and 2"),
        ("holding", kq.RemoteError, "Holding: <generator"),
        ("not reduced", kq.RemoteError, "NotReduced: "),
        ("reduced to text", kq.RemoteError, "ReducedToText: "),
        ("reduced to other", kq.RemoteError, "ReducedToOther: "),
        ("leaving", kq.RemoteError, "Leaving: "),
        ("wordless", process_jobs.Wordless, None),
        ("mute", process_jobs.Mute, None),
        ("frozen", process_jobs.Frozen, "cold"),
        ("odd", process_jobs.Odd, "odd"),
        ("bent", SyntaxError, "bent"),
        ("interrupt", KeyboardInterrupt, ""),
    ],
)
def test_an_exception_that_misbehaves_is_a_failure(way: str, expected: type[BaseException], text: str | None) -> None:
    """By its type where it can cross, by its name and text where it cannot; and the worker goes on."""
    with Bench(ProcessExecutor()) as bench:
        (_, job, outcome, _), (_, _, after, _) = bench.run(
            bench.message(process_jobs.bring_up, way), bench.message(process_jobs.nothing)
        )
    assert outcome is not None and after is not None
    assert (outcome.status, after.status, job.args) == ("failure", "success", (way,))
    assert type(outcome.exception) is expected
    assert text is None or text in str(outcome.exception)
    assert "bring_up" in str(outcome.stacktrace)
    assert str(outcome.stacktrace) in str(outcome.exception.__cause__)


def test_an_exception_of_a_class_made_in_the_job_keeps_its_name(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """It crosses by value."""
    queue.enqueue(process_jobs.bring_up, "local")
    (call,) = work(1)
    assert (type(call.exception).__name__, str(call.exception)) == ("Local", "here")


def test_an_exception_brings_its_traceback_as_text(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """Type and cause as in the child: in the stacktrace, as ``__cause__``, and in the log once."""
    queue.enqueue(process_jobs.fail_with_cause)
    (call,) = work(1)
    assert (type(call.exception), str(call.exception)) == (ValueError, "above")
    assert call.stacktrace is not None and call.exception is not None
    assert "KeyError: 'deeper'" in call.stacktrace and "in fail_with_cause" in call.stacktrace
    assert call.stacktrace in str(call.exception.__cause__)
    assert caplog.text.count("in fail_with_cause") == call.stacktrace.count("in fail_with_cause")


def test_without_a_callback_a_failure_is_logged_with_its_traceback(
    topic: str, hosts: str, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """Though nothing is unpickled."""
    job = queue.enqueue(process_jobs.fail_with_cause)
    run_worker(Worker(topic, hosts=hosts, executor="process"), 1)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING and record.name[:2] == "kq"]
    assert record.message.startswith(f"Job {job.id} raised an exception: process_jobs.fail_with_cause, topic {topic},")
    assert record.exc_text is not None
    assert record.exc_text.startswith("Traceback")
    assert record.exc_text.endswith("ValueError: above")
    assert caplog.text.count("ValueError: above") == 1


def test_100_mb_cross_in_both_directions() -> None:
    """As an argument and as a result, also where two children do it at once."""
    size = 100 * 1024 * 1024
    with Bench(ProcessExecutor(), 2) as bench:
        ended = bench.run(
            bench.message(len, bytes(size)),
            bench.message(process_jobs.give_bytes, size),
            bench.message(process_jobs.nothing),
        )
    results = {ended.message.offset: ended.outcome.result for ended in ended if ended.outcome is not None}
    assert (results[0], len(results[1]), results[2]) == (size, size, None)


def test_a_function_that_children_cannot_import_is_invalid(
    queue: Queue,
    work: Callable[..., jobs.Calls],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Though the worker could; the log has the import error."""
    (tmp_path / "only_here.py").write_text("def run(): pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import only_here

        queue.enqueue(only_here.run)
    calls = work(1, unimportable="invalid")
    assert calls[0] == ("invalid", calls[0].message, None, None, None, None)
    assert "Job was invalid: No module named 'only_here' (job " in caplog.text
    assert "ModuleNotFoundError" in caplog.text


@pytest.mark.parametrize("value", [None, b"", b"nonsense", b"\x80\x04N."])
def test_what_is_no_job_is_invalid(
    value: bytes | None, topic: str, client: KafkaProducer, work: Callable[..., jobs.Calls]
) -> None:
    """Nothing of it is told but the message."""
    client.send(topic, value, key=b"key").get(10)
    calls = work(1)
    assert calls[0] == ("invalid", calls[0].message, None, None, None, None)


def test_without_a_callback_the_worker_unpickles_nothing(
    topic: str, hosts: str, queue: Queue, journal: Journal
) -> None:
    """Neither arguments nor results."""
    unread = Queue(topic, queue.producer, serializer=pickle.dumps)  # this one does not read what it writes
    unread.enqueue(process_jobs.take, process_jobs.Traced(journal.path))
    queue.enqueue(process_jobs.give_traced, journal.path)
    assert run_worker(Worker(topic, hosts=hosts, executor="process"), 2) == 2
    assert os.getpid() not in pids(journal)


def test_with_a_callback_job_and_result_are_there(
    queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """As with the other executors."""
    job = queue.enqueue(process_jobs.give_traced, journal.path)
    (call,) = work(1)
    assert (call.job, type(call.result)) == (job, process_jobs.Traced)
