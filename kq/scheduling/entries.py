"""Entries: the records of a topic ``T.later``, and what they become when they are due.

Other programs may write there, too: what is no entry is said to be none, and is never unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kq.message import HEADER_AT, HEADER_EXPIRES, HEADER_KEY, HEADER_PARTITION, Record, millis_of

__all__ = ["JOB", "due_of", "fired", "hash_of", "is_entry"]

#: How the key of a delayed job begins.
JOB = b"job:"
#: Names of headers that are about the waiting alone.
_OF_WAITING = (HEADER_KEY, HEADER_PARTITION)


def is_entry(key: bytes | None) -> bool:
    """Return whether a key is one of an entry."""
    return key is not None and key.startswith(JOB)


def hash_of(key: bytes) -> int:
    """Return 64 bits of a key, with a sign; in another process they are others."""
    return hash(key)


def due_of(headers: Iterable[tuple[str, bytes]]) -> int | None:
    """Return when an entry is to be fired, in Unix milliseconds; None where its headers do not tell.

    One that expires before it is due is fired then: the worker has to tell of it.
    """
    headers = list(headers)
    due, expires = millis_of(headers, HEADER_AT), millis_of(headers, HEADER_EXPIRES)
    return due if due is None or expires is None else min(due, expires)


def fired(topic: str, record: Any, now: int) -> Record:
    """Return what an entry becomes on the topic of the jobs.

    :param record: A ``ConsumerRecord`` of ``T.later``, or another object with its fields.
    :param now: Unix milliseconds: by the job's own time the broker might delete it at once.
    """
    told = dict(record.headers)
    number = told.get(HEADER_PARTITION, b"")
    partition = int(number) if number.isdigit() and len(number) < 10 else record.partition
    headers = [header for header in record.headers if header[0] not in _OF_WAITING]
    return Record(topic, record.value, told.get(HEADER_KEY), headers, partition, now)
