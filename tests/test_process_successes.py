"""Successes that children tell together are not lost, repeated or mistaken."""

from __future__ import annotations

import sys
import time

import process_jobs
import pytest
from helpers import wait_until
from journal import Journal
from journal import work as noted
from process_bench import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def test_successes_that_are_told_together_are_not_mistaken(quiet: Bench) -> None:
    """Among jobs that fail, die, are invalid or out of time, each has its own outcome."""
    bad = [
        *(process_jobs.kill_itself, process_jobs.leave, process_jobs.fork_and_return_twice),
        *(process_jobs.fail_async, process_jobs.close_descriptors),
    ]
    messages, expected = [], {}
    for number in range(200):
        func = bad[number // 7 % len(bad)] if number % 7 == 6 else process_jobs.nothing
        messages.append(quiet.message(func))
        expected[messages[-1].offset] = "success" if func is process_jobs.nothing else "failure"
    messages[50] = messages[50]._replace(value=b"no job")
    messages[150] = quiet.message(time.sleep, 60, timeout=0.2)
    del expected[150 + messages[0].offset]
    expected |= {messages[50].offset: "invalid", messages[150].offset: "timeout"}
    ended = quiet.run(*messages)
    assert {one.message.offset: one.outcome.status for one in ended if one.outcome is not None} == expected
    assert len(ended) == len(messages)


def test_a_success_is_known_while_the_next_job_runs(quiet: Bench) -> None:
    """It waits for no other: what it kept waiting may run elsewhere."""
    quick, slow = quiet.message(process_jobs.nothing), quiet.message(process_jobs.nap, 30)
    for message in (quick, slow):
        quiet.executor.start(message)
    quiet.executor.flush()
    assert [one.message for one in wait_until(quiet.executor.finished, 5)] == [quick]


def test_the_death_of_a_child_does_not_take_successes_with_it(
    quiet: Bench, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended before the death and was not told of succeeded, and does not run again."""
    monkeypatch.setattr(
        "kq.executors.process.children.LOOK_EVERY", 1000
    )  # nobody looks between these ends and that death
    messages = [quiet.message(noted, journal.path, str(number)) for number in range(5)]
    messages.append(quiet.message(process_jobs.kill_itself))
    messages += [quiet.message(noted, journal.path, str(number)) for number in range(6, 11)]
    ended = quiet.run(*messages)
    told = {one.message.offset - messages[0].offset: one.outcome.status for one in ended if one.outcome is not None}
    assert told == {number: "failure" if number == 5 else "success" for number in range(11)}
    assert len(ended) == len(messages)
    starts = [entry.name for entry in journal.entries() if entry.word == "start"]
    assert starts == [str(number) for number in range(11) if number != 5]


def test_a_child_that_overran_a_limit_takes_nothing_more(
    quiet: Bench, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to be killed, though the signal comes late: what it would take would run twice."""
    monkeypatch.setattr("kq.executors.process.children.LOOK_EVERY", 0.01)
    monkeypatch.setattr(quiet.executor._children.spawner, "signal", lambda pid, signum: None)
    late = quiet.message(process_jobs.nap, 0.3, timeout=0.1)
    rest = [quiet.message(noted, journal.path, str(number)) for number in range(5)]
    ended = {one.message.offset: one.outcome.status for one in quiet.run(late, *rest) if one.outcome is not None}
    assert ended == {late.offset: "timeout", **{message.offset: "success" for message in rest}}
    assert journal.count("start") == {str(number): 1 for number in range(5)}
