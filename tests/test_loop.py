"""What a loop starts, and when: suspects alone, and nothing that it only knew to be its own before it waited."""

from __future__ import annotations

import logging

import pytest
from bench_loop import FakeExecutor, FakePump, loop_between

from kq.consuming import Failed
from kq.consuming.metadata import Progress
from kq.job import Outcome
from kq.message import Message, Record
from kq.working import Companion


@pytest.fixture
def pump() -> FakePump:
    return FakePump()


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


def suspects(*offsets: int) -> Progress:
    """Return what the last commit says where a worker died once while each of these ran."""
    return Progress(0, deliveries=tuple((offset, 1) for offset in offsets))


def test_a_suspect_waits_for_what_runs_and_all_wait_for_it(pump: FakePump, executor: FakeExecutor) -> None:
    """It runs alone: nothing before it is cut off, and nothing starts beside it."""
    pump.assign(0, suspects(2))
    pump.poll(0, range(4))
    with loop_between(pump, executor) as loop:
        loop._turn()
        assert executor.offsets() == [(0, 0), (0, 1)]
        executor.end(executor.running[0])
        loop._turn()
        assert executor.offsets() == [(0, 0), (0, 1)]
        executor.end_all()
        loop._turn()
        assert executor.offsets() == [(0, 0), (0, 1), (0, 2)]
        executor.end_all()
        loop._turn()
        assert executor.offsets() == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_suspects_run_one_after_the_other(pump: FakePump, executor: FakeExecutor) -> None:
    """Two of them together could not tell which one killed."""
    pump.assign(0, suspects(0, 1))
    pump.poll(0, range(2))
    with loop_between(pump, executor) as loop:
        loop._turn()
        assert executor.offsets() == [(0, 0)]
        executor.end_all()
        loop._turn()
        assert executor.offsets() == [(0, 0), (0, 1)]


def test_a_suspect_whose_partition_goes_holds_up_nobody(pump: FakePump, executor: FakeExecutor) -> None:
    """It waited for what ran; now it is another worker's."""
    pump.assign(0, Progress(0))
    pump.assign(1, suspects(0))
    pump.poll(0, [0])
    pump.poll(1, [0])
    with loop_between(pump, executor) as loop:
        loop._turn()
        pump.revoke(1)
        pump.poll(0, [1])
        loop._turn()
        assert executor.offsets() == [(0, 0), (0, 1)]


def test_what_a_callback_waited_through_is_news_before_anything_starts(pump: FakePump, executor: FakeExecutor) -> None:
    """A partition that was revoked meanwhile starts nothing more."""
    pump.assign(0, Progress(0))
    pump.assign(1, Progress(0))
    pump.poll(0, [0])

    def callback(*_: object) -> None:
        pump.revoke(1)

    with loop_between(pump, executor, callback) as loop:
        loop._turn()
        executor.end_all()
        pump.poll(1, [0])  # taken in before the callback
        loop._turn()
        assert executor.offsets() == [(0, 0)]


def test_what_a_commit_waited_through_is_news_before_anything_starts(pump: FakePump, executor: FakeExecutor) -> None:
    """After an unclean end starts are committed first: what was revoked during that commit does not start."""
    pump.assign(0, Progress(0, unclean=True, careful=10))
    pump.assign(1, Progress(0, unclean=True, careful=10))
    pump.poll(0, [0])
    pump.poll(1, [0])
    pump.on_flush = lambda: pump.revoke(1)
    with loop_between(pump, executor) as loop:
        loop._turn()
        assert executor.offsets() == [(0, 0)]
        assert loop.stats().in_flight == 1


def test_after_a_commit_that_took_long_the_coordinator_is_asked_for(pump: FakePump, executor: FakeExecutor) -> None:
    """A member that nobody vouches for any more starts nothing until somebody does."""
    pump.assign(0, Progress(0, unclean=True, careful=10))
    pump.poll(0, [0])
    looks = []

    def is_vouched(now: float) -> bool:
        looks.append(now)
        return len(looks) != 2  # not when the commit has come back, and again at the next look

    pump.is_vouched = is_vouched  # type: ignore[method-assign]
    with loop_between(pump, executor) as loop:
        loop._turn()
    assert (len(looks), executor.offsets()) == (3, [(0, 0)])


@pytest.mark.parametrize("key", [None, b"same"])
def test_what_a_commit_waited_through_and_came_back_starts(
    key: bytes | None, pump: FakePump, executor: FakeExecutor
) -> None:
    """Once each and in order, and under its new epoch: it had not started under the old one, so nothing is adopted."""
    pump.assign(0, Progress(0, unclean=True, careful=10))
    pump.poll(0, range(3), key)

    def come_and_go() -> None:
        pump.on_flush = bool
        pump.revoke(0)
        pump.assign(0, Progress(0, unclean=True, careful=10), epoch=2)
        pump.poll(0, range(3), key)

    pump.on_flush = come_and_go
    with loop_between(pump, executor) as loop:
        for _ in range(5):
            loop._turn()
            executor.end_all()
        assert executor.offsets() == [(0, 0), (0, 1), (0, 2)]
        assert loop.stats().done == 3


def test_a_suspect_that_went_during_its_commit_holds_up_nobody(pump: FakePump, executor: FakeExecutor) -> None:
    """Its start is committed first; by then it is another worker's."""
    pump.assign(0, Progress(0))
    pump.assign(1, suspects(0))
    pump.poll(1, [0])
    pump.on_flush = lambda: pump.revoke(1)
    with loop_between(pump, executor) as loop:
        loop._turn()
        pump.poll(0, [0])
        loop._turn()
        assert executor.offsets() == [(0, 0)]


def test_a_message_that_is_not_run_again_is_committed_before_the_next_starts(
    pump: FakePump, executor: FakeExecutor
) -> None:
    """With a commit interval of 0, as each message: its callback has been told."""
    pump.assign(0, Progress(0, deliveries=((0, 3),)))
    pump.poll(0, range(2))
    committed = []
    pump.on_flush = lambda: committed.append((pump.assignments[0].view.watermark, executor.offsets()))
    with loop_between(pump, executor) as loop:
        loop._plan = loop._plan._replace(commits_each=True)
        loop._turn()
        loop._turn()
    assert (committed, executor.offsets()) == ([(1, [])], [(0, 1)])


def test_an_error_of_the_last_commit_is_told(pump: FakePump, executor: FakeExecutor) -> None:
    """It comes when the loop has let the pump go; in silence, the next start would run the same jobs again."""
    error = ZeroDivisionError("not allowed to commit")
    pump.on_stop = lambda: pump.events.append(Failed(error))
    with loop_between(pump, executor) as loop:
        loop._end()
    assert loop.failure is error


def test_a_log_that_raises_costs_neither_callback_nor_outcome(pump: FakePump, executor: FakeExecutor) -> None:
    """A filter of the program fails at the lines about callbacks: these are told all the same, and messages done."""
    pump.assign(0, Progress(0))
    pump.poll(0, range(2))
    told = []

    def callback(_status: str, message: Message, *_: object) -> None:
        told.append(message.offset)
        raise ZeroDivisionError("callback")

    def refuse(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError("filter")

    logger = logging.getLogger("kq.worker")
    logger.addFilter(refuse)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with loop_between(pump, executor, callback) as loop:
            loop._turn()
            executor.end_all()
            loop._turn()
            assert (told, loop.stats().done) == ([0, 1], 2)
    finally:
        logger.removeFilter(refuse)
        logger.setLevel(level)


# -- companions --------------------------------------------------------------------------------------------------------


class Failing(Companion):
    """Fails to answer, until it is told not to."""

    def __init__(self) -> None:
        self.fails = True

    def on_settled(self, message: Message, outcome: Outcome) -> list[Record]:
        if self.fails:
            raise ZeroDivisionError("no answer")
        return []


def test_a_companion_that_fails_for_long_stops_the_starts(
    pump: FakePump, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it owes an answer to is in memory, and runs again after a crash: there is a bound."""
    monkeypatch.setattr("kq.working.settle.MOST_MESSAGES", 20)
    pump.assign(0, Progress(0))
    pump.poll(0, range(100))
    with loop_between(pump, executor, companions=[Failing()]) as loop:
        for _ in range(20):
            loop._turn()
            executor.end_all()
        assert 20 <= len(executor.started) < 40


def test_answers_are_looked_for_however_many_jobs_end(
    pump: FakePump, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs end in each turn, as with an inline executor at work: what waits for a companion is done all the same."""
    monkeypatch.setattr("kq.working.settle.RESTART_WAIT", (1e-6, 1e-6))
    pump.assign(0, Progress(0))
    pump.poll(0, range(100))
    companion = Failing()
    with loop_between(pump, executor, companions=[companion]) as loop:
        loop._turn()
        executor.end_all()
        loop._turn()
        companion.fails = False
        executor.end_all()
        loop._turn()
        assert loop.stats().done == 20


def test_what_is_done_is_published_before_the_last_answers_are_waited_for(
    pump: FakePump, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends the process within that time has nothing run again that was done."""
    monkeypatch.setattr("kq.working.settle.RESTART_WAIT", (0.01, 0.01))
    monkeypatch.setattr("kq.working.loop._LAST_PATIENCE", 0.2)
    pump.assign(0, Progress(0))
    pump.poll(0, range(2))
    seen = []

    class FailingForOne(Failing):
        def on_settled(self, message: Message, outcome: Outcome) -> list[Record]:
            if message.offset == 1:
                return []
            seen.append(pump.assignments[0].view.top)
            return super().on_settled(message, outcome)

    with loop_between(pump, executor, companions=[FailingForOne()]) as loop:
        loop._turn()
        executor.end_all()
        loop._end()
    assert (seen[0], seen[1]) == (0, 2)
