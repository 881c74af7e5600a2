"""Resulting: what becomes of jobs, as events in a topic of its own."""

from kq.resulting.consumer import RESERVED, ResultConsumer
from kq.resulting.event import RESULTS, SUFFIX, JobEvent, headers_of, too_large, with_content_type
from kq.resulting.watcher import Watch, Watcher

__all__ = [
    "RESERVED",
    "RESULTS",
    "SUFFIX",
    "JobEvent",
    "ResultConsumer",
    "Watch",
    "Watcher",
    "headers_of",
    "too_large",
    "with_content_type",
]
