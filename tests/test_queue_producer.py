"""The producer of a queue: whose it is, and what is told when it fails."""

from __future__ import annotations

import gc
import json
import logging
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator

import jobs
import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError

from kq import ArgumentError, EnqueueError, EnqueueUnknown, KQError, Queue

PARTITIONS = 3

ENQUEUE_WITHOUT_BROKER = """
import json, sys, time
import kq

begin = time.monotonic()
try:
    kq.Queue("t", hosts=sys.argv[1]).enqueue(print)
except kq.EnqueueError as error:
    print(json.dumps([type(error).__name__, type(error.__cause__).__name__, str(error), time.monotonic() - begin]))
"""


@pytest.fixture(scope="module")
def shared(make_topic: Callable[..., str]) -> str:
    """Return a topic with several partitions, for all tests here."""
    return make_topic(PARTITIONS)


@pytest.fixture
def small(make_topic: Callable[..., str]) -> str:
    """Return a topic that allows small records only."""
    return make_topic(max_message_bytes=1000)


@pytest.fixture
def queue(shared: str, client: KafkaProducer) -> Queue:
    """Return a queue with the user's producer."""
    return Queue(shared, client)


@pytest.fixture(scope="module")
def nobody() -> str:
    """Return hosts where no broker is."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="module", autouse=True)
def unreachable(nobody: str) -> Iterator[jobs.Program]:
    """Have one enqueue without a broker go on beside all tests here: it takes long."""
    with jobs.Program(ENQUEUE_WITHOUT_BROKER, nobody) as program:
        yield program


# -- whose producer it is ----------------------------------------------------------------------------------------------


def test_the_producer_of_the_user_is_never_closed(shared: str, hosts: str) -> None:
    """Neither by close, nor by a with block, nor when the queue goes away."""
    with KafkaProducer(bootstrap_servers=hosts) as producer:
        with Queue(shared, producer) as queue:
            queue.close()
        del queue
        assert producer.send(shared, b"x", headers=[("kq-id", b"alive")]).get(10).topic == shared


def test_an_own_producer_is_made_at_first_use_and_closed(shared: str, hosts: str) -> None:
    """``with`` closes it; closing twice is fine."""
    with Queue(shared, hosts=hosts) as queue:
        queue.enqueue(jobs.add, 1, 2)
        producer = queue.producer
        assert queue.producer is producer
    queue.close()
    with pytest.raises(KafkaError, match="closed"):
        producer.send(shared, b"x")


def test_a_closed_queue_says_so(shared: str, hosts: str) -> None:
    """It is an error, not silence."""
    queue = Queue(shared, hosts=hosts)
    queue.close()
    with pytest.raises(EnqueueError, match="is closed"):
        queue.enqueue(jobs.add, 1, 2)


def test_config_reaches_an_own_producer(shared: str, hosts: str) -> None:
    """Settings of kafka-python, beside KQ's own."""
    with Queue(shared, hosts=hosts, config={"linger_ms": 3, "client_id": "mine"}) as queue:
        assert (queue.producer.config["linger_ms"], queue.producer.config["client_id"]) == (3, "mine")
        assert queue.producer.config["acks"] in ("all", -1)


def test_a_producer_without_acknowledgements_is_warned_about(
    shared: str, hosts: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It could lose jobs in silence."""
    with KafkaProducer(bootstrap_servers=hosts, acks=0, enable_idempotence=False) as producer:
        Queue(shared, producer).enqueue(jobs.add, 1, 2)
    warned = [record for record in caplog.records if record.levelno == logging.WARNING and "acks=0" in record.message]
    assert [record.name for record in warned] == ["kq.queue"]


# -- what fails --------------------------------------------------------------------------------------------------------


def test_a_record_that_is_too_large_is_told(queue: Queue) -> None:
    """It is a KQ error and a Kafka error, which users of KQ catch."""
    with pytest.raises(EnqueueError, match="was not enqueued") as caught:
        queue.enqueue(jobs.echo, b"x" * 2_000_000)
    assert isinstance(caught.value, KQError)
    assert isinstance(caught.value, KafkaError)
    assert isinstance(caught.value.__cause__, KafkaError)
    assert not isinstance(caught.value, EnqueueUnknown)


def test_a_record_that_the_broker_refuses_is_told(small: str, producer: Callable[..., KafkaProducer]) -> None:
    """The topic allows less than the producer; the refusal is certain."""
    with pytest.raises(EnqueueError, match="was refused") as caught:
        Queue(small, producer()).enqueue(jobs.echo, b"x" * 20_000)
    assert type(caught.value) is EnqueueError


def test_an_own_producer_goes_on_after_a_refusal(small: str, hosts: str) -> None:
    """kafka-python's never sends again after one; a queue that owns it takes another."""
    with Queue(small, hosts=hosts) as queue:
        for _ in range(2):
            with pytest.raises(EnqueueError, match="was refused"):
                queue.enqueue(jobs.echo, b"x" * 20_000)
            assert queue.enqueue(jobs.add, 1, 2).id


@pytest.mark.parametrize("partition", [PARTITIONS, -1])
def test_an_unknown_partition_is_told(partition: int, queue: Queue) -> None:
    """The job is not enqueued."""
    with pytest.raises(EnqueueError, match="partition"):
        queue.using(partition=partition).enqueue(jobs.add, 1, 2)


def test_a_bad_topic_name_is_told(client: KafkaProducer) -> None:
    """Kafka has rules for names."""
    with pytest.raises(ArgumentError, match="no topic!"):
        Queue("no topic!", client)


def test_a_closed_producer_is_told(shared: str, hosts: str) -> None:
    """The user closed it too early."""
    producer = KafkaProducer(bootstrap_servers=hosts)
    queue = Queue(shared, producer)
    producer.close()
    with pytest.raises(EnqueueError, match="closed"):
        queue.enqueue(jobs.add, 1, 2)


def test_the_time_without_a_broker_can_be_set(nobody: str) -> None:
    """By a setting of the client."""
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a client that does not come to be leaves sockets behind
        with pytest.raises(EnqueueError, match=re.escape(nobody)) as caught:
            Queue("t", hosts=nobody, config={"bootstrap_timeout_ms": 300}).enqueue(jobs.add, 1, 2)
        del caught
        gc.collect()
    assert time.monotonic() - begin < 5


def test_a_broker_that_is_not_there_is_told_within_ten_seconds(nobody: str, unreachable: jobs.Program) -> None:
    """The error names the hosts."""
    assert unreachable.end() == 0, unreachable.text
    kind, cause, text, seconds = json.loads(unreachable.lines[-1])
    assert (kind, cause) == ("EnqueueError", "BrokerUnreachable")
    assert nobody in text
    assert seconds < 10
