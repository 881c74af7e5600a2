"""Results on a real Kafka: what a job returned or raised is there for any process that knows its ID."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jobs
import pytest
import result_jobs
import retry_jobs
from helpers import at_work, wait_until
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewPartitions
from test_retries import records

import kq
from kq.resulting import headers_of

EXECUTORS = ["inline", "thread", "process"]


@contextmanager
def working(topic: str, hosts: str, executor: str = "inline", **options: Any) -> Iterator[kq.Worker]:
    options = {"results": True, "concurrency": 1 if executor == "inline" else 2, **options}
    worker = kq.Worker(topic, hosts=hosts, executor=executor, **options)  # type: ignore[arg-type]
    with at_work(worker):
        yield worker


@pytest.mark.parametrize("executor", EXECUTORS)
def test_each_end_is_told_as_it_was(topic: str, hosts: str, executor: str) -> None:
    """By the job and by its ID alone, before it ended and after."""
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results:
        good = queue.enqueue(jobs.echo, 1, two=[2])
        known = queue.enqueue(result_jobs.known, 7)
        awkward = queue.enqueue(result_jobs.awkward)
        slow = queue.using(timeout=0.2).enqueue(result_jobs.hang)
        late = queue.using(expires=0.001).enqueue(jobs.add)
        unpicklable = queue.enqueue(result_jobs.unpicklable)
        waiting = results.future(good)
        assert not waiting.done()
        with working(topic, hosts, executor):
            assert waiting.result(30) == ((1,), {"two": [2]})
            for job in (good, good.id):
                assert results.get(job, timeout=30) == ((1,), {"two": [2]})
                assert results.status(job) == "success"
            with pytest.raises(result_jobs.Known) as told:
                results.get(known, timeout=30)
            assert told.value.code == 7
            assert "result_jobs.py" in str(told.value.__cause__)
            with pytest.raises(kq.RemoteError) as remote:
                results.get(awkward.id, timeout=30)
            assert (remote.value.type, remote.value.text) == ("Awkward", "1 and 2")
            assert "raise Awkward(1, two=2)" in remote.value.traceback
            with pytest.raises(kq.JobTimeout, match=r"limit of 0\.2 s"):
                results.get(slow, timeout=30)
            with pytest.raises(kq.JobExpired):
                results.get(late, timeout=30)
            with pytest.raises(kq.ResultUnreadable, match=r"could not be pickled where it ran: .*lock"):
                results.get(unpicklable, timeout=30)
        assert [results.status(job) for job in (known, slow, late, unpicklable)] == [
            *("failure", "timeout", "expired", "success")
        ]


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_an_invalid_message_is_an_end_too(topic: str, hosts: str, executor: str, client: KafkaProducer) -> None:
    client.send(topic, b"no job", headers=[("kq-id", b"broken")]).get(10)
    with kq.Results(topic, hosts) as results, working(topic, hosts, executor):
        with pytest.raises(kq.JobInvalid):
            results.get("broken", timeout=30)
        assert results.status("broken") == "invalid"


def test_retries_are_events_and_the_last_attempt_is_the_result(topic: str, hosts: str) -> None:
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, working(topic, hosts):
        job = queue.using(retry=kq.Retry(2, delay=0)).enqueue(retry_jobs.flaky)
        events = list(results.events(job, timeout=30))
        assert [event.kind for event in events] == ["started", "retried", "retried", "finished"]
        assert [event.attempt for event in events] == [1, 1, 2, 3]
        assert events[1].retry_in == 0
        assert events[1].error == "retry_jobs.Flaky"
        with pytest.raises(retry_jobs.Flaky):
            events[-1].outcome()
        later = queue.using(retry=kq.Retry(1, delay=60)).enqueue(retry_jobs.flaky)
        wait_until(lambda: results.status(later) == "retrying", timeout=20)
        with pytest.raises(
            kq.ResultTimeout, match="has not ended: the last that is known of it is 'retried', attempt 1"
        ):
            results.get(later, timeout=0.2)


def test_a_worker_may_publish_only_what_is_asked_for(topic: str, hosts: str) -> None:
    with kq.Queue(topic, hosts=hosts) as mute, kq.Queue(topic, hosts=hosts, results=True) as asking:
        unheard = mute.enqueue_many([jobs.add] * 20)
        asked = asking.enqueue(jobs.add, 1, 2)
        schedule = asking.using(delay=0.1).enqueue(jobs.add, 3, 4)
        failing = asking.enqueue(result_jobs.known, 1)
        for executor in ("inline", "process"):
            with (
                working(topic, hosts, executor, results="asked", group=executor) as worker,
                asking.collect() as results,
            ):
                assert results.get(asked, timeout=30) == 3
                assert results.get(schedule, timeout=30) == 7
                with pytest.raises(result_jobs.Known):
                    results.get(failing, timeout=30)
                wait_until(lambda worker=worker: worker.stats().done >= 23)  # type: ignore[misc]
    ids = {record.key.decode() for record in records(hosts, f"{topic}.results")}
    assert ids == {asked.id, schedule.id, failing.id}
    assert ids.isdisjoint(job.id for job in unheard)


def test_a_result_that_is_too_large_leaves_the_job_a_success(topic: str, hosts: str) -> None:
    calls = jobs.Calls()
    way = working(topic, hosts, "process", callback=calls)
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, way:
        job, after = queue.enqueue(result_jobs.large, 5_000_000), queue.enqueue(jobs.add, 1, 1)
        with pytest.raises(kq.ResultTooLarge) as told:
            results.get(job, timeout=60)
        assert told.value.size is not None
        assert 5_000_000 < told.value.size < 5_001_000
        assert told.value.limit == 1_048_588
        assert all(text in str(told.value) for text in (str(told.value.size), "1048588"))
        assert results.get(after, timeout=30) == 2
    assert {call.status for call in calls} == {"success"}
    assert pickle.loads(pickle.dumps(told.value)).size == told.value.size


def test_nothing_is_unpickled_that_nobody_asked_for(topic: str, hosts: str, tmp_path: Path) -> None:
    """Neither by the worker's process on the way of a result, nor by a reader that waits for another one."""
    path = tmp_path / "sung"
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, working(topic, hosts, "process"):
        canary, other = queue.enqueue(result_jobs.canary, str(path)), queue.enqueue(jobs.add, 1, 2)
        assert results.get(other, timeout=30) == 3
        event = list(results.events(canary, timeout=30))[-1]
        assert results.status(canary) == "success"
        assert repr(event).count("value='<") == 1
        assert str(os.getpid()) not in path.read_text().split()  # the child has tried it
        assert results.get(canary) == "sung"
        assert str(os.getpid()) in path.read_text().split()


def test_a_thousand_by_fifty_threads_and_by_a_thousand_coroutines(make_topic: Any, hosts: str) -> None:
    """By one consumer and one thread, in no group."""
    topic, group = make_topic(4), uuid.uuid4().hex
    way = working(topic, hosts, "process", group=group)
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, way:
        made = queue.enqueue_many([(jobs.add, (number, 1)) for number in range(1000)])
        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(lambda job: results.get(job, timeout=60), made)) == list(range(1, 1001))
        again = queue.enqueue_many([(jobs.add, (number, 2)) for number in range(1000)])

        async def gather() -> list[int]:
            return await asyncio.gather(*(results.aget(job.id, timeout=60) for job in again))

        assert asyncio.run(gather()) == list(range(2, 1002))
        assert sum(thread.name == "kq-results" for thread in threading.enumerate()) == 1
    with KafkaAdminClient(bootstrap_servers=hosts) as admin:
        assert [one["group_id"] for one in admin.list_groups() if one["group_id"].startswith((topic, group))] == [group]


def test_as_in_concurrent_futures(topic: str, hosts: str, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, working(topic, hosts, "process"):
        slow = queue.enqueue(result_jobs.when_open, str(gate), "slow")
        quick = queue.enqueue(jobs.add, 1, 1)
        bad = queue.enqueue(result_jobs.known, 3)
        done = results.as_completed([slow, quick, bad.id], timeout=30)
        assert {next(done).id, next(done).id} == {quick.id, bad.id}
        gate.touch()
        assert next(done).result() == "slow"
        assert list(done) == []
        told = results.gather([slow, bad, quick], return_exceptions=True)
        assert (told[0], type(told[1]), told[2]) == ("slow", result_jobs.Known, 2)
        with pytest.raises(result_jobs.Known):
            results.gather([slow, bad, quick])
        finished, _ = wait([results.future(slow), results.future(quick)], timeout=30)
        assert sorted(map(str, (future.result() for future in finished))) == ["2", "slow"]
        heard: list[Any] = []
        results.future(quick).add_done_callback(lambda future: heard.append(results.get(future.id)))  # asks again
        wait_until(lambda: heard == [2])
        with pytest.raises(kq.ResultTimeout, match="1 of 2 jobs have not ended in time"):
            list(results.as_completed([quick, "never"], timeout=0.3))


def test_what_cannot_be_had_says_why(topic: str, hosts: str, client: KafkaProducer) -> None:
    with kq.Results(topic, hosts) as results:
        with pytest.raises(kq.ResultTimeout, match=rf"there is no topic {topic}\.results: no worker"):
            results.get("any", timeout=2)
        assert results.status("any") == "unknown"
        with kq.Queue(topic, hosts=hosts) as queue, working(topic, hosts):
            job = queue.enqueue(jobs.add)
            assert results.get(job, timeout=30) == 0
        with pytest.raises(kq.ResultTimeout, match=r"nothing is known of job never: .* its ID is wrong.* after 24 h"):
            results.get("never", timeout=0.3)
        old = job._replace(id="old", timestamp=job.timestamp - 2 * 86_400_000)
        with pytest.raises(kq.ResultTimeout, match=rf"longer ago than topic {topic}\.results keeps results, 24 h"):
            results.get(old, timeout=0.3)
        name = f"{topic}.results"
        client.send(name, b"x", b"foreign", headers=[("other", b"1")]).get(10)
        with pytest.raises(kq.ResultTimeout, match="has 1 records under its ID, but KQ wrote none of them"):
            results.get("foreign", timeout=0.5)
        client.send(name, b"\x80damaged", b"bad", headers=headers_of("success")).get(10)
        with pytest.raises(kq.ResultUnreadable, match="job bad cannot be read here"):
            results.get("bad", timeout=10)
        unknown = pickle.dumps(result_jobs.Known(1)).replace(b"result_jobs", b"resxxx_jobs")
        client.send(name, unknown, b"gone", headers=headers_of("failure", error=("a.B", "text"), trace="T")).get(10)
        with pytest.raises(kq.RemoteError, match=r"a\.B: text") as told:
            results.get("gone", timeout=10)
        assert told.value.traceback == "T"
        for wrong in (None, 5, "", kq.Job()):
            with pytest.raises(kq.ArgumentError, match="job must be a Job"):
                results.get(wrong)  # type: ignore[arg-type]
        with pytest.raises(kq.ArgumentError, match="is of topic other"):
            results.get(job._replace(topic="other"))


def test_the_first_end_counts(topic: str, hosts: str, client: KafkaProducer, make_topic: Any) -> None:
    name = f"{topic}.results"
    with kq.Queue(topic, hosts=hosts) as queue, working(topic, hosts), kq.Results(topic, hosts) as results:
        job = queue.enqueue(jobs.add, 1, 1)
        assert results.get(job, timeout=30) == 2
        client.send(name, pickle.dumps("second"), job.id.encode(), headers=headers_of("success")).get(10)
        client.send(name, pickle.dumps("x"), b"later", headers=headers_of("success")).get(10)
        assert results.get("later", timeout=10) == "x"  # so the second end was read
        assert (results.get(job), results.get(job.id)) == (2, 2)
    with kq.Results(topic, hosts) as fresh:
        assert (fresh.get(job, 10), fresh.get(job.id, 10), len(list(fresh.events(job)))) == (2, 2, 2)


def test_without_a_broker_one_clear_error() -> None:
    results = kq.Results("topic", "127.0.0.1:1", {"bootstrap_timeout_ms": 300})
    with pytest.raises(kq.BrokerUnreachable, match=r"127\.0\.0\.1:1"):
        results.get("job", timeout=20)
    with pytest.raises(kq.BrokerUnreachable, match=r"127\.0\.0\.1:1"):
        results.status("job")
    results.close()


def test_closed_while_somebody_waits(topic: str, hosts: str) -> None:
    results, told = kq.Results(topic, hosts), []

    def ask() -> None:
        with pytest.raises(kq.KQError, match="were closed while somebody waited"):
            results.get("job")
        told.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: any(one.name == "kq-results" for one in threading.enumerate()))
    results.close()
    thread.join(10)
    assert told == [True]
    results.close()
    with pytest.raises(TypeError, match="cannot be serialized"):
        pickle.dumps(results)


def test_a_job_is_cancelled_or_asked_again_without_a_trace(topic: str, hosts: str) -> None:
    """Who waits no longer costs nothing: the same job can be asked for again, and its end is told then."""
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results:
        job = queue.enqueue(jobs.add, 2, 2)
        for _ in range(3):
            with pytest.raises(kq.ResultTimeout):
                results.get(job, timeout=0.05)
            assert results.future(job).cancel()
        with pytest.raises(kq.ResultTimeout):
            asyncio.run(results.aget(job, timeout=0.05))
        with working(topic, hosts):
            assert results.get(job, timeout=30) == 4
            assert asyncio.run(results.aget(job.id, timeout=30)) == 4


@pytest.mark.long
def test_partitions_that_are_added_are_read_too(topic: str, hosts: str, admin: KafkaAdminClient) -> None:
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, working(topic, hosts):
        assert results.get(queue.enqueue(jobs.add, 1, 1), timeout=30) == 2
        admin.create_partitions({topic: NewPartitions(3)})
        wait_until(lambda: len(queue.producer.partitions_for(topic)) == 3 or queue.producer.send(topic, b"x", b"y"), 30)
        made = [queue.using(partition=number).enqueue(jobs.add, number) for number in range(3)]
        assert [results.get(job, timeout=60) for job in made] == [
            0,
            1,
            2,
        ]  # the topic of results has one partition still
        admin.create_partitions({f"{topic}.results": NewPartitions(3)})
        again = [queue.using(partition=number).enqueue(jobs.add, number) for number in range(3)]
        assert [results.get(job, timeout=60) for job in again] == [0, 1, 2]


def test_a_topic_that_is_made_anew_is_read_from_its_start(topic: str, hosts: str, admin: KafkaAdminClient) -> None:
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, working(topic, hosts):
        assert results.get(queue.enqueue(jobs.add, 1, 1), timeout=30) == 2
        admin.delete_topics([f"{topic}.results"])
        wait_until(lambda: f"{topic}.results" not in admin.list_topics())
        assert results.get(queue.enqueue(jobs.add, 2, 2), timeout=60) == 4


def test_a_client_that_is_killed_asks_again(topic: str, hosts: str, tmp_path: Path) -> None:
    """Another process, with nothing but the ID."""
    gate = tmp_path / "open"
    with kq.Queue(topic, hosts=hosts) as queue, working(topic, hosts, "process"):
        job = queue.enqueue(result_jobs.when_open, str(gate), "there")
        code = "import kq, sys; print(kq.Results(*sys.argv[1:3]).get(sys.argv[3], timeout=60), flush=True)"
        command = [sys.executable, "-c", code, topic, hosts, job.id]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
            time.sleep(0.2)  # wherever it is by then
            first.kill()
        gate.touch()
        assert subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout == b"there\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_after_a_fork_both_ask(topic: str, hosts: str, tmp_path: Path) -> None:
    """Also of what was asked for before, with futures and events that were begun in the parent."""
    gate = tmp_path / "open"
    with kq.Queue(topic, hosts=hosts) as queue, queue.collect() as results, working(topic, hosts, "process"):
        done = queue.enqueue(jobs.add, 1, 1)
        assert results.get(done, timeout=30) == 2
        waiting = queue.enqueue(result_jobs.when_open, str(gate), "there")
        future, events = results.future(waiting), results.events(waiting, timeout=30)
        assert next(events).kind == "started"
        pid = os.fork()
        if not pid:
            code = 1
            try:
                logging.disable(logging.CRITICAL)
                gate.touch()
                told = [results.get(done, 30), results.get(waiting, 30), future.result(30), [*events][-1].status]
                code = 0 if told == [2, "there", "there", "success"] else 2
            finally:
                os._exit(code)
        assert (results.get(waiting, timeout=30), future.result(30)) == ("there", "there")
        assert [*events][-1].status == "success"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_nobody_waits_for_costs_no_memory(
    topic: str, hosts: str, client: KafkaProducer, request: pytest.FixtureRequest
) -> None:
    """Whoever waits for one job among many passes the others by."""
    count = 1_000_000 if request.config.getoption("--long") else 20_000
    code = """
import resource, sys
import kq
results = kq.Results(*sys.argv[1:3])
assert results.get("first", timeout=60) == 1
future = results.future("last")
results.status("last")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("ready", flush=True)
assert future.result(600) == 2
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    name = f"{topic}.results"
    client.send(name, pickle.dumps(1), b"first", headers=headers_of("success")).get(10)
    with subprocess.Popen([sys.executable, "-c", code, topic, hosts], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        value, headers = pickle.dumps("x" * 100), headers_of("success")
        for number in range(count):
            client.send(name, value, b"%032d" % number, headers=headers)
        client.flush()
        client.send(name, pickle.dumps(2), b"last", headers=headers).get(10)
        grown = int(reader.stdout.readline())
    assert grown < 60, f"{grown} MB more"
