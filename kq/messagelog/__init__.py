"""The message log: what became of each message, in a database.

A queue and a worker get a ``MessageStore``, and write with a ``Feed`` of it. Nothing here knows Kafka.
"""

from kq.messagelog.entries import MOST_ATTEMPTS, STATUSES, LogStatus, MessageLog, position
from kq.messagelog.recorder import Feed
from kq.messagelog.rows import Row, brief, call_text, cleaned, size_of
from kq.messagelog.schema import statements_of
from kq.messagelog.store import MessageStore, check_store

__all__ = [
    "MOST_ATTEMPTS",
    "STATUSES",
    "Feed",
    "LogStatus",
    "MessageLog",
    "MessageStore",
    "Row",
    "brief",
    "call_text",
    "check_store",
    "cleaned",
    "position",
    "size_of",
    "statements_of",
]
