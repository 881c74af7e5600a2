"""The types of the public API, as mypy infers them. Nothing here runs: ``mypy --strict`` checks it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Literal

from kafka import KafkaConsumer, KafkaProducer
from typing_extensions import assert_type

import kq
from kq.testing import Eager, Ran, drain, eager


def add(a: int, b: int = 0) -> int:
    return a + b


async def fetch(url: str) -> bytes:
    return url.encode()


def numbers() -> Iterator[tuple[Any, ...]]:
    yield add, (1, 2), {}


async def numbers_later() -> AsyncIterator[tuple[Any, ...]]:
    yield add, (1, 2), {}


class Resizer(kq.Consumer):
    task_types = {"add": add}

    def get_message_log(self, message: kq.Message) -> dict[str, int] | None:
        return {"offset": message.offset}

    def serializer(self, message: kq.Message) -> tuple[list[int], dict[str, int]]:
        return [1], {"b": 2}


def consumers(host: kq.VirtualHost) -> None:
    consumer = Resizer(host, "topic", logging.getLogger(), "name", worker={"executor": "process"})
    kq.Consumer("h:1", "topic", logging.getLogger())  # type: ignore[call-arg]
    assert_type(consumer.connect(), kq.Worker)
    assert_type(consumer.name, str)
    assert_type(consumer.is_alive(), bool)
    several = kq.ConsumerSet("h:1", "topic", logging.getLogger(), 5, consumer_class=Resizer)
    assert_type(several.consumers, tuple[kq.Consumer, ...])
    assert_type(several.stop_consuming(timeout=3), bool)
    assert_type(kq.ConsumerSet.get_consumer_class("kq.Consumer"), type[kq.Consumer])


def queues(producer: KafkaProducer) -> None:
    queue = kq.Queue("topic", producer, kq.dumps, 5, logging.getLogger())
    kq.Queue(hosts="h:1", config={"linger_ms": 5})
    kq.Queue(5)  # type: ignore[arg-type]
    kq.Queue("topic", host="h:1")  # type: ignore[call-arg]
    assert_type(queue.hosts, str)
    assert_type(queue.topic, str)
    assert_type(queue.timeout, float | int)
    assert_type(queue.serializer, Callable[[kq.Job], bytes])
    assert_type(queue.enqueue(add, 1, b=2), kq.EnqueuedJob)
    assert_type(queue.enqueue(kq.Job(func=add)), kq.EnqueuedJob)
    assert_type(queue.enqueue_many(numbers(), on_progress=lambda done, total: None), list[kq.EnqueuedJob])
    assert_type(queue.ensure_topic(3), bool)
    queue.enqueue(5)  # type: ignore[call-overload]
    queue.enqueue(add)  # type: ignore[call-overload]
    queue.enqueue(add, "1")  # type: ignore[call-overload]
    queue.enqueue(add, 1, c=2)  # type: ignore[call-arg]
    queue.enqueue(kq.Job(func=add), 3)  # type: ignore[call-overload]
    queue.using(timeout=1).enqueue(add)  # type: ignore[call-overload]
    queue.enqueue(max, [1, 2], key=abs)
    queue.enqueue(print, "hello", sep="")
    queue.enqueue(partial(add, 1))
    queue.enqueue_many([add])
    queue.enqueue_many([(add, (1, 2)), (add, [1], {"b": 2}), kq.Job(func=add)])
    queue.enqueue_many([5])  # type: ignore[list-item]
    queue.enqueue_many([(add, 5)])  # type: ignore[list-item]
    assert_type(queue.enqueue(add, 1).id, str)
    assert_type(queue.enqueue(add, 1).timestamp, int)
    plain: kq.Job = queue.enqueue(add, 1)
    assert_type(plain.id, str | None)
    with queue as same:
        assert_type(same, kq.Queue)
    spec = queue.using(timeout=1.5, key=b"k", partition=0, headers=[("trace", b"1")])
    assert_type(spec, kq.EnqueueSpec)
    assert_type(spec.enqueue(add, 1), kq.EnqueuedJob)
    queue.using(key="text")  # type: ignore[arg-type]


async def asynchronous(queue: kq.Queue) -> None:
    assert_type(await queue.aenqueue(add, 1), kq.EnqueuedJob)
    assert_type(await queue.aenqueue_many(numbers()), list[kq.EnqueuedJob])
    assert_type(await queue.aenqueue_many(numbers_later()), list[kq.EnqueuedJob])
    assert_type(await queue.using(timeout=1).aenqueue(add, 1), kq.EnqueuedJob)


def jobs(job: kq.Job) -> None:
    assert_type(job.id, str | None)
    assert_type(job.timestamp, int | None)
    assert_type(job.func, Callable[..., Any] | None)
    assert_type(job.key, bytes | None)
    assert_type(job._replace(timeout=5), kq.Job)
    assert_type(kq.loads(kq.dumps(job)), kq.Job)


def errors(error: kq.EnqueueError, lost: kq.ChildLost) -> None:
    assert_type(error.jobs, list[kq.Job])
    assert_type(error.unknown, list[kq.Job])
    assert_type(lost.exitcode, int | None)


QUEUE = kq.Queue(hosts="h:1")


@QUEUE.job(timeout=5)
def double(number: int, *, times: int = 2) -> int:
    return number * times


@QUEUE.job()
async def later(url: str) -> bytes:
    return await fetch(url)


class Mailer:
    @QUEUE.job()
    def send(self, to: str) -> int:
        return len(to)

    @staticmethod
    @QUEUE.job()
    def shout(text: str) -> str:
        return text.upper()


async def decorated() -> None:
    assert_type(double(1, times=3), int)
    assert_type(double.enqueue(1, times=3), kq.EnqueuedJob)
    assert_type(await double.aenqueue(1), kq.EnqueuedJob)
    assert_type(double.using(timeout=1, key=b"k").enqueue(1), kq.EnqueuedJob)
    double("x")  # type: ignore[arg-type]
    double.enqueue("x")  # type: ignore[arg-type]
    double.enqueue()  # type: ignore[call-arg]
    double.using(timeout=1).enqueue(number="x")  # type: ignore[arg-type]
    assert_type(await later("u"), bytes)
    assert_type(later.enqueue("u"), kq.EnqueuedJob)


async def methods() -> None:
    assert_type(Mailer().send("bob"), int)
    assert_type(Mailer().send.enqueue("bob"), kq.EnqueuedJob)
    assert_type(await Mailer().send.aenqueue(to="bob"), kq.EnqueuedJob)
    assert_type(Mailer.send.enqueue(Mailer(), "bob"), kq.EnqueuedJob)
    assert_type(Mailer().send.using(timeout=3).enqueue("bob"), kq.EnqueuedJob)
    assert_type(Mailer.shout("x"), str)
    assert_type(Mailer.shout.enqueue("x"), kq.EnqueuedJob)
    Mailer().send.enqueue()  # type: ignore[call-arg]
    Mailer().send.enqueue(5)  # type: ignore[arg-type]


def told(
    status: str,
    message: kq.Message,
    job: kq.Job | None,
    result: Any,
    exception: BaseException | None,
    stacktrace: str | None,
) -> None:
    assert_type(message.key, bytes | None)
    assert_type(message.headers, tuple[tuple[str, bytes], ...])


def workers(consumer: KafkaConsumer) -> None:
    worker = kq.Worker("topic", consumer, told, kq.loads, timeout=5, commit_interval=0.5, shutdown_timeout=3)
    kq.Worker(hosts="h:1", group="g", executor="process", concurrency=4, ordering="partition", max_deliveries=5)
    kq.Worker(hosts="h:1", executor=kq.ProcessExecutor(kill_grace=1, max_jobs=5, preload=("json",), on_start=print))
    kq.Worker(hosts="h:1", executor=kq.ThreadExecutor())
    kq.Worker(hosts="h:1", executor=kq.InlineExecutor())
    kq.Worker(hosts="h:1", log_arguments=False, signer=kq.Signer({"a": b"k" * 32}, max_age=60))
    kq.Worker(hosts="h:1", signer="k")  # type: ignore[arg-type]
    kq.Control("topic", "h:1", signer=kq.Signer(lambda: [("a", b"k" * 32)]))
    kq.Control("topic", signer=b"k")  # type: ignore[arg-type]
    kq.Worker(hosts="h:1", executor=5)  # type: ignore[arg-type]
    kq.Worker(hosts="h:1", concurrency="4")  # type: ignore[arg-type]
    assert_type(worker.start(max_messages=5, commit_offsets=False), int)
    assert_type(worker.hosts, str)
    assert_type(worker.topic, str)
    worker.stop()


def helpers(queue: kq.Queue) -> None:
    with eager(told, timeout=5) as ran:
        assert_type(ran, Eager)
    assert_type(drain(queue, concurrency=2, executor=kq.ThreadExecutor()), list[Ran])
    assert_type(ran[0].status, Literal["invalid", "success", "timeout", "failure"])
    assert_type(ran[0].message, kq.Message)
    assert_type(ran[0].exception, BaseException | None)
    with kq.LocalKafka() as kafka:
        assert_type(kafka.hosts, str)
