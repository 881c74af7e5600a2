"""Consuming: the pump's side of a worker. Messages are polled, tracked and committed here."""

from kq.consuming.assignment import Assigned, Event, Failed, Lease, Moved, Polled, Revoked
from kq.consuming.pump import Pump
from kq.consuming.tracker import Tracker

__all__ = ["Assigned", "Event", "Failed", "Lease", "Moved", "Polled", "Pump", "Revoked", "Tracker"]
