"""The promises of the tracker, one by one."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from tracking import OTHER_TOPIC, TOPIC, back, committed, message, poll, run, tracker_at

from kq.consuming.metadata import CAREFUL_STARTS, Progress, View, encode
from kq.consuming.tracker import REMEMBERED, Tracker


def test_the_watermark_waits_for_the_lowest_that_is_not_done() -> None:
    """Offset 0 runs longest: nothing passes it, and what is done beyond is told."""
    tracker = tracker_at(0)
    messages = poll(tracker, range(4))
    for one in messages.values():
        tracker.started(one)
    for offset in (2, 1, 3):
        assert tracker.done(messages[offset])
        assert tracker.view(0).watermark == 0
    assert tracker.view(0) == View(0, 4, (0,), (0,))
    assert tracker.done(messages[0])
    assert tracker.view(0) == View(4, 4)


@pytest.mark.parametrize("gap", [2, 3, 10**6])
def test_gaps_do_not_hold_the_watermark(gap: int) -> None:
    """Markers and compaction leave holes: no message is waited for that is not there."""
    tracker = tracker_at(0)
    messages = poll(tracker, [0, gap, 2 * gap])
    run(tracker, messages[gap])
    assert tracker.view(0) == View(0, gap + 1, (0,))
    run(tracker, messages[0])
    assert tracker.view(0).watermark == 2 * gap
    run(tracker, messages[2 * gap])
    assert tracker.view(0) == View(2 * gap + 1, 2 * gap + 1)


def test_a_marker_at_the_end_does_not_hold_the_watermark() -> None:
    """The position passes what is no message; an older position, or another epoch's, changes nothing."""
    tracker = tracker_at(0)
    run(tracker, *poll(tracker, [0]).values())
    tracker.changes()
    tracker.skipped_to(0, 1, 2)
    assert tracker.changes() == {0: View(2, 2)}
    tracker.skipped_to(0, 1, 1)
    tracker.skipped_to(0, 0, 9)
    tracker.skipped_to(5, 1, 9)
    assert tracker.changes() == {}
    assert tracker.view(0).watermark == 2


def test_a_first_message_beyond_the_committed_offset() -> None:
    """The log begins later than the commit: what was removed is not waited for."""
    tracker = tracker_at(5)
    messages = poll(tracker, [90])
    assert tracker.view(0) == View(90, 90)
    run(tracker, messages[90])
    assert tracker.view(0) == View(91, 91)


def test_after_a_kill_only_what_was_not_done_runs_again() -> None:
    """Job 0 is long, a hundred short ones are done behind it, then the worker is killed."""
    tracker = tracker_at(0)
    messages = poll(tracker, range(101))
    tracker.started(messages[0])
    run(tracker, *[messages[offset] for offset in range(1, 101)])
    again = Tracker()
    again.assign(0, 1, TOPIC, committed(tracker))
    assert [offset for offset in range(101) if again.polled(message(offset))] == [0]


def test_half_of_a_done_map_polled_again_loses_nothing_of_it() -> None:
    """Killed a second time in the middle of it: still known as done is what was, and only that."""
    tracker = tracker_at(0, top=10, incomplete=frozenset({0, 4, 7}))
    assert [offset for offset in range(5) if tracker.polled(message(offset))] == [0, 4]
    assert tracker.view(0) == View(0, 10, (0, 4, 7))
    zero = tracker._partitions[0].incomplete[0]
    run(tracker, zero)
    assert tracker.view(0) == View(4, 10, (4, 7))
    again = Tracker()
    again.assign(0, 1, TOPIC, committed(tracker))
    assert [offset for offset in range(4, 12) if again.polled(message(offset))] == [4, 7, 10, 11]


def test_an_incomplete_one_that_was_compacted_away_holds_nothing() -> None:
    """The done-map waits for 4, which is gone from the log."""
    tracker = tracker_at(3, top=10, incomplete=frozenset({3, 4}))
    three = message(3)
    assert tracker.polled(three)
    assert not tracker.polled(message(5))
    run(tracker, three)
    assert tracker.view(0) == View(6, 10)
    tracker.skipped_to(0, 1, 12)
    assert tracker.view(0) == View(12, 12)


def test_a_completion_of_a_closed_epoch_commits_nothing() -> None:
    """The partition went to another worker, or came back, while the job ran."""
    tracker = tracker_at(0)
    zero = poll(tracker, [0])[0]
    tracker.started(zero)
    assert tracker.revoke(0) == [zero]
    assert not tracker.done(zero)
    assert tracker.changes() == {}
    tracker.assign(0, 2, TOPIC, Progress(0))
    assert not tracker.is_open(0, 1)
    assert tracker.is_open(0, 2)
    assert not tracker.done(zero)
    assert tracker.view(0) == View(0, 0)


def test_a_message_of_a_closed_epoch_cannot_end_its_repeat() -> None:
    """What waited when the epoch ended is not what came after it, though nothing tells them apart but identity."""
    tracker = tracker_at(0)
    old = poll(tracker, [0])[0]
    back(tracker, Progress(0))
    new = poll(tracker, [0])[0]
    tracker.started(old)
    assert not tracker.done(old)
    assert tracker.view(0) == View(0, 0)
    run(tracker, new)
    assert tracker.view(0) == View(1, 1)


def test_the_same_record_coming_back_adopts_its_run() -> None:
    """It runs here still: it is not run again, and its end counts."""
    tracker = tracker_at(0)
    zero = poll(tracker, [0])[0]
    tracker.started(zero)
    back(tracker, Progress(0))
    assert not tracker.polled(message(0))
    assert tracker.view(0) == View(0, 0, (), (0,))
    assert tracker.done(zero)
    assert tracker.view(0) == View(1, 1)


def test_the_same_record_coming_back_is_done() -> None:
    """It was done here, before the epoch's end or after, but never committed: it is not run again."""
    tracker = tracker_at(0)
    messages = poll(tracker, range(3))
    tracker.started(messages[1])
    run(tracker, messages[0])
    tracker.revoke(0)
    assert not tracker.done(messages[1])
    tracker.assign(0, 2, TOPIC, Progress(0))
    assert [offset for offset in range(3) if tracker.polled(message(offset))] == [2]
    assert tracker.view(0) == View(2, 2)


@pytest.mark.parametrize("other", [{"key": b"k"}, {"value": b"other"}, {"value": None}, {"timestamp": 5}])
@pytest.mark.parametrize("is_done", [False, True])
def test_another_record_at_the_same_offset_runs(other: dict[str, Any], is_done: bool) -> None:
    """The log lost its end and grew again: neither a run nor an end of the old record is the new one's."""
    tracker = tracker_at(0)
    old = poll(tracker, [0])[0]
    tracker.started(old)
    if is_done:
        assert tracker.done(old)
    back(tracker, Progress(0))
    new = message(0, **other)
    assert tracker.polled(new)
    assert not tracker.done(old)
    assert tracker.view(0) == View(0, 0)
    run(tracker, new)
    assert tracker.view(0) == View(1, 1)


def test_an_old_record_cannot_end_the_run_of_another_at_its_offset() -> None:
    """Both run: the completion of the old one is not the new one's."""
    tracker = tracker_at(0)
    old = poll(tracker, [0])[0]
    tracker.started(old)
    back(tracker, Progress(0))
    new = message(0, b"other")
    assert tracker.polled(new)
    tracker.started(new)
    assert not tracker.done(old)
    assert tracker.view(0).watermark == 0
    assert tracker.done(new)
    assert tracker.view(0) == View(1, 1)


def test_another_topic_of_the_same_name_runs_from_its_beginning() -> None:
    """Its messages may even be equal to the old ones'."""
    tracker = tracker_at(0)
    messages = poll(tracker, range(2))
    run(tracker, messages[0])
    tracker.started(messages[1])
    back(tracker, Progress(0), OTHER_TOPIC)
    assert list(poll(tracker, range(2))) == [0, 1]
    assert not tracker.done(messages[1])


def test_an_offset_that_was_set_back_runs_everything_again() -> None:
    """Somebody wants it again: below the epoch's begin lies nothing that could be ours and uncommitted."""
    tracker = tracker_at(5)
    run(tracker, *poll(tracker, range(5, 8)).values())
    back(tracker, Progress(2))
    assert list(poll(tracker, range(2, 8))) == [2, 3, 4, 5, 6, 7]


def test_another_record_is_adopted_in_its_turn() -> None:
    """The old record's job still runs when the new one, at the same offset, is started and its epoch ends."""
    tracker = tracker_at(0)
    old, new = message(0), message(0, b"new")
    assert tracker.polled(old)
    tracker.started(old)
    back(tracker, Progress(0))
    assert tracker.polled(new)
    tracker.started(new)
    back(tracker, Progress(0))
    assert not tracker.done(old)
    assert not tracker.polled(message(0, b"new"))
    assert tracker.done(new)
    assert tracker.view(0) == View(1, 1)


def test_many_rebalances_forget_neither_runs_nor_ends() -> None:
    """It runs in the first epoch; the later ones end before its message comes back."""
    tracker = tracker_at(0)
    messages = poll(tracker, range(10))
    run(tracker, *[messages[offset] for offset in range(5)])
    tracker.started(messages[8])
    tracker.started(messages[9])
    for epoch in range(2, 50):
        tracker.assign(0, epoch, TOPIC, Progress(0))
        assert not tracker.polled(message(0))
        tracker.revoke(0)
        if epoch == 20:
            assert not tracker.done(messages[8])
    tracker.assign(0, 50, TOPIC, Progress(0))
    assert [offset for offset in range(10) if tracker.polled(message(offset))] == [5, 6, 7]
    assert tracker.view(0) == View(5, 9, (5, 6, 7), (9,))
    assert tracker.done(messages[9])


def test_a_run_that_was_given_up_is_not_adopted() -> None:
    """It ended without an outcome, in its epoch or after: its message is incomplete, and runs when it comes back."""
    tracker = tracker_at(0)
    messages = poll(tracker, range(2))
    tracker.started(messages[0])
    tracker.started(messages[1])
    tracker.given_up(messages[0])
    assert tracker.view(0) == View(0, 0, (), (1,))
    assert not tracker.done(messages[0])
    tracker.revoke(0)
    tracker.given_up(messages[1])
    tracker.assign(0, 2, TOPIC, Progress(0))
    assert list(poll(tracker, range(2))) == [0, 1]


def test_a_death_is_counted_once_against_what_ran() -> None:
    """Whoever reads the last commit, and however often, counts the same; what only waited is not blamed."""
    tracker = tracker_at(0)
    messages = poll(tracker, range(3))
    tracker.started(messages[1])
    for deaths in (1, 2, 3):
        assert committed(tracker).deliveries == committed(tracker).deliveries == ((1, deaths),)
        tracker, last = Tracker(), committed(tracker)
        tracker.assign(0, 1, TOPIC, last)
        assert committed(tracker).deliveries == ((1, deaths),)  # it died again, and started nothing
        messages = poll(tracker, range(3))
        assert [tracker.deliveries(one) for one in messages.values()] == [0, deaths, 0]
        tracker.started(messages[1])
    assert tracker.done(messages[1])
    assert committed(tracker).deliveries == ()


def test_a_death_after_its_job_counts_against_no_message() -> None:
    """Its records are on their way, so it is not done; but it did not kill the worker."""
    tracker = tracker_at()
    first, second = poll(tracker, range(2)).values()
    tracker.started(first)
    tracker.started(second)
    tracker.ended(first)
    assert committed(tracker).deliveries == ((1, 1),)
    assert tracker.done(first)
    assert tracker.view(0).watermark == 1


def test_a_stop_counts_against_nothing() -> None:
    """The commit of a stop, or of a rebalance, says that what runs is not to be blamed; older counts stay."""
    tracker = tracker_at(0, deliveries=((1, 2),))
    messages = poll(tracker, range(2))
    tracker.started(messages[0])
    tracker.started(messages[1])
    assert committed(tracker, alive=False) == Progress(0, 0, deliveries=((1, 2),))


def test_an_adopted_run_is_as_suspect_as_before() -> None:
    """Its worker lives, so that the run that was taken for a death was none; deaths before it were."""
    tracker = tracker_at(0, deliveries=((1, 1),))
    messages = poll(tracker, range(2))
    tracker.started(messages[0])
    tracker.started(messages[1])
    lost = committed(tracker)  # then the membership was lost, and this was never taken back
    assert lost.deliveries == ((0, 1), (1, 2))
    back(tracker, lost)
    back(tracker, committed(tracker, alive=False))  # before the messages came
    assert not any(tracker.polled(message(offset)) for offset in range(2))
    assert tracker.view(0).deliveries == ((1, 1),)


def test_the_count_of_a_message_that_was_done_after_all_goes() -> None:
    """It was done here while the partition was lost: its count may not stay behind the watermark."""
    tracker = tracker_at(0)
    zero = poll(tracker, [0])[0]
    tracker.started(zero)
    lost = committed(tracker)
    tracker.revoke(0)
    tracker.done(zero)
    tracker.assign(0, 2, TOPIC, lost)
    assert not tracker.polled(message(0))
    assert tracker.view(0).deliveries == ()
    assert committed(tracker) == Progress(1, 1, unclean=True, careful=CAREFUL_STARTS)


def test_the_count_of_a_message_that_is_gone_goes() -> None:
    """Compaction took the message that was counted: the watermark passes it, and the commit is still a good one."""
    tracker = tracker_at(0, deliveries=((0, 2), (5, 1)))
    run(tracker, *poll(tracker, [3]).values())
    assert tracker.view(0).deliveries == ((5, 1),)
    assert committed(tracker).deliveries == ((5, 1),)


def test_careful_starts_count_down() -> None:
    """After an unclean end so many starts are committed before they happen, and then no more."""
    tracker = tracker_at(0, careful=3)
    messages = poll(tracker, range(5))
    starts = [tracker.started(one) for one in messages.values()]
    assert [is_careful for _, is_careful in starts] == [True, True, True, False, False]


def test_a_suspect_starts_with_care_whatever_the_countdown_says() -> None:
    """Its death must be counted, also long after the first one."""
    tracker = tracker_at(0, deliveries=((1, 1),))
    messages = poll(tracker, range(2))
    assert [tracker.started(one) for one in messages.values()] == [(0, False), (1, True)]


def test_a_rebalance_does_not_end_the_care() -> None:
    """A worker died; the next one gives the partition on in good order before it came to the culprit."""
    tracker = tracker_at(0)
    dead = committed(tracker)
    assert (dead.unclean, dead.careful) == (True, CAREFUL_STARTS)
    tracker = Tracker()
    tracker.assign(0, 1, TOPIC, dead)
    run(tracker, *poll(tracker, range(10)).values())
    given_on = committed(tracker, alive=False)
    assert (given_on.unclean, given_on.careful) == (False, CAREFUL_STARTS - 10)


def test_partitions_know_nothing_of_each_other() -> None:
    """Same offsets, two partitions: one is revoked, the other goes on."""
    tracker = tracker_at(0)
    tracker.assign(1, 7, TOPIC, Progress(0))
    here, there = message(0), message(0, partition=1)
    assert tracker.polled(here) and tracker.polled(there)
    run(tracker, there)
    assert tracker.changes() == {0: View(0, 0), 1: View(1, 1)}
    assert tracker.revoke(1) == []
    tracker.assign(1, 8, TOPIC, Progress(0))
    run(tracker, here)
    assert tracker.changes() == {0: View(1, 1)}
    assert not tracker.polled(message(0, partition=1))
    assert tracker.changes() == {1: View(1, 1)}


def test_what_nobody_assigned_is_not_run_nor_suspected() -> None:
    """A message of a partition that is gone: no count, no care, no change."""
    tracker = Tracker()
    one = message(0)
    tracker.started(one)
    tracker.given_up(one)
    assert not tracker.done(one)
    assert tracker.deliveries(one) == 0
    assert tracker.started(one) == (0, False)
    assert tracker.changes() == {}


def test_huge_offsets_are_offsets() -> None:
    """Near the end of what Kafka can number."""
    base = 2**62
    tracker = tracker_at(base)
    messages = poll(tracker, [base, base + 1, base + 10**9])
    run(tracker, messages[base + 10**9])
    assert committed(tracker).top == base + 10**9 + 1
    assert committed(tracker).incomplete == {base, base + 1}


def test_a_watermark_stuck_for_hours_costs_no_memory() -> None:
    """One job runs on and on; of the hundred thousand done behind it only the last few are remembered."""
    tracker = tracker_at(0)
    tracker.started(poll(tracker, [0])[0])
    run(tracker, *poll(tracker, range(1, 2 * REMEMBERED)).values())
    tracemalloc.start()
    try:
        for offset in range(2 * REMEMBERED, 100_000):
            one = message(offset)
            assert tracker.polled(one)
            run(tracker, one)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tracker.view(0) == View(0, 100_000, (0,), (0,))
    assert len(encode(tracker.view(0), TOPIC, alive=True)) < 60
    assert grown < REMEMBERED * 200


def test_what_is_remembered_of_closed_epochs_is_bounded() -> None:
    """Epoch after epoch with much done and nothing committed: the last of it is known again, the rest runs again."""
    tracker = Tracker()
    for epoch in range(1, 5):
        tracker.assign(0, epoch, TOPIC, Progress(0))
        to_run = [one for one in map(message, range(REMEMBERED * epoch)) if tracker.polled(one)]
        run(tracker, *to_run)
        tracker.revoke(0)
        assert len(tracker._closed[0].done) == REMEMBERED
    tracker.assign(0, 5, TOPIC, Progress(0))
    run(tracker, *poll(tracker, range(5)).values())
    tracker.revoke(0)
    assert len(tracker._closed[0].done) == REMEMBERED
    tracker.assign(0, 6, TOPIC, Progress(0))
    known = [offset for offset in range(REMEMBERED * 4) if not tracker.polled(message(offset))]
    assert known == [*range(5), *range(REMEMBERED * 3 + 5, REMEMBERED * 4)]
