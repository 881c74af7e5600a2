"""The queue: what it accepts, what it says, and what is on the topic afterwards."""

from __future__ import annotations

import functools
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dill
import jobs
import pytest
from helpers import wait_until
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

import kq
from kq import ArgumentError, Job, Queue

PARTITIONS = 3

#: Calls that are wrong, and what KQ 2.x says of each.
BAD_CALLS = [
    ("Queue(None, producer)", "topic must be a str"),
    ("Queue(1, producer)", "topic must be a str"),
    ("Queue(b't', producer)", "topic must be a str"),
    ("Queue('t')", 'bad producer instance; pass a KafkaProducer, or hosts="127.0.0.1:9092"'),
    ("Queue('t', 'producer')", 'bad producer instance; pass a KafkaProducer, or hosts="127.0.0.1:9092"'),
    ("Queue('', hosts='h:1')", "topic must be 1 to 249 letters, digits, '.', '_' and '-', as Kafka has it, not ''"),
    (
        "Queue('a b', hosts='h:1')",
        "topic must be 1 to 249 letters, digits, '.', '_' and '-', as Kafka has it, not 'a b'",
    ),
    ("Queue('..', hosts='h:1')", "topic must be 1 to 249 letters, digits, '.', '_' and '-', as Kafka has it, not '..'"),
    ("queue.enqueue(Job, 3, 4)", "first argument is the class Job: pass a function, or a job, such as Job(func=print)"),
    ("Queue('t', producer, serializer='x')", "serializer must be a callable"),
    ("Queue('t', producer, timeout='1')", "timeout must be an int or float"),
    ("Queue('t', producer, timeout=None)", "timeout must be an int or float"),
    ("Queue('t', producer, timeout=-1)", "timeout must be 0 or greater"),
    ("Queue('t', producer, timeout=float('nan'))", "timeout must be 0 or greater"),
    ("Queue('t', producer, logger=1)", "bad logger instance"),
    ("queue.using(timeout='1')", "timeout must be an int or float"),
    ("queue.using(timeout=-0.5)", "timeout must be 0 or greater"),
    ("queue.using(key='k')", "key must be a bytes"),
    ("queue.using(partition='0')", "partition must be an int"),
    ("queue.enqueue(1)", "first argument must be a callable"),
    ("queue.enqueue(None)", "first argument must be a callable"),
    ("queue.using().enqueue('print')", "first argument must be a callable"),
    ("queue.enqueue(Job(id=1, func=print))", "Job.id must be a str"),
    ("queue.enqueue(Job())", "Job.func must be a callable"),
    ("queue.enqueue(Job(func='print'))", "Job.func must be a callable"),
    ("queue.enqueue(Job(func=print, args=1))", "Job.args must be a list or tuple"),
    ("queue.enqueue(Job(func=print, args='ab'))", "Job.args must be a list or tuple"),
    ("queue.enqueue(Job(func=print, kwargs=[]))", "Job.kwargs must be a dict"),
    ("queue.enqueue(Job(func=print, timeout='1'))", "Job.timeout must be an int or float"),
    ("queue.enqueue(Job(func=print, timeout=-1))", "Job.timeout must be 0 or greater"),
    ("queue.enqueue(Job(func=print, key='k'))", "Job.key must be a bytes"),
    ("queue.enqueue(Job(func=print, partition='0'))", "Job.partition must be an int"),
]

#: Calls that KQ 2.x did not know.
MORE_BAD_CALLS = [
    ("Queue(hosts=1)", "hosts must be a str"),
    ("Queue(hosts='')", "hosts must be a str"),
    ("Queue(hosts=['h:1'])", "hosts must be a str"),
    ("Queue(hosts='h:port')", "hosts: 'h:port' is no address; write host:port"),
    ("Queue(hosts='h:1,:9092')", "hosts: ':9092' is no address"),
    ("Queue(hosts='h:99999')", "hosts: 'h:99999' is no address"),
    ("Queue(hosts='h: 9092')", "hosts: 'h: 9092' is no address"),
    ("Queue(hosts='[::1]:x')", "hosts: '[::1]:x' is no address"),
    ("Queue('t', producer, hosts='h:1')", "hosts and config are for a queue without a producer of its own"),
    ("Queue('t', producer, config={})", "hosts and config are for a queue without a producer of its own"),
    ("Queue('t', hosts='h:1', config={'nonsense': 1})", "kafka-python does not know: nonsense"),
    ("Queue('t', hosts='h:1', config={'key_serializer': str})", "config must not set what KQ sets itself"),
    ("queue.using(headers=[('kq-id', b'1')])", "headers must not begin with kq-: kq-id"),
    ("queue.using(headers=[('a', 'b')])", "headers must be a list of (str, bytes)"),
    ("queue.using(headers=[(b'a', b'b')])", "headers must be a list of (str, bytes)"),
    ("queue.using(headers=['ab'])", "headers must be a list of (str, bytes)"),
]

CHECK_CALLS = """
import json, sys
from kafka import KafkaProducer
from kq import Job, Queue

producer = KafkaProducer(bootstrap_servers=sys.argv[1])
queue = Queue("t", producer)
found = []
for call in json.loads(sys.argv[2]):
    try:
        eval(call)
    except AssertionError as error:
        found.append([isinstance(error, TypeError), str(error)])
    else:
        found.append(None)
print(json.dumps([__debug__, found]))
"""


class Reader:
    """Finds the records of jobs, of all partitions of a topic."""

    def __init__(self, hosts: str, topic: str) -> None:
        self._consumer = KafkaConsumer(bootstrap_servers=hosts)
        self._consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
        self._consumer.seek_to_beginning()
        self._found: dict[str, Any] = {}

    def record(self, job: Job) -> Any:
        assert job.id is not None
        return wait_until(lambda: self._found.get(str(job.id)) or self._poll())

    def _poll(self) -> None:
        for records in self._consumer.poll(100).values():
            self._found.update({dict(record.headers)["kq-id"].decode(): record for record in records})

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture(scope="module")
def shared(make_topic: Callable[..., str]) -> str:
    """Return a topic with several partitions, for all tests here."""
    return make_topic(PARTITIONS)


@pytest.fixture(scope="module")
def reader(hosts: str, shared: str) -> Iterator[Reader]:
    """Return what finds the records of jobs."""
    reader = Reader(hosts, shared)
    yield reader
    reader.close()


@pytest.fixture
def queue(shared: str, client: KafkaProducer) -> Queue:
    """Return a queue with the user's producer."""
    return Queue(shared, client)


# -- what a queue says of itself ---------------------------------------------------------------------------------------


def test_a_queue_tells_what_it_was_made_of(hosts: str, shared: str, client: KafkaProducer) -> None:
    """The properties are the arguments."""
    serializer = functools.partial(dill.dumps)
    queue = Queue(topic=shared, producer=client, serializer=serializer, timeout=7)
    assert queue.hosts == hosts
    assert queue.topic == shared
    assert queue.producer is client
    assert queue.serializer is serializer
    assert queue.timeout == 7


def test_the_repr_is_kqs(hosts: str, shared: str, queue: Queue) -> None:
    """It names hosts and topic."""
    assert repr(queue) == f"Queue(hosts={hosts}, topic={shared})"


def test_hosts_of_a_producer_with_a_list_are_one_str(hosts: str) -> None:
    """kafka-python takes a list too; KQ tells one comma-separated str."""
    with KafkaProducer(bootstrap_servers=[hosts, hosts]) as producer:
        assert Queue("t", producer).hosts == f"{hosts},{hosts}"


def test_defaults_are_kqs(queue: Queue) -> None:
    """No limit, and dill."""
    assert queue.timeout == 0
    assert queue.serializer is kq.dumps


def test_the_topic_is_default_with_hosts_only(hosts: str) -> None:
    """As in KQ 1.x; with a producer the topic must be given."""
    assert Queue(hosts=hosts).topic == "default"


@pytest.mark.parametrize(("call", "words"), BAD_CALLS, ids=lambda value: value)
def test_a_bad_argument_is_told_in_kqs_words(call: str, words: str, queue: Queue, client: KafkaProducer) -> None:
    """The error is a TypeError, and an AssertionError as in KQ 2.x."""
    with pytest.raises(ArgumentError) as caught:
        eval(call, {"Queue": Queue, "Job": Job, "queue": queue, "producer": client})
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value) == words


@pytest.mark.parametrize(("call", "words"), MORE_BAD_CALLS, ids=lambda value: value)
def test_a_bad_new_argument_is_told_clearly(call: str, words: str, queue: Queue, client: KafkaProducer) -> None:
    """What KQ 2.x did not have is checked in the same way."""
    with pytest.raises(ArgumentError, match=re.escape(words)):
        eval(call, {"Queue": Queue, "Job": Job, "queue": queue, "producer": client})


def test_bad_arguments_are_told_under_python_o(hosts: str) -> None:
    """The checks are no assertions."""
    calls = json.dumps([call for call, _ in BAD_CALLS])
    with jobs.Program(CHECK_CALLS, hosts, calls, flags=["-O"]) as program:
        assert program.end() == 0, program.text
    assert json.loads(program.lines[-1]) == [False, [[True, words] for _, words in BAD_CALLS]]


# -- what becomes of a job ---------------------------------------------------------------------------------------------


def test_a_function_call_becomes_a_complete_job(queue: Queue, shared: str) -> None:
    """What ``enqueue`` returns says all."""
    before = int(time.time() * 1000)
    job = queue.enqueue(jobs.echo, 1, a=2)
    assert type(job) is Job
    assert re.fullmatch("[0-9a-f]{32}", job.id or "")
    assert job.timestamp is not None and before <= job.timestamp <= int(time.time() * 1000)
    assert job == Job(job.id, job.timestamp, shared, jobs.echo, (1,), {"a": 2}, 0, None, None)


def test_any_keyword_can_be_an_argument_of_the_function(queue: Queue) -> None:
    """No name is taken by ``enqueue`` itself."""
    job = queue.enqueue(jobs.echo, self=1, obj=2, func=3, timeout=4)
    assert job.kwargs == {"self": 1, "obj": 2, "func": 3, "timeout": 4}


def test_of_a_job_the_timestamp_and_topic_are_replaced(queue: Queue, shared: str) -> None:
    """They tell when and where it was enqueued."""
    job = queue.enqueue(Job(timestamp=1, topic="elsewhere", func=jobs.add, args=[1, 2]))
    assert job.timestamp is not None and job.timestamp > 1
    assert job.topic == shared


def test_of_a_job_the_id_is_kept_or_generated(queue: Queue) -> None:
    """Only None is replaced."""
    assert queue.enqueue(Job(id="mine", func=jobs.add)).id == "mine"
    assert re.fullmatch("[0-9a-f]{32}", queue.enqueue(Job(func=jobs.add)).id or "")


def test_a_job_without_arguments_gets_empty_ones(queue: Queue) -> None:
    """A worker can call it."""
    job = queue.enqueue(Job(func=jobs.echo))
    assert (job.args, job.kwargs) == ((), {})


def test_a_job_wins_over_the_spec(queue: Queue) -> None:
    """Its own timeout, key and partition hold."""
    job = Job(func=jobs.add, timeout=1, key=b"own", partition=1)
    enqueued = queue.using(timeout=2, key=b"spec", partition=2).enqueue(job)
    assert (enqueued.timeout, enqueued.key, enqueued.partition) == (1, b"own", 1)


def test_a_job_that_says_nothing_takes_the_spec(queue: Queue) -> None:
    """What it leaves out is filled in."""
    enqueued = queue.using(timeout=2, key=b"spec", partition=2).enqueue(Job(func=jobs.add))
    assert (enqueued.timeout, enqueued.key, enqueued.partition) == (2, b"spec", 2)


def test_arguments_beside_a_job_are_ignored(queue: Queue) -> None:
    """As in KQ: the job has its own."""
    assert queue.enqueue(Job(func=jobs.echo, args=(1,)), 2, a=3)[4:6] == ((1,), {})


@pytest.mark.parametrize(("given", "expected"), [(None, 5), (0, 0), (0.0, 0), (9, 9)])
def test_a_timeout_of_zero_beats_that_of_the_queue(
    given: float | None, expected: float, shared: str, client: KafkaProducer
) -> None:
    """Only None means the queue's."""
    queue = Queue(shared, client, timeout=5)
    assert queue.using(timeout=given).enqueue(jobs.add).timeout == expected
    assert queue.enqueue(Job(func=jobs.add, timeout=given)).timeout == expected


@pytest.mark.parametrize(
    ("func", "args", "expected"),
    [
        (jobs.add, (1, 2), 3),
        (jobs.Account(10).after, (5,), 15),
        (jobs.Account(10), (3,), 7),
        (lambda a: a * 2, (4,), 8),
        (functools.partial(jobs.add, 1), (9,), 10),
        (len, ("abc",), 3),
        (dict, (), {}),
    ],
    ids=["function", "method", "callable instance", "lambda", "partial", "builtin", "class"],
)
def test_whatever_can_be_called_can_be_enqueued(
    func: Callable[..., Any], args: tuple[Any, ...], expected: Any, queue: Queue, reader: Reader
) -> None:
    """The value on the topic is the call."""
    record = reader.record(queue.enqueue(func, *args))
    job = kq.loads(record.value)
    assert job.func is not None and job.args is not None
    assert job.func(*job.args) == expected


# -- what is on the topic ----------------------------------------------------------------------------------------------


def test_the_value_is_the_job(queue: Queue, reader: Reader) -> None:
    """Plain dill reads it as well."""
    job = queue.using(timeout=1.5, key=b"k").enqueue(jobs.echo, 1, a=2)
    assert dill.loads(reader.record(job).value) == job


def test_the_key_goes_raw(queue: Queue, reader: Reader) -> None:
    """Every other client would put it into the same partition."""
    job = queue.using(key=b"\x00raw").enqueue(jobs.add)
    assert reader.record(job).key == b"\x00raw"


def test_a_key_chooses_one_partition(queue: Queue, reader: Reader) -> None:
    """Jobs with the same key are neighbours."""
    enqueued = [queue.using(key=b"same").enqueue(jobs.add) for _ in range(4)]
    assert len({reader.record(job).partition for job in enqueued}) == 1


@pytest.mark.parametrize("key", [None, b""])
def test_an_empty_key_is_none(key: bytes | None, queue: Queue, reader: Reader) -> None:
    """It orders nothing."""
    assert reader.record(queue.using(key=key).enqueue(jobs.add)).key is None


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_a_partition_is_kept_to(partition: int, queue: Queue, reader: Reader) -> None:
    """Also beside a key."""
    job = queue.using(partition=partition, key=b"same").enqueue(jobs.add)
    assert reader.record(job).partition == partition


def test_the_record_has_the_time_of_the_job(queue: Queue, reader: Reader) -> None:
    """Both are Unix milliseconds."""
    job = queue.enqueue(jobs.add)
    assert reader.record(job).timestamp == job.timestamp


def test_headers_tell_id_and_timeout(queue: Queue, reader: Reader) -> None:
    """A worker learns them without unpickling anything."""
    job = queue.using(timeout=2.5).enqueue(jobs.add)
    assert reader.record(job).headers == [
        ("kq-id", str(job.id).encode()),
        ("kq-timeout", b"2.5"),
        ("kq-func", b"jobs.add"),
    ]


def test_no_timeout_is_no_header(queue: Queue, reader: Reader) -> None:
    """What is not there has no limit."""
    job = queue.enqueue(jobs.add)
    assert reader.record(job).headers == [("kq-id", str(job.id).encode()), ("kq-func", b"jobs.add")]


def test_headers_of_the_user_pass(queue: Queue, reader: Reader) -> None:
    """In their order, repeated names included, and nobody else's jobs get them."""
    own = [("trace", b"1"), ("trace", b"2"), ("empty", b"")]
    job = queue.using(headers=own).enqueue(jobs.add)
    assert reader.record(job).headers[2:] == own
    assert len(reader.record(queue.enqueue(jobs.add)).headers) == 2


def test_a_serializer_of_the_user_makes_the_value(shared: str, client: KafkaProducer, reader: Reader) -> None:
    """It gets the complete job."""
    queue = Queue(shared, client, serializer=lambda job: json.dumps([job.id, job.topic, job.args]).encode())
    job = queue.enqueue(jobs.add, 1, 2)
    assert json.loads(reader.record(job).value) == [job.id, shared, [1, 2]]


def test_a_serializer_must_return_bytes(shared: str, client: KafkaProducer) -> None:
    """Nothing else can be a value."""
    with pytest.raises(ArgumentError, match="serializer must return bytes, not str"):
        Queue(shared, client, serializer=lambda job: "text").enqueue(jobs.add)  # type: ignore[arg-type,return-value]


def test_what_a_serializer_raises_comes_through(shared: str, client: KafkaProducer) -> None:
    """It is the user's own error."""
    with pytest.raises(ZeroDivisionError):
        Queue(shared, client, serializer=lambda job: 1 / 0).enqueue(jobs.add)  # type: ignore[arg-type,return-value]


def test_one_queue_serves_many_threads(shared: str, hosts: str, reader: Reader) -> None:
    """No job is lost, and one producer is made."""
    with Queue(shared, hosts=hosts) as queue, ThreadPoolExecutor(8) as pool:
        enqueued = list(pool.map(lambda number: queue.enqueue(jobs.add, number, 0), range(80)))
        producers = {id(producer) for producer in pool.map(lambda _: queue.producer, range(8))}
    assert [kq.loads(reader.record(job).value).args for job in enqueued] == [(number, 0) for number in range(80)]
    assert len(producers) == 1


# -- what is logged ----------------------------------------------------------------------------------------------------


def test_one_line_a_job_is_logged(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """KQ's words, at any level nothing else."""
    caplog.set_level(logging.DEBUG, "kq.queue")
    job = queue.using(key=b"k").enqueue(jobs.add, 1, 2)
    lines = [(record.levelname, record.message) for record in caplog.records if record.name == "kq.queue"]
    assert lines == [("INFO", f"Enqueueing {job} ...")]


def test_a_logger_of_the_user_gets_the_lines(
    shared: str, client: KafkaProducer, caplog: pytest.LogCaptureFixture
) -> None:
    """And ``kq.queue`` gets none."""
    caplog.set_level(logging.INFO)
    job = Queue(shared, client, logger=logging.getLogger("mine")).enqueue(jobs.add, 1, 2)
    lines = [(record.name, record.message) for record in caplog.records if record.name in ("mine", "kq.queue")]
    assert lines == [("mine", f"Enqueueing {job} ...")]


def test_an_argument_without_text_is_enqueued(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """A repr that raises changes nothing."""
    caplog.set_level(logging.INFO, "kq.queue")
    assert queue.enqueue(jobs.echo, jobs.Unprintable()).id
    assert "Enqueueing <unprintable Job> ..." in caplog.messages
