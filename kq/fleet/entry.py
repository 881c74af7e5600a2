"""Entries: what a consumer knows of a message before anything else of it is read."""

from __future__ import annotations

from datetime import datetime, timezone

from kq.message import Message, attempt_of, job_from_headers, name_of
from kq.messagelog import MessageLog

__all__ = ["entry_of"]


def entry_of(message: Message) -> MessageLog:
    """Return what the headers of a message tell of it, as an entry of a message log. Nothing is unpickled for that."""
    topic, partition, offset, key = message[:4]
    told, function = job_from_headers(message), name_of(message)
    at = None if told.timestamp is None else datetime.fromtimestamp(told.timestamp / 1000, timezone.utc)
    return MessageLog(
        told.id or f"{topic}-{partition}-{offset}",
        "IN_PROGRESS",
        attempt_of(message),
        *(topic, partition, offset, key, function, function),
        published_at=at,
    )
