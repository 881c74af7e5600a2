"""``log_arguments=False``: what jobs are given, return and say stays out of all that KQ writes of them."""

from __future__ import annotations

import logging
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import secret_jobs
from helpers import at_work, wait_until
from jobs import Calls
from kafka import KafkaProducer
from test_retries import records

import kq
from kq.executors.telling import masked_trace, told
from kq.utils import hides_arguments

MARKER = "MARK3R"
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")
EXECUTORS = ["inline", "thread", pytest.param("process", marks=linux)]
#: Headers by which a job finds its way back: they hold its key as it is.
OF_THE_WAY = {"kq-key", "kq-dead-key"}
#: Calls that end in each way.
CALLS: list[tuple[Callable[..., Any], str]] = [
    (secret_jobs.give, "success"),
    (secret_jobs.give_sour, "success"),
    (secret_jobs.read, "failure"),
    (secret_jobs.fail, "failure"),
    (secret_jobs.fail_as_group, "failure"),
    (secret_jobs.leave, "failure"),
    (secret_jobs.ask_later, "failure"),
    (secret_jobs.give_up, "failure"),
    (secret_jobs.stay, "timeout"),
]
#: How many of them run again: all that fail, but for those that give up or leave; that one does in a child alone.
RETRIED = 5


def enqueue_all(queue: kq.Queue, client: KafkaProducer) -> int:
    """Enqueue what ends in each way; return how many runs and messages there will be."""
    job = kq.Job(func=secret_jobs.give, args=(MARKER,), kwargs={"more": MARKER}, key=MARKER.encode())
    queue.enqueue(job)
    for call, _ in CALLS:
        queue.using(key=MARKER.encode(), timeout=0.3 if call is secret_jobs.stay else 20).enqueue(call, MARKER)
    queue.using(delay=0.1, key=MARKER.encode()).enqueue(secret_jobs.give, MARKER, more=MARKER)
    client.send(queue.topic, pickle.dumps(secret_jobs.Secret(MARKER))).get(10)
    queue.using(expires=0.001).enqueue(secret_jobs.give, MARKER)
    queue.schedule("often", kq.Every(3600), secret_jobs.give, MARKER, more=MARKER)
    client.send(queue.topic, MARKER.encode()).get(10)
    return len(CALLS) + 5 + RETRIED


class Complaining(Calls):
    """Repeats what it hears of failures."""

    def __call__(self, status: str, message: Any, job: Any, result: Any, exception: Any, stacktrace: Any) -> None:
        super().__call__(status, message, job, result, exception, stacktrace)
        if status == "failure":
            raise RuntimeError(f"the callback heard {job} of {exception}")


def lines(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Yield each line of KQ, with all that handlers get."""
    formatter = logging.Formatter("%(message)s")
    for record in caplog.records:
        if record.name.split(".")[0] == "kq":
            yield formatter.format(record) + repr(vars(record))


def run_all(topic: str, hosts: str, client: KafkaProducer, store: str, **options: Any) -> None:
    """Run a worker with everything on."""
    calls, shows = Complaining(), options.pop("log_arguments")
    options |= {"results": True, "dead_letters": True, "control": True, "message_log": store, "capture_logs": True}
    retry = kq.Retry(1, delay=0.05)
    worker = kq.Worker(topic, hosts=hosts, callback=calls, retry=retry, log_arguments=shows, **options)
    with kq.Queue(topic, hosts=hosts, results=True, log_arguments=shows, message_log=store) as queue:
        count = enqueue_all(queue, client)
        with at_work(worker), kq.Control(topic, hosts) as control:
            job = queue.using(delay=600).enqueue(secret_jobs.give, MARKER)
            control.cancel(job)
            wait_until(lambda: len(calls) > count, timeout=60)
            wait_until(lambda: worker.stats().backlog == worker.stats().in_flight == 0, timeout=30)
            assert control.workers()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_arguments_stay_out_of_all_that_is_written(
    topic: str, hosts: str, client: KafkaProducer, executor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In lines, headers, letters, events, reports and the message log; values, by which jobs run, stay as they are."""
    caplog.set_level(logging.DEBUG, "kq")
    store = f"sqlite:///{tmp_path / 'kq.db'}"
    run_all(topic, hosts, client, store, executor=executor, log_arguments=False)
    assert [line for line in lines(caplog) if MARKER in line] == []
    assert any("Executing job" in line and "secret_jobs.give(***)" in line for line in lines(caplog))
    assert any("builtins.ValueError: ***" in line for line in lines(caplog))
    found = {
        name: records(hosts, name) for name in (topic, *(f"{topic}.{end}" for end in ("later", "dead", "control")))
    }
    results = records(hosts, f"{topic}.results")
    for name, some in (*found.items(), (f"{topic}.results", results)):
        told = [pair for record in some for pair in record.headers if MARKER.encode() in pair[1]]
        assert {pair[0] for pair in told} <= OF_THE_WAY, name
    assert not any(MARKER.encode() in (record.value or b"") for record in found[f"{topic}.control"])
    letters = list(kq.DeadLetters(topic, hosts).iterate())
    assert len(letters) >= len(CALLS) - 2
    assert not any(MARKER in letter.error + letter.traceback for letter in letters)
    assert any(MARKER.encode() in (letter.value or b"") for letter in letters)  # it can be replayed
    assert not any(MARKER.encode() in path.read_bytes() for path in tmp_path.iterdir())
    with kq.MessageStore(store) as log:
        rows = list(log.list(limit=100))
        assert {row.status for row in rows} >= {"COMPLETED", "DEAD", "CANCELLED"}
        assert not any(MARKER in repr(row) for row in rows)
    (plan,) = kq.Queue(topic, hosts=hosts).schedules()
    assert plan.call == "secret_jobs.give(***)"


def test_they_are_there_unless_it_is_said(
    topic: str, hosts: str, client: KafkaProducer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By default; so the search above can find them."""
    caplog.set_level(logging.DEBUG, "kq")
    run_all(topic, hosts, client, f"sqlite:///{tmp_path / 'kq.db'}", log_arguments=None)
    text = "\n".join(lines(caplog))
    for line in (
        "Enqueueing Job(",
        "Executing job",
        "returned: ",
        "invalid literal",
        "Job was invalid",
        "Callback raised",
    ):
        assert any(line in one and MARKER in one for one in text.split("\n")), line
    for name in ("later", "dead", "results"):
        told = [value for record in records(hosts, f"{topic}.{name}") for _, value in record.headers]
        assert any(MARKER.encode() in value for value in told), name
    assert any(MARKER.encode() in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(("text", "hides"), [("0", True), ("false", True), (" No ", True), ("1", False), ("", False)])
def test_the_environment_says_it_where_the_program_does_not(
    monkeypatch: pytest.MonkeyPatch, text: str, hides: bool
) -> None:
    """A word that is none is an error: it may have been meant to hide."""
    monkeypatch.setenv("KQ_LOG_ARGUMENTS", text)
    assert hides_arguments(None) is hides
    assert (hides_arguments(True), hides_arguments(False)) == (False, True)
    monkeypatch.setenv("KQ_LOG_ARGUMENTS", "off?")
    for make in (lambda: kq.Queue("t", hosts="127.0.0.1:1"), lambda: kq.Worker("t", hosts="127.0.0.1:1")):
        with pytest.raises(kq.ArgumentError, match=r"^KQ_LOG_ARGUMENTS must be 0 or 1$"):
            make()
    with pytest.raises(kq.ArgumentError, match=r"^log_arguments must be True, False or None$"):
        kq.Queue("t", hosts="127.0.0.1:1", log_arguments="no")  # type: ignore[arg-type]


def test_of_an_exception_places_and_classes_are_told() -> None:
    """Also of those that led to it; texts of KQ's own errors stay, for they repeat nothing."""
    try:
        secret_jobs.fail(MARKER)
    except LookupError as error:
        text = masked_trace(error)
    assert text.count("Traceback (most recent call last):") == 2
    assert text.index("builtins.ValueError: ***\n") < text.index("builtins.LookupError: ***\n")
    assert "in fail" in text and MARKER not in text
    assert told(kq.JobExpired("late"), True) == "late"
    assert told(kq.RetryLater(1, MARKER), True) == told(ValueError(MARKER), True) == "***"
    assert told(ValueError(MARKER), False) == MARKER


def test_an_exception_that_is_its_own_cause_has_an_end() -> None:
    """So has a chain of any length."""
    error = ValueError(MARKER)
    error.__cause__ = error
    begun = time.monotonic()
    assert masked_trace(error).count("ValueError") == 20
    assert time.monotonic() - begun < 5


def test_a_key_that_is_none_is_not_repeated() -> None:
    """Where it is refused."""
    with pytest.raises(kq.ArgumentError) as caught:
        kq.Queue("t", hosts="127.0.0.1:1").using(key=MARKER)  # type: ignore[arg-type]
    assert MARKER not in repr(caught.value) + repr(getattr(caught.value, "__notes__", ""))
