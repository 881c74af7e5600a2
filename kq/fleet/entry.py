"""Entries: what a consumer knows of a message before anything else of it is read."""

from __future__ import annotations

from typing import NamedTuple

from kq.message import Message, attempt_of, job_from_headers, name_of

__all__ = ["MessageEntry"]


class MessageEntry(NamedTuple):
    """One attempt of one message, as its headers tell it. Nothing is unpickled for that.

    It is what ``Consumer.get_message_log`` returns unless a subclass has something better: a row of a table, say.

    :param job_id: The job's ID; None of a record that another program wrote.
    :param topic: Name of the Kafka topic.
    :param partition: Kafka partition.
    :param offset: Offset in the partition.
    :param key: Kafka message key, raw bytes, or None.
    :param function: The name of the job's function, or None.
    :param attempt: The number of this run, from 1.
    :param published: When the job was enqueued, in Unix milliseconds, or None.
    """

    job_id: str | None
    topic: str
    partition: int
    offset: int
    key: bytes | None
    function: str | None
    attempt: int
    published: int | None

    @classmethod
    def of(cls, message: Message) -> MessageEntry:
        """Return the entry of a message."""
        told = job_from_headers(message)
        place = message.topic, message.partition, message.offset, message.key
        return cls(told.id, *place, name_of(message), attempt_of(message), told.timestamp)
