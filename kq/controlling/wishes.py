"""Wishes: what is asked of the workers of a topic ``T``, as records of its companion ``T.control``.

1. A wish is a record with a key, such as ``cancel:<job ID>``, and JSON as its value. A tombstone ends it.
2. Other programs may write there: each part is checked and bounded, and nothing is unpickled.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["CONTROL", "LONGEST_KEY", "SUFFIX", "Cancel", "Cancels", "Wish", "key_of", "packed", "unpacked"]

#: What the name of the topic has behind the name of the jobs'.
SUFFIX = "control"
#: Its settings. Small segments that are soon compacted: workers report every other second, and each that starts reads
#: all that is there. By the broker's clock it is known how old a report is.
CONTROL: Mapping[str, str] = {
    "cleanup.policy": "compact",
    "message.timestamp.type": "LogAppendTime",
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": "300000",
    "delete.retention.ms": "60000",
    "segment.ms": "300000",
    "segment.bytes": "1048576",
}


class Wish:
    """What a record is: how its key begins, before a colon and a name."""

    CANCEL, PAUSE, STOP, WORKER, PING = b"cancel", b"pause", b"stop", b"worker", b"ping"


#: Bytes of a key, and of a value, that are read.
LONGEST_KEY, _LONGEST_VALUE = 1_000, 262_144
#: IDs that are remembered at most: about 150 bytes each.
_MOST = 1_000_000


class Cancel(NamedTuple):
    """The wish that a job does not run."""

    #: When it may be forgotten, in Unix milliseconds; None for never.
    until: int | None = None
    #: Whether it is to end where it runs.
    terminate: bool = False


def key_of(kind: bytes, name: str = "") -> bytes:
    """Return the key of a record: of a job by its ID, of a group or a worker by its name."""
    return kind + b":" + name.encode("utf-8", "replace")


def packed(**fields: Any) -> bytes:
    """Return a value."""
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def unpacked(key: bytes | None, value: bytes | None) -> dict[str, Any] | None:
    """Return the fields of a value; None where it is a tombstone, or another program's."""
    if key is None or value is None or len(key) > LONGEST_KEY or len(value) > _LONGEST_VALUE:
        return None
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


class Cancels:
    """Which jobs are not to run. One thread writes, any thread looks up ``ids``."""

    def __init__(self) -> None:
        #: The IDs, as headers have them.
        self.ids: dict[bytes, Cancel] = {}
        #: Those that are to end where they run.
        self.terminated: set[bytes] = set()
        #: How many there were: it grows with each.
        self.count = 0
        self._followers: list[deque[bytes]] = []

    def follow(self) -> deque[bytes]:
        """Return where the ID of each that comes from now on is added; who asks takes them out."""
        news: deque[bytes] = deque()
        self._followers.append(news)
        return news

    def note(self, job_id: bytes, fields: Mapping[str, Any] | None, now: int) -> None:
        """Take in a wish, or its end.

        :param fields: Those of the record; None where it is a tombstone.
        :param now: Unix milliseconds.
        """
        cancel = None if fields is None else _cancel_of(fields)
        if cancel is None or (cancel.until is not None and cancel.until <= now):
            self.ids.pop(job_id, None)
            self.terminated.discard(job_id)
            return
        while len(self.ids) >= _MOST and job_id not in self.ids:
            self._forget(next(iter(self.ids)))
        self.ids[job_id] = cancel
        if cancel.terminate:
            self.terminated.add(job_id)
        for news in self._followers:
            news.append(job_id)
        self.count += 1

    def over(self, now: int) -> list[bytes]:
        """Forget those whose time is over, and return them.

        :param now: Unix milliseconds.
        """
        over = [job_id for job_id, one in list(self.ids.items()) if one.until is not None and one.until <= now]
        for job_id in over:
            self._forget(job_id)
        return over

    def clear(self) -> None:
        """Forget all."""
        self.ids.clear()
        self.terminated.clear()

    def _forget(self, job_id: bytes) -> None:
        self.ids.pop(job_id, None)
        self.terminated.discard(job_id)


def _cancel_of(fields: Mapping[str, Any]) -> Cancel:
    until, terminate = fields.get("until"), fields.get("terminate")
    is_time = isinstance(until, int) and not isinstance(until, bool)
    return Cancel(until if is_time else None, terminate is True)
