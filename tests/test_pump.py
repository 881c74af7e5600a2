"""What the pump does where a broker cannot be told to: with a fake in place of the consumer."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from kafka import TopicPartition
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata

from kq.clients import Fault
from kq.consuming.assignment import Assigned, Assignment, Failed, Polled, Revoked
from kq.consuming.metadata import Progress, View
from kq.consuming.pump import Pump

TP = TopicPartition("topic", 0)


class Record(NamedTuple):
    offset: int
    value: bytes = b""
    leader_epoch: int = 0


class Consumer:
    """Remembers where it was sent, and what was paused."""

    def __init__(self) -> None:
        self.config = {"session_timeout_ms": 45_000, "group_id": "group", "group_instance_id": None}
        self.sought: list[int] = []
        self.is_paused = False
        self.commits: list[int] = []
        self.owned = {TP}

    def committed(self, tp: TopicPartition, metadata: bool, timeout_ms: float) -> OffsetAndMetadata:
        return OffsetAndMetadata(7, "", -1)

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata], timeout_ms: float) -> None:
        self.commits += [offset.offset for offset in offsets.values()]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if tp not in self.owned:
            raise ValueError("Unassigned partition")
        self.sought.append(offset)

    def position(self, tp: TopicPartition, timeout_ms: float) -> int:
        return self.sought[-1]

    def beginning_offsets(self, tps: list[TopicPartition], timeout_ms: float) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)

    def end_offsets(self, tps: list[TopicPartition], timeout_ms: float) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 1000)

    def assignment(self) -> set[TopicPartition]:
        return set(self.owned)

    def group_metadata(self) -> ConsumerGroupMetadata:
        return ConsumerGroupMetadata(group_id="group", state=MemberState.STABLE)

    def poll(self, timeout_ms: float) -> dict[TopicPartition, list[Record]]:
        return {}

    def pause(self, tp: TopicPartition) -> None:
        self.is_paused = True

    def resume(self, tp: TopicPartition) -> None:
        if tp not in self.owned:
            raise KeyError(tp)
        self.is_paused = False


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


@pytest.fixture
def pump(consumer: Consumer) -> Pump:
    client: Any = consumer
    return Pump("topic", client, None, 0.1, lambda: None)


def assignment_of(pump: Pump, view: View, next_offset: int) -> Assignment:
    """Have the pump hold one partition, of which the worker has published a view."""
    assignment = Assignment(TP, 1)
    assignment.open(None, Progress(0), 0)
    assignment.view, assignment.next = view, next_offset
    pump._assignments[TP] = assignment
    return assignment


def take(pump: Pump, records: dict[TopicPartition, list[Record]]) -> None:
    pump._begin_anew(pump._feed.deliver(pump._held(), records))


def test_every_assignment_begins_where_the_last_commit_says(pump: Pump, consumer: Consumer) -> None:
    """The client's position survives some rebalances: what was polled from there is dropped, and 7 is sought."""
    pump.assigned([TP])
    polled = {TP: [Record(12)]}
    pump._open_fresh(polled)
    take(pump, polled)
    assert consumer.sought == [7]
    assert consumer.commits == [7]
    assert [Assigned] == [type(event) for event in pump.events]


def test_a_cut_log_loses_nothing_that_is_undone_before_the_cut(pump: Pump, consumer: Consumer) -> None:
    """Sent back to 60 with 40 undone: the new epoch begins at 40, and what came from 60 on is polled again."""
    assignment = assignment_of(pump, View(40), next_offset=100)
    take(pump, {TP: [Record(60, leader_epoch=1), Record(61, leader_epoch=1)]})
    assert [Revoked, Assigned] == [type(event) for event in pump.events]
    assert pump.events[0].assignment is assignment  # type: ignore[union-attr]
    assert Progress(40) == pump.events[1].progress  # type: ignore[union-attr]
    assert consumer.sought == [40]
    take(pump, {TP: [Record(40)]})
    assert [record.offset for event in pump.events if isinstance(event, Polled) for record in event.records] == [40]


@pytest.mark.parametrize(("next_offset", "is_paused"), [(150, False), (200, True)])
def test_nearly_full_metadata_pauses_what_would_add_to_it(
    pump: Pump, consumer: Consumer, next_offset: int, is_paused: bool
) -> None:
    """A partition is polled again up to where the last epoch was, however full the metadata, and paused only there."""
    assignment = assignment_of(pump, View(100, top=200, incomplete=(100,)), next_offset)
    assignment.crowded = True
    pump._feed.pause_and_resume(pump._held())
    assert is_paused is consumer.is_paused


def test_a_fault_from_before_the_assignment_does_not_stop_it(
    pump: Pump, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be read beyond a position that nobody vouches for is met again where it counts."""
    faults = {TP: Fault(9, 10, ValueError())}
    monkeypatch.setattr(
        "kq.clients.kafka_python.take_faults", lambda consumer: dict([faults.popitem()] if faults else [])
    )
    pump.assigned([TP])
    pump._step()
    assert [Assigned] == [type(event) for event in pump.events]
    assert not consumer.is_paused


def test_what_goes_while_others_are_opened_is_not_committed_any_more(
    pump: Pump, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open a partition may take seconds: another worker may have committed further of what went meanwhile."""
    other = TopicPartition("topic", 1)

    def committed(tp: TopicPartition, **_: object) -> OffsetAndMetadata:
        if tp == other:
            pump.revoked([TP])
        return OffsetAndMetadata(7 + tp.partition, "", -1)

    monkeypatch.setattr(consumer, "committed", committed)
    consumer.owned = {TP, other}
    pump.assigned([TP, other])
    pump._open_fresh({})
    assert consumer.commits == [8]


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, ValueError])
def test_whatever_ends_the_pump_the_worker_hears_of_it(
    pump: Pump, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """A thread that ends by one of these is not even mentioned by Python, and the worker would wait for ever."""

    def poll(timeout_ms: float) -> None:
        raise error

    monkeypatch.setattr(consumer, "poll", poll)
    pump._run()
    assert [type(event.error) for event in pump.events if isinstance(event, Failed)] == [error]


@pytest.mark.parametrize(
    ("asked", "answer", "record"),
    [("committed", None, 0), ("beginning_offsets", {TP: 50}, 60), ("end_offsets", {TP: 20}, 30)],
)
def test_a_partition_that_goes_while_a_broker_is_asked_about_it_ends_nothing(
    pump: Pump, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, asked: str, answer: Any, record: int
) -> None:
    """The client refuses to seek, or to resume, what is another worker's by now: others are not to suffer."""

    def ask(*_: object, **__: object) -> Any:
        pump.revoked([TP])
        consumer.owned.clear()
        return answer

    monkeypatch.setattr(consumer, asked, ask)
    if asked == "committed":
        pump.assigned([TP])
        pump._open_fresh({})
    else:
        assignment_of(pump, View(40), next_offset=40)
        take(pump, {TP: [Record(record)]})
    assert pump._held() == []
    assert consumer.sought == []
