"""Schedules through Kafka: made, replaced, listed, ended, and run each once, whoever comes and goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from datetime import time as clock
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import jobs
import pytest
from helpers import at_work, wait_until
from jobs import Calls
from kafka import KafkaProducer
from test_owner import Log, owning, running

import kq
from kq.scheduling.schedule import run_id

BERLIN = ZoneInfo("Europe/Berlin")


def ids(log: Log) -> list[str]:
    return [dict(record.headers)["kq-id"].decode() for record in log.records]


def test_a_schedule_runs_again_and_again(topic: str, hosts: str) -> None:
    """Each run is a job with its time in its ID, and the call, the key and the headers of the schedule."""
    with kq.Queue(topic, hosts=hosts) as queue:
        spec = queue.using(timeout=9, key=b"k", headers=[("a", b"b")], expires=60)
        made = spec.schedule("adder", kq.Every(1), jobs.add, 1, b=2)
        assert (made.name, made.when, made.call, made.last_fired) == ("adder", kq.Every(1), "jobs.add(1, b=2)", None)
        with running(topic, hosts, executor="thread") as calls:
            wait_until(lambda: len(calls) >= 3, timeout=30)
        (listed,) = queue.schedules()
    call = calls[0]
    headers = dict(call.message.headers)
    assert (call.status, call.result, call.message.key, headers["a"], call.job.timeout) == ("success", 3, b"k", b"b", 9)
    due = int(headers["kq-at"])
    assert call.job.id == run_id("adder", due)
    assert int(headers["kq-expires"]) == due + 60_000
    assert call.job.timestamp == int(headers["kq-timestamp"])
    dues = [int(dict(one.message.headers)["kq-at"]) for one in calls]
    assert dues == list(range(dues[0], dues[0] + 1000 * len(dues), 1000))
    assert len({one.job.id for one in calls}) == len(calls)
    assert listed.last_fired is not None and listed.next_due is not None
    assert (listed.next_due - listed.last_fired).total_seconds() == 1


def test_children_run_them_too(topic: str, hosts: str) -> None:
    """Where the value crosses to a process without its headers, the callback has the ID all the same."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.schedule("adder", kq.Every(1), jobs.add, 1, 2)
        with running(topic, hosts, executor="process") as calls:
            wait_until(lambda: calls, timeout=30)
    assert calls[0].job.id == dict(calls[0].message.headers)["kq-id"].decode()
    assert calls[0].result == 3


def test_two_deployments_leave_one_schedule_and_its_phase(topic: str, hosts: str) -> None:
    """The call is replaced, the runs stay where they were; nothing is doubled."""
    with kq.Queue(topic, hosts=hosts) as queue, kq.Queue(topic, hosts=hosts) as other:
        with owning(topic, hosts), Log(topic, hosts) as log:
            queue.schedule("s", kq.Every(1), jobs.echo, "old")
            log.wait(2)
            threads = [
                threading.Thread(target=each.schedule, args=("s", kq.Every(1), jobs.echo, "new"))
                for each in (queue, other)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            wait_until(lambda: log.read() and kq.loads(log.records[-1].value).args == ("new",), timeout=20)
            log.wait(len(log.records) + 2)
        assert len(queue.schedules()) == 1
    assert len(set(ids(log))) == len(log.records)
    dues = [int(dict(record.headers)["kq-at"]) for record in log.records]
    assert {due % 1000 for due in dues} == {dues[0] % 1000}


def test_another_when_begins_anew(topic: str, hosts: str) -> None:
    """And another key moves it to its partition."""
    with kq.Queue(topic, hosts=hosts) as queue:
        first = queue.schedule("s", kq.Every(3600), jobs.add)
        again = queue.schedule("s", kq.Every(3600), jobs.add)
        other = queue.schedule("s", kq.Every(7200), jobs.add)
    assert again.next_due == first.next_due
    assert other.next_due is not None and first.next_due is not None
    assert (other.next_due - first.next_due).total_seconds() >= 3600


def test_a_key_moves_a_schedule_to_its_partition(make_topic: Callable[..., str], hosts: str) -> None:
    """There is one of the name all the same."""
    topic = make_topic(partitions=4)
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(6):
            queue.using(key=b"%d" % number).schedule("s", kq.Every(3600), jobs.add)
            assert [one.name for one in queue.schedules()] == ["s"]


def test_a_schedule_is_ended(topic: str, hosts: str) -> None:
    """Where there is none, that is said."""
    with kq.Queue(topic, hosts=hosts) as queue:
        assert queue.schedules() == []
        assert queue.unschedule("s") is False
        with owning(topic, hosts), Log(topic, hosts) as log:
            queue.schedule("s", kq.Every(0.5), jobs.add)
            queue.schedule("t", kq.Every(0.5), jobs.echo)
            log.wait(2)
            assert queue.unschedule("s") is True
            assert [one.name for one in queue.schedules()] == ["t"]
            begun = len(log.records)
            log.wait(begun + 6)
        late = [name for name in ids(log)[begun + 2 :] if name.startswith("s@")]
    assert late == []


def test_a_restart_of_all_owners_misses_one_run_once(topic: str, hosts: str) -> None:
    """After an outage the latest missed run is fired, once; or all of them."""
    with kq.Queue(topic, hosts=hosts) as queue, Log(topic, hosts) as log:
        queue.schedule("latest", kq.Every(1), jobs.add)
        queue.schedule("all", kq.Every(1, catch_up="all"), jobs.add)
        with owning(topic, hosts):
            log.wait(4)
        time.sleep(4)  # the outage is the point
        with owning(topic, hosts):
            begun = len(log.records)
            log.wait(begun + 10)
    dues = {
        name: [int(dict(record.headers)["kq-at"]) // 1000 for record in log.records if ids_of(record) == name]
        for name in ("latest", "all")
    }
    gaps = {name: [b - a for a, b in pairwise(times)] for name, times in dues.items()}
    assert set(gaps["all"]) == {1}
    assert sorted(gaps["latest"])[-1] >= 3
    assert sorted(set(gaps["latest"]))[0] == 1
    assert len(set(ids(log))) == len(log.records)


def nights(begin: datetime, end: datetime) -> list[str]:
    """Return the IDs of runs at 2:30 in Berlin, each night once: where there is no 2:30, right after the gap."""
    found = []
    for number in range((end - begin).days + 2):
        night = datetime.combine(begin + timedelta(days=number), clock(2, 30), BERLIN)
        utc = night.astimezone(timezone.utc)
        if utc.astimezone(BERLIN) != night or utc.astimezone(BERLIN).hour != 2:
            utc = night.replace(hour=3, minute=0).astimezone(timezone.utc)
        if begin < utc <= end:
            found.append(f"night@{utc:%Y-%m-%dT%H:%M:%SZ}")
    return found


@pytest.mark.long
def test_both_changes_of_daylight_saving_time(make_topic: Callable[..., str], hosts: str) -> None:
    """An owner whose clock is 400 days ahead makes up for every night, with the IDs of the contract."""
    topic = make_topic(message_timestamp_type="LogAppendTime")  # brokers refuse times that are far ahead
    begin = datetime.now(timezone.utc)
    end = begin + timedelta(days=400)
    expected = nights(begin, end)
    assert {name[-9:] for name in expected} == {"01:30:00Z", "00:30:00Z", "01:00:00Z"}
    with kq.Queue(topic, hosts=hosts) as queue, Log(topic, hosts) as log:
        queue.schedule("night", kq.Cron("30 2 * * *", timezone="Europe/Berlin", catch_up="all"), jobs.add)
        with owning(topic, hosts, end.timestamp):
            log.wait(len(expected))
    assert ids(log) == expected


@pytest.mark.long
def test_a_schedule_goes_on_after_an_outage_of_the_broker(kafka: kq.LocalKafka, make_topic: Callable[..., str]) -> None:
    """Each second before and after; of the runs between, the latest or all of them; none twice."""
    topic, hosts = make_topic(), kafka.hosts
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.schedule("latest", kq.Every(1), jobs.add)
        queue.schedule("all", kq.Every(1, catch_up="all"), jobs.add)
    calls = Calls()
    with at_work(kq.Worker(topic, hosts=hosts, callback=calls)):
        wait_until(lambda: len(calls) >= 6, timeout=30)
        kafka.kill()
        time.sleep(6)  # the outage is the point
        kafka.restart()
        begun = len(calls)
        wait_until(lambda: len(calls) >= begun + 20, timeout=60)
    dues = {
        name: sorted(
            {int(dict(call.message.headers)["kq-at"]) // 1000 for call in calls if call.job.id.startswith(name)}
        )
        for name in ("latest@", "all@")
    }
    gaps = {name: [after - before for before, after in pairwise(times)] for name, times in dues.items()}
    assert set(gaps["all@"]) == {1}
    assert sorted(gaps["latest@"])[-1] >= 4
    assert gaps["latest@"].count(1) >= 5
    assert len({call.job.id for call in calls}) >= len(calls) - 2  # what was on its way may come again


@pytest.mark.long
def test_a_cron_line_runs_at_its_minute(topic: str, hosts: str) -> None:
    """By the real clock: late by milliseconds, with the ID of the minute."""
    calls = Calls()
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.schedule("minute", kq.Cron("* * * * *"), jobs.add)
    with at_work(kq.Worker(topic, hosts=hosts, callback=calls)):
        wait_until(lambda: calls, timeout=70)
    told = dict(calls[0].message.headers)
    due = int(told["kq-at"]) / 1000
    assert due % 60 == 0
    assert calls[0].job.id == f"minute@{datetime.fromtimestamp(due, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    assert 0 <= int(told["kq-timestamp"]) / 1000 - due <= 0.25


def ids_of(record: Any) -> str:
    return dict(record.headers)["kq-id"].decode().partition("@")[0]


def test_foreign_schedules_are_skipped(topic: str, hosts: str, client: KafkaProducer, caplog: Any) -> None:
    """Whatever stands there: others run."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.schedule("s", kq.Every(1), jobs.add)
        for key in (b"schedule:x", b"fired:x", b"fired:\xff"):
            for headers in ([], [("kq-schedule", b"{}")], [("kq-schedule", b'{"when": {"every": "x"}}')]):
                client.send(f"{topic}.later", key=key, value=b"?", headers=headers).get(10)
        with owning(topic, hosts), Log(topic, hosts) as log:
            log.wait(2)
        assert [one.name for one in queue.schedules()] == ["s"]
    assert sum("holds what is no delayed job" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda queue: queue.schedule("", kq.Every(1), jobs.add), "name must be a str of 1 to 200"),
        (lambda queue: queue.schedule("a\nb", kq.Every(1), jobs.add), "name must be a str of 1 to 200"),
        (lambda queue: queue.schedule(1, kq.Every(1), jobs.add), "name must be a str of 1 to 200"),
        (lambda queue: queue.schedule("s", 5, jobs.add), "when must be kq.Every"),
        (lambda queue: queue.schedule("s", kq.Every(1), 5), "first argument must be a callable"),
        (lambda queue: queue.schedule("s", kq.Every(1), jobs.fail), "missing a required argument"),
        (lambda queue: queue.using(delay=1).schedule("s", kq.Every(1), jobs.add), "a schedule has no delay"),
        (
            lambda queue: queue.using(expires=datetime(2030, 1, 1, tzinfo=timezone.utc)).schedule(
                "s", kq.Every(1), jobs.add
            ),
            "so many seconds after their time",
        ),
    ],
)
def test_what_cannot_be_scheduled_is_refused(call: Any, error: str) -> None:
    """Before anything is asked of a broker."""
    with pytest.raises(kq.ArgumentError, match=error):
        call(kq.Queue("topic", hosts="127.0.0.1:1"))
