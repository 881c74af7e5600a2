"""Consuming: the pump's side of a worker. Messages are polled, tracked and committed here."""

from kq.consuming.assignment import Assigned, Assignment, Drained, Event, Failed, Moved, Polled, Revoked
from kq.consuming.peeking import peek
from kq.consuming.pump import Pump
from kq.consuming.resetting import reset
from kq.consuming.skipping import skip
from kq.consuming.tracker import Tracker

__all__ = [
    "Assigned",
    "Assignment",
    "Drained",
    "Event",
    "Failed",
    "Moved",
    "Polled",
    "Pump",
    "Revoked",
    "Tracker",
    "peek",
    "reset",
    "skip",
]
