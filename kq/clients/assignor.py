"""How the partitions of a topic are shared among the workers of a group: those whose jobs run stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

__all__ = ["BusyFirstAssignor"]


class BusyFirstAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """Kafka's cooperative-sticky assignor (KIP-429), which it mixes with, with idle partitions offered first.

    Before it joins, each member tells the leader what it owns. Leaders keep what stands first, and move from the end:
    with busy partitions first, a running job is not repeated elsewhere.
    """

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

    def assign(self, cluster: Any, members: Any) -> Any:
        """Return what each member gets (called where this member is the leader).

        The leader may know topics that no member asks for, and then the client does not look at the order.
        """
        asked = {topic for member in members for topic in member.metadata.topics}
        return super().assign(_AskedFor(cluster, asked), members)


class _AskedFor:
    """What a client knows of a cluster, without topics that nobody asks for."""

    def __init__(self, cluster: Any, asked: set[str]) -> None:
        self._cluster = cluster
        self._asked = asked

    def topics(self, *options: Any, **more: Any) -> set[str]:
        return self._asked.intersection(self._cluster.topics(*options, **more))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)
