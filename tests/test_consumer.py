"""Consumers: their life, their hooks, and what they are asked about each message."""

from __future__ import annotations

import logging
import re
import signal
import socket
import threading
import time
from typing import Any

import consumers
import jobs
import pytest
from consumers import LOGGER, Noting, Picky, Raising, consuming, wait_for_end
from helpers import wait_until
from journal import work
from kafka import KafkaAdminClient, KafkaProducer

import kq
from kq import ArgumentError, DeadLetters
from kq.fleet.pauses import Pauses

EXECUTORS = ["inline", "thread", "process"]

#: Runs a consumer in the main thread, and says what it was told.
IN_MAIN_THREAD = """
import sys
from consumers import LOGGER, Noting
consumer = Noting(sys.argv[2], sys.argv[1], LOGGER, "main")
consumer.run()
print("told", *dict.fromkeys(consumer.words()), flush=True)
"""

BAD = [
    (lambda: kq.Consumer("nowhere:x", "t", LOGGER, "n"), "is no address"),
    (lambda: kq.Consumer("h:1", "a b", LOGGER, "n"), "topic must be"),
    (lambda: kq.Consumer("h:1", "t", "logger", "n"), "bad logger instance"),
    (lambda: kq.Consumer("h:1", "t", LOGGER, ""), "name must be"),
    (lambda: kq.Consumer("h:1", "t", LOGGER, "n", config={"nope": 1}), "does not know: nope"),
    (lambda: kq.Consumer("h:1", "t", LOGGER, "n", group=""), "group must be"),
    (lambda: kq.Consumer("h:1", "t", LOGGER, "n", worker={"concurrency": 0}), "concurrency must be"),
    (lambda: kq.Consumer("h:1", "t", LOGGER, "n", worker={"hosts": "h:1", "topic": "t"}), "sets itself: hosts, topic"),
    (lambda: kq.Consumer("h:1", "t", LOGGER, "n", queue_arguments={"partitions": 0}), "must be ints of 1"),
    (lambda: kq.Consumer("h:1", "t", LOGGER, "n").add_failure_callback(3), "cb must be a callable"),
    (lambda: kq.VirtualHost("", 1), "host must be"),
    (lambda: kq.VirtualHost("h", 0), "port must be"),
    (lambda: kq.VirtualHost("h", username="u"), "username and password go together"),
    (lambda: kq.VirtualHost("h h"), "is no address"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_one_clear_line(make, message):
    """Where they are given, before anything connects."""
    with pytest.raises(ArgumentError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_virtual_host_says_where_and_how():
    """Ports for those that have none, SASL and TLS; the password is not shown."""
    host = kq.VirtualHost("a,b:1,[::1]", 2, "me", "secret", secure=True, config={"ssl_check_hostname": False})
    assert host.hosts == "a:2,b:1,[::1]:2"
    assert "secret" not in repr(host)
    assert host.settings() == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "me",
        "sasl_plain_password": "secret",
        "ssl_check_hostname": False,
    }
    assert kq.VirtualHost().settings() == {}
    assert kq.Consumer(host, "t", LOGGER, "n").hosts == host.hosts


# -- life --------------------------------------------------------------------------------------------------------------


def test_a_consumer_runs_jobs_in_a_thread_of_its_name(hosts, queue):
    """It is told of everything, in order and in its own thread; nothing else is an error."""
    seen = []
    jobs.HOOKS["name"] = lambda: seen.append(threading.current_thread().name)
    queue.enqueue(jobs.hook, "name")
    with consuming(Noting, hosts, queue.topic, name="reader-7") as consumer:
        assert (consumer.is_alive(), consumer.name, consumer.shutdown_requested) == (True, "reader-7", False)
        wait_for_end(consumer, 1)
    assert seen == ["reader-7"]
    assert (consumer.shutdown_requested, consumer.connection, consumer.failure) == (True, None, None)
    assert consumer.words() == [
        *("on_queue_declare", "on_connection_open", "on_assigned"),
        *("get_message_log", "get_task_type", "on_message"),
        *("on_revoked", "on_cancel", "on_connection_closed"),
    ]
    assert consumer.told[0] == ("on_queue_declare", queue.topic)
    assert isinstance(consumer.told[1][1], kq.Worker)
    assert consumer.told[2] == ("on_assigned", [0])
    assert consumer.told[-3:] == [("on_revoked", [0]), ("on_cancel",), ("on_connection_closed", None)]
    assert len(consumer.threads) == 1
    assert consumer.errors == []


def test_a_consumer_can_be_started_again(hosts, queue):
    """With a new thread, from where it was; while it runs it cannot."""
    consumer = Noting(hosts, queue.topic, LOGGER, "again")
    for number in range(2):
        queue.enqueue(jobs.add, number, 1)
        consumer.start()
        with pytest.raises(kq.KQError, match="is started already"):
            consumer.start()
        wait_for_end(consumer, 1)
    assert [args[0].offset for word, *args in consumer.told if word == "on_message"] == [0, 1]


def test_a_consumer_makes_its_topic(hosts, admin: KafkaAdminClient, group, caplog):
    """Where it is given settings for that; what only RabbitMQ knows is ignored aloud."""
    name = f"made-{group}"
    arguments = {"partitions": 3, "retention.ms": 3_600_000, "x-max-priority": 5}
    consumer = Noting(hosts, name, LOGGER, "maker", True, arguments, {"x": 1})
    assert "x-max-priority" in caplog.text
    consumer.connect()
    (described,) = admin.describe_topics([name])
    assert len(described["partitions"]) == 3
    assert consumer.words() == ["on_queue_declare"]


def test_close_connection_has_it_connect_anew(hosts, queue):
    """What ran has ended, the end is told, and the next job runs over the new connection."""
    queue.enqueue(jobs.add, 1, 2)
    with consuming(Noting, hosts, queue.topic) as consumer:
        wait_until(lambda: consumer.stats().done == 1, 30)
        first = consumer.connection
        consumer.close_connection()
        wait_until(lambda: consumer.connection not in (None, first), 30)
        queue.enqueue(jobs.add, 3, 4)
        wait_for_end(consumer, 1)
    words = consumer.words()
    assert [words.count(word) for word in ("on_connection_open", "on_connection_closed", "on_cancel")] == [2, 2, 1]
    assert consumer.errors == []


def test_pauses_grow_and_begin_anew():
    """Twice as long each time, to half a minute; what worked for longer than that begins with the first."""
    pauses = Pauses()
    assert [pauses.after(0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert [pauses.after(31), pauses.after(0)] == [1, 2]


def test_where_no_broker_answers_it_tries_again_until_it_is_to_stop(caplog):
    """With pauses that grow, each said in one line and told to callbacks; a stop ends that at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else will
        config = {"bootstrap_timeout_ms": 200}
        with consuming(Noting, f"127.0.0.1:{taken.getsockname()[1]}", "t", config=config) as consumer:
            wait_until(lambda: "connects again in 2 s" in caplog.text, 20)
            begin = time.monotonic()
            consumer.stop_consuming()
            consumer.join(10)
            assert not consumer.is_alive()
            assert time.monotonic() - begin < 1.5
    waits = re.findall(r"connects again in (\d+) s", caplog.text)
    assert waits[:2] == ["1", "2"]
    assert {(log, type(error)) for log, error in consumer.errors} == {(None, kq.BrokerUnreachable)}
    assert "Traceback" not in caplog.text
    assert consumer.told == []


def test_a_broker_that_comes_late_and_goes_again_is_found(kafka, queue):
    """Where it was not there at the start, and where it restarts while there is a connection."""
    queue.enqueue(jobs.add, 1, 2)
    kafka.terminate()
    try:
        consumer = Noting(kafka.hosts, queue.topic, LOGGER, "patient", config={"bootstrap_timeout_ms": 1000})
        consumer.start()
        wait_until(lambda: consumer.errors, 30)
        assert type(consumer.errors[0][1]) is kq.BrokerUnreachable
    finally:
        kafka.restart()
    wait_until(lambda: consumer.stats().done == 1, 60)
    connection = consumer.connection
    kafka.restart()
    queue.enqueue(jobs.add, 3, 4)
    wait_until(lambda: consumer.stats().done == 2, 60)
    assert consumer.connection is connection  # a restart is no loss
    consumer.stop_consuming()
    consumer.join(30)
    assert not consumer.is_alive()
    assert consumer.words().count("on_connection_open") == consumer.words().count("on_connection_closed") == 1


def test_a_worker_that_had_to_stop_is_told_and_followed_by_another(hosts, queue, caplog):
    """The consumer was cancelled, its connection is closed, and there is another one."""
    with consuming(Noting, hosts, queue.topic, worker={"unimportable": "stop"}) as consumer:
        with KafkaProducer(bootstrap_servers=hosts) as producer:
            producer.send(queue.topic, b"cno_such_module\nname\n.").get(10)
        wait_until(lambda: "on_consumer_cancelled" in consumer.words(), 30)
        wait_until(lambda: consumer.words().count("on_connection_open") == 2, 30)
    told = [entry for entry in consumer.told if entry[0] in ("on_consumer_cancelled", "on_connection_closed")][:2]
    assert [word for word, _ in told] == ["on_consumer_cancelled", "on_connection_closed"]
    assert {type(error) for _, error in told} == {kq.WorkerError}
    assert type(consumer.errors[0][1]) is kq.WorkerError


def test_a_thread_that_dies_says_why(hosts, queue, caplog):
    """``failure`` has it, and so have the callbacks."""

    class Dying(Noting):
        def start_consuming(self) -> None:
            raise SystemExit("enough")

    consumer = Dying(hosts, queue.topic, LOGGER, "dying")
    consumer.start()
    consumer.join(30)
    assert not consumer.is_alive()
    assert str(consumer.failure) == "enough"
    assert [(log, str(error)) for log, error in consumer.errors] == [(None, "enough")]
    assert "Consumer dying died:" in caplog.text


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_in_the_main_thread_a_signal_ends_it(signum, hosts, queue):
    """The job that runs ends first, and ``run`` returns."""
    queue.enqueue(jobs.say_and_nap, 0.5)
    with jobs.Program(IN_MAIN_THREAD, queue.topic, hosts) as program:
        program.wait_for("begin")
        program.process.send_signal(signum)
        assert program.end() == 0, program.text
    assert program.lines[:2] == ["begin", "end"]
    assert program.lines[-1].endswith("on_message on_revoked on_cancel on_connection_closed")


def test_a_stop_ends_the_job_that_runs_only_now(hosts, queue):
    """``stop(now=True)`` interrupts; the job has no outcome, and runs again."""
    started = threading.Event()
    jobs.HOOKS["nap"] = lambda: (started.set(), jobs.nap(60))
    queue.enqueue(jobs.hook, "nap")
    with consuming(Noting, hosts, queue.topic) as consumer:
        assert started.wait(30)
        consumer.stop(now=True)
        consumer.join(20)
        assert not consumer.is_alive()
    assert consumer.stats().interrupted == 1
    assert "fail" not in consumer.words()
    assert consumer.told[-3:] == [("on_revoked", [0]), ("on_cancel",), ("on_connection_closed", None)]


# -- hooks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_hooks_that_raise_change_nothing(executor, hosts, queue, caplog):
    """Every one of them, by an error or an exit: each is logged, and all jobs run as they should."""
    Raising.raised.clear()
    calls = jobs.Calls()
    queue.enqueue_many([(jobs.add, (number, 1)) for number in range(20)] + [(jobs.fail, ("no",))])
    worker = {"executor": executor, "callback": calls, "concurrency": 1 if executor == "inline" else 3}
    with consuming(Raising, hosts, queue.topic, worker=worker) as consumer:
        wait_for_end(consumer, 21)
    assert sorted(call.result for call in calls if call.status == "success") == list(range(1, 21))
    assert [call.status for call in calls].count("failure") == 1
    assert consumer.failure is None
    silent = {"on_lost", "on_consumer_cancelled"}  # there was no reason
    assert Raising.raised == {*consumers.TOLD, *consumers.ASKED, "callback"} - silent
    for name in Raising.raised - {"callback"}:
        assert f"{name} of Raising raised an exception:" in caplog.text


def test_partitions_that_move_are_told(hosts, make_topic):
    """To who gets them and to who gives them."""
    topic = make_topic(4)
    with consuming(Noting, hosts, topic, name="one") as one:
        wait_until(lambda: held(one) == {0, 1, 2, 3}, 30)
        with consuming(Noting, hosts, topic, name="two") as two:
            wait_until(lambda: len(held(one)) == len(held(two)) == 2, 30)
            assert held(one) | held(two) == {0, 1, 2, 3}
        assert held(two) == set()
        wait_until(lambda: held(one) == {0, 1, 2, 3}, 30)
    assert held(one) == set()


def held(consumer: Noting) -> set[int]:
    """Return the partitions that a consumer was told that it has."""
    partitions: set[int] = set()
    for word, *args in list(consumer.told):
        if word == "on_assigned":
            partitions |= set(args[0])
        elif word in ("on_revoked", "on_lost"):
            assert set(args[0]) <= partitions
            partitions -= set(args[0])
    return partitions


def test_an_entry_tells_what_the_headers_say(hosts, queue):
    """Without unpickling anything."""
    job = queue.using(key=b"k").enqueue(work, "unused", "x")
    seen = []

    class Asking(Noting):
        def get_message_log(self, message: kq.Message) -> Any:
            seen.append((super().get_message_log(message), self.get_task_type(message)))
            return None

    with consuming(Asking, hosts, queue.topic) as consumer:
        wait_for_end(consumer, 1)
    ((entry, task),) = seen
    told = (entry.job_id, entry.topic, entry.partition, entry.offset, entry.key, entry.function, entry.attempt)
    assert told == (job.id, queue.topic, 0, 0, b"k", "journal.work", 1)
    assert (entry.published_at.timestamp() * 1000, task) == (job.timestamp, "journal.work")


@pytest.mark.parametrize("letters", [True, False])
def test_a_message_without_a_log_is_refused_and_not_lost(letters, hosts, queue, caplog):
    """It is invalid, loudly, and a dead letter with all that it was where these are on; others run."""
    calls = jobs.Calls()
    queue.enqueue_many((jobs.add, (number, 0)) for number in range(4))
    with consuming(Picky, hosts, queue.topic, worker={"callback": calls, "dead_letters": letters}) as consumer:
        wait_for_end(consumer, 4)
    assert {call.message.offset: call.status for call in calls} == {
        0: "success",
        1: "invalid",
        2: "success",
        3: "invalid",
    }
    assert caplog.text.count("Job was invalid: MessageRefused: get_message_log returned None") == 2
    assert [(log, type(error)) for log, error in consumer.errors] == [(None, kq.MessageRefused)] * 2
    if letters:
        found = {letter.offset: letter for letter in DeadLetters(queue.topic, hosts).iterate()}
        assert {offset: letter.reason for offset, letter in found.items()} == {1: "invalid", 3: "invalid"}
        assert found[1].error == "kq.errors.MessageRefused: get_message_log returned None"
        assert kq.loads(found[1].value or b"").args == (1, 0)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_kind_of_error_is_told_with_its_log(executor, hosts, queue):
    """Failures with their exception, timeouts, what expired, and what holds no job; successes are not told."""
    queue.using().enqueue(jobs.add, 1, 2)
    queue.using().enqueue(jobs.fail, "no")
    queue.using(timeout=0.2).enqueue(jobs.nap, 30)
    with KafkaProducer(bootstrap_servers=hosts) as producer:
        producer.send(queue.topic, b"no job").get(10)
        producer.send(queue.topic, kq.dumps(kq.Job(func=jobs.add, args=(), kwargs={})), headers=[("kq-expires", b"1")])
    with consuming(Noting, hosts, queue.topic, worker={"executor": executor}) as consumer:
        wait_for_end(consumer, 5)
    errors = {log.offset: err for log, err in consumer.errors}
    assert sorted(errors) == [1, 2, 3, 4]
    assert (type(errors[1]), str(errors[1])) == (ValueError, "no")
    assert type(errors[2]) is kq.JobTimeout
    assert type(errors[3]) is kq.RemoteError
    assert isinstance(errors[3].__cause__, kq.errors.ChildTraceback)
    assert type(errors[4]) is kq.JobExpired
    assert [(log, err) for word, *rest in consumer.told if word == "fail" for log, err in [rest]] == consumer.errors


def test_each_attempt_is_asked_about_and_told(hosts, queue):
    """A retry is another call, and its entry has another number."""
    queue.enqueue(jobs.fail, "no")
    worker = {"retry": kq.Retry(max=2, delay=0)}
    with consuming(Noting, hosts, queue.topic, worker=worker) as consumer:
        wait_for_end(consumer, 3)
    assert [log.attempt for log, _ in consumer.errors] == [1, 2, 3]
    assert len({log.job_id for log, _ in consumer.errors}) == 1


# -- what is handed on -------------------------------------------------------------------------------------------------


def test_an_executor_may_be_made_by_a_function(hosts, queue):
    """For each connection another one."""
    made = []
    queue.enqueue(jobs.add, 1, 2)

    def make() -> kq.ThreadExecutor:
        made.append(kq.ThreadExecutor())
        return made[-1]

    with consuming(Noting, hosts, queue.topic, worker={"executor": make, "concurrency": 2}) as consumer:
        wait_for_end(consumer, 1)
    assert len(made) == 2  # one was made to have the arguments checked


def test_a_log_is_handed_on_to_the_worker(monkeypatch):
    """Only where it is given."""
    told = []

    def init(self: Any, topic: str, **options: Any) -> None:
        told.append(options.get("message_log", "nothing"))

    monkeypatch.setattr(kq.Worker, "__init__", init)
    kq.Consumer("h:1", "t", logging.getLogger(), "n", message_log="sqlite:///kq.db")
    kq.Consumer("h:1", "t", logging.getLogger(), "n")
    assert told == ["sqlite:///kq.db", "nothing"]
