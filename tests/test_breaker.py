"""What was found by trying to break a worker: lost jobs, stalls and hangs, each as a test."""

from __future__ import annotations

import logging
import operator
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jobs
import pytest
from helpers import wait_until
from journal import Journal, WorkerProcess, work
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import NewPartitions, NewTopic
from kafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAlreadyExistsError
from kafka.future import Future

import kq
from kq.executors.base import Setting
from kq.executors.thread import ThreadExecutor
from kq.working.stop import Stop
from kq.working.watchdog import Watchdog

#: Finds topics that come, go and grow within a second.
WATCHFUL = {"metadata_max_age_ms": 300, "heartbeat_interval_ms": 300, "session_timeout_ms": 20_000}


class Runner:
    """A worker that runs in a thread; what ``start`` returned or raised is kept."""

    def __init__(self, worker: kq.Worker, *args: Any, **options: Any) -> None:
        self.worker = worker
        self.returned: int | None = None
        self.raised: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=args, kwargs=options, daemon=True)
        self._thread.start()

    def _run(self, *args: Any, **options: Any) -> None:
        try:
            self.returned = self.worker.start(*args, **options)
        except BaseException as error:
            self.raised = error

    def end(self, timeout: float = 20) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "start() hangs"

    def stop(self) -> None:
        self.worker.stop()
        self.end()

    def wait_for_partitions(self, count: int = 1) -> None:
        wait_until(lambda: len(self.worker.stats().commit_lag) == count, timeout=20)


@contextmanager
def running(worker: kq.Worker, *args: Any, **options: Any) -> Iterator[Runner]:
    runner = Runner(worker, *args, **options)
    try:
        yield runner
    finally:
        jobs.HOOKS.pop("wait", lambda: None)
        runner.worker.stop()
        runner.end()


def enqueue(hosts: str, topic: str, count: int) -> None:
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(count):
            queue.enqueue(operator.neg, number)


def enqueue_hook(hosts: str, topic: str, name: str) -> None:
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(jobs.hook, name)


def offsets_of(calls: jobs.Calls) -> list[int]:
    return [call.message.offset for call in calls]


# -- topics that come and go -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_topic_made_anew_with_more_messages_than_the_old_one_loses_none(
    hosts: str, topic: str, admin: KafkaAdminClient, journal: Journal
) -> None:
    """A position in the old topic means nothing in the new one, also where the new one has a message there."""
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(4):
            queue.enqueue(work, journal.path, f"old{number}")
    with WorkerProcess(journal, topic, hosts, config=WATCHFUL) as worker:
        wait_until(lambda: len(journal.names("success")) == 4, timeout=20)
        admin.delete_topics([topic])
        wait_until(lambda: "assigned=set()" in worker.log, timeout=20)
        worker.process.send_signal(signal.SIGSTOP)  # so that the messages are there before it looks
        wait_until(lambda: _is_made(admin, topic), timeout=20)
        with kq.Queue(topic, hosts=hosts) as queue:
            for number in range(9):
                queue.enqueue(work, journal.path, f"new{number}")
        worker.process.send_signal(signal.SIGCONT)
        new = {f"new{number}" for number in range(9)}
        wait_until(lambda: new <= journal.names("end"), timeout=20, message=f"lost some: {journal.names('end')}")
        assert worker.terminate() == 0


def _is_made(admin: KafkaAdminClient, topic: str) -> bool:
    try:
        admin.create_topics([NewTopic(topic, 1, 1)])
    except TopicAlreadyExistsError:  # the broker still deletes the old one
        return False
    return True


def test_a_deleted_topic_is_not_made_anew_by_its_worker(hosts: str, topic: str, admin: KafkaAdminClient) -> None:
    """It would have one partition, whatever it had before; the worker waits for whoever makes topics."""
    with running(kq.Worker(topic, hosts=hosts, config=WATCHFUL)) as runner:
        runner.wait_for_partitions()
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics())
        cluster = runner.worker.consumer._cluster  # type: ignore[union-attr]
        for _ in range(3):
            before = cluster._last_successful_refresh_ms
            wait_until(lambda: cluster._last_successful_refresh_ms > before)  # noqa: B023
        assert topic not in admin.list_topics()
        runner.stop()
        assert runner.raised is None


def test_a_join_that_takes_longer_than_a_poll_comes_to_its_end(hosts: str, topic: str, admin: KafkaAdminClient) -> None:
    """New partitions have the leader join again; where a poll ends in the middle of that, it goes on all the same."""
    calls = jobs.Calls()
    with running(kq.Worker(topic, hosts=hosts, callback=calls, config=WATCHFUL)) as runner:
        runner.wait_for_partitions()
        coordinator = runner.worker.consumer._coordinator  # type: ignore[union-attr]
        perform = coordinator._perform_assignment

        def perform_slowly(*args: Any) -> Any:
            assigned = perform(*args)
            time.sleep(0.3)  # an assignor with much to do, on the client's I/O thread: longer than any poll here
            return assigned

        coordinator._perform_assignment = perform_slowly
        admin.create_partitions({topic: NewPartitions(3)})
        runner.wait_for_partitions(3)
        with kq.Queue(topic, hosts=hosts) as queue:
            queue.using(partition=2).enqueue(operator.neg, 1)
        wait_until(lambda: calls.results == [-1])


# -- positions that nobody vouches for ---------------------------------------------------------------------------------


def test_without_commits_a_start_in_a_new_group_is_repeated(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer]
) -> None:
    """Also where nothing was ever committed, and the same consumer goes on."""
    enqueue(hosts, topic, 3)
    calls = jobs.Calls()
    worker = kq.Worker(topic, consumer(), calls)
    worker.start(max_messages=2, commit_offsets=False)
    worker.start(max_messages=2, commit_offsets=False)
    assert offsets_of(calls) == [0, 1, 0, 1]


def test_what_was_polled_before_a_stop_is_not_skipped_by_the_next_start(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator did not tell what is committed; records came all the same, and the position is beyond them."""
    enqueue(hosts, topic, 3)
    client = consumer()
    polled: list[Any] = []
    poll = client.poll

    def remember(*args: Any, **options: Any) -> Any:
        records = poll(*args, **options)
        polled.extend(records.values())
        return records

    def fail(*args: Any, **options: Any) -> None:
        raise KafkaError("the group is being loaded")

    calls = jobs.Calls()
    worker = kq.Worker(topic, client, calls)
    with monkeypatch.context() as patch:
        patch.setattr(client, "poll", remember)
        patch.setattr(client, "committed", fail)
        with running(worker):
            wait_until(lambda: polled)
    assert worker.start(max_messages=3) == 3
    assert offsets_of(calls) == [0, 1, 2]


def test_what_was_polled_before_a_fatal_error_is_not_skipped_by_the_next_start(
    hosts: str, topic: str, consumer: Callable[..., KafkaConsumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing could be committed, start() raised, and the user starts again once that is mended."""
    enqueue(hosts, topic, 1)
    enqueue_hook(hosts, topic, "wait")
    enqueue(hosts, topic, 1)
    client = consumer()

    poll = client.poll

    def fail(*args: Any, **options: Any) -> None:
        raise KafkaError("not yet")

    def refuse_then(*args: Any, **options: Any) -> Any:
        if calls:
            raise GroupAuthorizationFailedError("group")
        return poll(*args, **options)

    calls = jobs.Calls()
    worker = kq.Worker(topic, client, calls)
    pump_is_over = lambda: not worker._loop._pump._thread.is_alive()  # type: ignore[union-attr]  # noqa: E731
    monkeypatch.setitem(jobs.HOOKS, "wait", lambda: wait_until(pump_is_over))
    with monkeypatch.context() as patch:
        patch.setattr(client, "commit", fail)
        patch.setattr(client, "commit_async", lambda offsets, callback: Future())  # no answer comes
        patch.setattr(client, "poll", refuse_then)
        with pytest.raises(kq.WorkerError):
            worker.start()
    assert offsets_of(calls) == [0, 1]
    monkeypatch.setitem(jobs.HOOKS, "wait", lambda: None)
    del calls[:]
    worker.start(max_messages=1)
    assert offsets_of(calls)[0] <= 1  # what was done and not yet published may run again


def test_a_consumer_that_fails_while_a_partition_is_new_is_made_anew_and_works(
    hosts: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the old consumer was about to open is not the new one's."""
    enqueue(hosts, topic, 3)
    asked: list[Any] = []
    failed: list[Any] = []
    committed, poll = KafkaConsumer.committed, KafkaConsumer.poll

    def fail_first(self: KafkaConsumer, *args: Any, **options: Any) -> Any:
        asked.append(args)
        if len(asked) == 1:
            raise KafkaError("the group is being loaded")
        return committed(self, *args, **options)

    def fail_then(self: KafkaConsumer, *args: Any, **options: Any) -> Any:
        if asked and not failed:
            failed.append(args)
            raise RuntimeError("broken")
        return poll(self, *args, **options)

    monkeypatch.setattr(KafkaConsumer, "committed", fail_first)
    monkeypatch.setattr(KafkaConsumer, "poll", fail_then)
    calls = jobs.Calls()
    with running(kq.Worker(topic, hosts=hosts, callback=calls), 3) as runner:
        wait_until(lambda: len(calls) == 3, timeout=30)
        runner.end()
    assert len(failed) == 1
    assert offsets_of(calls) == [0, 1, 2]


# -- ends that are heard of --------------------------------------------------------------------------------------------


def test_start_ends_when_the_pump_does_while_a_commit_is_waited_for(
    hosts: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``commit_interval=0``: a commit that nobody will make is not waited for."""
    go_on, is_polling = threading.Event(), threading.Event()
    monkeypatch.setitem(jobs.HOOKS, "wait", lambda: go_on.wait(20))
    enqueue_hook(hosts, topic, "wait")

    def end(*args: Any, **options: Any) -> None:
        is_polling.set()
        wait_until(lambda: runner.worker.stats().done == 1)  # from there on the commit is waited for
        raise GroupAuthorizationFailedError("group")

    runner = Runner(kq.Worker(topic, hosts=hosts, commit_interval=0))
    wait_until(lambda: runner.worker.stats().in_flight == 1, timeout=20)
    monkeypatch.setattr(runner.worker.consumer, "poll", end)
    assert is_polling.wait(10)
    go_on.set()
    runner.end(10)
    assert isinstance(runner.raised, kq.WorkerError)


def test_a_static_member_that_is_fenced_by_its_twin_says_so(hosts: str, topic: str) -> None:
    """An idle one, within seconds; the twin works."""
    config = {"group_instance_id": "twin", "session_timeout_ms": 30_000, "heartbeat_interval_ms": 500}
    calls = jobs.Calls()
    first = Runner(kq.Worker(topic, hosts=hosts, config=config))
    first.wait_for_partitions()
    with running(kq.Worker(topic, hosts=hosts, callback=calls, config=config)):
        first.end(10)
        assert isinstance(first.raised, kq.WorkerError)
        enqueue(hosts, topic, 1)
        wait_until(lambda: calls.results == [0])


def test_a_pump_that_stands_still_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    """After half a minute, and again after as long; not before."""

    class StalledPump:
        heartbeat = 1000.0

        def expect_end(self) -> None:
            raise AssertionError("nobody asked for a stop")

    watchdog = Watchdog(30.0, Stop(), StalledPump(), {})  # type: ignore[arg-type]
    counts = []
    for now in (1029.0, 1031.0, 1060.0, 1062.0):
        watchdog._look(now)
        counts.append(sum("has not polled" in text for text in caplog.messages))
    assert counts == [0, 1, 1, 2]
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_a_negative_idle_limit_is_none(hosts: str, topic: str, consumer: Callable[..., KafkaConsumer]) -> None:
    """As in the client: ``consumer_timeout_ms=-1`` waits for ever."""
    calls = jobs.Calls()
    with running(kq.Worker(topic, consumer(consumer_timeout_ms=-1), calls), 1) as runner:
        runner.wait_for_partitions()
        enqueue(hosts, topic, 1)
        runner.end()
    assert runner.returned == 1


# -- starts and stops --------------------------------------------------------------------------------------------------


def test_a_thread_that_was_left_behind_serves_no_later_start() -> None:
    """Its job swallowed every interrupt; when that ends at last, so does the thread."""
    release, is_running = threading.Event(), threading.Event()

    def stubborn() -> None:
        is_running.set()
        while not release.is_set():
            try:
                release.wait(0.05)
            except BaseException:
                pass

    def nothing(*args: Any) -> None:
        pass

    job = kq.Job("id", 0, "t", stubborn, (), {})
    setting = Setting(lambda value: job, None, logging.getLogger("kq.worker"), True, nothing, nothing, nothing)
    executor = ThreadExecutor()
    executor.open(setting, 1)
    executor.start(kq.Message("t", 0, 0, None, b""))
    assert is_running.wait(10)
    (left,) = executor._threads
    executor.kill()
    executor.close()
    assert executor.finished() == []
    executor.open(setting, 1)
    release.set()
    left.join(10)
    assert not left.is_alive()
    assert executor.finished() == []
    executor.close()
    executor.release()
    assert [thread.is_alive() for thread in executor._threads] == [False]


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_start_and_stop_hammered_by_ten_threads(hosts: str, topic: str, executor: str) -> None:
    """Nothing hangs, every start returns or says that there is one already, and each job runs exactly once."""
    total = 200
    enqueue(hosts, topic, total)
    calls = jobs.Calls()
    concurrency = 4 if executor == "thread" else 1
    worker = kq.Worker(topic, hosts=hosts, callback=calls, executor=executor, concurrency=concurrency)
    ended, wrong = threading.Event(), []

    def start() -> None:
        while not ended.is_set():
            try:
                worker.start(max_messages=25)
            except kq.KQError as error:
                if "is started already" not in str(error):
                    wrong.append(error)
            except BaseException as error:
                wrong.append(error)
            ended.wait(0.02)

    def stop() -> None:
        for _ in range(5):  # before it joins, and meanwhile
            ended.wait(0.1)
            worker.stop()
        seen = 0
        while not ended.wait(0.02):
            if len(calls) > seen:  # else no start would ever come as far as a job
                seen = len(calls)
                worker.stop()

    threads = [threading.Thread(target=start if number < 6 else stop, daemon=True) for number in range(10)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(calls) >= total or wrong, timeout=60)
    finally:
        ended.set()
        worker.stop()
        for thread in threads:
            thread.join(20)
    assert wrong == []
    assert [thread.is_alive() for thread in threads] == [False] * 10
    assert sorted(offsets_of(calls)) == list(range(total))
