"""Stops: from other threads and by signals, before, during and after a job."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jobs
import pytest
from helpers import deliver, wait_until
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from kq import Queue, Worker

STOPS = (signal.SIGINT, signal.SIGTERM)

#: Works until a signal ends it, in the way of a program written for KQ.
LOOP = """
import sys
import jobs
import kq

worker = kq.Worker(sys.argv[1], hosts=sys.argv[2], callback=lambda status, *rest: jobs.say("callback " + status))
jobs.say("ready")
while True:
    worker.start(max_messages=1)
"""

#: Works until a signal ends it, and tells what ``start`` returned.
ONCE = """
import sys
import jobs
import kq

worker = kq.Worker(
    sys.argv[1], hosts=sys.argv[2], callback=lambda status, *rest: jobs.say("callback " + status), executor=sys.argv[3]
)
jobs.say("ready")
jobs.say(f"returned {worker.start()}")
try:
    worker.start()
except BaseException as error:
    jobs.say(f"then {error!r}")
"""


@pytest.fixture
def committed(admin: KafkaAdminClient) -> Callable[[str, str], int | None]:
    """Return a function that asks the broker what a group has committed."""

    def ask(topic: str, group: str) -> int | None:
        found = admin.list_group_offsets(group)[group].get(TopicPartition(topic, 0))
        return None if found is None or found.offset < 0 else found.offset

    return ask


@pytest.fixture
def worker(queue: Queue, consumer: Callable[..., KafkaConsumer]) -> Iterator[Callable[..., tuple[Worker, jobs.Calls]]]:
    """Return a function that makes a worker, and what it told; the handlers of signals are as before afterwards."""
    before = [signal.getsignal(signum) for signum in STOPS]

    def make(**options: Any) -> tuple[Worker, jobs.Calls]:
        calls = jobs.Calls()
        return Worker(queue.topic, consumer(), calls, **options), calls

    yield make
    assert [signal.getsignal(signum) for signum in STOPS] == before


class Started:
    """A worker that runs in another thread."""

    def __init__(self, worker: Worker) -> None:
        self._results: list[int] = []
        self._thread = threading.Thread(target=lambda: self._results.append(worker.start()))
        self._thread.start()

    def result(self) -> int:
        self._thread.join(30)
        (result,) = self._results
        return result


def run_again(queue: Queue, worker: Worker) -> list[int]:
    """Run what is left with another worker on the same consumer and return the offsets."""
    queue.enqueue(jobs.echo, "last")
    calls = jobs.Calls()
    other = Worker(queue.topic, worker.consumer, calls)
    while ("last",) not in [tuple(call.job.args) for call in calls]:
        other.start(max_messages=1)
    return [call.message.offset for call in calls][:-1]


# -- by a call ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_stop_from_another_thread_lets_the_job_finish(
    executor: str,
    queue: Queue,
    group: str,
    worker: Callable[..., tuple[Worker, jobs.Calls]],
    committed: Callable[[str, str], int | None],
) -> None:
    """It is committed, the next one is not begun, and start returns."""
    begun, go_on = threading.Event(), threading.Event()
    jobs.HOOKS["wait"] = lambda: (begun.set(), go_on.wait(30))[1]
    queue.enqueue(jobs.hook, "wait")
    queue.enqueue(jobs.add, 1, 2)
    made, calls = worker(executor=executor)
    started = Started(made)
    assert begun.wait(20)
    made.stop()
    made.stop()
    wait_until(lambda: made.state.value in ("draining", "running"))
    go_on.set()
    assert started.result() == 1
    assert calls.statuses == ["success"]
    assert committed(queue.topic, group) == 1
    assert run_again(queue, made) == [1]


def test_stop_wakes_an_idle_worker(worker: Callable[..., tuple[Worker, jobs.Calls]]) -> None:
    """At once."""
    made, _ = worker()
    started = Started(made)
    wait_until(lambda: made.state.value == "running")
    begin = time.monotonic()
    made.stop()
    assert started.result() == 0
    assert time.monotonic() - begin < 5


def test_a_stop_before_start_ends_the_next_start_only(
    queue: Queue, worker: Callable[..., tuple[Worker, jobs.Calls]]
) -> None:
    """Then it is spent, however often it was asked for."""
    queue.enqueue(jobs.add, 1, 2)
    made, calls = worker()
    made.stop()
    made.stop()
    assert made.start(max_messages=1) == 0
    assert calls == []
    assert made.start(max_messages=1) == 1


def test_a_stop_during_start_is_spent_with_it(queue: Queue, worker: Callable[..., tuple[Worker, jobs.Calls]]) -> None:
    """From the callback too; the next start goes on with the next message."""
    for number in range(3):
        queue.enqueue(jobs.add, number, 0)
    calls = jobs.Calls()

    def callback(*args: Any) -> None:
        calls(*args)
        made.stop()

    made = Worker(queue.topic, worker()[0].consumer, callback)
    assert [made.start(), made.start(), made.start()] == [1, 1, 1]
    assert calls.results == [0, 1, 2]


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_a_job_that_outlasts_the_shutdown_timeout_is_ended_without_outcome(
    executor: str,
    queue: Queue,
    group: str,
    worker: Callable[..., tuple[Worker, jobs.Calls]],
    committed: Callable[[str, str], int | None],
) -> None:
    """No callback, no commit: it runs again."""
    queue.enqueue(jobs.add, 1, 2)
    queue.using(timeout=50).enqueue(jobs.hook, "stop and nap")
    made, calls = worker(shutdown_timeout=0.3, executor=executor)
    jobs.HOOKS["stop and nap"] = lambda: (made.stop(), jobs.nap(60))
    begin = time.monotonic()
    assert made.start() == 1
    assert time.monotonic() - begin < 20
    assert calls.results == [3]
    assert committed(queue.topic, group) == 1
    jobs.HOOKS["stop and nap"] = lambda: None
    assert run_again(queue, made) == [1]


# -- by signals that a job sends to its own process --------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "thread"])
@pytest.mark.parametrize("signum", STOPS)
def test_the_first_signal_lets_the_job_finish(
    signum: int,
    executor: str,
    queue: Queue,
    group: str,
    worker: Callable[..., tuple[Worker, jobs.Calls]],
    committed: Callable[[str, str], int | None],
) -> None:
    """It is no timeout and no failure; what is done is committed and start returns."""
    queue.using(timeout=30).enqueue(jobs.send_signals, signum)
    queue.enqueue(jobs.add, 1, 2)
    made, calls = worker(executor=executor)
    assert made.start() == 1
    assert [(call.status, call.result) for call in calls] == [("success", "finished")]
    assert committed(queue.topic, group) == 1


@pytest.mark.parametrize(
    ("signum", "raised", "code"), [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)]
)
def test_the_start_after_a_signal_raises_once(
    signum: int,
    raised: type[BaseException],
    code: int | None,
    queue: Queue,
    worker: Callable[..., tuple[Worker, jobs.Calls]],
) -> None:
    """So that loops around start end; whoever starts again after that means it."""
    queue.enqueue(jobs.send_signals, signum)
    queue.enqueue(jobs.add, 1, 2)
    made, calls = worker()
    assert made.start(max_messages=1) == 1
    with pytest.raises(raised) as caught:
        made.start(max_messages=1)
    assert getattr(caught.value, "code", None) == code
    assert made.start(max_messages=1) == 1
    assert calls.results == ["finished", 3]


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_the_second_signal_ends_the_job_without_outcome(
    executor: str,
    queue: Queue,
    group: str,
    worker: Callable[..., tuple[Worker, jobs.Calls]],
    committed: Callable[[str, str], int | None],
) -> None:
    """What was done before is committed; the job runs again."""
    queue.enqueue(jobs.add, 1, 2)
    queue.enqueue(jobs.hook, "signals")
    made, calls = worker(executor=executor)

    def send_two() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: made._stop.requests == 1)
        os.kill(os.getpid(), signal.SIGINT)
        jobs.nap(60)

    jobs.HOOKS["signals"] = send_two
    begin = time.monotonic()
    assert made.start() == 1
    assert time.monotonic() - begin < 20
    assert calls.results == [3]
    assert committed(queue.topic, group) == 1
    jobs.HOOKS["signals"] = lambda: None
    assert run_again(queue, made) == [1]


def test_handlers_of_the_user_are_put_back(queue: Queue, worker: Callable[..., tuple[Worker, jobs.Calls]]) -> None:
    """Also after an error, and what is ignored stays so meanwhile."""
    seen = []
    own = [signal.signal(signal.SIGINT, lambda *_: seen.append("own")), signal.signal(signal.SIGTERM, signal.SIG_IGN)]
    try:
        jobs.HOOKS["look"] = lambda: seen.append(signal.getsignal(signal.SIGTERM))
        queue.enqueue(jobs.hook, "look")
        made, _ = worker()
        assert made.start(max_messages=1) == 1
        signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIG_IGN, "own"]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        for signum, handler in zip(STOPS, own, strict=True):
            signal.signal(signum, handler)


def test_in_another_thread_signals_are_left_alone(
    queue: Queue, worker: Callable[..., tuple[Worker, jobs.Calls]]
) -> None:
    """They belong to the main thread."""
    handlers: list[Any] = []
    jobs.HOOKS["look"] = lambda: handlers.extend(signal.getsignal(signum) for signum in STOPS)
    queue.enqueue(jobs.hook, "look")
    made, _ = worker()
    thread = threading.Thread(target=made.start, args=(1,))
    thread.start()
    thread.join(30)
    assert handlers == [signal.getsignal(signum) for signum in STOPS]


def test_a_signal_does_not_interrupt_the_callback(
    queue: Queue, worker: Callable[..., tuple[Worker, jobs.Calls]], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the first nor the second."""
    queue.enqueue(jobs.add, 1, 2)
    made, _ = worker()
    ended = []

    def callback(*args: Any) -> None:
        jobs.send_signals(signal.SIGINT, signal.SIGINT)
        jobs.nap(0.5)
        ended.append(args[0])

    caplog.set_level(logging.INFO, "kq.worker")
    assert Worker(queue.topic, made.consumer, callback).start() == 1
    assert ended == ["success"]
    assert [text for text in caplog.messages if "Callback raised" in text] == []


# -- by signals from outside -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_ctrl_c_is_a_stop_and_not_a_timeout(
    executor: str, hosts: str, queue: Queue, committed: Callable[[str, str], int | None]
) -> None:
    """The job finishes and is committed, start returns, and the next one raises."""
    queue.using(timeout=60).enqueue(jobs.say_and_nap, 0.5)
    with jobs.Program(ONCE, queue.topic, hosts, executor) as program:
        program.wait_for("begin")
        program.process.send_signal(signal.SIGINT)
        assert program.end() == 0, program.text
    assert program.lines == ["ready", "begin", "end", "callback success", "returned 1", "then KeyboardInterrupt()"]
    assert committed(queue.topic, queue.topic) == 1


def test_a_loop_around_start_ends_by_sigterm(
    hosts: str, queue: Queue, committed: Callable[[str, str], int | None]
) -> None:
    """Between two jobs or during one: with the code of the signal."""
    queue.enqueue(jobs.say_and_nap, 0.5)
    queue.enqueue(jobs.say, "not this one")
    with jobs.Program(LOOP, queue.topic, hosts) as program:
        program.wait_for("begin")
        program.process.terminate()
        assert program.end() == 128 + signal.SIGTERM
    assert program.lines == ["ready", "begin", "end", "callback success"]
    assert committed(queue.topic, queue.topic) == 1


@pytest.mark.parametrize("signum", STOPS)
def test_the_third_signal_ends_the_process(signum: signal.Signals, hosts: str, queue: Queue) -> None:
    """At once, whatever the job does against it, and with the code of the signal."""
    queue.enqueue(jobs.catch_everything, 60)
    with jobs.Program(ONCE, queue.topic, hosts, "inline") as program:
        program.wait_for("stubborn")
        for _ in range(2):
            deliver(program.process.pid, signum)
        program.process.send_signal(signum)
        begin = time.monotonic()
        assert program.end() == 128 + signum
        assert time.monotonic() - begin < 5


def test_the_third_signal_ends_a_process_whose_job_is_in_c_code(hosts: str, queue: Queue) -> None:
    """Where no Python code of the main thread runs, so no handler does; the log names the job after the second."""
    queue.enqueue(jobs.compute_in_c, 60)
    with jobs.Program(ONCE, queue.topic, hosts, "inline") as program:
        program.wait_for("begin")
        for _ in range(2):
            deliver(program.process.pid, signal.SIGTERM)
        program.wait_for("A job ignores the interrupt: job ")
        begin = time.monotonic()
        program.process.terminate()
        assert program.end() == 128 + signal.SIGTERM
        assert time.monotonic() - begin < 5


def test_a_stop_that_was_called_for_takes_the_place_of_no_signal(
    queue: Queue, worker: Callable[..., tuple[Worker, jobs.Calls]]
) -> None:
    """The first signal after it still lets the job finish."""
    made, calls = worker()
    jobs.HOOKS["stop"] = lambda: (made.stop(), jobs.send_signals(signal.SIGTERM))[1]
    queue.enqueue(jobs.hook, "stop")
    assert made.start() == 1
    assert calls.results == ["finished"]
