"""Companions that are asked before a job starts, and that hear of partitions: what they do to the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from bench_loop import WELL, FakeExecutor, FakePump, loop_between

import kq
from kq.consuming import Revoked
from kq.consuming.metadata import Progress
from kq.executors import Finished
from kq.fleet.attendant import Asking, Attendant, attendant_of
from kq.fleet.hooks import Hooks
from kq.job import INVALID, Cause, Outcome
from kq.message import Message
from kq.working import Companion

REFUSED = Outcome(INVALID, cause=Cause(("builtins.ValueError",), "not this one"))


class Asked(Companion):
    """Refuses what a test says, and remembers what it heard."""

    answers_success = False

    def __init__(self, refuses: Callable[[Message], bool] = lambda message: False) -> None:
        self.refuses = refuses
        self.asked: list[int] = []
        self.given_up: list[int] = []
        self.moves: list[tuple[str, list[int]]] = []

    def admit(self, message: Message) -> Finished | None:
        self.asked.append(message.offset)
        return Finished(message, None, REFUSED) if self.refuses(message) else None

    def on_given_up(self, message: Message) -> None:
        self.given_up.append(message.offset)

    def on_moved(self, kind: Any, partitions: Sequence[int]) -> None:
        self.moves.append((kind, list(partitions)))


@pytest.fixture
def pump() -> FakePump:
    return FakePump()


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


def test_what_is_refused_does_not_start_and_is_done(pump: FakePump, executor: FakeExecutor) -> None:
    """Its outcome is told as any other; those around it start."""
    told: list[tuple[str, int]] = []

    def callback(status: str, one: Message, *_: Any) -> None:
        told.append((status, one.offset))

    companion = Asked(lambda message: message.offset % 2 == 1)
    pump.assign(0, Progress(0))
    pump.poll(0, range(4))
    with loop_between(pump, executor, callback, [companion]) as loop:
        loop._turn()
        assert executor.offsets() == [(0, 0), (0, 2)]
        assert told == [("invalid", 1), ("invalid", 3)]
        assert companion.asked == [0, 1, 2, 3]
        executor.end_all()
        loop._turn()
        loop._turn()
        assert pump.assignments[0].view.watermark == 4
    assert companion.given_up == []


def test_a_partition_that_goes_while_it_is_asked_starts_nothing(pump: FakePump, executor: FakeExecutor) -> None:
    """The answer took its time: the job is another worker's by now, and that is told."""
    pump.assign(0, Progress(0))
    pump.poll(0, [0])
    companion = Asked()
    companion.refuses = lambda message: pump.revoke(0) or False  # type: ignore[func-returns-value]
    with loop_between(pump, executor, companions=[companion]) as loop:
        loop._turn()
        assert executor.offsets() == []
    assert (companion.asked, companion.given_up) == ([0], [0])
    assert companion.moves == [("assigned", [0]), ("revoked", [0])]


def test_a_stop_while_it_is_asked_starts_nothing(pump: FakePump, executor: FakeExecutor) -> None:
    """None of those that were about to."""
    pump.assign(0, Progress(0))
    pump.poll(0, range(3))
    companion = Asked()
    with loop_between(pump, executor, companions=[companion]) as loop:
        companion.refuses = lambda message: loop._stop.request() or False  # type: ignore[func-returns-value]
        loop._turn()
        assert executor.offsets() == []
    assert companion.given_up == [0, 1, 2]


def test_a_companion_that_fails_has_the_job_run(
    pump: FakePump, executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """The job matters more."""

    def fail(message: Message) -> bool:
        raise RuntimeError("no answer")

    pump.assign(0, Progress(0))
    pump.poll(0, [0])
    with loop_between(pump, executor, companions=[Asked(fail)]) as loop:
        loop._turn()
        assert executor.offsets() == [(0, 0)]
    assert "Asked failed before the start of message ('t', 0, 0)" in caplog.text


def test_partitions_that_move_are_told_together(pump: FakePump, executor: FakeExecutor) -> None:
    """Those that come, go and are lost, in order."""
    companion = Asked()
    for partition in range(4):
        pump.assign(partition, Progress(0))
    pump.revoke(1)
    pump.events.append(Revoked(pump.assignments.pop(2), True))
    pump.events.append(Revoked(pump.assignments.pop(3), True))
    with loop_between(pump, executor, companions=[companion]) as loop:
        loop._turn()
    assert companion.moves == [("assigned", [0, 1, 2, 3]), ("revoked", [1]), ("lost", [2, 3])]


# -- the attendant of a consumer ---------------------------------------------------------------------------------------


class Told(Hooks):
    """Hooks without a consumer."""

    task_types = {"neg": abs}
    logger = logging.getLogger("tests.admission")

    def __init__(self) -> None:
        self._failure_callbacks = []
        self.partitions: list[tuple[str, list[int]]] = []
        self.errors: list[Any] = []
        self.add_failure_callback(lambda log, err: self.errors.append((log.offset, str(err))))

    def on_revoked(self, partitions: Sequence[int]) -> None:
        self.partitions.append(("revoked", list(partitions)))

    def on_lost(self, partitions: Sequence[int]) -> None:
        self.partitions.append(("lost", list(partitions)))


def message(offset: int, name: bytes = b"neg") -> Message:
    return Message("t", 0, offset, None, b"[-3]", 1000, (("kq-task-type", name),))


def test_an_attendant_gives_a_job_while_its_message_runs() -> None:
    """As it is, or as bytes that cross; not before, not afterwards, and of no other message."""
    for crosses in (False, True):
        attendant, one = Asking(Told(), crosses=crosses), message(0)
        assert attendant.given(one) is None
        assert attendant.admit(one) is None
        job = kq.loads(attendant.given(one)) if crosses else attendant.given(one)
        assert (job.func, list(job.args), job.id) == (abs, [-3], "t-0-0")
        assert attendant.given(message(0)) is None
        attendant.on_settled(one, WELL)
        assert attendant.given(one) is None


def test_an_attendant_keeps_nothing_of_what_has_ended() -> None:
    """Neither of what was done, nor of what was given up, nor of a worker that has stopped."""
    attendant, messages = Asking(Told(), crosses=False), [message(offset) for offset in range(4)]
    for one in messages:
        attendant.admit(one)
    attendant.on_settled(messages[0], WELL)
    attendant.on_settled(messages[1], REFUSED)
    attendant.on_given_up(messages[2])
    assert [held.message for held in attendant._held.values()] == [messages[3]]
    attendant.stop(0)
    assert attendant._held == {}


def test_an_attendant_tells_of_each_end() -> None:
    """Of what was refused by its own reason; of what never came so far with a log that is found then."""
    hooks = Told()
    attendant, other = Asking(hooks, crosses=False), message(1, b"other")
    end = attendant.admit(other)
    assert end is not None
    assert end.outcome is not None
    attendant.on_settled(other, end.outcome)
    attendant.on_settled(message(2), REFUSED)
    attendant.on_settled(message(3), WELL)
    refusal = "there is no task type 'other'; this consumer has: neg"
    assert hooks.errors == [(1, refusal), (2, "builtins.ValueError: not this one")]


def test_an_attendant_gives_back_what_it_has_at_the_end() -> None:
    """And no more than that."""
    hooks = Told()
    attendant = Attendant(hooks)
    attendant.on_moved("assigned", [0, 1, 2, 3])
    attendant.on_moved("lost", [1])
    attendant.on_moved("revoked", [2])
    attendant.stop(0)
    attendant.stop(0)
    assert hooks.partitions == [("lost", [1]), ("revoked", [2]), ("revoked", [0, 3])]


def test_a_consumer_that_asks_for_nothing_costs_nothing() -> None:
    """Nothing is called before a message starts, nor of a success; one that asks is asked."""

    class Plain(Told):
        task_types = {}

    class Hearing(Plain):
        def on_message(self, message: Message) -> None: ...

    assert type(attendant_of(Plain(), crosses=False)) is Attendant
    assert not Attendant(Plain()).answers_success
    assert Attendant.admit is Companion.admit
    assert type(attendant_of(Hearing(), crosses=False)) is Asking
    assert type(attendant_of(Told(), crosses=False)) is Asking
    patched = Plain()
    patched.on_message = print  # type: ignore[method-assign]
    assert type(attendant_of(patched, crosses=False)) is Asking
