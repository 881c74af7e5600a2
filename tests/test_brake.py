"""A worker that can import no job, started in the wrong place for instance, does not empty its topic."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
from bench_loop import FakeExecutor, FakePump, loop_between
from kafka import KafkaConsumer, TopicPartition
from process_bench import run_worker

import kq
from kq import Queue, Worker
from kq.consuming.metadata import Progress
from kq.executors import Finished
from kq.job import INVALID, SUCCESS, Outcome
from kq.message import Message
from kq.serializers import is_unimportable

#: Where jobs may run; each has a way of its own to say that one cannot be imported.
EXECUTORS = ["inline", "thread", "process"]


def committed(hosts: str, topic: str) -> int:
    """Return the offset that the group of a topic's name has committed, 0 if none."""
    with contextlib.closing(KafkaConsumer(bootstrap_servers=hosts, group_id=topic)) as consumer:
        return consumer.committed(TopicPartition(topic, 0)) or 0


@pytest.fixture
def misplaced(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Enqueue so many jobs whose module only the producer has."""

    def enqueue(count: int) -> None:
        (tmp_path / "only_elsewhere.py").write_text("def run(number): pass\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            run = importlib.import_module("only_elsewhere").run
            queue.using(partition=0).enqueue_many((run, (number,)) for number in range(count))
        del sys.modules["only_elsewhere"]

    return enqueue


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_tenth_in_a_row_stops_the_worker(
    executor: Any, misplaced: Callable[[int], None], topic: str, hosts: str
) -> None:
    """Nothing is told, nothing is committed, and the right worker runs them all."""
    misplaced(30)
    calls = jobs.Calls()
    with pytest.raises(kq.WorkerError) as caught:
        run_worker(Worker(topic, hosts=hosts, executor=executor, callback=calls), 100)
    for words in ("No module named 'only_elsewhere'", "only_elsewhere.run", "sys.path[0]", topic, "unimportable="):
        assert words in str(caught.value)
    assert list(calls) == []
    assert committed(hosts, topic) == 0


@pytest.mark.parametrize("executor", EXECUTORS)
def test_where_something_can_be_imported_they_are_invalid(
    executor: Any, misplaced: Callable[[int], None], queue: Queue, topic: str, hosts: str
) -> None:
    """Also those that were held back before."""
    misplaced(5)
    queue.using(partition=0).enqueue(abs, -1)
    calls = jobs.Calls()
    assert run_worker(Worker(topic, hosts=hosts, executor=executor, callback=calls), 6) == 6
    assert sorted(calls.statuses) == ["invalid"] * 5 + ["success"]


def test_what_is_no_job_is_no_sign_of_a_wrong_place(queue: Queue, topic: str, hosts: str) -> None:
    """It is invalid at once, however much there is of it."""
    for _ in range(12):
        queue.producer.send(topic, b"nonsense")
    queue.producer.flush()
    calls = jobs.Calls()
    assert run_worker(Worker(topic, hosts=hosts, callback=calls), 12) == 12
    assert calls.statuses == ["invalid"] * 12


def test_an_end_of_the_work_with_nothing_but_them_is_an_error(
    misplaced: Callable[[int], None], topic: str, hosts: str
) -> None:
    """They are not committed, and are not passed over in silence."""
    misplaced(3)
    with pytest.raises(kq.WorkerError, match="3 in a row"):
        run_worker(Worker(topic, hosts=hosts), 3)
    assert committed(hosts, topic) == 0


def test_the_first_one_stops_a_worker_that_is_told_so(
    misplaced: Callable[[int], None], queue: Queue, topic: str, hosts: str
) -> None:
    """Also where others could be imported; these are done."""
    queue.using(partition=0).enqueue(abs, -1)
    misplaced(1)
    with pytest.raises(kq.WorkerError, match="only_elsewhere"):
        run_worker(Worker(topic, hosts=hosts, unimportable="stop"), 100)
    assert committed(hosts, topic) == 1


def test_they_are_invalid_at_once_where_that_is_asked_for(
    misplaced: Callable[[int], None], topic: str, hosts: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As in KQ 2.x; the line holds what helps to find the job."""
    misplaced(12)
    calls = jobs.Calls()
    assert run_worker(Worker(topic, hosts=hosts, unimportable="invalid", callback=calls), 12) == 12
    assert calls.statuses == ["invalid"] * 12
    lines = [text for text in caplog.messages if text.startswith("Job was invalid: No module named")]
    ids = {dict(call.message.headers)["kq-id"].decode() for call in calls}
    assert len(lines) == 12
    for text in lines:
        assert f"only_elsewhere.run, topic {topic}, partition 0, offset " in text
        assert any(f"(job {job_id}, " in text for job_id in ids)


def test_a_wrong_word_is_refused(topic: str, hosts: str) -> None:
    """The error names the right ones."""
    with pytest.raises(kq.ArgumentError, match='"brake", "invalid" or "stop"'):
        Worker(topic, hosts=hosts, unimportable="ignore")  # type: ignore[arg-type]


# -- what cannot be imported -------------------------------------------------------------------------------------------


def fail_to_import(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> BaseException:
    """Return what reading a value raises whose module has such a source."""
    (tmp_path / "broken_deploy.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        kq.loads(b"\x80\x04cbroken_deploy\nrun\n.")
    except BaseException as error:
        return error
    finally:
        sys.modules.pop("broken_deploy", None)
    raise AssertionError


@pytest.mark.parametrize(
    "source",
    [
        "import not_there\n",
        "def run(:\n",
        "raise KeyError('DATABASE_URL')\n",
        "def walk(): ...\n",
        "1 / 0\n",
        "exit(1)\n",
    ],
    ids=["its import", "its syntax", "its configuration", "no such name", "its code", "it leaves"],
)
def test_whatever_is_wrong_with_the_module(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """It is the deploy's doing, and not the message's."""
    assert is_unimportable(fail_to_import(source, monkeypatch, tmp_path))


@pytest.mark.parametrize("value", [None, b"", b"nonsense", b"\x80\x04N."])
def test_what_is_wrong_with_the_value(value: Any) -> None:
    """It is invalid wherever it is read."""
    with pytest.raises(Exception) as caught:
        kq.loads(value).func()  # type: ignore[misc]
    assert not is_unimportable(caught.value)


# -- the loop ----------------------------------------------------------------------------------------------------------


def end_unimportable(executor: FakeExecutor, message: Message) -> None:
    executor.running.remove(message)
    why = ("No module named 'x'", "Traceback")
    executor._finished.append(Finished(message, None, Outcome(INVALID), why))


def test_what_is_held_back_goes_with_its_partition() -> None:
    """Its next owner runs it; nothing of it is told here, and what follows it under its key may start."""
    pump, executor, calls = FakePump(), FakeExecutor(), jobs.Calls()
    with loop_between(pump, executor, calls) as loop:
        for partition in (0, 1):
            pump.assign(partition, Progress(0))
            pump.poll(partition, [0], key=b"k")
        loop._turn()
        for message in list(executor.running):
            end_unimportable(executor, message)
        loop._turn()
        pump.revoke(0)
        pump.poll(1, [1])
        loop._turn()
        assert executor.offsets()[2:] == [(1, 1)]
        executor.end_all()
        loop._turn()
    assert [(call.status, call.message[1:3]) for call in calls] == [(INVALID, (1, 0)), (SUCCESS, (1, 1))]
    assert loop.stats().done == 2
