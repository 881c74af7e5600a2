"""Expiry: a job that has not started by the time that its message gives is not run, and not unpickled either."""

from __future__ import annotations

import logging
import time

from kq.errors import JobExpired
from kq.executors.base import Finished, stacktrace_of
from kq.job import FAILURE, Outcome
from kq.message import HEADER_EXPIRES, HEADER_ID, Message, job_from_headers, millis_of

__all__ = ["expired"]

_logger = logging.getLogger("kq.executors")


def expired(message: Message, now: float | None = None) -> Finished | None:
    """Return the end of a message whose job has expired; None if it has not.

    :param now: Unix seconds; the present if left out.
    """
    expires = millis_of(message.headers, HEADER_EXPIRES)
    if expires is None:
        return None
    late = (time.time() if now is None else now) * 1000 - expires
    if late < 0:
        return None
    name = dict(message.headers).get(HEADER_ID, b"?").decode("utf-8", "replace")
    error = JobExpired(f"job {name} had not started when it expired, {late / 1000:.3f} s ago")
    _logger.warning("%s", error, extra={"job_id": name})
    return Finished(message, job_from_headers(message), Outcome(FAILURE, None, error, stacktrace_of(error)))
