"""What a loop starts, and when: suspects alone, and nothing that it only knew to be its own before it waited."""

from __future__ import annotations

import pytest
from bench_loop import FakeExecutor, FakePump, loop_between

from kq.consuming.metadata import Progress


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
