"""What tests of the tracker share: messages of a partition, and one worker's part of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from kq.consuming.metadata import Progress, decode, encode
from kq.consuming.tracker import Tracker
from kq.message import Message

TOPIC = UUID("6f2c7f3e-55a1-4d0b-9d4e-0d1c58a3b7e1")
OTHER_TOPIC = UUID("00000000-0000-0000-0000-000000000001")


def message(offset: int, value: bytes = b"job", partition: int = 0, **other: Any) -> Message:
    return Message("topic", partition, offset, None, value, 1_700_000_000_000 + offset)._replace(**other)


def tracker_at(offset: int = 0, **known: Any) -> Tracker:
    """Return a tracker in epoch 1 of partition 0."""
    tracker = Tracker()
    tracker.assign(0, 1, TOPIC, Progress(offset, **known))
    return tracker


def poll(tracker: Tracker, offsets: Iterable[int]) -> dict[int, Message]:
    """Poll new messages; all of them are to be run."""
    messages = {offset: message(offset) for offset in offsets}
    assert [offset for offset, one in messages.items() if not tracker.polled(one)] == []
    return messages


def run(tracker: Tracker, *messages: Message) -> None:
    """Start and end jobs."""
    for one in messages:
        tracker.started(one)
        assert tracker.done(one)


def committed(tracker: Tracker, *, alive: bool = True) -> Progress:
    """Return what the next owner reads after a commit."""
    view = tracker.view(0)
    return decode(encode(view, TOPIC, alive=alive), view.watermark, TOPIC)


def back(tracker: Tracker, progress: Progress, topic_id: UUID | None = TOPIC) -> None:
    """Take the partition from a worker and give it back at once."""
    tracker.revoke(0)
    tracker.assign(0, 2, topic_id, progress)
