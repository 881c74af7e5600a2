"""The consumer of results: the names of the class in Celery, event by event in the thread that asks."""

from __future__ import annotations

import inspect
import os
import pickle
import time
from collections.abc import Callable
from typing import Any

import jobs
import pytest
import result_jobs
from helpers import wait_until
from kafka import KafkaConsumer, KafkaProducer
from test_results import working

import kq
from kq import ResultConsumer
from kq.resulting import headers_of

#: Every method of the reference, with its parameters and their defaults.
REFERENCE: dict[str, list[tuple[str, Any]]] = {
    "__init__": [("*args", None), ("**kwargs", None)],
    "start": [("initial_task_id", None), ("no_ack", True), ("**kwargs", None)],
    "drain_events": [("timeout", None)],
    "stop": [],
    "on_after_fork": [],
    "consume_from": [("task_id", None)],
    "cancel_for": [("task_id", None)],
}


def end(client: KafkaProducer, topic: str, job_id: str, value: Any = None) -> None:
    """Have a job end."""
    client.send(f"{topic}.results", pickle.dumps(value), job_id.encode(), headers=headers_of("success")).get(10)


@pytest.mark.parametrize("name", REFERENCE)
def test_each_name_of_the_reference_has_its_parameters_first(name: str) -> None:
    parameters = list(inspect.signature(getattr(ResultConsumer, name)).parameters.values())[1:]
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    own = [
        (stars.get(one.kind, "") + one.name, None if one.default is inspect.Parameter.empty else one.default)
        for one in parameters
    ]
    wanted = REFERENCE[name]
    assert own[: len(wanted)] == wanted
    assert all(default is None for _, default in own[len(wanted) :])


def test_the_class_attribute_is_the_class_of_the_consumer(topic: str, hosts: str, client: KafkaProducer) -> None:
    made: list[Any] = []

    class Mine(KafkaConsumer):  # type: ignore[misc]
        def __init__(self, *topics: str, **config: Any) -> None:
            made.append(config)
            super().__init__(*topics, **config)

    class Results(ResultConsumer):
        Consumer = Mine

    assert ResultConsumer.Consumer is KafkaConsumer
    consumer = Results(topic, hosts=hosts)
    end(client, topic, "a", 1)
    consumer.start("a", fetch_min_bytes=1)
    event = consumer.drain_events(timeout=20)
    assert event is not None
    assert (event.id, event.kind, event.status, event.outcome()) == ("a", "finished", "success", 1)
    assert [config["fetch_min_bytes"] for config in made] == [1]
    consumer.stop()


def test_events_from_start_to_stop(topic: str, hosts: str, client: KafkaProducer) -> None:
    heard: list[kq.JobEvent] = []
    consumer = ResultConsumer(topic, hosts=hosts, on_state_change=heard.append)
    begun = time.monotonic()
    assert consumer.drain_events() is None  # it was never started
    assert consumer.drain_events(timeout=0.1) is None
    assert 0.1 <= time.monotonic() - begun < 5
    end(client, topic, "before", "b")
    consumer.start("first")
    assert consumer.drain_events(timeout=0.3) is None
    consumer.consume_from("before")
    event = consumer.drain_events(timeout=20)
    assert event is not None
    assert (event.id, event.outcome()) == ("before", "b")
    consumer.consume_from("cancelled")
    consumer.cancel_for("cancelled")
    for job_id in ("other", "cancelled", "first", "first"):
        end(client, topic, job_id, job_id)
    event = consumer.drain_events(timeout=20)
    assert event is not None
    assert (event.id, event.outcome()) == ("first", "first")
    assert consumer.drain_events(timeout=0.5) is None  # there is one end of each, and nothing of others
    assert [event.id for event in heard] == ["before", "first"]
    consumer.stop()
    assert consumer.drain_events(timeout=0.05) is None
    consumer.stop()
    consumer.consume_from("cancelled")  # starts it
    event = consumer.drain_events(timeout=20)
    assert event is not None
    assert event.id == "cancelled"
    consumer.stop()


def test_a_subclass_that_counts(topic: str, hosts: str) -> None:
    """As it would be written against Celery's class, but for the import."""

    class CountingConsumer(ResultConsumer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.drained = self.tasks = 0

        def start(self, initial_task_id: str, no_ack: bool = True, **kwargs: Any) -> None:
            super().start(initial_task_id, no_ack=no_ack, **kwargs)
            self.tasks += 1

        def consume_from(self, task_id: str) -> None:  # type: ignore[override]
            super().consume_from(task_id)
            self.tasks += 1

        def drain_events(self, timeout: float | None = None) -> Any:
            event = super().drain_events(timeout=timeout)
            self.drained += event is not None
            return event

    with kq.Queue(topic, hosts=hosts) as queue, working(topic, hosts):
        made = [queue.enqueue(jobs.add, number) for number in range(10)]
        consumer = CountingConsumer(topic, hosts)
        consumer.start(made[0].id)
        for job in made[1:]:
            consumer.consume_from(job.id)
        while consumer.drained < 10:
            assert consumer.drain_events(timeout=30)
        assert consumer.tasks == 11  # start calls consume_from
        consumer.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("by_itself", [True, False])
def test_after_a_fork_both_go_on(topic: str, hosts: str, client: KafkaProducer, by_itself: bool) -> None:
    consumer = ResultConsumer(topic, hosts)
    end(client, topic, "a", 1)
    consumer.start("a")
    consumer.consume_from("b")
    event = consumer.drain_events(timeout=20)
    assert event is not None
    assert event.id == "a"
    pid = os.fork()
    if not pid:
        code = 1
        try:
            if not by_itself:
                consumer.on_after_fork()
            told = consumer.drain_events(timeout=30)
            code = 0 if told is not None and (told.id, told.outcome()) == ("b", 2) else 2
        finally:
            os._exit(code)
    end(client, topic, "b", 2)
    event = consumer.drain_events(timeout=20)
    assert event is not None
    assert (event.id, event.outcome()) == ("b", 2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    consumer.stop()


def test_wrong_arguments_say_what_to_pass(hosts: str) -> None:
    with pytest.raises(kq.ArgumentError, match="topic must be"):
        ResultConsumer("no topic")
    with pytest.raises(kq.ArgumentError, match=r"ResultConsumer\(\) got an unexpected keyword argument 'backend'"):
        ResultConsumer("t", backend=1)
    with pytest.raises(kq.ArgumentError, match="on_state_change must be a callable"):
        ResultConsumer("t", on_state_change=1)
    with pytest.raises(kq.ArgumentError, match="does not know: accept"):
        ResultConsumer("t", hosts).start("a", accept=["json"])
    with pytest.raises(kq.ArgumentError, match="a job ID is a str"):
        ResultConsumer("t", hosts).consume_from("")
    with pytest.raises(kq.BrokerUnreachable):
        ResultConsumer("t", "127.0.0.1:1", {"bootstrap_timeout_ms": 200}).start("a")


def test_a_broker_that_restarts_is_waited_for(kafka: kq.LocalKafka, make_topic: Callable[..., str]) -> None:
    topic = make_topic()
    consumer = ResultConsumer(topic, kafka.hosts)
    with kq.Queue(topic, hosts=kafka.hosts) as queue, queue.collect() as results, working(topic, kafka.hosts):
        first = queue.enqueue(jobs.add, 1, 1)
        consumer.start(first.id)
        assert results.get(first, timeout=30) == 2
        event = consumer.drain_events(timeout=30)
        assert event is not None
        second = queue.using(delay=3).enqueue(result_jobs.end_at)
        future = results.future(second)
        consumer.consume_from(second.id)
        kafka.kill()
        kafka.restart()
        third = queue.enqueue(jobs.add, 2, 2)
        assert results.get(third, timeout=60) == 4
        assert future.result(60) > 0
        event = wait_until(lambda: consumer.drain_events(timeout=1), 60)
        assert (event.id, event.status) == (second.id, "success")
    consumer.stop()
