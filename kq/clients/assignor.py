"""The assignor: which partitions move when a worker joins or leaves its group.

1. Before it joins, each member tells the leader what it owns. Leaders keep what stands first, and move from the end.
2. So partitions whose jobs run stand first here, and idle ones move: a running job is not repeated elsewhere.

On the wire this is Kafka's cooperative-sticky assignor (KIP-429), and mixes with it; only the order is KQ's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

__all__ = ["BusyFirstAssignor"]


class BusyFirstAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """Cooperative-sticky, with idle partitions offered to others first."""

    def __init__(self) -> None:
        super().__init__()
        #: Tells which partitions have running jobs. Set by the pump that owns the consumer.
        self.busy: Callable[[], Iterable[int]] = tuple

    def metadata(self, topics: Iterable[str]) -> Any:
        """Return this member's side of a join (called on the client's I/O thread)."""
        subscription = super().metadata(topics)
        busy = set(self.busy())
        for owned in subscription.owned_partitions:
            owned.partitions = sorted(owned.partitions, key=lambda partition: partition not in busy)
        return subscription
