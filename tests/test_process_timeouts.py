"""The process executor: a timeout is a promise."""

from __future__ import annotations

import collections
import logging
import math
import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import jobs
import process_jobs
import pytest
from journal import Journal
from journal import work as noted
from kafka import KafkaProducer
from process_bench import KILLED_WITHIN, PATIENCE, Bench, moment, pids, statuses

import kq
from kq import Job, ProcessExecutor, Queue

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


@pytest.mark.parametrize("way", process_jobs._ENDURE)
def test_a_timeout_ends_whatever_a_job_does(
    way: str, queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """One timeout, in time; nothing is left of the job, not a zombie, and the next one starts at once."""
    ends: list[float] = []
    left: list[set[int]] = []

    def callback(status: str, *_: Any) -> None:
        if status == "timeout":
            ends.append(time.monotonic())
            left.append({pid for pid in pids(journal) if process_jobs.exists(pid)})

    job = queue.using(timeout=1).enqueue(process_jobs.endure, journal.path, way)
    queue.enqueue(noted, journal.path, "next")
    calls = work(2, callback, concurrency=1, executor=ProcessExecutor(kill_grace=1))
    assert calls[0] == ("timeout", calls[0].message, job, None, None, None)
    assert calls.statuses == ["timeout", "success"]
    assert 1 <= ends[0] - moment(journal, "start", way).time <= KILLED_WITHIN
    assert left == [set()]
    assert moment(journal, "start", "next").time - ends[0] < 1


def test_a_job_whose_time_is_up_can_clean_up(queue: Queue, work: Callable[..., jobs.Calls], journal: Journal) -> None:
    """Its ``finally`` blocks have the time of ``kill_grace``, and need not use it."""
    queue.using(timeout=0.5).enqueue(process_jobs.clean_up, journal.path)
    queue.enqueue(noted, journal.path, "next")
    assert work(2, concurrency=1, executor=ProcessExecutor(kill_grace=30)).statuses == ["timeout", "success"]
    assert journal.count("cleaned") == {"job": 1}
    assert moment(journal, "start", "next").time - moment(journal, "start", "job").time < 15


def test_a_timeout_disturbs_no_other_child(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """They go on in the processes in which they were."""
    queue.using(timeout=0.5).enqueue(time.sleep, 60)
    for _ in range(20):
        queue.enqueue(process_jobs.nap, 0.1, "rested")
    pid = os.getpid()
    calls = work(21)
    assert collections.Counter(calls.statuses) == {"timeout": 1, "success": 20}
    assert os.getpid() == pid


@pytest.mark.parametrize(
    ("of_worker", "of_job", "expected"),
    [(0.2, 30, "timeout"), (0.2, 0, "timeout"), (0, 0.1, "success"), (30, 0.1, "success"), (None, 0.2, "timeout")],
)
def test_the_timeout_of_the_worker_wins(
    of_worker: float | None, of_job: float, expected: str, queue: Queue, work: Callable[..., jobs.Calls]
) -> None:
    """Zero means no limit there as well."""
    queue.using(timeout=of_job).enqueue(process_jobs.nap, 0.4 if expected == "success" else 60)
    assert work(1, timeout=of_worker).statuses == [expected]


@pytest.mark.parametrize("timeout", [1e-9, 3600, 1e12, math.inf])
def test_a_timeout_may_be_short_or_long(timeout: float) -> None:
    """Whatever it is, it ends no job but its own."""
    with Bench(ProcessExecutor(kill_grace=0.1)) as bench:
        ended = bench.run(bench.message(process_jobs.nap, 1, timeout=timeout), bench.message(process_jobs.nothing))
    assert statuses(ended) == ["timeout" if timeout < 1 else "success", "success"]


def test_jobs_as_long_as_their_limit_have_one_outcome_each() -> None:
    """The end of the time comes before, at and after the end of the job."""
    with Bench(ProcessExecutor(kill_grace=0.5), 2) as bench:
        messages = [bench.message(process_jobs.nap, 0.1 + 0.003 * number, timeout=0.15) for number in range(40)]
        ended = bench.run(*messages)
        assert bench.executor.finished() == []
    assert sorted(message.offset for message, *_ in ended) == list(range(40))
    assert set(statuses(ended)) == {"success", "timeout"}


def test_a_job_without_a_limit_never_has_a_deadline() -> None:
    """However often the worker looks while children write down what they start."""
    looks = collections.Counter()
    with Bench(ProcessExecutor(), 2) as bench:
        waiting = [bench.message(process_jobs.nothing) for _ in range(10_000)]
        ended, deadline = 0, time.monotonic() + PATIENCE
        while ended < 10_000 and time.monotonic() < deadline:
            ended += len(bench.executor.finished())
            for _ in range(min(bench.executor.room(), len(waiting))):
                bench.executor.start(waiting.pop())
            bench.executor.flush()
            for child in bench.executor._children.all:
                running = child.running()
                looks[running is None or (running.since > 0 and running.deadline == math.inf)] += 1
    assert (ended, looks[False]) == (10_000, 0)
    assert looks[True] > 100


def test_a_payload_without_headers_times_out(
    topic: str, client: KafkaProducer, queue: Queue, work: Callable[..., jobs.Calls]
) -> None:
    """Its limit is inside: what an older KQ has written."""
    job = Job("old", 1, topic, time.sleep, [60], {}, 0.3)
    client.send(topic, kq.dumps(job)).get(10)
    queue.enqueue(process_jobs.nap, 0, "next")
    calls = work(2, concurrency=1)
    assert calls.statuses == ["timeout", "success"]
    assert calls[0].job == job


def test_a_job_that_hangs_while_it_is_read_times_out(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """It is told of by its headers: the worker does not read what a child could not."""
    old = Queue(queue.topic, queue.producer, serializer=pickle.dumps)  # this one does not read what it writes
    job = old.using(timeout=0.5).enqueue(process_jobs.take, process_jobs.HangsWhenRead())
    calls = work(1)
    assert calls.statuses == ["timeout"]
    assert (calls[0].job.id, calls[0].job.func, calls[0].job.args) == (job.id, None, None)


def test_a_timeout_is_logged_in_kqs_words(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """As an error, and nothing else is said."""
    job = queue.using(timeout=0.2).enqueue(time.sleep, 60)
    work(1)
    lines = [record for record in caplog.records if record.name.startswith("kq")]
    errors = [(record.name, record.message) for record in lines if record.levelno >= logging.WARNING]
    ((logger, line),) = errors
    place = f"(time.sleep, topic {queue.topic}, partition 0, offset 0, ran for "
    assert logger == "kq.worker" and line.startswith(f"Job {job.id} timed out or was interrupted {place}")
    assert line.endswith(" s; its limit was 0.2 s)")
