"""What the headers of a message keep from being run: it is not unpickled either.

1. A job that has not started by the time that its message gives has expired.
2. One that was cancelled while it waited in another topic was brought here to be told of.
3. Byte code of another version of Python means something else to this one, and may end it. Such a message waits for the
   right worker, as one whose job cannot be imported.
"""

from __future__ import annotations

import logging
import re
import time

from kq.errors import Cancelled, JobExpired
from kq.executors.base import Finished, stacktrace_of
from kq.job import FAILURE, INVALID, Cause, Outcome
from kq.message import (
    HEADER_CANCELLED,
    HEADER_EXPIRES,
    HEADER_ID,
    HEADER_PYTHON,
    PYTHON,
    Message,
    job_from_headers,
    millis_of,
)

__all__ = ["cancelled", "expired", "unfit"]

_logger = logging.getLogger("kq.executors")

#: A version as KQ writes it; what else stands there says nothing.
_VERSION = re.compile(rb"3\.\d{1,3}")


def unfit(message: Message, now: float | None = None) -> Finished | None:
    """Return the end of a message that is not to be run here; None if it may be.

    :param now: Unix seconds; the present if left out.
    """
    for name, text in message.headers:  # once for all: this happens to every message
        if name == HEADER_EXPIRES and (end := expired(message, now)) is not None:
            return end
        if name == HEADER_CANCELLED:
            return cancelled(message)
        if name == HEADER_PYTHON and (end := _foreign(message, text)) is not None:
            return end
    return None


def _foreign(message: Message, version: bytes) -> Finished | None:
    if version == PYTHON.encode() or not _VERSION.fullmatch(version or b""):
        return None
    text = f"it holds byte code of Python {version.decode()}, and this is Python {PYTHON}"
    return Finished(message, None, Outcome(INVALID, cause=Cause(("builtins.ImportError",), text)), (text, ""))


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


def cancelled(message: Message) -> Finished:
    """Return the end of a message whose job was cancelled before it started."""
    name = dict(message.headers).get(HEADER_ID, b"?").decode("utf-8", "replace")
    error = Cancelled(f"job {name} was cancelled before it started")
    _logger.info("%s", error, extra={"job_id": name})
    return Finished(message, job_from_headers(message), Outcome(FAILURE, None, error, stacktrace_of(error)))
