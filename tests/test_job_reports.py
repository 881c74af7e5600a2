"""What a job tells while it runs: how far it is, and what it logs; in each executor, and of nobody else."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any

import jobs
import pytest
import result_jobs
from helpers import wait_until
from test_results import EXECUTORS, working
from test_retries import records

import kq
from kq.context import Report, enter, leave
from kq.logs import Capture, ListHandler, LoggingTask, Router
from kq.working import Companion


def told_by(hosts: str, topic: str, job_id: str) -> list[tuple[str, dict[str, bytes]]]:
    """Return the events of a job as they stand in the topic, with their headers."""
    found = [record for record in records(hosts, f"{topic}.results") if record.key == job_id.encode()]
    return [(dict(record.headers)["kq-event"].decode(), dict(record.headers)) for record in found]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_progress_and_lines_come_while_the_job_runs(topic: str, hosts: str, executor: str) -> None:
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results:
        with working(topic, hosts, executor, capture_logs=True):
            job = queue.enqueue(result_jobs.steps, 10, 0.1)
            seen = []
            for event in results.events(job, timeout=30):
                seen.append((event, results.status(job) if event.kind == "progress" else ""))
        events = [event for event, _ in seen]
        kinds = [event.kind for event in events]
        assert (kinds[0], kinds[-1]) == ("started", "finished")
        assert kinds.count("started") == kinds.count("finished") == 1
        progress = [event for event in events if event.kind == "progress"]
        assert len(progress) >= 3
        assert [event.fraction for event in progress] == sorted(event.fraction for event in progress)
        assert (progress[-1].fraction, progress[-1].text) == (1.0, "step 10")
        assert seen[1][1] == "started"
        lines = results.logs(job)
        assert [line.partition("app.jobs: ")[2] for line in lines] == [f"step {number}" for number in range(1, 11)]
        assert all(" INFO app.jobs: " in line for line in lines)
        assert kinds.count("logs") >= 3  # as they come


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_million_reports_cost_little_and_few_are_sent(topic: str, hosts: str, executor: str) -> None:
    """The last one always. The time is bounded far above what it takes: other work runs beside tests."""
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, working(topic, hosts, executor):
        job = queue.enqueue(result_jobs.report_often, 1_000_000)
        seconds, used = results.get(job, timeout=120)
        assert used < 10
    events = told_by(hosts, topic, job.id)
    progress = [headers["kq-fraction"] for kind, headers in events if kind == "progress"]
    assert float(progress[-1]) == 1.0
    assert len(progress) <= 10 * max(1.0, seconds)
    assert events[-1][0] == "success"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_last_report_of_a_quick_job_is_told(topic: str, hosts: str, executor: str) -> None:
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, working(topic, hosts, executor):
        made = [queue.enqueue(result_jobs.steps, count, 0) for count in (3, 5)]
        silent = queue.enqueue(jobs.add, 1, 1)
        assert [results.get(job, timeout=30) for job in (*made, silent)] == ["done", "done", 2]
        for job, text in zip(made, ("step 3", "step 5"), strict=True):
            (event,) = [event for event in results.events(job) if event.kind == "progress"]
            assert (event.fraction, event.text) == (1.0, text)
        assert [event.kind for event in results.events(silent)] == ["started", "finished"]  # what others said is theirs


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_lines_of_jobs_side_by_side_never_mix(topic: str, hosts: str, executor: str) -> None:
    """Of functions, of coroutines, of threads that a job starts, and of loggers that hand nothing on."""
    way = working(topic, hosts, executor, capture_logs=True, concurrency=4)
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, way:
        kinds = [result_jobs.talk, result_jobs.talk_async, result_jobs.talk_by_thread]
        made = [(name, queue.enqueue(kinds[number % 3], name)) for number, name in enumerate("abcdefghijkl")]
        for name, job in made:
            assert results.get(job, timeout=60) is None
            lines = [line.partition(": ")[2] for line in results.logs(job)]
            wanted = [f"{name} says {count}" for count in range(5)]
            if job.func is result_jobs.talk_by_thread:
                wanted = [*wanted[:2], f"{name} is alone"]
            assert lines == wanted


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_lines_of_a_job_that_does_not_end_well(topic: str, hosts: str, executor: str) -> None:
    way = working(topic, hosts, executor, capture_logs=True, retry=kq.Retry(1, delay=0))
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, way:
        failing = queue.enqueue(result_jobs.talk_and_fail, "bad")
        hanging = queue.using(timeout=0.5, retry=0).enqueue(result_jobs.talk_and_hang, "late")
        with pytest.raises(ValueError, match="bad"):
            results.get(failing, timeout=30)
        with pytest.raises(kq.JobTimeout):
            results.get(hanging, timeout=30)
        assert [line.partition(": ")[2] for line in results.logs(failing)] == ["bad says 0", "bad says 1"] * 2
        assert [line.partition(": ")[2] for line in results.logs(hanging)] == ["late says 0", "late says 1"]
        assert [event.text for event in results.events(hanging) if event.kind == "progress"] == ["hanging"]
        if executor == "process":
            dead = queue.using(retry=0).enqueue(result_jobs.talk_and_die, "dead")
            with pytest.raises(kq.ChildLost):
                results.get(dead, timeout=30)
            assert [line.partition(": ")[2] for line in results.logs(dead)] == ["dead says 0", "dead says 1"]
            after = queue.enqueue(jobs.add, 1, 1)
            assert results.get(after, timeout=30) == 2
            assert results.logs(after) == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_only_the_last_lines_are_kept_and_long_ones_cut(topic: str, hosts: str, executor: str) -> None:
    calls: list[Any] = []

    class Watching(Companion):
        def on_settled(self, message: Any, outcome: Any) -> Any:
            calls.append(outcome)
            return ()

    way = working(topic, hosts, executor, capture_logs=True, capture_lines=3)
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, way:
        job = queue.enqueue(result_jobs.talk, "x" * 9_000, 5)
        assert results.get(job, timeout=30) is None
        lines = results.logs(job)
    assert lines[-1].endswith(" ...")
    assert all(len(line) <= 4_000 for line in lines)
    assert len(lines) <= 5


def test_what_is_not_wanted_costs_nothing(topic: str, hosts: str) -> None:
    """Outside of a job, and without results, a report is nothing; and no handler is left behind."""
    kq.progress(1, 2)
    kq.progress("no number", text=5)  # type: ignore[arg-type]  # nobody listens
    before = list(logging.getLogger().handlers), list(result_jobs.alone.handlers)
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results:
        with working(topic, hosts, "thread", capture_logs=True):
            assert results.get(queue.enqueue(result_jobs.talk_by_thread, "a"), timeout=30) is None
        with working(topic, hosts, "inline", results=False):
            job = queue.enqueue(result_jobs.steps, 1, 0)
            wait_until(lambda: len(records(hosts, topic)) == 2)
    assert (logging.getLogger().handlers, result_jobs.alone.handlers) == before
    assert told_by(hosts, topic, job.id) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((0.5,), (0.5, "")),
        ((3, 4), (0.75, "")),
        ((5, 4), (1.0, "")),
        ((-1,), (0.0, "")),
        ((float("nan"),), (0.0, "")),
        ((1, 0), (1.0, "")),
        ((None, None, "ü"), (None, "ü")),
    ],
)
def test_what_a_report_says(args: Any, said: Any) -> None:
    report = Report()
    enter("job", 0, time.monotonic(), ("topic", 0, 0, None, 0, 1), report)
    try:
        kq.progress(*args)
        assert report.said == said
        for wrong in (("half",), (1, "two"), (1, 2, b"bytes")):
            with pytest.raises(kq.ArgumentError, match=r"kq\.progress takes"):
                kq.progress(*wrong)  # type: ignore[arg-type]
    finally:
        leave()


def test_a_companion_hears_of_runs(topic: str, hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []

    class Watching(Companion):
        def on_begun(self, message: Any, since: float) -> None:
            heard.append(("begun", message.offset))

        def on_progress(self, message: Any, fraction: Any, text: str) -> None:
            heard.append((fraction, text))
            raise RuntimeError("a companion that fails holds nothing up")

        def on_logs(self, message: Any, lines: Any) -> None:
            heard.append(list(lines))

    assemble = kq.Worker._assemble
    monkeypatch.setattr(kq.Worker, "_assemble", lambda self: [*assemble(self), Watching()])
    way = working(topic, hosts, "process", capture_logs=True)
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, way:
        assert results.get(queue.enqueue(result_jobs.steps, 4, 0.2), timeout=30) == "done"
    assert heard[0] == ("begun", 0)
    assert (1.0, "step 4") in heard
    assert len([line for one in heard if isinstance(one, list) for line in one]) == 4


# -- handlers for anybody ----------------------------------------------------------------------------------------------


def test_a_list_handler_keeps_the_records_of_its_thread() -> None:
    logger = logging.getLogger("app.list")
    logger.setLevel(logging.DEBUG)
    handler = ListHandler(threading.current_thread().name, logging.INFO)
    logger.addHandler(handler)
    try:
        logger.info("mine %d", 1)
        logger.debug("too low")
        other = threading.Thread(target=logger.info, args=("theirs",))
        other.start()
        other.join()
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in handler.records] == ["mine 1"]
    assert handler.lines[0].endswith("INFO app.list: mine 1")


def test_a_logging_task_keeps_what_it_logs() -> None:
    logger = logging.getLogger("app.task")
    logger.setLevel(logging.INFO)

    def task(a: int, *, b: int) -> int:
        logger.info("adding %d and %d", a, b)
        return a + b

    logging_task = LoggingTask(task, logger, threading.current_thread().name, 1, b=2)
    assert logging_task.run() == 3
    logger.info("afterwards")
    assert [line.partition(": ")[2] for line in logging_task.lines] == ["adding 1 and 2"]
    assert logging_task.get_logs() == logging_task.lines[0]
    assert logger.handlers == []
    with pytest.raises(TypeError):
        LoggingTask(task, logger, "x", 1).run()
    assert logger.handlers == []


def test_a_capture_gives_what_is_new_once() -> None:
    capture = Capture(2)
    for number in range(3):
        capture.add(str(number))
    assert (capture.lines, capture.take(), capture.take()) == (["1", "2"], ["1", "2"], [])


def test_a_router_attaches_once_and_leaves_nothing_behind() -> None:
    router = Router()
    before = list(logging.getLogger().handlers)
    router.attach()
    router.attach()
    assert len(logging.getLogger().handlers) == len(before) + 1
    router.detach()
    assert logging.getLogger().handlers == before


def test_lines_of_another_program_are_no_reason_to_fail() -> None:
    from kq.resulting.event import event_of

    class Record:
        key, timestamp = b"a", 1
        headers = (("kq-event", b"logs"), ("kq-fraction", b"x"), ("kq-attempt", b"-1"))
        value: Any = json.dumps(["a", 5])

    for value, lines in ((b'["a", 5]', ("a",)), (b"{}", ()), (b"\xff", ()), (None, ())):
        Record.value = value
        event = event_of(Record)
        assert event is not None
        assert (event.lines, event.fraction, event.attempt) == (lines, None, 1)
