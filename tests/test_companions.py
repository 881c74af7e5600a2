"""Companions: what they answer is published before a message is done, and their faults take nothing along."""

from __future__ import annotations

import itertools
import logging
import operator
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jobs
import pytest
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError

import kq
from kq import KQError, Queue, Worker
from kq.consuming.metadata import decode
from kq.job import Outcome
from kq.message import Message, Record
from kq.working import Companion, Context, ThreadedCompanion
from kq.working.publisher import Publisher


class Answering(Companion):
    """Answers to each outcome with one record, to the topic that a function names for the offset."""

    def __init__(self, topic_of: Callable[[int], str | None], value: bytes = b"") -> None:
        self.topic_of = topic_of
        self.value = value
        self.started: list[int] = []
        self.refused: list[int] = []
        self.is_stopped = False

    def open(self, context: Context) -> None:
        self.context = context

    def on_started(self, message: Message) -> None:
        self.started.append(message.offset)

    def on_settled(self, message: Message, outcome: Outcome) -> Iterable[Record]:
        topic = self.topic_of(message.offset)
        if topic is not None:
            yield Record(topic, self.value or b"%d" % message.offset, None, [], None, int(time.time() * 1000))

    def on_refused(self, message: Message, record: Record, error: BaseException) -> Record | None:
        self.refused.append(message.offset)
        return None

    def stop(self, deadline: float) -> None:
        self.is_stopped = True


class With(Worker):
    """A worker with companions that a test made."""

    companions: tuple[Companion, ...] = ()

    def _assemble(self) -> list[Companion]:
        return list(self.companions)


@pytest.fixture
def begin(queue: Queue, hosts: str) -> Iterator[Callable[..., With]]:
    """Return a function that runs a worker with companions in a thread; it is stopped after the test."""
    threads = []

    def make(*companions: Companion, **options: Any) -> With:
        worker = With(queue.topic, hosts=hosts, **options)
        worker.companions = companions
        thread = threading.Thread(target=worker.start, daemon=True)
        threads.append((worker, thread))
        thread.start()
        return worker

    yield make
    for worker, thread in threads:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()


def stop(worker: With) -> None:
    worker.stop()
    wait_until(lambda: worker.state is kq.working.State.STOPPED, timeout=30)


def enqueue(queue: Queue, count: int, **terms: Any) -> None:
    queue.using(**terms).enqueue_many((operator.neg, (number,)) for number in range(count))


def progress(admin: KafkaAdminClient, topic: str) -> tuple[int, list[int]]:
    """Return the committed offset, and what is done beyond it."""
    partition = TopicPartition(topic, 0)
    try:
        committed = admin.list_group_offsets({topic: [partition]})[topic].get(partition)
    except KafkaError:  # a broker that has just started must find the group first
        return 0, []
    if committed is None or committed.offset < 0:
        return 0, []
    said = decode(committed.metadata, committed.offset, None)
    return committed.offset, [offset for offset in range(said.watermark, said.top) if offset not in said.incomplete]


def values(consumer: Callable[..., KafkaConsumer], topic: str) -> list[int]:
    """Return what was published to a topic."""
    reader = consumer(consumer_timeout_ms=2000, group_id=None)
    reader.assign([TopicPartition(topic, 0)])
    reader.seek_to_beginning()
    end = reader.end_offsets([TopicPartition(topic, 0)])[TopicPartition(topic, 0)]
    return [int(record.value) for record in itertools.islice(reader, end)]


def test_what_is_answered_is_there_when_a_message_is_done(
    queue: Queue, begin: Callable[..., With], make_topic: Callable[..., str], consumer: Callable[..., KafkaConsumer],
    admin: KafkaAdminClient,
) -> None:  # fmt: skip
    """Each message has its record, and all are committed; the companion knows its worker, and is told its end."""
    answers = make_topic()
    companion = Answering(lambda _: answers)
    enqueue(queue, 500)
    worker = begin(companion, executor="thread", concurrency=4)
    wait_until(lambda: progress(admin, queue.topic) == (500, []), timeout=30)
    assert sorted(values(consumer, answers)) == list(range(500))
    assert sorted(companion.started) == list(range(500))
    assert companion.context[:4] == Context(queue.topic, queue.topic, queue.hosts, {})[:4]
    stop(worker)
    assert companion.is_stopped


def test_a_refused_record_keeps_its_own_message_undone_and_no_other(
    queue: Queue, begin: Callable[..., With], topic: str, make_topic: Callable[..., str], admin: KafkaAdminClient,
    consumer: Callable[..., KafkaConsumer], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A topic is not there: its messages wait, the others go on; when it is made, all are done. It is said once."""
    answers, missing = make_topic(), f"{topic}.missing"
    enqueue(queue, 100)
    worker = begin(
        Answering(lambda offset: missing if offset in (10, 20) else answers), executor="thread", concurrency=4
    )
    others = sorted({*range(11, 100)} - {20})
    wait_until(lambda: progress(admin, queue.topic) == (10, others), timeout=40)
    assert worker.stats().settling == 2
    wait_until(lambda: [r for r in caplog.records if r.name == "kq.publisher"], timeout=40)
    admin.create_topics([NewTopic(missing, 1, 1)])
    wait_until(lambda: progress(admin, queue.topic) == (100, []), timeout=20)
    assert sorted(set(values(consumer, missing))) == [10, 20]
    said = [record.levelname for record in caplog.records if record.name == "kq.publisher"]
    assert said == ["ERROR", "WARNING"]  # that it refuses, and that it takes records again


def test_what_is_published_to_a_topic_never_makes_it(
    queue: Queue, begin: Callable[..., With], topic: str, admin: KafkaAdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It would have the wrong settings."""
    enqueue(queue, 1)
    begin(Answering(lambda _: f"{topic}.missing"), shutdown_timeout=1)
    wait_until(lambda: any(record.name == "kq.publisher" for record in caplog.records), timeout=40)
    assert f"{topic}.missing" not in admin.list_topics()


def test_a_record_that_is_too_large_can_be_replaced(
    queue: Queue, begin: Callable[..., With], make_topic: Callable[..., str], admin: KafkaAdminClient,
    consumer: Callable[..., KafkaConsumer],
) -> None:  # fmt: skip
    """The companion is asked what to publish instead; what others publish meanwhile is there too."""
    answers = make_topic(max_message_bytes=2000)

    class Shrinking(Answering):
        def on_refused(self, message: Message, record: Record, error: BaseException) -> Record:
            assert "MessageSizeTooLarge" in type(error).__name__, error
            return record._replace(value=b"%d" % message.offset)

    enqueue(queue, 3)
    begin(Shrinking(lambda _: answers, value=os.urandom(10_000)))
    wait_until(lambda: progress(admin, queue.topic) == (3, []), timeout=40)
    assert sorted(values(consumer, answers)) == [0, 1, 2]


def test_a_companion_that_fails_loses_no_message(
    queue: Queue, begin: Callable[..., With], make_topic: Callable[..., str], admin: KafkaAdminClient,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Its message stays undone until it can answer; others are done meanwhile. A failure at a start is only said."""
    answers = make_topic()
    repaired = threading.Event()

    class Failing(Answering):
        def on_started(self, message: Message) -> None:
            raise ZeroDivisionError("at the start")

        def on_settled(self, message: Message, outcome: Outcome) -> Iterable[Record]:
            if message.offset == 1 and not repaired.is_set():
                raise ZeroDivisionError("at the end")
            return super().on_settled(message, outcome)

    enqueue(queue, 4)
    begin(Failing(lambda _: answers))
    wait_until(lambda: progress(admin, queue.topic) == (1, [2, 3]), timeout=20)
    assert {"Failing failed at the start of message", "Message 1 of partition 0 is not done: a companion failed"} <= {
        text.partition(" (")[0] for text in caplog.messages
    }
    repaired.set()
    wait_until(lambda: progress(admin, queue.topic) == (4, []), timeout=20)


def test_a_companion_that_cannot_open_ends_the_start(queue: Queue, hosts: str) -> None:
    """``start`` raises what it said, and those that were open are told the end."""
    first = Answering(lambda _: None)

    class Closed(Companion):
        def open(self, context: Context) -> None:
            raise KQError("make the topic first")

    worker = With(queue.topic, hosts=hosts)
    worker.companions = first, Closed()
    with pytest.raises(KQError, match="make the topic first"):
        worker.start()
    assert first.is_stopped
    worker.companions = ()
    enqueue(queue, 1)
    assert worker.start(max_messages=1) == 1


def test_a_stop_waits_for_acknowledgements_and_not_for_ever(
    queue: Queue, begin: Callable[..., With], make_topic: Callable[..., str], topic: str, admin: KafkaAdminClient
) -> None:
    """What was not acknowledged is not done, and runs again."""
    answers = make_topic()
    enqueue(queue, 3)
    worker = begin(Answering(lambda offset: answers if offset else f"{topic}.missing"), shutdown_timeout=1)
    wait_until(lambda: progress(admin, queue.topic) == (0, [1, 2]), timeout=20)
    begun = time.monotonic()
    stop(worker)
    assert time.monotonic() - begun < 20
    assert progress(admin, queue.topic) == (0, [1, 2])
    begin(Answering(lambda _: answers))
    wait_until(lambda: progress(admin, queue.topic) == (3, []), timeout=20)


def test_one_key_is_not_in_flight_twice_while_its_record_is_on_its_way(
    queue: Queue, begin: Callable[..., With], make_topic: Callable[..., str], topic: str, admin: KafkaAdminClient
) -> None:
    """The next message of a key starts when the one before is done, acknowledged records included."""
    answers = make_topic()
    companion = Answering(lambda offset: answers if offset else f"{topic}.missing")
    enqueue(queue, 3, key=b"same")
    begin(companion, executor="thread", concurrency=4)
    wait_until(lambda: companion.refused, timeout=40)
    assert companion.started == [0]
    companion.topic_of = lambda _: answers
    admin.create_topics([NewTopic(f"{topic}.missing", 1, 1)])
    wait_until(lambda: progress(admin, queue.topic) == (3, []), timeout=20)
    assert companion.started == [0, 1, 2]


def test_a_restart_of_the_broker_loses_no_record(
    kafka: kq.LocalKafka, queue: Queue, begin: Callable[..., With], make_topic: Callable[..., str],
    admin: KafkaAdminClient, consumer: Callable[..., KafkaConsumer],
) -> None:  # fmt: skip
    """Records that were on their way are sent again; every message has one, at least."""
    answers = make_topic()
    enqueue(queue, 300)

    class Slow(Answering):
        def on_started(self, message: Message) -> None:
            super().on_started(message)
            time.sleep(0.005)

    companion = Slow(lambda _: answers)
    begin(companion)
    wait_until(lambda: len(companion.started) > 100, timeout=20)
    kafka.restart()
    wait_until(lambda: progress(admin, queue.topic) == (300, []), timeout=60)
    assert sorted(set(values(consumer, answers))) == list(range(300))


def test_messages_are_done_while_jobs_come_without_a_pause(
    queue: Queue, begin: Callable[..., With], make_topic: Callable[..., str]
) -> None:
    """An inline executor has an outcome in each turn of the loop; acknowledgements are heard of all the same."""
    answers = make_topic()

    class Slow(Answering):
        def on_started(self, message: Message) -> None:
            super().on_started(message)
            time.sleep(0.01)

    companion = Slow(lambda _: answers)
    enqueue(queue, 1000)
    worker = begin(companion)
    wait_until(lambda: worker.stats().done or len(companion.started) == 1000, timeout=60)
    assert len(companion.started) < 1000


KILLED = """
import os, signal, sys
import kq, test_companions
from kq.working.messages import Messages
topic, hosts, answers = sys.argv[1:]
complete, count = Messages.complete, [0]
def die(self, message, outcome):
    count[0] += 1
    if count[0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    complete(self, message, outcome)
Messages.complete = die
worker = test_companions.With(topic, hosts=hosts, config={"session_timeout_ms": 6000, "heartbeat_interval_ms": 500})
worker.companions = test_companions.Answering(lambda _: answers),
worker.start()
"""


def test_a_death_between_publishing_and_done_loses_nothing(
    hosts: str, queue: Queue, begin: Callable[..., With], make_topic: Callable[..., str], admin: KafkaAdminClient,
    consumer: Callable[..., KafkaConsumer],
) -> None:  # fmt: skip
    """Killed at that very line: the message runs again, and its record is there, perhaps twice."""
    answers = make_topic()
    enqueue(queue, 20)
    with jobs.Program(KILLED, queue.topic, hosts, answers) as program:
        assert program.end() == -signal.SIGKILL, program.text
    assert progress(admin, queue.topic)[0] < 5
    begin(Answering(lambda _: answers))
    wait_until(lambda: progress(admin, queue.topic) == (20, []), timeout=40)
    assert sorted(set(values(consumer, answers))) == list(range(20))


def test_a_worker_without_companions_has_no_publisher(queue: Queue, begin: Callable[..., With]) -> None:
    """A capability that is off costs nothing: no thread, no client."""
    enqueue(queue, 1)
    worker = begin()
    wait_until(lambda: worker.stats().done == 1, timeout=20)
    assert [thread.name for thread in threading.enumerate() if "publish" in thread.name] == []


def test_a_publisher_closes_in_time_where_no_broker_answers() -> None:
    """Its threads are connecting, again for each of many records, and to more than one topic."""
    publisher = Publisher("127.0.0.1:1", {"bootstrap_timeout_ms": 3000}, lambda: None)
    for offset in range(40):
        record = Record(f"topic-{offset % 2}", b"", None, [], None, 0)
        publisher.publish(Message("t", 0, offset, None, b""), [(Companion(), record)])
    begun = time.monotonic()
    publisher.close(0.5)
    assert time.monotonic() - begun < 2.5


# -- threads of companions ---------------------------------------------------------------------------------------------


class Restless(ThreadedCompanion):
    """Fails at each run, until it is told not to."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[float] = []
        self.fails = True

    def run(self, stopping: threading.Event) -> None:
        self.runs.append(time.monotonic())
        if self.fails:
            raise ZeroDivisionError("restless")
        stopping.wait()

    def stats(self) -> Mapping[str, float]:
        return {"runs": len(self.runs)}


def test_a_companions_thread_that_fails_is_started_again(
    queue: Queue, begin: Callable[..., With], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With growing pauses, loudly, and jobs go on; a stop ends it."""
    monkeypatch.setattr("kq.working.companions.RESTART_WAIT", (0.05, 0.2))
    companion = Restless()
    worker = begin(companion)
    wait_until(lambda: len(companion.runs) >= 4, timeout=20)
    companion.fails = False
    gaps = [after - before for before, after in itertools.pairwise(companion.runs[:4])]
    assert gaps[0] < gaps[1] < gaps[2]
    enqueue(queue, 1)
    wait_until(lambda: worker.stats().done == 1, timeout=20)
    assert sum("Restless failed; it is started again" in text for text in caplog.messages) >= 3
    assert {record.levelno for record in caplog.records if record.name == "kq.companions"} == {logging.ERROR}
    stop(worker)
    assert not companion._thread.is_alive()
