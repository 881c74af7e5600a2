"""Messages: records that came from Kafka, and records that go there.

A message carries, besides the serialized job, headers named ``kq-…``: what a worker must know without unpickling
anything. The tables in the documentation ("Wire format") are the contract.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from kq.job import Job
from kq.utils import get_call_repr

__all__ = [
    "HEADER_AT",
    "HEADER_ATTEMPT",
    "HEADER_CANCELLED",
    "HEADER_CONTENT_TYPE",
    "HEADER_EXPIRES",
    "HEADER_FUNC",
    "HEADER_ID",
    "HEADER_KEY",
    "HEADER_PARTITION",
    "HEADER_PREFIX",
    "HEADER_PYTHON",
    "HEADER_RENEWED",
    "HEADER_REPLY",
    "HEADER_RETRY",
    "HEADER_TASK_TYPE",
    "HEADER_TIMEOUT",
    "HEADER_TIMESTAMP",
    "PYTHON",
    "Headers",
    "Message",
    "Record",
    "attempt_of",
    "by_partition",
    "bytes_of",
    "job_from_headers",
    "job_headers",
    "messages_from_records",
    "millis_in",
    "millis_of",
    "name_of",
    "timeout_in",
    "timeout_of",
    "with_id",
]

Headers = list[tuple[str, bytes]]

#: Names that begin so belong to KQ; ``Queue.using(headers=…)`` refuses them.
HEADER_PREFIX = "kq-"
#: The job's ID, UTF-8.
HEADER_ID = "kq-id"
#: The name of the job's function, UTF-8, for people: never used to call anything.
HEADER_FUNC = "kq-func"
#: The version of Python whose byte code is in the value, as ``3.13``; absent where there is none.
HEADER_PYTHON = "kq-python"
#: The job's timeout in seconds, as decimal text; absent where there is no limit.
HEADER_TIMEOUT = "kq-timeout"
#: What the value is, as a media type; absent where it is a pickle.
HEADER_CONTENT_TYPE = "kq-content-type"
#: When a delayed job is due, and when a job that has not started expires: Unix milliseconds, as decimal text.
HEADER_AT, HEADER_EXPIRES = "kq-at", "kq-expires"
#: When the job was enqueued, where the record's own timestamp is another; in Unix milliseconds, as decimal text.
HEADER_TIMESTAMP = "kq-timestamp"
#: Of a job that waits in another topic: its key, raw, and the partition where it will stand if that is another number.
HEADER_KEY, HEADER_PARTITION = "kq-key", "kq-partition"
#: The job's retry policy, as JSON; absent where it says nothing.
HEADER_RETRY = "kq-retry"
#: The number of this run, as decimal text; absent in the first one.
HEADER_ATTEMPT = "kq-attempt"
#: Whether the job was cancelled while it waited, and is not to run: ``1``; absent otherwise.
HEADER_CANCELLED = "kq-cancelled"
#: Whether somebody asks for the job's result: ``1``; absent where nobody does.
HEADER_REPLY = "kq-reply"
#: When the message was put onto its topic anew, to begin with its first attempt again: in Unix milliseconds, as decimal
#: text.
HEADER_RENEWED = "kq-renewed"
#: What its consumer calls the kind of a message, UTF-8.
HEADER_TASK_TYPE = "kq-task-type"


class Message(NamedTuple):
    """A record that came from Kafka.

    :param topic: Name of the Kafka topic.
    :param partition: Kafka partition.
    :param offset: Offset in the partition.
    :param key: Kafka message key, raw bytes, or None.
    :param value: Kafka message value: the serialized job. None for a tombstone.
    :param timestamp: Record timestamp in Unix milliseconds.
    :param headers: Pairs of (name, value).
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


#: Bytes of a function's name that travel.
_LONGEST_NAME = 200
#: In a value that holds the code of a function: what makes it anew.
_CODE = b"_create_code"
#: The version of this Python, as it travels.
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
#: Digits of a header with a number: up to the year 9999, in milliseconds.
_LONGEST_NUMBER = 15
_new = tuple.__new__
_partition_of = attrgetter("partition")
#: Topic, partition, offset, key, value and timestamp of a ``ConsumerRecord``.
_plain_fields = itemgetter(0, 1, 3, 6, 7, 4)


class Record(NamedTuple):
    """A record that goes to Kafka: the arguments of ``KafkaProducer.send``, in its words."""

    topic: str
    value: bytes
    key: bytes | None
    headers: Headers
    partition: int | None
    timestamp_ms: int


def messages_from_records(records: Iterable[Any]) -> list[Message]:
    """Return the messages of a consumer's records.

    :param records: ``ConsumerRecord`` of kafka-python, or other tuples whose fields begin as that one's do.
    """
    # by position: that is several times faster, and this happens to every record
    return [_new(Message, (*_plain_fields(record), tuple(record[8]))) for record in records]


def job_headers(job: Job, value: bytes = b"") -> Headers:
    """Return the ``kq-…`` headers that describe a job.

    :param value: The serialized job.
    """
    headers: Headers = [(HEADER_ID, str(job.id).encode("utf-8", "replace"))]
    if job.timeout:
        headers.append((HEADER_TIMEOUT, str(job.timeout).encode()))
    if job.func is not None:
        headers.append((HEADER_FUNC, get_call_repr(job.func)[:-2].encode("utf-8", "replace")[:_LONGEST_NAME]))
    if _CODE in value:
        headers.append((HEADER_PYTHON, PYTHON.encode()))
    return headers


def job_from_headers(message: Message) -> Job:
    """Return what the headers tell of a job whose value is not to be unpickled; func, args, kwargs are None."""
    job_id, enqueued = dict(message.headers).get(HEADER_ID), millis_of(message.headers, HEADER_TIMESTAMP)
    return Job(
        id=None if job_id is None else job_id.decode("utf-8", "replace"),
        timestamp=message.timestamp if enqueued is None else enqueued,
        topic=message.topic,
        timeout=timeout_of(message),
        key=message.key,
        partition=message.partition,
    )


def with_id(job: Any, message: Message) -> Any:
    """Return a job with what its message tells of it, and it does not: JSON holds the call alone, and the runs of a
    schedule have no ID.
    """
    if getattr(job, "topic", "") is None and isinstance(job, Job):
        told = job_from_headers(message)
        told = told._replace(func=job.func, args=job.args, kwargs=job.kwargs, timeout=job.timeout)
        return told if job.id is None else told._replace(id=job.id)
    if getattr(job, "id", "") is not None or not hasattr(job, "_replace"):
        return job
    told = job_from_headers(message)
    return job if told.id is None else job._replace(id=told.id, timestamp=told.timestamp)


def timeout_of(message: Message) -> float | None:
    """Return the job's time limit as the headers tell it, in seconds; None if they do not."""
    for name, text in message.headers:
        if name == HEADER_TIMEOUT:
            return timeout_in(text)
    return None


def millis_of(headers: Iterable[tuple[str, bytes]], name: str) -> int | None:
    """Return the Unix milliseconds that a header holds; None where there are none, or what another program wrote."""
    for header, text in headers:
        if header == name:
            return millis_in(text)
    return None


def millis_in(text: bytes | None) -> int | None:
    """Return the number that a header holds; None where it holds none, or there is no header."""
    return int(text) if text is not None and len(text) <= _LONGEST_NUMBER and text.isdigit() else None


def attempt_of(message: Message) -> int:
    """Return the number of the run that a message stands for, from 1."""
    return max(1, millis_of(message.headers, HEADER_ATTEMPT) or 1)


def name_of(message: Message) -> str | None:
    """Return the name of the job's function as the headers tell it, None if they do not. It proves nothing."""
    name = dict(message.headers).get(HEADER_FUNC)
    return None if name is None else name.decode("utf-8", "replace")


def bytes_of(messages: Iterable[Any]) -> int:
    """Return how many bytes the values of messages, or of a consumer's records, have."""
    return sum(len(message.value or b"") for message in messages)


def by_partition(messages: Iterable[Message]) -> Iterator[tuple[int, list[Message]]]:
    """Yield messages of one topic in groups, as they come: those of one partition that stand together."""
    for partition, some in groupby(messages, _partition_of):
        yield partition, list(some)


def timeout_in(text: bytes | None) -> float | None:
    """Return the seconds that a header holds; None where it holds none, or there is no header."""
    try:
        seconds = -1.0 if text is None else float(text)
    except ValueError:  # another program's header is no reason to fail
        return None
    return seconds if seconds >= 0 else None
