"""Programs as people write them: as a whole, in processes of their own.

1. All programs are started at once, because each spends its time waiting.
2. Each test looks at one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jobs
import pytest

#: Seconds within which a program ends after its last line.
SOON = 5.0

#: The last line of a program prints the time, by a clock that all processes share.
LAST_LINE = 'import time; print("last line", time.time(), flush=True)\n'

INJECTED_PRODUCER = """
import sys
from kafka import KafkaProducer
from kq import Queue

producer = KafkaProducer(bootstrap_servers=sys.argv[1])
queue = Queue(topic=sys.argv[2], producer=producer)
for number in range(3):
    queue.enqueue(print, number)
"""

OWN_PRODUCER = """
import sys
from kq import Queue

queue = Queue(topic=sys.argv[2], hosts=sys.argv[1])
for number in range(3):
    queue.enqueue(print, number)
"""

PRODUCER_IN_A_FUNCTION = """
import sys
from kq import Queue

def main():
    queue = Queue(topic=sys.argv[2], hosts=sys.argv[1])
    queue.enqueue(print, 1)
    queue.producer.send(sys.argv[2], b"garbage")  # not even waited for

main()
"""

INJECTED_WORKER = """
import sys
import jobs
from kafka import KafkaConsumer
from kq import Queue, Worker

Queue(sys.argv[2], hosts=sys.argv[1]).enqueue(jobs.add, 1, 2)
consumer = KafkaConsumer(bootstrap_servers=sys.argv[1], group_id=sys.argv[2], auto_offset_reset="earliest")
worker = Worker(topic=sys.argv[2], consumer=consumer)
print("processed", worker.start(max_messages=1))
"""

OWN_WORKER = """
import sys
import jobs
from kq import Queue, Worker

Queue(sys.argv[2], hosts=sys.argv[1]).enqueue(jobs.add, 1, 2)
worker = Worker(topic=sys.argv[2], hosts=sys.argv[1], executor="thread")
print("processed", worker.start(max_messages=1))
"""

FAILING_WORKER = """
import sys
import jobs
from kq import Queue, Worker

Queue(sys.argv[2], hosts=sys.argv[1]).enqueue(jobs.add, 1, 2)
worker = Worker(topic=sys.argv[2], hosts=sys.argv[1])
worker.start(max_messages=1)
import time; print("last line", time.time(), flush=True)
raise ValueError("the program's own")
"""

#: What the documentation of KQ 2.2.1 teaches, in one program: queue, using, jobs, callback, serializer, logging.
KQ_2 = """
import logging
import sys

import dill
from kafka import KafkaConsumer, KafkaProducer
from kq import Job, Message, Queue, Worker

HOSTS, TOPIC = sys.argv[1:3]

formatter = logging.Formatter("[%(levelname)s] %(message)s")
stream_handler = logging.StreamHandler(sys.stdout)
stream_handler.setFormatter(formatter)
for name in ("kq.queue", "kq.worker"):
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(stream_handler)


class Calculator:
    def __init__(self, base):
        self.base = base

    def add(self, number):
        return self.base + number


def double(number, times=2):
    return number * times


def boom():
    raise ValueError("boom")


def callback(status, message, job, result, exception, stacktrace):
    assert status in ["invalid", "success", "timeout", "failure"]
    assert isinstance(message, Message)
    if status == "invalid":
        assert job is None and result is None and exception is None and stacktrace is None
    if status == "success":
        assert isinstance(job, Job) and exception is None and stacktrace is None
    elif status == "timeout":
        assert isinstance(job, Job) and result is None and exception is None and stacktrace is None
    elif status == "failure":
        assert isinstance(job, Job) and result is None
        assert exception is not None and stacktrace is not None
    print("CALLBACK", message.offset, status, result, repr(exception))


producer = KafkaProducer(bootstrap_servers=HOSTS)
queue = Queue(topic=TOPIC, producer=producer, serializer=dill.dumps, timeout=3600, logger=logging.getLogger("kq.queue"))

enqueued = [
    queue.enqueue(double, 4),
    queue.enqueue(double, 4, times=3),
    queue.enqueue(Calculator(40).add, 2),
    queue.enqueue(lambda number: number + 1, 1),
    queue.enqueue(Job(func=double, args=[5], kwargs={"times": 5}, timeout=10)),
    queue.using(timeout=5, key=b"foo", partition=0).enqueue(double, 6),
    queue.using(timeout=0.5).enqueue(__import__("time").sleep, 60),
    queue.enqueue(boom),
]
producer.send(TOPIC, value=b"garbage")
producer.flush()
enqueued.append(queue.enqueue(double, 8))
for job in enqueued:
    print("JOB", type(job.id).__name__, job.topic == TOPIC, job.timeout, job.key, job.partition)

consumer = KafkaConsumer(bootstrap_servers=HOSTS, group_id="group-" + TOPIC, auto_offset_reset="earliest")
worker = Worker(
    topic=TOPIC,
    consumer=consumer,
    callback=callback,
    deserializer=dill.loads,
    logger=logging.getLogger("kq.worker"),
)
print("WORKER", worker, worker.hosts, worker.topic, worker.group, worker.consumer is consumer)
print("QUEUE", queue, queue.hosts, queue.topic, queue.timeout, queue.producer is producer)
processed = 0
while processed < 10:
    processed += worker.start(max_messages=1)
print("PROCESSED", processed)

for wrong in (
    lambda: Queue(topic=True, producer=producer),
    lambda: Queue(topic=TOPIC, producer="foo"),
    lambda: queue.using(timeout="foo"),
    lambda: queue.enqueue("foo"),
    lambda: Worker(topic=True, consumer=consumer),
    lambda: Worker(topic=TOPIC, consumer="bar"),
):
    try:
        wrong()
    except AssertionError as error:
        print("ERROR", error)
"""


class Source(NamedTuple):
    """A program, and how it is run."""

    text: str
    flags: tuple[str, ...] = ()


SOURCES = {
    "injected producer": Source(INJECTED_PRODUCER + LAST_LINE),
    "own producer": Source(OWN_PRODUCER + LAST_LINE),
    "producer in a function": Source(PRODUCER_IN_A_FUNCTION + LAST_LINE),
    "injected worker": Source(INJECTED_WORKER + LAST_LINE),
    "own worker": Source(OWN_WORKER + LAST_LINE),
    "failing worker": Source(FAILING_WORKER),
    "kq 2": Source(KQ_2 + LAST_LINE),
    "kq 2 under -O": Source(KQ_2 + LAST_LINE, ("-O",)),
}


class Ended(NamedTuple):
    """A program that has ended."""

    topic: str
    code: int
    lines: list[str]
    #: Seconds from its last line to its end.
    delay: float


@pytest.fixture(scope="module")
def ended(
    hosts: str, make_topic: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Ended]]:
    """Return a function that waits for a program."""
    done: dict[str, Ended] = {}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, source in SOURCES.items():
            topic = make_topic()
            folder = tmp_path_factory.mktemp("script")
            program = jobs.Program(source.text, hosts, topic, flags=source.flags, folder=Path(folder))
            running[name] = topic, stack.enter_context(program)

        def wait(name: str) -> Ended:
            if name not in done:
                topic, program = running[name]
                program.wait_for("last line")
                code = program.end(SOON + 10)
                begin = float(next(line for line in program.lines if line.startswith("last line")).split()[-1])
                done[name] = Ended(topic, code, program.lines, program.ended - begin)
            return done[name]

        yield wait


@pytest.mark.parametrize("name", ["injected producer", "own producer", "producer in a function"])
def test_a_producer_script_that_closes_nothing_ends(name: str, ended: Callable[[str], Ended]) -> None:
    """Within seconds of its last line, and without a complaint."""
    found = ended(name)
    assert found.code == 0
    assert found.delay < SOON
    assert [line.split()[0] for line in found.lines] == ["last"]


@pytest.mark.parametrize("name", ["injected worker", "own worker"])
def test_a_worker_script_that_closes_nothing_ends(name: str, ended: Callable[[str], Ended]) -> None:
    """With or without a client of its own, and though threads were started."""
    found = ended(name)
    assert found.code == 0
    assert found.delay < SOON
    assert [line.split()[0] for line in found.lines] == ["processed", "last"]


def test_a_worker_script_that_fails_ends(ended: Callable[[str], Ended]) -> None:
    """Whoever supervises it must not see a process that lives and does nothing."""
    found = ended("failing worker")
    assert found.code == 1
    assert found.delay < SOON
    assert found.lines[-1] == "ValueError: the program's own"


EXPECTED_JOBS = [
    *["JOB str True 3600 None None"] * 4,
    "JOB str True 10 None None",
    "JOB str True 5 b'foo' 0",
    "JOB str True 0.5 None None",
    *["JOB str True 3600 None None"] * 2,
]
EXPECTED_CALLBACKS = [
    "CALLBACK 0 success 8 None",
    "CALLBACK 1 success 12 None",
    "CALLBACK 2 success 42 None",
    "CALLBACK 3 success 2 None",
    "CALLBACK 4 success 25 None",
    "CALLBACK 5 success 12 None",
    "CALLBACK 6 timeout None None",
    "CALLBACK 7 failure None ValueError('boom')",
    "CALLBACK 8 invalid None None",
    "CALLBACK 9 success 16 None",
]
EXPECTED_ERRORS = [
    "ERROR topic must be a str",
    'ERROR bad producer instance; pass a KafkaProducer, or hosts="127.0.0.1:9092"',
    "ERROR timeout must be an int or float",
    "ERROR first argument must be a callable",
    "ERROR topic must be a str",
    'ERROR bad consumer instance; pass a KafkaConsumer, or hosts="127.0.0.1:9092"',
]


@pytest.fixture(params=["kq 2", "kq 2 under -O"])
def kq_2(request: pytest.FixtureRequest, ended: Callable[[str], Ended]) -> Ended:
    """Return a program for KQ 2.2.1 that has ended, under either Python."""
    return ended(request.param)


def begin_with(word: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(word)]


def test_a_kq_2_program_runs_to_its_end(kq_2: Ended) -> None:
    """Nothing in it was changed."""
    assert kq_2.code == 0, kq_2.lines
    assert kq_2.delay < SOON
    assert begin_with("PROCESSED", kq_2.lines) == ["PROCESSED 10"]


def test_a_kq_2_program_gets_the_jobs_it_enqueued(kq_2: Ended) -> None:
    """Functions, methods, lambdas and Jobs, with the settings of ``using``."""
    assert begin_with("JOB", kq_2.lines) == EXPECTED_JOBS


def test_a_kq_2_callback_is_told_the_same(kq_2: Ended) -> None:
    """One call a message, in order, by ten starts for one message each."""
    assert begin_with("CALLBACK", kq_2.lines) == EXPECTED_CALLBACKS


def test_a_kq_2_program_sees_the_same_errors(kq_2: Ended) -> None:
    """AssertionErrors that begin with the same words."""
    assert begin_with("ERROR", kq_2.lines) == EXPECTED_ERRORS


def test_a_kq_2_program_sees_the_same_properties(kq_2: Ended, hosts: str) -> None:
    """And the same reprs."""
    topic = kq_2.topic
    worker, queue = f"Worker(hosts={hosts}, topic={topic}, group=group-{topic})", f"Queue(hosts={hosts}, topic={topic})"
    assert begin_with("WORKER", kq_2.lines) == [f"WORKER {worker} {hosts} {topic} group-{topic} True"]
    assert begin_with("QUEUE", kq_2.lines) == [f"QUEUE {queue} {hosts} {topic} 3600 True"]


def test_a_kq_2_program_logs_the_same_lines(kq_2: Ended, hosts: str) -> None:
    """At the same levels, for the first message and for the last."""
    topic = kq_2.topic
    lines = [line for line in kq_2.lines if line.startswith("[")]
    assert all(line.startswith("[INFO] Enqueueing Job(id='") for line in lines[:9])
    assert lines[9:12] == [
        f"[INFO] Starting Worker(hosts={hosts}, topic={topic}, group=group-{topic}) ...",
        f"[INFO] Processing Message(topic={topic}, partition=0, offset=0) ...",
        lines[11],
    ]
    assert lines[11].startswith("[INFO] Executing job ") and ": __main__.double(4) (topic" in lines[11]
    assert lines[12].startswith("[INFO] Job ") and " returned: 8 (__main__.double, " in lines[12]
    assert lines[13] == "[INFO] Executing callback ..."
    words = [line.split()[0] for line in lines if not line.startswith("[INFO]")]
    assert words == ["[ERROR]"] * 3
    errors = [line for line in lines if line.startswith("[ERROR]")]
    assert " timed out or was interrupted (time.sleep, topic " in errors[0]
    assert " raised an exception: __main__." in errors[1]
    assert errors[2].startswith("[ERROR] Job was invalid: ")
    assert len([line for line in lines if line.startswith("[INFO] Starting")]) == 10
