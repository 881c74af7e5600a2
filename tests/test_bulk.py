"""Many starts and many ends at once are what one after the other would be: the same state, step by step."""

from __future__ import annotations

import random
from collections.abc import Iterator

from bench_loop import FakeExecutor, FakePump, loop_between
from hypothesis import given
from hypothesis import strategies as st

from kq.consuming.metadata import Progress
from kq.consuming.tracker import Tracker
from kq.message import Message, by_partition
from kq.working.backlog import Backlog, Ordering

KEYS = [None, b"", b"a", b"b"]


def messages(count: int, keys: list[bytes | None], partitions: int = 2) -> list[Message]:
    """Return messages of some partitions, as they would be polled: ascending in each."""
    offsets = [0] * partitions
    made = []
    for number in range(count):
        partition = number * 7 // 5 % partitions
        made.append(Message("t", partition, offsets[partition], keys[number % len(keys)], b"v"))
        offsets[partition] += 1
    return made


@given(
    st.sampled_from(["key", "partition", "none"]),
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=6),
    st.lists(st.integers(0, 6), max_size=30),
)
def test_a_backlog_gives_the_same_in_bulk(ordering: Ordering, keys: list[bytes | None], sizes: list[int]) -> None:
    """What is taken, in which order, and what is left, whatever ends in between."""
    bulk, single = Backlog(ordering), Backlog(ordering)
    given_ = messages(20, keys)
    bulk.add_all(given_)
    for message in given_:
        single.add(message)
    running: list[Message] = []
    for size in sizes:
        taken = bulk.take_many(size)
        one_by_one = [message for _ in range(size) if (message := single.take()) is not None]
        assert taken == one_by_one
        assert len(bulk) == len(single)
        running += taken
        ended, running = running[::2], running[1::2]
        bulk.done_all(ended)
        for message in ended:
            single.done(message)


def views(tracker: Tracker) -> Iterator[object]:
    yield from (tracker.view(partition) for partition in (0, 1))


@given(st.lists(st.integers(1, 5), max_size=12), st.randoms(use_true_random=False))
def test_a_tracker_comes_to_the_same_in_bulk(sizes: list[int], chance: random.Random) -> None:
    """What may be committed after each step, also where a partition was lost and came back meanwhile."""
    bulk, single = Tracker(), Tracker()
    for tracker in (bulk, single):
        for partition in (0, 1):
            tracker.assign(partition, 1, None, Progress(0))
    waiting = messages(40, [None])
    for tracker in (bulk, single):
        for partition in (0, 1):
            tracker.polled_all(partition, [message for message in waiting if message.partition == partition])
    assert bulk.is_at_ease()
    running: list[Message] = []
    for step, size in enumerate(sizes):
        batch, waiting = waiting[:size], waiting[size:]
        for partition, some in by_partition(batch):
            bulk.started_all(partition, some)
        for message in batch:
            single.started(message)
        running += batch
        chance.shuffle(running)
        ended, running = running[:size], running[size:]
        if step == 5:
            for tracker in (bulk, single):
                tracker.revoke(1)
                tracker.assign(1, 2, None, Progress(0))
        for partition, some in by_partition(ended):
            bulk.done_all(partition, some)
        for message in ended:
            single.done(message)
        assert list(views(bulk)) == list(views(single))
        assert bulk.changes().keys() >= single.changes().keys()  # one view too many tells nothing wrong


def test_a_count_against_a_message_ends_the_ease() -> None:
    """Then each start is looked at by itself."""
    for progress in (Progress(0, deliveries=((3, 1),)), Progress(0, careful=5)):
        tracker = Tracker()
        tracker.assign(0, 1, None, progress)
        assert not tracker.is_at_ease()


def test_what_is_taken_in_bulk_is_counted_as_in_hand_no_more() -> None:
    """The pump must know of the room, message by message and byte by byte; the figures must be right."""
    pump, executor = FakePump(), FakeExecutor()
    with loop_between(pump, executor) as loop:
        pump.assign(0, Progress(0))
        pump.poll(0, range(25))
        loop._turn()
        assert len(executor.started) == 10
        assert (pump.assignments[0].taken, pump.assignments[0].taken_bytes) == (10, 50)
        executor.end_all()
        loop._turn()
        assert pump.assignments[0].taken == 20
        executor.end_all()
        loop._turn()
        executor.end_all()
        loop._turn()
        assert (loop.stats().done, loop.stats().in_flight, loop.stats().backlog) == (25, 0, 0)
        loop._publish()
        assert pump.assignments[0].view.watermark == 25
