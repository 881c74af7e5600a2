"""Entries: the records of a topic ``T.later``, and what they become when they are due.

Other programs may write there, too: what is no entry is said to be none, and is never unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kq.message import (
    HEADER_AT,
    HEADER_CANCELLED,
    HEADER_EXPIRES,
    HEADER_ID,
    HEADER_KEY,
    HEADER_PARTITION,
    Record,
    millis_of,
)

__all__ = ["JOB", "due_of", "fired", "hash_of", "id_of", "is_entry", "mark_of", "mark_of_id"]

#: How the key of a delayed job begins.
JOB = b"job:"
#: Names of headers that are about the waiting alone.
_OF_WAITING = (HEADER_KEY, HEADER_PARTITION)


def is_entry(key: bytes | None) -> bool:
    """Return whether a key is one of an entry."""
    return key is not None and key.startswith(JOB)


def hash_of(key: bytes) -> int:
    """Return 64 bits of a key, with a sign; in another process they are others.

    The upper half is the job ID's, by which all entries of a job are found.
    """
    return mark_of_id(key[len(JOB) :].rpartition(b":")[0]) << 32 | hash(key) & 0xFFFF_FFFF


def mark_of_id(job_id: bytes) -> int:
    """Return the upper half of the hash of an entry of a job."""
    return hash(job_id) >> 32


def mark_of(hash_: int) -> int:
    """Return the upper half of a hash."""
    return hash_ >> 32


def id_of(record: Any) -> bytes | None:
    """Return the job ID of an entry's record, as its headers have it."""
    return next((text for name, text in record.headers if name == HEADER_ID), None)


def due_of(headers: Iterable[tuple[str, bytes]]) -> int | None:
    """Return when an entry is to be fired, in Unix milliseconds; None where its headers do not tell.

    One that expires before it is due is fired then: the worker has to tell of it.
    """
    headers = list(headers)
    due, expires = millis_of(headers, HEADER_AT), millis_of(headers, HEADER_EXPIRES)
    return due if due is None or expires is None else min(due, expires)


def fired(topic: str, record: Any, now: int, *, is_cancelled: bool = False) -> Record:
    """Return what an entry becomes on the topic of the jobs.

    :param record: A ``ConsumerRecord`` of ``T.later``, or another object with its fields.
    :param now: Unix milliseconds: by the job's own time the broker might delete it at once.
    :param is_cancelled: Whether it goes there to be told of, and not to run.
    """
    told = dict(record.headers)
    number = told.get(HEADER_PARTITION, b"")
    partition = int(number) if number.isdigit() and len(number) < 10 else record.partition
    headers = [header for header in record.headers if header[0] not in _OF_WAITING]
    if is_cancelled:
        headers.append((HEADER_CANCELLED, b"1"))
    return Record(topic, record.value, told.get(HEADER_KEY), headers, partition, now)
