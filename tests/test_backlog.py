"""The backlog against a naive model: what may start, in which order, and what alone; nothing lost nor doubled."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kq.message import Message
from kq.working.backlog import Backlog, Ordering

ORDERINGS: list[Ordering] = ["key", "partition", "none"]


def message(offset: int, key: bytes | None = None, partition: int = 0) -> Message:
    return Message("topic", partition, offset, key, b"job")


def filled(ordering: Ordering, *messages: Message) -> Backlog:
    backlog = Backlog(ordering)
    for one in messages:
        backlog.add(one)
    return backlog


def take_all(backlog: Backlog) -> list[Message]:
    """Take what may start now."""
    taken = []
    while (one := backlog.take()) is not None:
        taken.append(one)
    return taken


def offsets(messages: list[Message]) -> list[int]:
    return [one.offset for one in messages]


class Machine(RuleBasedStateMachine):
    """Messages of three partitions come, run and go; the model looks through all of them at every step."""

    @initialize(ordering=st.sampled_from(ORDERINGS))
    def begin(self, ordering: Ordering) -> None:
        self.ordering = ordering
        self.backlog = Backlog(ordering)
        self.next_offset = [0, 0, 0]
        #: In the order in which they were added.
        self.waiting: list[Message] = []
        self.running: list[Message] = []
        self.started: list[Message] = []
        self.added = self.dropped = 0

    def must_wait_for(self, one: Message, other: Message) -> bool:
        if self.ordering == "none" or one.partition != other.partition:
            return False
        return self.ordering == "partition" or (bool(one.key) and one.key == other.key)

    def expected(self) -> Message | None:
        """Return what is to be given out: by the words of the promise, slowly."""
        for place, one in enumerate(self.waiting):
            before = self.running + self.waiting[:place]
            if not any(self.must_wait_for(one, other) for other in before):
                return one
        return None

    @rule(
        count=st.integers(1, 4),
        partition=st.integers(0, 2),
        key=st.sampled_from([None, b"", b"a", b"a", b"b"]),
    )
    def add(self, count: int, partition: int, key: bytes | None) -> None:
        """Messages are polled."""
        for _ in range(count):
            one = message(self.next_offset[partition], key, partition)
            self.next_offset[partition] += 1
            self.backlog.add(one)
            self.waiting.append(one)
            self.added += 1

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        """What may start is given out: the very one that was added first among those."""
        for _ in range(count):
            expected = self.expected()
            assert self.backlog.take() is expected
            if expected is not None:
                self.waiting.remove(expected)
                self.running.append(expected)
                self.started.append(expected)

    @rule(picks=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def end(self, picks: list[int]) -> None:
        """Some that run end, in any order."""
        for pick in picks[: len(self.running)]:
            one = self.running.pop(pick % len(self.running))
            self.backlog.done(one)

    @rule(partition=st.integers(0, 2), comes_back=st.booleans())
    def drop(self, partition: int, comes_back: bool) -> None:
        """A partition is revoked; when it comes back, so does all that was dropped, and what runs is adopted."""
        dropped = [one for one in self.waiting if one.partition == partition]
        self.waiting = [one for one in self.waiting if one.partition != partition]
        assert self.backlog.drop(partition) == len(dropped)
        self.dropped += len(dropped)
        for one in dropped if comes_back else ():
            self.backlog.add(one)
            self.waiting.append(one)
            self.added += 1

    @rule()
    def empty(self) -> None:
        """Everything is worked off, one at a time; then nothing is left anywhere."""
        self.end([0] * len(self.running))
        while self.waiting:
            left = len(self.waiting)
            self.take(1)
            assert len(self.waiting) == left - 1
            self.end([0])
        assert self.backlog.take() is None
        assert self.backlog._lanes == {}

    @invariant()
    def counts_are_exact(self) -> None:
        """How many wait, and that none is lost nor doubled."""
        assert len(self.backlog) == len(self.waiting)
        assert self.added == len(self.waiting) + len(self.started) + self.dropped
        kept = [self.backlog._ready, self.backlog._freed, *self.backlog._lanes.values()]
        assert sum(map(len, kept)) == len(self.waiting)

    @invariant()
    def nothing_runs_beside_what_excludes_it(self) -> None:
        """Of one lane one."""
        pairs = [(one, other) for one in self.running for other in self.running if one is not other]
        assert [pair for pair in pairs if self.must_wait_for(*pair)] == []


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


# -- one by one --------------------------------------------------------------------------------------------------------


def test_an_empty_backlog_has_nothing() -> None:
    """Neither to count nor to take nor to drop."""
    backlog = Backlog("key")
    assert (len(backlog), backlog.take(), backlog.drop(0)) == (0, None, 0)


def test_one_key_runs_one_at_a_time_in_order() -> None:
    """Others pass it meanwhile: another key, the same key in another partition, no key, an empty key."""
    a0, a1, a2 = (message(offset, b"a") for offset in range(3))
    others = [message(3, b"b"), message(0, b"a", partition=1), message(4), message(5, b"")]
    backlog = filled("key", a0, a1, a2, *others)
    assert take_all(backlog) == [a0, *others]
    backlog.done(a0)
    assert take_all(backlog) == [a1]
    backlog.done(others[0])
    assert take_all(backlog) == []
    backlog.done(a1)
    assert take_all(backlog) == [a2]


def test_messages_without_a_key_wait_for_none() -> None:
    """Nor do those with an empty one, which Kafka's clients do not tell apart by their partition."""
    assert len(take_all(filled("key", message(0), message(1), message(2, b""), message(3, b"")))) == 4


def test_a_partition_runs_in_order() -> None:
    """Whatever the keys; partitions do not wait for one another."""
    backlog = filled("partition", message(0, b"a"), message(1, b"b"), message(0, partition=1), message(2))
    zero, other = take_all(backlog)
    assert (zero, other) == (message(0, b"a"), message(0, partition=1))
    backlog.done(zero)
    assert take_all(backlog) == [message(1, b"b")]


def test_without_ordering_all_run_at_once() -> None:
    """In the order in which they came."""
    same_key = [message(offset, b"a") for offset in range(5)]
    assert take_all(filled("none", *same_key)) == same_key


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_one_at_a_time_is_the_order_of_arrival(ordering: Ordering) -> None:
    """With one hand, keys change nothing: a key with many messages does not go before older ones of others."""
    keys = [b"a", b"b", b"a", None, b"a", b"b", b"c", b"a"]
    messages = [message(offset, key) for offset, key in enumerate(keys)]
    backlog = filled(ordering, *messages)
    taken = []
    while (one := backlog.take()) is not None:
        taken.append(one)
        backlog.done(one)
    assert taken == messages


def test_the_oldest_of_those_that_are_free_is_next() -> None:
    """Also among messages whose lanes became free later, in whatever order they did."""
    keys = [b"a", b"b", b"c", b"a", b"b", b"c", None]
    messages = [message(offset, key) for offset, key in enumerate(keys)]
    backlog = filled("key", *messages)
    running = [backlog.take() for _ in range(3)]
    for one in reversed(running):
        assert one is not None
        backlog.done(one)
    assert offsets(take_all(backlog)) == [3, 4, 5, 6]


def test_a_dropped_partition_leaves_the_others() -> None:
    """What waits of it is gone, in lanes and in front of them."""
    backlog = filled("key", *(message(offset, b"a", partition) for offset in range(3) for partition in range(2)))
    backlog.add(message(3, b"b"))
    backlog.add(message(4, b"b"))
    assert backlog.drop(0) == 5
    assert (len(backlog), backlog.drop(0)) == (3, 0)
    assert [(one.partition, one.offset) for one in take_all(backlog)] == [(1, 0)]


def test_a_lane_stays_taken_by_what_runs_across_a_rebalance() -> None:
    """The partition goes and comes back while a job of the key runs: the next of the key waits for it."""
    zero, one = message(0, b"a"), message(1, b"a")
    backlog = filled("key", zero, one)
    assert backlog.take() is zero
    assert backlog.drop(0) == 1
    backlog.add(one)
    assert backlog.take() is None
    backlog.done(zero)
    assert backlog.take() is one
    backlog.done(one)
    assert (backlog.take(), len(backlog), backlog._lanes) == (None, 0, {})


def test_a_drop_leaves_the_order_of_the_others() -> None:
    """Many lanes became free in any order, then one of two partitions goes."""
    for seed in range(20):
        chance = random.Random(seed)
        backlog = Backlog("key")
        for offset in range(40):
            backlog.add(message(offset, b"%d" % (offset % 20), offset % 2))
        running = take_all(backlog)
        for one in chance.sample(running, len(running)):
            backlog.done(one)
        assert backlog.drop(1) == 10
        order = []
        while (one := backlog.take()) is not None:
            order.append(one.offset)
            backlog.done(one)
        assert order == list(range(20, 40, 2))


def test_what_waited_dropped_from_a_free_lane_frees_it() -> None:
    """Its first message had not started: when the key comes back, nothing stands in its way."""
    backlog = filled("key", message(0, b"a"), message(1, b"a"))
    assert backlog.drop(0) == 2
    again = message(0, b"a")
    backlog.add(again)
    assert backlog.take() is again


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_a_hundred_thousand_messages_are_worked_off(ordering: Ordering) -> None:
    """Many keys, one of them hot, eight at once; a quadratic step anywhere would be felt."""
    chance = random.Random(1)
    messages = [message(offset, b"%d" % int(chance.expovariate(0.01))) for offset in range(100_000)]
    backlog = filled(ordering, *messages)
    running: list[Message] = []
    started = []
    while len(backlog) or running:
        while len(running) < 8 and (one := backlog.take()) is not None:
            running.append(one)
            started.append(one)
        backlog.done(running.pop(chance.randrange(len(running))))
    assert sorted(offsets(started)) == list(range(100_000))
    assert (len(backlog), backlog._lanes) == (0, {})
