"""Many jobs at once, forks and threads, topics: what the queue does beyond one job."""

from __future__ import annotations

import logging
import pickle
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jobs
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import MessageSizeTooLargeError

import kq
from kq import ArgumentError, EnqueueError, EnqueueUnknown, Job, Queue
from kq.producing import window as window
from kq.producing.ids import made_at, new_ids

#: A program that enqueues in forked children of every kind; prints a line for each.
FORKED = """
import multiprocessing, os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: that is what is tried
import operator
from kafka import KafkaProducer
import kq

hosts, topic = sys.argv[1:]

def child(label, enqueue):
    pid = os.fork()
    if pid == 0:
        try:
            print(label, enqueue(), flush=True)
        except kq.EnqueueError as error:
            print(label, "EnqueueError", error, flush=True)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)

def enqueue(queue):
    return len(queue.enqueue(operator.add, 1, 2).id)

own = kq.Queue(topic, hosts=hosts)
own.enqueue(operator.add, 1, 2)
producer = KafkaProducer(bootstrap_servers=hosts)
injected = kq.Queue(topic, producer)
injected.enqueue(operator.add, 1, 2)
child("own", lambda: enqueue(own))
child("many", lambda: len(own.enqueue_many([(operator.add, (1, 2), {})] * 10)))
child("injected", lambda: enqueue(injected))
child("inherited", lambda: enqueue(kq.Queue(topic, producer)))
child("anew", lambda: enqueue(kq.Queue(topic, KafkaProducer(bootstrap_servers=hosts))))

held = threading.Event(), threading.Event()
def hold():
    with own._delivery._lock:
        held[0].set()
        held[1].wait()
threading.Thread(target=hold, daemon=True).start()
held[0].wait()
child("locked", lambda: enqueue(own))
held[1].set()

process = multiprocessing.get_context("fork").Process(target=lambda: print("exit", enqueue(own), flush=True))
process.start()
process.join(30)
print("exitcode", process.exitcode, flush=True)
print("parent", enqueue(own), enqueue(injected), flush=True)
"""

#: A program that ends while a thread enqueues; prints the ID of each job that was accepted.
ENDING = """
import operator, sys, threading
import kq

queue = kq.Queue(sys.argv[2], hosts=sys.argv[1])
def work():
    for number in range(300):
        print(queue.enqueue(operator.add, number, 0).id, flush=True)
threading.Thread(target=work).start()
"""


@pytest.fixture
def queue(topic: str, hosts: str) -> Iterator[Queue]:
    """Return a queue with its own producer."""
    with Queue(topic, hosts=hosts) as queue:
        yield queue


def on_topic(hosts: str, topic: str) -> list[Any]:
    """Return every record of a topic."""
    consumer = KafkaConsumer(bootstrap_servers=hosts)
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(partitions)
    records: list[Any] = []
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        for found in consumer.poll(500).values():
            records += found
    consumer.close()
    return records


def ids_of(records: list[Any]) -> list[str]:
    return [dict(record.headers)["kq-id"].decode() for record in records]


# -- many at once ------------------------------------------------------------------------------------------------------


def test_all_forms_of_a_job_are_enqueued_in_their_order(queue: Queue, hosts: str) -> None:
    """Callables, jobs and tuples of one to three; what is returned is what is on the topic."""
    items = [
        jobs.add,
        Job(func=jobs.echo, id="mine", timeout=3),
        (jobs.echo,),
        (jobs.echo, [1]),
        (jobs.echo, (1,), {"a": 2}),
    ]
    found = queue.using(timeout=7).enqueue_many(items)
    assert [(job.func, job.args, job.kwargs, job.timeout) for job in found] == [
        (jobs.add, (), {}, 7),
        (jobs.echo, (), {}, 3),
        (jobs.echo, (), {}, 7),
        (jobs.echo, (1,), {}, 7),
        (jobs.echo, (1,), {"a": 2}, 7),
    ]
    assert found[1].id == "mine"
    records = on_topic(hosts, queue.topic)
    assert [kq.loads(record.value) for record in records] == found
    assert [record.timestamp for record in records] == [job.timestamp for job in found]


def test_nothing_is_enqueued_of_nothing(queue: Queue) -> None:
    """An empty iterable is no error."""
    assert queue.enqueue_many([]) == queue.enqueue_many(iter(())) == []


def test_a_generator_of_many_arrives_whole(queue: Queue, hosts: str) -> None:
    """Every record is there, once, in order, with an ID of its own."""
    found = queue.enqueue_many((jobs.add, (number, 1), {}) for number in range(5000))
    assert ids_of(on_topic(hosts, queue.topic)) == [job.id for job in found]
    assert len({job.id for job in found}) == 5000


def test_outstanding_records_are_bounded(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The iterable is not read further than the window allows."""
    monkeypatch.setattr(window, "WINDOW_COUNT", 10)
    depths = watch_additions(monkeypatch, lambda outstanding: len(outstanding._sent))
    queue.enqueue_many((jobs.add, (1, 1), {}) for _ in range(500))
    assert max(depths) <= 10


def test_outstanding_bytes_are_bounded(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large jobs fill the window sooner."""
    monkeypatch.setattr(window, "WINDOW_BYTES", 100_000)
    depths = watch_additions(monkeypatch, lambda outstanding: outstanding._bytes)
    queue.enqueue_many((jobs.echo, (b"x" * 30_000,), {}) for _ in range(50))
    assert 60_000 < max(depths) < 140_000


def watch_additions(monkeypatch: pytest.MonkeyPatch, measure: Callable[[Any], int]) -> list[int]:
    """Return a list that gets a measure of what is outstanding, after each record that is added."""
    depths: list[int] = []
    real = window.Window.add

    def add(self: Any, *args: Any) -> None:
        real(self, *args)
        depths.append(measure(self))

    monkeypatch.setattr(window.Window, "add", add)
    return depths


@pytest.mark.parametrize("sized", [True, False])
def test_progress_goes_up_to_all(sized: bool, queue: Queue) -> None:
    """The total is told where there is one."""
    told: list[tuple[int, int | None]] = []
    items = [(jobs.add, (1, 2), {})] * 1000
    queue.enqueue_many(items if sized else iter(items), on_progress=lambda *progress: told.append(progress))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (1000, 1000 if sized else None)


def test_a_progress_hook_that_raises_changes_nothing(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""
    assert len(queue.enqueue_many([jobs.add] * 5, on_progress=lambda done, total: 1 / 0)) == 5  # type: ignore[arg-type,return-value]
    assert "on_progress raised an exception" in caplog.text


def test_what_fails_by_itself_does_not_keep_the_others(queue: Queue, hosts: str) -> None:
    """Too large for the client, an unknown partition, an argument that cannot be serialized: told job by job."""
    items: list[Any] = [Job(id=str(number), func=jobs.echo, args=(number,)) for number in range(9)]
    items[2] = Job(id="large", func=jobs.echo, args=(b"x" * 2_000_000,))
    items[4] = Job(id="nowhere", func=jobs.echo, partition=99)
    items[6] = Job(id="generator", func=jobs.echo, args=((number for number in ()),))
    with pytest.raises(EnqueueError, match="3 of 9 jobs were not enqueued") as caught:
        queue.enqueue_many(items)
    assert [job.id for job in caught.value.jobs] == ["large", "nowhere", "generator"]
    assert caught.value.unknown == []
    assert isinstance(caught.value.__cause__, MessageSizeTooLargeError)
    assert ids_of(on_topic(hosts, queue.topic)) == ["0", "1", "3", "5", "7", "8"]


@pytest.mark.parametrize("by_broker", [False, True])
@pytest.mark.parametrize("many", [False, True])
def test_a_job_that_is_too_large_is_told_what_to_do(topic: str, hosts: str, by_broker: bool, many: bool) -> None:
    """Its size, both limits, and what to write, whoever has refused it."""
    config = {"max_request_size": 20_000_000} if by_broker else {}
    data = b"x" * 5_000_000
    with Queue(topic, hosts=hosts, config=config) as queue, pytest.raises(EnqueueError) as caught:
        queue.enqueue_many([(len, (data,))]) if many else queue.enqueue(len, data)
    text = str(caught.value)
    assert "the job has 5,000," in text
    assert f"max_request_size allows {20_000_000 if by_broker else 1_048_576:,}" in text
    assert ("config={'max_request_size': 5010" in text) is not by_broker
    assert f"--entity-name {topic} --add-config max.message.bytes=5010" in text
    assert text.count("MessageSizeTooLargeError") == 1
    assert isinstance(caught.value.__cause__, MessageSizeTooLargeError)


def test_what_the_broker_refuses_is_told_job_by_job(make_topic: Callable[..., str], hosts: str) -> None:
    """The topic allows less than the client; every job is either there, or told."""
    topic = make_topic(max_message_bytes=2000)
    with Queue(topic, hosts=hosts) as queue:
        items = [
            Job(id=f"{number}", func=jobs.echo, args=(b"x" * (20_000 if number == 5 else 1),)) for number in range(50)
        ]
        with pytest.raises(EnqueueError) as caught:
            queue.enqueue_many(items)
        there = set(ids_of(on_topic(hosts, topic)))
        missing = {job.id for job in caught.value.jobs}
        unknown = {job.id for job in caught.value.unknown}
        assert "5" in missing
        assert missing & there == set()
        assert missing | unknown | there == {item.id for item in items}
        assert queue.enqueue_many([jobs.add])[0].topic == topic  # it goes on


def test_batches_that_are_too_large_for_a_topic_are_split(make_topic: Callable[..., str], hosts: str) -> None:
    """A topic may allow less than a full batch of an own producer."""
    topic = make_topic(max_message_bytes=20_000)
    with Queue(topic, hosts=hosts) as queue:
        found = queue.enqueue_many((jobs.echo, (b"x" * 500,), {}) for _ in range(500))
    assert sorted(ids_of(on_topic(hosts, topic))) == sorted(str(job.id) for job in found)


def test_an_iterable_that_raises_is_heard_after_the_verdicts(queue: Queue, hosts: str) -> None:
    """What it gave before is enqueued."""

    def items() -> Iterator[Any]:
        yield jobs.add
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        queue.enqueue_many(items())
    assert len(on_topic(hosts, queue.topic)) == 1


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (5, "first argument must be a callable"),
        ((), "a tuple must be"),
        ((1, 2, 3, 4), "a tuple must be"),
        ((jobs.add, 5), "Job.args must be a list or tuple"),
        ((jobs.add, (), 5), "Job.kwargs must be a dict"),
        (("text", ()), "Job.func must be a callable"),
    ],
)
def test_a_bad_item_is_told_with_its_place(item: Any, words: str, queue: Queue, hosts: str) -> None:
    """What stands before it is enqueued."""
    with pytest.raises(ArgumentError, match=rf"^jobs\[1\]: {re.escape(words)}"):
        queue.enqueue_many([jobs.add, item, jobs.add])
    assert len(on_topic(hosts, queue.topic)) == 1


@pytest.mark.parametrize("call", ["enqueue_many(5)", "enqueue_many([], on_progress=5)"])
def test_bad_arguments_are_told(call: str, queue: Queue) -> None:
    """At once."""
    with pytest.raises(ArgumentError, match=r"must be an? (iterable|callable)"):
        eval(f"queue.{call}", {"queue": queue})


def test_a_line_is_logged_for_each_of_many(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """KQ's words."""
    caplog.set_level(logging.INFO, "kq.queue")
    found = queue.enqueue_many([jobs.add, jobs.add])
    assert caplog.messages == [f"Enqueueing {job} ..." for job in found]


def test_many_threads_share_one_queue(queue: Queue, hosts: str) -> None:
    """Each gets its own verdicts."""
    found: list[Job] = []
    threads = [
        threading.Thread(target=lambda: found.extend(queue.enqueue_many([(jobs.add, (1, 2), {})] * 300)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ids_of(on_topic(hosts, queue.topic))) == sorted(str(job.id) for job in found)
    assert len(found) == 1800


def test_ids_are_uuids_in_the_order_of_time() -> None:
    """Of version 7, however many are made ahead."""
    for ahead in (1, 3, 256):
        ids = new_ids(ahead)
        made = [uuid.UUID(next(ids)) for _ in range(600)]
        assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
        assert len(set(made)) == 600
        assert made == sorted(made)
        assert abs((made[-1].int >> 80) / 1000 - time.time()) < 60


# -- what failed -------------------------------------------------------------------------------------------------------


def test_an_error_says_which_jobs(queue: Queue) -> None:
    """Also where it was one."""
    job = Job(id="large", func=jobs.echo, args=(b"x" * 2_000_000,))
    with pytest.raises(EnqueueError) as caught:
        queue.enqueue(job)
    assert [job.id for job in caught.value.jobs] == ["large"]
    assert caught.value.unknown == []


def test_an_error_survives_pickling() -> None:
    """With its jobs."""
    error = pickle.loads(pickle.dumps(EnqueueUnknown("words", [Job("1")], [Job("2")])))
    assert (str(error), error.jobs, error.unknown) == ("words", [Job("1")], [Job("2")])


def test_a_str_as_key_is_refused_with_a_hint(queue: Queue) -> None:
    """The words are KQ's; how to make bytes stands in a note."""
    with pytest.raises(ArgumentError) as caught:
        queue.using(key="customer")  # type: ignore[arg-type]
    assert str(caught.value) == "key must be a bytes"
    assert caught.value.__notes__ == ["hint: encode it, as in key.encode()"]


def test_an_argument_that_cannot_be_serialized_is_named(queue: Queue) -> None:
    """By place or by name, with what it is."""
    with pytest.raises(ArgumentError, match=r"argument 2 of jobs\.echo cannot be serialized \(generator\)"):
        queue.enqueue(jobs.echo, 1, (number for number in ()))
    with pytest.raises(ArgumentError, match=r"argument it of jobs\.echo cannot be serialized \(list\)"):
        queue.enqueue(jobs.echo, it=[sys._getframe()])
    with pytest.raises(ArgumentError, match="a Queue cannot be serialized"):
        queue.enqueue(jobs.echo, queue)


# -- forks, exits and topics -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork here")
def test_a_forked_child_enqueues_or_says_why_not(topic: str, hosts: str) -> None:
    """A queue with hosts makes a new client there; with the user's producer it asks for one. Nothing hangs."""
    with jobs.Program(FORKED, hosts, topic) as program:
        assert program.end() == 0, program.text
        told = dict(line.split(" ", 1) for line in program.lines)
    made = {label: text.split(" ")[0] for label, text in told.items()}
    assert (made.pop("injected"), made.pop("inherited")) == ("EnqueueError", "EnqueueError")
    assert made == {
        "own": "32",
        "many": "10",
        "anew": "32",
        "locked": "32",
        "exit": "32",
        "exitcode": "0",
        "parent": "32",
    }
    assert "make a new KafkaProducer" in told["injected"]


def test_an_exit_loses_nothing_that_was_accepted(topic: str, hosts: str) -> None:
    """The interpreter waits for the thread that enqueues, and for the producer."""
    with jobs.Program(ENDING, hosts, topic) as program:
        assert program.end() == 0, program.text
        accepted = program.lines
    assert len(accepted) == 300
    assert ids_of(on_topic(hosts, topic)) == accepted


def test_a_topic_is_made_once(hosts: str, admin: Any) -> None:
    """With so many partitions; one that is there stays as it is."""
    queue = Queue(f"topic-{uuid.uuid4().hex[:8]}", hosts=hosts)
    assert [queue.ensure_topic(partitions=3), queue.ensure_topic(partitions=5)] == [True, False]
    (described,) = admin.describe_topics([queue.topic])
    assert len(described["partitions"]) == 3


def test_a_topic_is_made_with_the_users_producer(client: KafkaProducer) -> None:
    """Its addresses and credentials are taken."""
    assert Queue(f"topic-{uuid.uuid4().hex[:8]}", client).ensure_topic() is True


def test_a_topic_that_cannot_be_made_is_told(hosts: str) -> None:
    """In one line, with the number of brokers where there are too few."""
    name = f"topic-{uuid.uuid4().hex[:8]}"
    with pytest.raises(kq.KQError) as caught:
        Queue(name, hosts=hosts).ensure_topic(replication=50)
    reason = f"replication 50 needs as many brokers, and there is 1 broker at {hosts}"
    assert str(caught.value) == f"topic {name} could not be made: {reason}"
    with pytest.raises(ArgumentError, match="partitions must be an int of 1 or greater"):
        Queue("t", hosts=hosts).ensure_topic(partitions=0)


def test_the_settings_of_an_own_producer_reach_the_one_that_makes_topics(hosts: str) -> None:
    """What it takes to get to the brokers, and nothing that is the producer's alone."""
    queue = Queue("t", hosts=hosts, config={"linger_ms": 3, "client_id": "mine", "request_timeout_ms": 5000})
    assert queue._access({"request_timeout_ms", "client_id", "linger_ms_"}) == {"request_timeout_ms": 5000}


def test_an_id_tells_when_it_was_made():
    before = int(time.time() * 1000)
    made = [next(new_ids(ahead)) for ahead in (1, 100)]
    assert all(before <= made_at(one) <= time.time() * 1000 for one in made)
    for other in ("", "mine", uuid.uuid4().hex, str(uuid.UUID(made[0])), made[0].upper()):
        assert made_at(other) is None
