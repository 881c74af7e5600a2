"""Sets of consumers: they share the work, end together, and replace what dies."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import consumers
import jobs
import pytest
from consumers import LOGGER, Noting, Raising
from helpers import wait_until
from journal import QUICK, Journal, work
from kafka import KafkaProducer
from test_worker_cli import started

import kq
from kq import ArgumentError, ConsumerSet, Queue
from kq.working import State

BAD = [
    (lambda: ConsumerSet("h:1", "t", LOGGER, 0), "concurrency must be an int of 1"),
    (lambda: ConsumerSet("h:1", "t", LOGGER, worker={"executor": kq.ThreadExecutor()}), "an executor of its own"),
    (lambda: ConsumerSet("h:1", "t", LOGGER, worker={"nope": 1}), "nope"),
    (lambda: ConsumerSet("h:1", "t", LOGGER, consumer_class=kq.Worker), "is no kq.Consumer, but type"),
    (lambda: ConsumerSet.get_consumer_class("Consumer"), "must be package.module.Class"),
    (lambda: ConsumerSet.get_consumer_class("no.such.Thing"), "No module named 'no'"),
    (lambda: ConsumerSet.get_consumer_class("consumers.Nobody"), "has no attribute 'Nobody'"),
    (lambda: ConsumerSet.get_consumer_class("consumers.resize"), "is no kq.Consumer, but function"),
    (lambda: ConsumerSet.get_consumer_class("broken_consumers.Mine"), "RuntimeError: broken by its author"),
]


@pytest.fixture
def begin(hosts) -> Iterator[Callable[..., ConsumerSet]]:
    """Return a function that starts a set; it is stopped after the test."""
    made: list[ConsumerSet] = []

    def start(topic: str, count: int, **options: Any) -> ConsumerSet:
        config = {**QUICK, **options.pop("config", {})}
        made.append(ConsumerSet(options.pop("hosts", hosts), topic, LOGGER, count, config=config, **options))
        made[-1].start_consuming()
        return made[-1]

    yield start
    for one in made:
        one.stop(now=True)
        one.join(30)
        assert not one.is_alive()


def done(consumers: ConsumerSet) -> int:
    """Return how many messages the consumers of a set have processed."""
    return sum(consumer.stats().done for consumer in consumers.consumers)


def kill(consumer: kq.Consumer) -> None:
    """Have the thread of a consumer die while it is at work: anywhere else the client may wait for ever for its own."""
    thread = next(one for one in threading.enumerate() if one.name == consumer.name)
    worker: Any = wait_until(lambda: consumer.connection, 30)
    wait_until(lambda: worker.state is State.RUNNING, 30)

    def die() -> None:
        raise SystemExit

    worker._loop._turn = die
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_one_clear_line(make, message, tmp_path, monkeypatch):
    """Also for a class that cannot be imported, or is none."""
    (tmp_path / "broken_consumers.py").write_text("raise RuntimeError('broken by\\nits author')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises((ArgumentError, TypeError), match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_class_is_found_by_its_name():
    """Of the library, or a subclass."""
    assert ConsumerSet.get_consumer_class("kq.Consumer") is kq.Consumer
    assert ConsumerSet.get_consumer_class("consumers.Noting") is Noting


def test_a_set_shares_the_work_and_ends(begin, make_topic, client: KafkaProducer, group):
    """Each has a name, a thread and its own partitions; a set can be started once, and again after its end."""
    topic = make_topic(4)
    names: list[str] = []
    jobs.HOOKS["name"] = lambda: names.append(threading.current_thread().name)
    made = begin(topic, 4, name="reader", consumer_class="consumers.Noting", group=group)
    assert [one.name for one in made.consumers] == ["reader-1", "reader-2", "reader-3", "reader-4"]
    assert all(isinstance(one, Noting) and one.is_alive() for one in made.consumers)
    with pytest.raises(kq.KQError, match="is started already"):
        made.start_consuming()
    wait_until(lambda: all("on_assigned" in one.words() for one in made.consumers), 30)
    queue = Queue(topic, client)
    queue.enqueue_many(kq.Job(func=jobs.hook, args=("name",), kwargs={}, partition=number % 4) for number in range(40))
    wait_until(lambda: done(made) == 40, 30)
    assert sorted(set(names)) == ["reader-1", "reader-2", "reader-3", "reader-4"]
    assert made.is_alive()
    assert made.stop_consuming() is True
    assert not made.is_alive()
    assert not any(one.is_alive() for one in made.consumers)
    made.start_consuming()
    queue.enqueue(jobs.hook, "name")
    wait_until(lambda: done(made) == 1, 30)


def test_a_key_stays_in_order_across_a_set(begin, make_topic, client: KafkaProducer, journal):
    """Each key's jobs one after another, as they were enqueued."""
    topic = make_topic(6)
    keys = [b"a", b"b", b"c", b"d"]
    queue = Queue(topic, client)
    queue.enqueue_many(
        kq.Job(func=work, args=(journal.path, f"{key.decode()}-{number}", 0.002), kwargs={}, key=key)
        for number in range(50)
        for key in keys
    )
    made = begin(topic, 3, worker={"executor": "thread", "concurrency": 4})
    wait_until(lambda: done(made) == 200, 60)
    for key in "abcd":
        told = [(entry.word, entry.name) for entry in journal.entries() if entry.name.startswith(f"{key}-")]
        assert told == [(word, f"{key}-{number}") for number in range(50) for word in ("start", "end")]


def test_nothing_starts_after_stop_consuming(begin, make_topic, client: KafkaProducer):
    """All are told before any is waited for: the jobs that run are the last, and the longest is waited for."""
    topic, release, running = make_topic(5), threading.Event(), []
    jobs.HOOKS["wait"] = lambda: (running.append(threading.current_thread().name), release.wait(30))
    made = begin(topic, 5)
    queue = Queue(topic, client)
    queue.enqueue_many(kq.Job(func=jobs.hook, args=("wait",), kwargs={}, partition=number % 5) for number in range(100))
    wait_until(lambda: len(running) == 5, 30)
    stopped: list[Any] = []
    stopper = threading.Thread(target=lambda: stopped.append(made.stop_consuming()))
    stopper.start()
    wait_until(lambda: all(one.shutdown_requested for one in made.consumers))
    assert made.stop_consuming(timeout=0.1) is False  # it is no more than a wait
    begin_of_end = time.monotonic()
    release.set()
    stopper.join(30)
    assert time.monotonic() - begin_of_end < 3
    assert stopped == [True]
    assert sorted(running) == [f"consumer-{number}" for number in range(1, 6)]
    assert done(made) == 5


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_a_busy_set_ends_within_its_longest_job(executor, begin, make_topic, client: KafkaProducer, journal):
    """However many jobs wait: none starts after the call, and no outcome is missing."""
    topic = make_topic(5)
    Queue(topic, client).enqueue_many(
        kq.Job(func=work, args=(journal.path, number, 0.3), kwargs={}, partition=number % 5) for number in range(100)
    )
    concurrency = 1 if executor == "inline" else 2
    made = begin(topic, 5, worker={"executor": executor, "concurrency": concurrency})
    wait_until(lambda: len(journal.names("end")) >= 10, 40)
    called = time.monotonic()
    assert made.stop_consuming() is True
    took = time.monotonic() - called
    starts = [entry.time - called for entry in journal.entries() if entry.word == "start"]
    # what was on its way to its thread or child when the call was made
    assert [late for late in starts if late > 0.2] == []
    assert took < 0.3 + 2.5  # the longest job; and on a busy machine five farewells to the broker
    assert journal.count("start") == journal.count("end")
    assert done(made) == len(journal.names("end"))


def kill_second(made: ConsumerSet) -> Any:
    """Have the second consumer die, and return it when another one has its place."""
    dead = made.consumers[1]
    wait_until(lambda: dead.connection is not None, 30)
    kill(dead)
    wait_until(lambda: made.consumers[1] is not dead, 30)
    assert not dead.is_alive()
    wait_until(made.consumers[1].is_alive, 30)
    return dead


def test_a_consumer_that_dies_is_replaced_and_reported(begin, make_topic, client: KafkaProducer, caplog):
    """By another of its name, after a pause that grows; what it had in hand is run by others."""
    topic = make_topic(3)
    made = begin(topic, 3, consumer_class=Noting)
    wait_until(lambda: all("on_assigned" in one.words() for one in made.consumers), 30)
    for pause in (1, 2):
        began = time.monotonic()
        dead = kill_second(made)
        assert time.monotonic() - began > pause
        assert f"Consumer consumer-2 died: SystemExit(). It is replaced in {pause} s" in caplog.text
        assert isinstance(dead.failure, SystemExit)
        assert any(isinstance(error, SystemExit) and log is None for log, error in dead.errors)
    assert [one.name for one in made.consumers] == ["consumer-1", "consumer-2", "consumer-3"]
    queue = Queue(topic, client)
    queue.enqueue_many(kq.Job(func=jobs.add, args=(), kwargs={}, partition=number % 3) for number in range(30))
    wait_until(lambda: done(made) == 30, 60)


def test_one_that_cannot_be_replaced_is_tried_again(begin, topic, caplog):
    """Each time after a longer pause; it does not end the others."""

    class Once(Noting):
        made = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            type(self).made += 1
            if type(self).made == 4:  # one to check the arguments, two, and the first that replaces one
                raise RuntimeError("no room")

    made = begin(topic, 2, consumer_class=Once)
    dead = made.consumers[0]
    wait_until(lambda: dead.connection is not None, 30)
    kill(dead)
    wait_until(lambda: made.consumers[0] is not dead, 30)
    assert "Consumer consumer-1 could not be replaced: RuntimeError('no room'). It is replaced in 2 s" in caplog.text
    wait_until(lambda: all(one.is_alive() for one in made.consumers))


def test_one_that_was_stopped_is_not_replaced(begin, topic):
    """Who stops each of them has stopped the set."""
    made = begin(topic, 2)
    first, second = made.consumers
    first.stop_consuming()
    first.join(30)
    assert not first.is_alive()
    assert made.is_alive()
    second.stop_consuming()
    wait_until(lambda: not made.is_alive(), 30)
    assert made.consumers == (first, second)


def test_a_stop_falls_between_a_death_and_its_replacement(begin, topic):
    """Nothing comes after it."""
    made = begin(topic, 1)
    (dead,) = made.consumers
    wait_until(lambda: dead.connection is not None, 30)
    kill(dead)
    wait_until(lambda: not dead.is_alive(), 30)
    assert made.stop_consuming(10) is True
    assert made.consumers == (dead,)


def test_static_members_have_names_of_their_own(hosts):
    """One name for all would have each of them end the one before it."""
    host = kq.VirtualHost(*hosts.split(":")[:1], int(hosts.split(":")[1]), config={"group_instance_id": "home"})
    made = ConsumerSet(host, "t", LOGGER, 2)
    made.start_consuming()
    try:
        names = [one._make_worker()._settings.config["group_instance_id"] for one in made.consumers]
    finally:
        made.stop_consuming()
    assert names == ["home-consumer-1", "home-consumer-2"]


def test_executors_with_settings_are_made_for_each(begin, topic, queue, journal):
    """By a function."""
    queue.enqueue(work, journal.path, "x")
    made = begin(topic, 2, worker={"executor": functools.partial(kq.ProcessExecutor, max_jobs=1), "concurrency": 2})
    wait_until(lambda: done(made) == 1, 30)
    assert journal.names("end") == {"x"}


def test_nothing_is_lost_whatever_happens_to_a_set(
    monkeypatch, make_topic, kafka, begin, client: KafkaProducer, tmp_path
):
    """Five consumers on ten partitions: one dies, the broker restarts, every hook raises; and 10,000 jobs run."""
    monkeypatch.setattr(LOGGER, "disabled", True)  # each hook that raises is a line and a traceback
    topic, journal = make_topic(10), Journal(tmp_path / "independent")
    queue = Queue(topic, client)
    queue.enqueue_many((work, (journal.path, number)) for number in range(10_000))
    Raising.raised.clear()
    # jobs run in another thread than the one that is made to die: in that one, a job would fail of it
    made = begin(topic, 5, consumer_class="consumers.Raising", worker={"executor": "thread"})
    victim = made.consumers[2]
    wait_until(lambda: len(journal.names("end")) > 1000, 60)
    kill(victim)
    wait_until(lambda: len(journal.names("end")) > 3000, 60)
    kafka.restart()
    wait_until(lambda: len(journal.names("end")) == 10_000, 240, "jobs were lost")
    wait_until(lambda: victim not in made.consumers, 60)
    wait_until(lambda: [one.connection is not None for one in made.consumers] == [True] * 5, 60)
    assert all(one.is_alive() for one in made.consumers)
    rare = {"on_lost", "on_consumer_cancelled", "fail", "on_cancel"}  # for which there may have been no reason
    assert {*consumers.TOLD, *consumers.ASKED} - Raising.raised <= rare
    assert made.stop_consuming(60) is True
    assert sum(journal.count("start").values()) - 10_000 < 1000  # what the broker had not been told of


# -- kq worker --set ---------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Give a folder with a consumer of a program's own."""
    (tmp_path / "mine.py").write_text(
        "import pathlib, time, kq\n"
        "def touch(path, seconds=0):\n"
        "    time.sleep(seconds)\n"
        "    pathlib.Path(path).touch()\n"
        "class Mine(kq.Consumer):\n"
        "    def on_connection_open(self, connection):\n"
        "        pathlib.Path(self.name).touch()\n"
    )
    return tmp_path


def test_the_command_runs_a_set(hosts, make_topic, client: KafkaProducer, here):
    """Of a class that is named; SIGTERM lets what runs end, and the exit code is 0."""
    topic = make_topic(3)
    at = ("--hosts", hosts, "--topic", topic, "--set", "3", "--consumer-class", "mine.Mine", "--inline")
    with started(*at, cwd=here) as process:
        wait_until(lambda: all((here / f"consumer-{number}").exists() for number in (1, 2, 3)), 40)
        from test_cli import run

        for number in range(3):
            run("enqueue", *at[:4], "--partition", str(number), "mine:touch", f"done-{number}", cwd=here)
        wait_until(lambda: all((here / f"done-{number}").exists() for number in range(3)), 40)
        process.terminate()
        _, told = process.communicate(timeout=40)
        assert process.returncode == 0
    assert f"3 consumers: This process runs jobs of topic {topic} for group {topic} each, from {hosts}" in told
    assert told.splitlines()[-1].endswith(f"Topic {topic}: 3 messages processed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "2", "--burst"), "--set and --burst exclude each other"),
        (("--set", "2", "--check"), "--set and --check exclude each other"),
        (("--set", "2", "--max-messages", "1"), "--set and --max-messages exclude each other"),
        (("--set", "2", "--topic", "a", "--topic", "b"), "--set is for one --topic"),
        (("--consumer-class", "a.B"), "--consumer-class goes with --set"),
        (("--set", "2", "--consumer-class", "a.B"), "No module named 'a'"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, message, tell):
    """Nothing is tried."""
    code, _, told = tell("worker", *options)
    assert code in (1, 2)
    assert message in " ".join(told.split())
    assert "Traceback" not in told
