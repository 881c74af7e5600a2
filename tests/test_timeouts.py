"""Timeouts: a job ends when its time is up, and nothing else does."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jobs
import pytest
from kafka import KafkaConsumer

from kq import Queue, Worker
from kq.executors.interrupt import REPEAT, Called, Interrupt, SignalInterrupter, ThreadInterrupter

#: Seconds until an interrupted job must have ended, on a machine that has other things to do.
SOON = 1.0


@pytest.fixture
def work(topic: str, consumer: Callable[..., KafkaConsumer]) -> Callable[..., jobs.Calls]:
    """Return a function that runs a number of messages and returns what was told of them."""

    def run(count: int, callback: Callable[..., Any] | None = None, **options: Any) -> jobs.Calls:
        calls = jobs.Calls()

        def tell(*args: Any) -> None:
            calls(*args)
            if callback is not None:
                callback(*args)

        worker = Worker(topic, consumer(consumer_timeout_ms=20_000), tell, **options)
        assert worker.start(max_messages=count) == count
        return calls

    return run


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function in another thread and return what it returns."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function(*args, **kwargs)))
    thread.start()
    thread.join(60)
    (result,) = results
    return result


def alarm_is_off() -> bool:
    return signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# -- in the main thread ------------------------------------------------------------------------------------------------


def test_a_sleep_is_interrupted_and_the_next_job_runs(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """A minute of sleep with half a second: one timeout within a second."""
    moments = []
    jobs.HOOKS["sleep"] = lambda: (moments.append(time.monotonic()), time.sleep(60))
    job = queue.using(timeout=0.5).enqueue(jobs.hook, "sleep")
    queue.enqueue(jobs.add, 1, 2)
    calls = work(2, lambda *args: moments.append(time.monotonic()))
    assert calls.statuses == ["timeout", "success"]
    assert calls[0] == ("timeout", calls[0].message, job, None, None, None)
    assert 0.45 < moments[1] - moments[0] < 0.5 + SOON


@pytest.mark.parametrize(
    "call",
    [(jobs.spin, 60), (jobs.nap, 60), (jobs.catch_exceptions, 60), (jobs.hook, "wait")],
    ids=["busy loop", "naps", "except Exception", "lock"],
)
def test_whatever_a_job_does_it_is_interrupted(
    call: tuple[Any, ...], queue: Queue, work: Callable[..., jobs.Calls]
) -> None:
    """Also while it waits; and it is told of once."""
    jobs.HOOKS["wait"] = lambda: threading.Event().wait(60)
    queue.using(timeout=0.2).enqueue(*call)
    queue.enqueue(jobs.add, 1, 2)
    begin = time.monotonic()
    calls = work(2)
    assert calls.statuses == ["timeout", "success"]
    assert time.monotonic() - begin < 20


def test_an_interrupt_that_is_swallowed_comes_again(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """A job that catches everything has not escaped."""
    queue.using(timeout=0.2).enqueue(jobs.catch_everything_once, 60)
    begin = time.monotonic()
    assert work(1).statuses == ["timeout"]
    assert time.monotonic() - begin > 0.2 + REPEAT * 0.9


@pytest.mark.parametrize("timeout", [1e-9, 1e-3])
def test_a_timeout_may_be_short(timeout: float, queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """It ends the job, and nothing else."""
    queue.using(timeout=timeout).enqueue(jobs.nap, 60)
    assert work(1).statuses == ["timeout"]


@pytest.mark.parametrize("timeout", [3600, 1e12, math.inf])
def test_a_timeout_may_be_long(timeout: float, queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """Longer than any timer counts."""
    queue.using(timeout=timeout).enqueue(jobs.add, 1, 2)
    assert work(1).results == [3]
    assert alarm_is_off()


def test_a_timeout_is_logged_in_kqs_words(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """As an error."""
    caplog.set_level(logging.INFO, "kq.worker")
    job = queue.using(timeout=0.1).enqueue(jobs.nap, 60)
    work(1)
    lines = [record for record in caplog.records if record.name.startswith("kq")]
    errors = [(record.name, record.message) for record in lines if record.levelno >= logging.WARNING]
    ((logger, line),) = errors
    place = f"(jobs.nap, topic {queue.topic}, partition 0, offset 0, ran for "
    assert logger == "kq.worker" and line.startswith(f"Job {job.id} timed out or was interrupted {place}")
    assert line.endswith(" s; its limit was 0.1 s)")


@pytest.mark.parametrize(
    ("of_worker", "of_job", "expected"),
    [(0.1, 30, "timeout"), (0.1, 0, "timeout"), (0, 0.1, "success"), (30, 0.1, "success"), (None, 0.1, "timeout")],
)
def test_the_timeout_of_the_worker_wins(
    of_worker: float | None, of_job: float, expected: str, queue: Queue, work: Callable[..., jobs.Calls]
) -> None:
    """Zero means no limit there as well."""
    queue.using(timeout=of_job).enqueue(jobs.nap, 0.3 if expected == "success" else 60)
    assert work(1, timeout=of_worker).statuses == [expected]


def test_a_slow_callback_is_not_interrupted(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """The alarm is only for the job, also where the job ended just before it."""
    for _ in range(3):
        queue.using(timeout=0.1).enqueue(jobs.nap, 0.09)
    ends = []

    def callback(*args: Any) -> None:
        jobs.spin(0.2)
        ends.append(args[0])

    calls = work(3, callback)
    assert ends == calls.statuses
    assert set(ends) <= {"success", "timeout"}


def test_every_message_has_one_outcome_however_close_its_end_is(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs that last as long as they may: the alarm comes before, at and after their end."""
    count = 120
    for number in range(count):
        queue.using(timeout=0.02).enqueue(jobs.spin, 0.019 + 0.00002 * number)
    calls = work(count, lambda *args: jobs.spin(0.002))
    assert [call.message.offset for call in calls] == list(range(count))
    assert set(calls.statuses) <= {"success", "timeout"}
    assert [call for call in calls if (call.result is None) != (call.status == "timeout")] == []
    assert [text for text in caplog.messages if "Callback raised" in text] == []


def test_the_alarm_of_the_user_goes_on(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """One that was set before ``start`` fires after it, by the user's handler."""
    fired = threading.Event()
    previous = signal.signal(signal.SIGALRM, lambda *_: fired.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        queue.using(timeout=5).enqueue(jobs.nap, 0.4)
        assert work(1).statuses == ["success"]
        assert fired.wait(5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_the_handler_of_the_user_is_put_back(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """And no alarm is left on."""
    before = signal.getsignal(signal.SIGALRM)
    queue.using(timeout=0.1).enqueue(jobs.nap, 60)
    work(1)
    assert signal.getsignal(signal.SIGALRM) == before
    assert alarm_is_off()


def test_a_job_that_takes_the_alarm_does_not_keep_it(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """The next job is interrupted all the same."""
    jobs.HOOKS["take"] = lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN) and None
    queue.enqueue(jobs.hook, "take")
    queue.using(timeout=0.2).enqueue(jobs.nap, 3)
    assert work(2).statuses == ["success", "timeout"]


# -- in other threads --------------------------------------------------------------------------------------------------


def test_in_another_thread_a_timeout_interrupts_python_code(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """And a warning says that it is the best there is."""
    queue.using(timeout=0.2).enqueue(jobs.nap, 60)
    queue.enqueue(jobs.add, 1, 2)
    assert in_thread(work, 2).statuses == ["timeout", "success"]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING and "kq" in record.name]
    assert [record.name for record in warnings] == ["kq.executors"]
    assert "timeout" in warnings[0].message


def test_in_the_main_thread_nothing_is_warned_of(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """There a timeout interrupts whatever runs."""
    queue.using(timeout=5).enqueue(jobs.add, 1, 2)
    work(1)
    assert [record for record in caplog.records if record.name.startswith("kq") and record.levelno > logging.INFO] == []


def test_a_job_in_c_code_ends_when_it_comes_back(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """It is a timeout then."""
    queue.using(timeout=0.1).enqueue(time.sleep, 0.5)
    assert in_thread(work, 1).statuses == ["timeout"]


@pytest.mark.parametrize("timeout", [1e12, math.inf])
def test_a_long_timeout_does_not_keep_others_from_theirs(
    timeout: float, queue: Queue, work: Callable[..., jobs.Calls]
) -> None:
    """One watcher counts for all."""
    queue.using(timeout=timeout).enqueue(jobs.nap, 0.2)
    queue.using(timeout=0.2).enqueue(jobs.nap, 5)
    assert work(2, executor="thread").statuses == ["success", "timeout"]


def test_threads_time_out_one_by_one(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """Each job has its own time."""
    queue.using(timeout=0.2).enqueue(jobs.nap, 60)
    queue.using(timeout=0.4).enqueue(jobs.nap, 60)
    queue.using(timeout=30).enqueue(jobs.nap, 0.6)
    queue.enqueue(jobs.nap, 0.6)
    calls = work(4, executor="thread", concurrency=4)
    assert sorted((call.message.offset, call.status) for call in calls) == [
        (0, "timeout"),
        (1, "timeout"),
        (2, "success"),
        (3, "success"),
    ]


def test_in_threads_every_message_has_one_outcome_however_close_its_end_is(
    queue: Queue, work: Callable[..., jobs.Calls]
) -> None:
    """And no thread is lost on the way."""
    count = 120
    for number in range(count):
        queue.using(timeout=0.02).enqueue(jobs.nap, 0.012 + 0.0001 * number)
    calls = work(count, executor="thread", concurrency=4)
    assert sorted(call.message.offset for call in calls) == list(range(count))
    assert set(calls.statuses) <= {"success", "timeout"}


# -- the interrupters themselves ---------------------------------------------------------------------------------------


@pytest.fixture(params=[SignalInterrupter, ThreadInterrupter])
def interrupter(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return an open interrupter of either kind."""
    interrupter = request.param()
    yield interrupter
    interrupter.close()


def test_calls_that_end_as_they_are_interrupted_end_once(interrupter: Any) -> None:
    """Thousands of calls of the length of their limit: each ends in one way, and nothing is raised outside."""
    ways = set()
    for number in range(2000):
        called = interrupter.call(jobs.spin, (0.0002,), {}, 0.0001 + 0.0000001 * number)
        ways.add((called.interrupted, called.result, type(called.error)))
    allowed = {(None, "spun"), ("timeout", "spun"), ("timeout", None)}
    assert {(interrupted, result) for interrupted, result, _ in ways} <= allowed
    assert {error for *_, error in ways} <= {type(None), Interrupt}


@pytest.mark.parametrize("timeout", [1e-9, 1e-6, 1e-5])
def test_a_limit_that_has_passed_before_the_call_begins_ends_the_call(interrupter: Any, timeout: float) -> None:
    """Never the worker."""
    for _ in range(300):
        called = interrupter.call(jobs.spin, (0.0005,), {}, timeout)
        assert called.interrupted in (None, "timeout")


def test_a_stop_is_no_timeout(interrupter: Any) -> None:
    """What ends by a stop says so."""
    threading.Timer(0.1, interrupter.interrupt_all).start()
    called = interrupter.call(jobs.nap, (60,), {}, 30)
    assert isinstance(called, Called)
    assert (called.interrupted, type(called.error)) == ("stop", Interrupt)
