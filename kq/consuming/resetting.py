"""Reset: a stopped group goes on elsewhere, and runs again whatever is there."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import NoError
from kafka.structs import OffsetAndMetadata

from kq.consuming.metadata import View, encode
from kq.errors import KQError

__all__ = ["reset"]


def reset(admin: KafkaAdminClient, group: str, topic_id: UUID | None, offsets: Mapping[TopicPartition, int]) -> None:
    """Commit where a group goes on; nothing from there on counts as done, and no message as one that killed a worker.

    :param offsets: For each partition of one topic, the first message to run.
    :raises kq.KQError: The broker did not take it, of some of the partitions at least.
    """
    # the leader's epoch of that message is not known; without one the client asks for no truncation
    commits = {
        tp: OffsetAndMetadata(offset, encode(View(offset), topic_id, alive=False), -1) for tp, offset in offsets.items()
    }
    answers = admin.alter_group_offsets(group, commits)
    refused = {tp.partition: error for tp, error in answers.items() if error is not NoError}
    if refused:
        partitions = ", ".join(f"{partition} ({error.__name__})" for partition, error in sorted(refused.items()))
        raise KQError(f"group {group} is not reset on partitions {partitions}: stop its workers, and try again")
