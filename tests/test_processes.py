"""The process executor: a timeout is a promise, and a crash of a job touches nobody else."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import logging
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import process_jobs
import pytest
from helpers import wait_until
from journal import Entry, Journal, note
from journal import work as noted
from kafka import KafkaProducer

import kq
from kq import Job, Message, ProcessExecutor, Queue, Worker
from kq.executors.base import Finished, Setting
from kq.executors.process.child import run_child
from kq.executors.process.forkserver import _signal_group
from kq.working.stop import Waker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

#: Seconds until whatever a test waits for has failed: far longer than it takes on a machine that is not stuck.
PATIENCE = 120.0
#: Seconds from the start of a job with a timeout of one second, and a ``kill_grace`` of one, to its outcome.
KILLED_WITHIN = 2.5
#: Seconds until no process is left of a worker that was killed.
GONE_WITHIN = 2.0


@pytest.fixture
def work(topic: str, hosts: str) -> Callable[..., jobs.Calls]:
    """Return a function that runs a number of messages in children, and returns what was told of them."""

    def run(count: int, callback: Callable[..., Any] | None = None, **options: Any) -> jobs.Calls:
        calls = jobs.Calls()

        def tell(*args: Any) -> None:
            calls(*args)
            if callback is not None:
                callback(*args)

        settings = {"executor": ProcessExecutor(), "concurrency": 2, "shutdown_timeout": 1, **options}
        worker = Worker(topic, hosts=hosts, callback=tell, **settings)
        assert run_worker(worker, count) == count
        return calls

    return run


def run_worker(worker: Worker, count: int, **options: Any) -> int:
    """Run a number of messages, or stop when that takes too long."""
    timer = threading.Timer(PATIENCE, worker.stop)
    timer.start()
    try:
        return worker.start(max_messages=count, **options)
    finally:
        timer.cancel()


class Bench:
    """A process executor without Kafka, driven as the loop drives it."""

    def __init__(self, executor: ProcessExecutor, concurrency: int = 1, **setting: Any) -> None:
        self.waker = Waker()
        defaults = Setting(
            kq.loads, None, logging.getLogger("kq.worker"), True, self.waker.wake, self.waker.watch, self.waker.unwatch
        )
        self.executor = executor
        self.executor.open(defaults._replace(**setting), concurrency)
        self._offset = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()
        self.waker.close()

    def message(self, func: Callable[..., Any], *args: Any, timeout: float = 0) -> Message:
        job = Job(f"job-{self._offset}", 0, "bench", func, args, {}, timeout)
        self._offset += 1
        return Message("bench", 0, self._offset - 1, None, kq.dumps(job))

    def run(self, *messages: Message) -> list[Finished]:
        """Run messages, and return what became of them in the order in which they ended."""
        waiting, ended = collections.deque(messages), []
        deadline = time.monotonic() + PATIENCE
        while len(ended) < len(messages):
            assert time.monotonic() < deadline, f"{len(ended)} of {len(messages)} ended"
            ended += self.executor.finished()
            for _ in range(min(self.executor.room(), len(waiting))):
                self.executor.start(waiting.popleft())
            self.executor.flush()
            self.waker.wait(min(0.2, self.executor.patience()))
        return ended


def statuses(finished: list[Finished]) -> list[str]:
    return [ended.outcome.status for ended in finished if ended.outcome is not None]


def started(journal: Journal) -> list[int]:
    """Return the processes that jobs have started."""
    return [int(entry.name) for entry in journal.entries() if entry.word == "started"]


def pids(journal: Journal) -> set[int]:
    """Return the children that have written down something, and the processes that they have started."""
    return {entry.pid for entry in journal.entries()} | set(started(journal))


def moment(journal: Journal, word: str, name: str) -> Entry:
    (entry,) = [entry for entry in journal.entries() if (entry.word, entry.name) == (word, name)]
    return entry


# -- timeouts ----------------------------------------------------------------------------------------------------------


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
            for child in bench.executor._children:
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
    job = queue.using(timeout=0.5).enqueue(process_jobs.take, process_jobs.HangsWhenRead())
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
    assert errors == [("kq.worker", f"Job {job.id} timed out or was interrupted")]


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_a_thousand_jobs_of_which_every_tenth_kills_itself(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """900 succeed, 100 fail, each once; and the worker is afterwards what it was before."""
    queue.enqueue(process_jobs.nothing)
    work(1)  # what is made once and kept is there
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    ways = [*process_jobs.DEATHS, process_jobs.exhaust_memory]
    calls = []
    for number in range(1000):
        func = ways[number // 10 % len(ways)] if number % 10 == 9 else process_jobs.nothing
        calls.append((func, (), {}))
    queue.enqueue_many(calls)
    told = work(1000, executor=ProcessExecutor(on_start=process_jobs.limit_resources))
    assert collections.Counter(told.statuses) == {"success": 900, "failure": 100}
    assert sorted(call.message.offset for call in told) == list(range(1, 1001))
    for call in told:
        if call.status == "failure":
            assert_death(call)
    # a client's own thread ends a moment after the client was closed
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before[0] and threading.active_count() <= before[1], 5)


def assert_death(call: jobs.Call) -> None:
    """Assert that a failure says how its child has ended."""
    if call.job.func.__name__ == "exhaust_memory":
        assert type(call.exception) is MemoryError
        return
    assert type(call.exception) is kq.ChildLost, call
    allowed = {process_jobs.name_of(way): codes for way, codes in process_jobs.DEATHS.items()}
    assert call.exception.exitcode in allowed[call.job.func.__name__]
    assert call.stacktrace is not None


@pytest.mark.parametrize("way", process_jobs.DEATHS, ids=process_jobs.name_of)
def test_a_death_says_how_and_of_what(way: Callable[[], Any], queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """``ChildLost`` has the exit code, and the next job runs."""
    queue.enqueue(way)
    queue.enqueue(process_jobs.nap, 0, "next")
    calls = work(2, concurrency=1, executor=ProcessExecutor(on_start=process_jobs.limit_resources))
    assert calls.statuses == ["failure", "success"]
    assert_death(calls[0])


def test_a_lost_child_names_what_it_ran(caplog: pytest.LogCaptureFixture) -> None:
    """The call, where calls are logged."""
    caplog.set_level(logging.INFO, "kq.worker")
    with Bench(ProcessExecutor()) as bench:
        ((_, _, outcome),) = bench.run(bench.message(process_jobs.kill_itself))
    assert outcome is not None
    assert str(outcome.exception) == "the child process was killed by SIGKILL while it ran process_jobs.kill_itself()"
    assert [text for text in caplog.messages if "raised an exception" in text] == ["Job job-0 raised an exception:"]


def test_a_job_that_kills_its_reader_fails_alone(topic: str, hosts: str, queue: Queue) -> None:
    """The worker does not read what has killed a child, though there is a callback."""
    source = """
import sys, kq
def callback(status, message, job, result, exception, stacktrace):
    print(status, type(exception).__name__, job.func, flush=True)
if __name__ == "__main__":
    kq.Worker(sys.argv[1], hosts=sys.argv[2], callback=callback, executor="process").start(max_messages=2)
    print("end", flush=True)
"""
    queue.enqueue(process_jobs.take, process_jobs.ExitsWhenRead())
    queue.enqueue(process_jobs.nothing)
    with jobs.Program(source, topic, hosts) as program:
        program.wait_for("failure ChildLost None")
        program.wait_for("end")
        assert program.end() == 0


def test_what_a_job_leaves_behind_ends_with_its_child(
    queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """A daemon lives on between jobs, and not beyond the child."""
    queue.enqueue(process_jobs.leave_behind, journal.path)
    work(1)
    assert [pid for pid in started(journal) if process_jobs.exists(pid)] == []


def test_a_job_may_fork(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """As long as the copy does not come back."""
    for _ in range(20):
        queue.enqueue(process_jobs.fork_and_wait)
    moments: list[float] = []
    assert work(20, lambda *_: moments.append(time.monotonic()), concurrency=1).results == 20 * ["waited"]
    assert moments[-1] - moments[0] < 19 * 0.5  # nobody waits for a copy that is gone


def test_a_fork_server_that_is_killed_is_replaced(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """What ran is lost with it, and said so; the rest runs."""
    for _ in range(30):
        queue.enqueue(process_jobs.pids)
        queue.enqueue(process_jobs.nap, 0.02)
    killed = []

    def callback(status: str, message: Message, job: Job, result: Any, *_: Any) -> None:
        if isinstance(result, tuple) and len(killed) < 2 and result[1] not in killed:
            killed.append(result[1])
            os.kill(result[1], signal.SIGKILL)

    calls = work(60, callback, concurrency=3)
    assert len(killed) == 2
    assert collections.Counter(message.offset for _, message, *_ in calls).most_common(1)[0][1] == 1
    failures = [call.exception for call in calls if call.status != "success"]
    assert len(failures) <= 6
    assert {type(error) for error in failures} <= {kq.ChildLost}


def test_kill_9_of_the_worker_leaves_nothing(topic: str, hosts: str, queue: Queue, journal: Journal) -> None:
    """No child, no grandchild and no fork server two seconds later."""
    source = """
import sys, kq
kq.Worker(sys.argv[1], hosts=sys.argv[2], executor="process", concurrency=4).start()
"""
    for way in ("busy loop", "resists", "subprocess", "subprocess with a session", "daemon"):
        queue.enqueue(process_jobs.endure, journal.path, way)
    queue.enqueue(process_jobs.nothing)
    with jobs.Program(source, topic, hosts) as program:
        wait_until(lambda: len(journal.names("start")) == 4, PATIENCE)
        wait_until(lambda: len(started(journal)) == 2, PATIENCE)
        family = pids(journal) | {parent_of(pid) for pid in {entry.pid for entry in journal.entries()}}
        assert len(family) == 4 + 2 + 1
        program.process.kill()
        program.process.wait()
        wait_until(lambda: [pid for pid in family if process_jobs.exists(pid)] == [], GONE_WITHIN)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_job_that_speaks_in_the_name_of_its_child_fails_alone() -> None:
    """What cannot be understood ends that child, not the worker."""
    with Bench(ProcessExecutor(kill_grace=0.5)) as bench:
        ended = bench.run(bench.message(process_jobs.babble), bench.message(process_jobs.nap, 0, "next"))
    assert statuses(ended) == ["failure", "success"]
    assert type(ended[0].outcome.exception) is kq.ChildLost


def test_a_timeout_in_the_middle_of_a_long_line(caplog: pytest.LogCaptureFixture) -> None:
    """The line is said to its end, and so is what the job says while it ends."""
    with Bench(ProcessExecutor(kill_grace=5), 2) as bench:
        messages = [bench.message(process_jobs.log_long_lines, timeout=0.05 + number / 200) for number in range(20)]
        assert statuses(bench.run(*messages)) == ["timeout"] * 20
    lasts = [record.message for record in caplog.records if record.message.startswith("y")]
    assert lasts == ["y" * 300_000] * 20


def test_a_child_that_can_start_nothing_is_replaced(quiet: Bench, journal: Journal) -> None:
    """A thread that a job has left there keeps the interpreter: what is given to it runs elsewhere."""
    quiet.run(quiet.message(process_jobs.leave_a_thread_that_keeps_the_gil, journal.path))
    wait_until(lambda: journal.count("keeps"))
    time.sleep(0.1)  # from the note to the call that keeps it
    assert statuses(quiet.run(*[quiet.message(process_jobs.nap, 0.01) for _ in range(10)])) == ["success"] * 10


def test_what_is_too_large_for_a_child_fails_alone() -> None:
    """Also where it came along with others, and where the child dies before it has it."""
    with Bench(ProcessExecutor(on_start=process_jobs.limit_memory), wants_outcome=False) as bench:
        bench.run(*[bench.message(process_jobs.nothing) for _ in range(300)])
        small = [bench.message(process_jobs.nothing) for _ in range(10)]
        large = bench.message(len, bytes(400 << 20))
        ended = bench.run(*small[:5], large, *small[5:])
    told = {one.message.offset: one.outcome.status for one in ended if one.outcome is not None}
    assert told == {large.offset: "failure", **{message.offset: "success" for message in small}}


def test_a_limit_of_any_size_is_a_limit() -> None:
    """Clocks take no number of any size."""
    with Bench(ProcessExecutor()) as bench:
        ended = bench.run(*[bench.message(process_jobs.nothing, timeout=limit) for limit in (10**400, 1e308, math.inf)])
    assert statuses(ended) == ["success"] * 3


def test_a_signal_is_sent_once() -> None:
    """A second one would fall into the clean-up that the first one has begun."""
    source = """
import signal, sys, time
came = []
signal.signal(signal.SIGTERM, lambda *_: came.append(1))
print("ready", flush=True)
deadline = time.monotonic() + 1
while time.monotonic() < deadline:
    time.sleep(0.01)
print(len(came))
"""
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        _signal_group(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "1\n"


# -- successes that nobody asks more of --------------------------------------------------------------------------------


@pytest.fixture
def quiet() -> Iterator[Bench]:
    """A child that has run so many short jobs that many travel in one write, and whose successes are told together."""
    with Bench(ProcessExecutor(kill_grace=0.5), wants_outcome=False) as bench:
        for _ in range(50):  # a moment in which the machine did something else makes jobs look long
            bench.run(*[bench.message(process_jobs.nothing) for _ in range(100)])
            if bench.executor.room() > 20:
                break
        assert bench.executor.room() > 20
        yield bench


def test_successes_that_are_told_together_are_not_mistaken(quiet: Bench) -> None:
    """Among jobs that fail, die, are invalid or out of time, each has its own outcome."""
    bad = [
        *(process_jobs.kill_itself, process_jobs.leave, process_jobs.fork_and_return_twice),
        *(process_jobs.fail_async, process_jobs.close_descriptors),
    ]
    messages, expected = [], {}
    for number in range(200):
        func = bad[number // 7 % len(bad)] if number % 7 == 6 else process_jobs.nothing
        messages.append(quiet.message(func))
        expected[messages[-1].offset] = "success" if func is process_jobs.nothing else "failure"
    messages[50] = messages[50]._replace(value=b"no job")
    messages[150] = quiet.message(time.sleep, 60, timeout=0.2)
    del expected[150 + messages[0].offset]
    expected |= {messages[50].offset: "invalid", messages[150].offset: "timeout"}
    ended = quiet.run(*messages)
    assert {one.message.offset: one.outcome.status for one in ended if one.outcome is not None} == expected
    assert len(ended) == len(messages)


def test_a_success_is_known_while_the_next_job_runs(quiet: Bench) -> None:
    """It waits for no other: what it kept waiting may run elsewhere."""
    quick, slow = quiet.message(process_jobs.nothing), quiet.message(process_jobs.nap, 30)
    for message in (quick, slow):
        quiet.executor.start(message)
    quiet.executor.flush()
    assert [one.message for one in wait_until(quiet.executor.finished, 5)] == [quick]


def test_the_death_of_a_child_does_not_take_successes_with_it(
    quiet: Bench, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended before the death and was not told of succeeded, and does not run again."""
    monkeypatch.setattr(
        "kq.executors.process.executor.LOOK_EVERY", 1000
    )  # nobody looks between these ends and that death
    messages = [quiet.message(noted, journal.path, str(number)) for number in range(5)]
    messages.append(quiet.message(process_jobs.kill_itself))
    messages += [quiet.message(noted, journal.path, str(number)) for number in range(6, 11)]
    ended = quiet.run(*messages)
    told = {one.message.offset - messages[0].offset: one.outcome.status for one in ended if one.outcome is not None}
    assert told == {number: "failure" if number == 5 else "success" for number in range(11)}
    assert len(ended) == len(messages)
    starts = [entry.name for entry in journal.entries() if entry.word == "start"]
    assert starts == [str(number) for number in range(11) if number != 5]


def test_a_child_that_overran_a_limit_takes_nothing_more(
    quiet: Bench, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to be killed, though the signal comes late: what it would take would run twice."""
    monkeypatch.setattr("kq.executors.process.executor.LOOK_EVERY", 0.01)
    monkeypatch.setattr(quiet.executor._spawner, "signal", lambda pid, signum: None)
    late = quiet.message(process_jobs.nap, 0.3, timeout=0.1)
    rest = [quiet.message(noted, journal.path, str(number)) for number in range(5)]
    ended = {one.message.offset: one.outcome.status for one in quiet.run(late, *rest) if one.outcome is not None}
    assert ended == {late.offset: "timeout", **{message.offset: "success" for message in rest}}
    assert journal.count("start") == {str(number): 1 for number in range(5)}


# -- what does not cross -----------------------------------------------------------------------------------------------


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
        (_, job, outcome), (_, _, after) = bench.run(
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
    assert record.message.startswith(f"Job {job.id} raised an exception:\nTraceback")
    assert record.message.endswith("ValueError: above")


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
    calls = work(1)
    assert calls[0] == ("invalid", calls[0].message, None, None, None, None)
    assert "Job was invalid: No module named 'only_here'" in caplog.text
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
    queue.enqueue(process_jobs.take, process_jobs.Traced(journal.path))
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


# -- children ----------------------------------------------------------------------------------------------------------


def test_max_jobs_replaces_children_between_jobs(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """Nothing is lost on the way."""
    queue.enqueue_many(200 * [(process_jobs.pid_of_child, (), {})])
    calls = work(200, executor=ProcessExecutor(max_jobs=7))
    assert set(calls.statuses) == {"success"}
    counts = collections.Counter(calls.results)
    assert max(counts.values()) <= 7
    assert len(counts) >= 200 / 7


def test_max_memory_replaces_children_that_have_grown(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """Nothing is lost on the way; a child that is small stays."""
    for _ in range(8):
        queue.enqueue(process_jobs.grow, 40 << 20)
    executor = ProcessExecutor(max_memory=100 << 20)
    calls = work(8, executor=executor, concurrency=1)
    assert set(calls.statuses) == {"success"}
    assert set(collections.Counter(calls.results).values()) <= {2, 3}
    queue.enqueue_many(50 * [(process_jobs.pid_of_child, (), {})])
    assert len(set(work(50, executor=executor, concurrency=1).results)) == 1


def test_preload_imports_before_the_first_job(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """And nothing else is there: no Kafka, no command line, no event loop."""
    names = ("colorsys", "kafka", "click", "asyncio", "kq.worker")
    queue.enqueue(eval, f"[name for name in {names} if name in __import__('sys').modules]")
    assert work(1, executor=ProcessExecutor(preload=["colorsys"])).results == [["colorsys"]]


def test_a_module_that_cannot_be_preloaded_is_an_error(topic: str, hosts: str) -> None:
    """The worker says so instead of waiting."""
    worker = Worker(topic, hosts=hosts, executor=ProcessExecutor(preload=["no_such_module"]))
    with pytest.raises(kq.WorkerError, match="did not start"):
        run_worker(worker, 1)


def test_on_start_is_called_in_each_child(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """Before its first job."""
    for _ in range(10):
        queue.enqueue(process_jobs.was_started)
    executor = ProcessExecutor(on_start=process_jobs.start_well, max_jobs=2)
    assert work(10, executor=executor).results == 10 * [True]


@pytest.mark.parametrize("hook", [process_jobs.start_badly, process_jobs.die_at_start], ids=process_jobs.name_of)
@pytest.mark.parametrize("concurrency", [1, 6])
def test_an_on_start_that_fails_ends_the_worker(
    hook: Callable[[], Any], concurrency: int, topic: str, hosts: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After a few tries, with the reason in the log and nothing left behind."""
    descriptors = len(os.listdir("/proc/self/fd"))
    worker = Worker(topic, hosts=hosts, executor=ProcessExecutor(on_start=hook), concurrency=concurrency)
    with pytest.raises(kq.WorkerError, match="fail to start"):
        run_worker(worker, 1)
    if hook is process_jobs.start_badly:
        assert "RuntimeError: no database" in caplog.text
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert children() == []


def test_children_that_fail_to_start_are_not_tried_without_a_pause(journal: Journal) -> None:
    """While others work: each try may cost somebody a connection."""
    hook = functools.partial(process_jobs.start_alone, journal.path)
    begun = time.monotonic()
    with Bench(ProcessExecutor(on_start=hook), 2) as bench:
        ended = bench.run(*[bench.message(process_jobs.nap, 0.01) for _ in range(200)])
    assert set(statuses(ended)) == {"success"}
    assert 4 <= len(list(journal.entries())) <= 3 + (time.monotonic() - begun) / 0.5


def test_a_fork_server_without_room_for_a_child_tries_again() -> None:
    """A fork that fails is no end of anything."""
    with Bench(ProcessExecutor(preload=["no_room"]), 2) as bench:
        ended = bench.run(*[bench.message(process_jobs.nap, 0.01) for _ in range(10)])
    assert statuses(ended) == ["success"] * 10


def test_a_hundred_children_work_at_once(journal: Journal) -> None:
    """More than are asked for at once."""
    with Bench(ProcessExecutor(), 100) as bench:
        messages = [bench.message(process_jobs.meet, journal.path, 100) for _ in range(100)]
        assert statuses(bench.run(*messages)) == ["success"] * 100


NO_ROOM = """
import logging, os, resource, kq
from kq.executors.base import Setting
from kq.working.stop import Waker
waker = Waker()
setting = Setting(kq.loads, None, logging.getLogger("kq"), True, waker.wake, waker.watch, waker.unwatch)
before, (soft, hard) = sorted(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
for more in range(1, 30):
    executor = kq.ProcessExecutor()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + more, hard))
        executor.open(setting, 1)
        executor.close()
        break
    except (kq.WorkerError, OSError) as error:
        print(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(os.listdir("/proc/self/fd")) == before
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        continue
    raise AssertionError("a process is left")
"""


def test_where_there_is_no_room_for_files_nothing_is_left_open() -> None:
    """However far it came: descriptors and processes are what they were, and the error says what is the matter."""
    with jobs.Program(NO_ROOM) as program:
        assert program.end() == 0, program.text
    for start in ("the fork server of the process executor did not start", "there is no room for a child"):
        assert any(start in line and "Too many open files" in line for line in program.lines), program.text


def test_what_has_no_child_yet_is_given_back_at_the_end() -> None:
    """It is incomplete, and runs again elsewhere."""
    with Bench(ProcessExecutor()) as bench:
        message = bench.message(process_jobs.nothing)
        bench.executor.start(message)
    assert bench.executor.finished() == [Finished(message, None, None)]


def children() -> list[int]:
    """Return the processes that this one has started and not reaped."""
    pids: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            pids += map(int, (task / "children").read_text().split())
    return [pid for pid in pids if is_ours(pid)]


def is_ours(pid: int) -> bool:
    return "kq.executors" in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_script_needs_no_main_guard(topic: str, hosts: str, tmp_path: Path) -> None:
    """It is not imported again by children, and what it defines crosses."""
    source = """
import os
import sys
import kq

print("imported", flush=True)
unit = 2

def double(number):
    return unit * number

def on_start():
    os.environ["DOUBLE"] = str(double(4))

def started():
    return os.environ["DOUBLE"]

def callback(status, message, job, result, exception, stacktrace):
    print(status, result, exception, flush=True)

with kq.Queue(sys.argv[1], hosts=sys.argv[2]) as queue:
    queue.enqueue(double, 21)
    queue.enqueue(started)
executor = kq.ProcessExecutor(on_start=on_start)
worker = kq.Worker(
    sys.argv[1], hosts=sys.argv[2], callback=callback, deserializer=lambda value: kq.loads(value), executor=executor
)
worker.start(max_messages=2)
"""
    with jobs.Program(source, topic, hosts, folder=tmp_path) as program:
        assert program.end() == 0
    assert program.lines == ["imported", "success 42 None", "success 8 None"]


def test_logs_of_children_reach_the_worker(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """With the job's ID, by the names and at the levels that hold in the worker."""
    caplog.set_level(logging.DEBUG, "shop.detail")
    job = queue.enqueue(process_jobs.log_a_line, "three")
    work(1)
    lines = [
        (record.name, record.levelname, record.message, getattr(record, "job_id", None))
        for record in caplog.records
        if record.name.startswith("shop")
    ]
    assert lines == [
        ("shop", "WARNING", "sold three", job.id),
        ("shop.detail", "DEBUG", "detail of three", job.id),
    ]


def test_threads_and_forks_of_a_job_may_log(
    queue: Queue, work: Callable[..., jobs.Calls], caplog: pytest.LogCaptureFixture
) -> None:
    """Without harm to what the child says."""
    for _ in range(5):
        queue.enqueue(process_jobs.log_from_everywhere)
    calls = work(5)
    assert set(calls.statuses) == {"success"}
    assert caplog.messages.count("sold thread") == 5


def test_a_job_has_no_input(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """The terminal is the worker's."""
    queue.using(timeout=5).enqueue(process_jobs.read_input)
    assert work(1).results == [""]


SIZES = """
import sys, threading, time, kq, psutil
def look():
    fork server = parent.children()[0]
    sizes = [child.memory_info().rss >> 20 for child in fork server.children()]
    print(worker.stats().done, parent.memory_info().rss >> 20, max(sizes), flush=True)
def watch():
    while worker.stats().done < count // 10:
        time.sleep(0.01)
    while worker.stats().done < count:
        look()
        time.sleep(count / 100_000)
    look()
    worker.stop()
count = int(sys.argv[3])
parent = psutil.Process()
worker = kq.Worker(sys.argv[1], hosts=sys.argv[2], executor="process", concurrency=2)
threading.Thread(target=watch).start()
worker.start()
print("end", flush=True)
"""


@pytest.mark.parametrize("count", [5_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_parent_and_children_are_small_and_stay_so(topic: str, hosts: str, queue: Queue, count: int) -> None:
    """A worker of no-op jobs: 60 MB, a child of it 35 MB; after many no more than after a tenth of them."""
    for _ in range(count // 5_000):
        queue.enqueue_many(5_000 * [(process_jobs.nothing, (), {})])
    with jobs.Program(SIZES, topic, hosts, str(count)) as program:
        program.wait_for("end", timeout=60 if count == 5_000 else 600)
    looks = [tuple(map(int, line.split())) for line in program.lines[:-1]]
    assert looks[-1][0] == count
    for size, limit in ((1, 60), (2, 35)):
        assert max(look[size] for look in looks) <= limit
        assert looks[-1][size] <= looks[0][size] + 3, looks


# -- order and waiting -------------------------------------------------------------------------------------------------


def test_no_job_waits_behind_a_slow_one_while_a_child_is_idle() -> None:
    """Short jobs that were sent along with a slow one are taken back."""
    with Bench(ProcessExecutor(), 2) as bench:
        bench.run(*[bench.message(process_jobs.nothing) for _ in range(500)])  # it has learnt that jobs are short
        slow = bench.message(process_jobs.nap, 3)
        rest = [bench.message(process_jobs.nothing) for _ in range(200)]
        ended = bench.run(slow, *rest)
    assert ended[-1].message is slow
    assert set(statuses(ended)) == {"success"}


def test_jobs_wait_only_milliseconds_for_an_idle_child(journal: Journal) -> None:
    """Behind a slow job that came along with them: about 4 ms where the machine is free."""
    waits = []
    with Bench(ProcessExecutor(), 2) as bench:
        for number in range(5):
            bench.run(*[bench.message(process_jobs.nothing) for _ in range(300)])
            slow = [bench.message(noted, journal.path, f"slow {number}", 0.2)]
            quick = [bench.message(noted, journal.path, f"quick {number} {index}") for index in range(4)]
            bench.run(*slow, *quick)
            begin = moment(journal, "start", f"slow {number}").time
            waits.append(max(moment(journal, "start", f"quick {number} {index}").time - begin for index in range(4)))
    assert statistics.median(waits) < 0.02


def test_jobs_with_one_key_run_in_order_whatever_dies(
    queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """Also where the child of one of them is lost, and others are taken back."""
    for number in range(40):
        for key in ("a", "b", "c"):
            spec = queue.using(key=key.encode(), timeout=0.2 if number == 20 else 0)
            if number == 10:
                spec.enqueue(process_jobs.kill_itself)
            elif number == 20 and key == "b":
                spec.enqueue(time.sleep, 60)
            else:
                spec.enqueue(noted, journal.path, f"{key} {number}", 0.002)
    calls = work(120, concurrency=3)
    assert collections.Counter(calls.statuses) == {"success": 116, "failure": 3, "timeout": 1}
    for key in ("a", "b", "c"):
        entries = [(entry.word, entry.name) for entry in journal.entries() if entry.name.startswith(key)]
        numbers = [number for number in range(40) if number != 10 and not (number == 20 and key == "b")]
        assert entries == [(word, f"{key} {number}") for number in numbers for word in ("start", "end")]


def test_a_commit_interval_of_zero_keeps_jobs_out_of_queues(
    queue: Queue, work: Callable[..., jobs.Calls], hosts: str
) -> None:
    """However short they are: what would wait in a child starts after the commit of what is before it."""
    queue.enqueue_many(200 * [(process_jobs.nothing, (), {})])
    in_hand: list[int] = []
    worker = Worker(
        queue.topic,
        hosts=hosts,
        executor="process",
        concurrency=2,
        commit_interval=0,
        callback=lambda *_: in_hand.append(worker.stats().in_flight),
    )
    assert run_worker(worker, 200) == 200
    assert max(in_hand) <= 2


def test_slow_callbacks_do_not_keep_commits_waiting(queue: Queue, hosts: str) -> None:
    """What they were told of is committed while they are told of more, though all of that has ended."""
    queue.enqueue_many(700 * [(process_jobs.nothing, (), {})])
    falls: dict[int, float] = {}

    def callback(*_: object) -> None:
        if worker.stats().done > 400:  # until then it learns how short the jobs are, and how many a child may have
            time.sleep(0.02)
            falls.setdefault(sum(worker.stats().commit_lag.values()), time.monotonic())

    worker = Worker(queue.topic, hosts=hosts, executor="process", callback=callback)
    assert run_worker(worker, 700) == 700
    moments = [*falls.values()]
    assert max(later - earlier for earlier, later in itertools.pairwise(moments)) < 2


def test_children_work_at_once(queue: Queue, work: Callable[..., jobs.Calls]) -> None:
    """As many jobs as there are children."""
    for _ in range(8):
        queue.enqueue(process_jobs.nap, 1)
    moments = []
    work(8, lambda *_: moments.append(time.monotonic()), concurrency=8)
    assert moments[-1] - moments[0] < 1


# -- coroutines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_coroutine_functions_run_on_every_executor(
    executor: str, queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """Results, errors and timeouts are those of any job."""
    queue.enqueue(process_jobs.nap_async, journal.path, "one", 0.01)
    queue.enqueue(process_jobs.fail_async)
    queue.using(timeout=0.3).enqueue(process_jobs.nap_async, journal.path, "two", 60)
    queue.enqueue(process_jobs.nap_async, journal.path, "three", 0.01)
    calls = work(4, executor=executor, concurrency=1)
    assert calls.statuses == ["success", "failure", "timeout", "success"]
    assert (calls[0].result, calls[3].result) == ("one", "three")
    assert (type(calls[1].exception), str(calls[1].exception)) == (ValueError, "async")


def test_many_coroutines_run_at_once_in_threads(
    queue: Queue, work: Callable[..., jobs.Calls], journal: Journal
) -> None:
    """As many as the worker is told."""
    for number in range(50):
        queue.enqueue(process_jobs.nap_async, journal.path, number, 0.5)
    work(50, executor="thread", concurrency=50)
    entries = list(journal.entries())
    last_start = max(entry.time for entry in entries if entry.word == "start")
    first_end = min(entry.time for entry in entries if entry.word == "end")
    assert last_start < first_end or sum(entry.time < first_end for entry in entries if entry.word == "start") > 25


# -- signals and stops -------------------------------------------------------------------------------------------------

_WORKER = """
import os, sys, kq
os.setpgrp()
worker = kq.Worker(
    sys.argv[1], hosts=sys.argv[2], executor="process", concurrency=int(sys.argv[3]), shutdown_timeout=60,
    callback=lambda status, *_: print(status, flush=True),
)
print("up", flush=True)
print("processed", worker.start(), flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_running_jobs_end(signum: int, topic: str, hosts: str, queue: Queue) -> None:
    """Ctrl-C goes to the whole group of a terminal, and is left to the worker."""
    queue.enqueue(process_jobs.say_and_nap, 1)
    with jobs.Program(_WORKER, topic, hosts, "2") as program:
        program.wait_for("begin")
        os.killpg(program.process.pid, signum)
        assert program.end() == 0
    assert program.lines[-3:] == ["end", "success", "processed 1"]


def test_the_second_signal_ends_running_jobs(topic: str, hosts: str, queue: Queue) -> None:
    """They have no outcome, and run again."""
    queue.enqueue(process_jobs.say_and_nap, 60)
    for _ in range(2):
        with jobs.Program(_WORKER, topic, hosts, "2") as program:
            program.wait_for("begin")
            os.killpg(program.process.pid, signal.SIGINT)
            time.sleep(0.2)  # two of a kind that come at once are one
            os.killpg(program.process.pid, signal.SIGINT)
            assert program.end(20) == 0
        assert program.lines[-1] == "processed 0"


def test_the_third_signal_ends_the_worker_at_once(topic: str, hosts: str, queue: Queue, journal: Journal) -> None:
    """And its children."""
    queue.enqueue(process_jobs.endure, journal.path, "resists")
    with jobs.Program(_WORKER, topic, hosts, "1") as program:
        wait_until(lambda: journal.names("start"), PATIENCE)
        for _ in range(3):
            program.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)  # two of a kind that come at once are one
        # the second may have been quicker, and the third for what comes after ``start``
        assert program.end() in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
        wait_until(lambda: [pid for pid in pids(journal) if process_jobs.exists(pid)] == [], GONE_WITHIN)


@pytest.mark.parametrize("job", [process_jobs.interrupt_everything, process_jobs.terminate_everything])
def test_children_leave_signals_to_the_worker(
    job: Callable[[], str], queue: Queue, work: Callable[..., jobs.Calls]
) -> None:
    """SIGINT of a terminal, and SIGTERM of a service manager that sends it to all: the running job is not lost."""
    queue.enqueue(job)
    assert work(1).results == ["went on"]


def test_start_can_be_called_again(topic: str, hosts: str, queue: Queue) -> None:
    """Each time with new children, and nothing is left of the old ones."""
    for number in range(6):
        queue.enqueue(process_jobs.nap, 0, number)
    calls = jobs.Calls()
    worker = Worker(topic, hosts=hosts, executor="process", callback=calls)
    run_worker(worker, 1)
    descriptors = len(os.listdir("/proc/self/fd"))
    for count in (2, 3):
        assert run_worker(worker, count) == count
    assert calls.results == list(range(6))
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert children() == []


def test_a_stop_from_another_thread_ends_idle_children(topic: str, hosts: str) -> None:
    """Without a message ever."""
    worker = Worker(topic, hosts=hosts, executor="process", concurrency=2)
    threading.Timer(0.5, worker.stop).start()
    assert run_worker(worker, 10) == 0
    assert children() == []


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kill_grace": -1}, "kill_grace must be an int or float of 0 or greater"),
        ({"kill_grace": "1"}, "kill_grace"),
        ({"kill_grace": None}, "kill_grace"),
        ({"kill_grace": math.nan}, "kill_grace"),
        ({"max_jobs": 0}, "max_jobs must be an int of 1 or greater"),
        ({"max_jobs": 1.5}, "max_jobs"),
        ({"max_memory": 0}, "max_memory must be an int of 1 or greater"),
        ({"max_memory": "512M"}, "max_memory"),
        ({"preload": "module"}, "preload must be a list or tuple of module names"),
        ({"preload": [1]}, "preload"),
        ({"preload": 1}, "preload"),
        ({"on_start": "function"}, "on_start must be a callable"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    """With a name."""
    with pytest.raises(kq.ArgumentError, match=text):
        ProcessExecutor(**settings)


def test_what_children_cannot_be_given_is_refused(topic: str, hosts: str) -> None:
    """A deserializer goes to each child."""
    held = socket.socket()
    try:
        worker = Worker(topic, hosts=hosts, deserializer=lambda value: (held, value), executor="process")
        with pytest.raises(kq.ArgumentError, match="picklable"):
            worker.start(max_messages=1)
    finally:
        held.close()


def test_the_executor_says_what_it_is() -> None:
    """A repr without surprises; the settings are keyword arguments with defaults."""
    assert repr(ProcessExecutor()) == "ProcessExecutor(kill_grace=2)"
    assert callable(run_child)


def test_notes_are_whole_lines(journal: Journal) -> None:
    """What the other tests rest on."""
    note(journal.path, "start", "a name")
    assert [entry[2:] for entry in journal.entries()] == [("start", "a name")]
