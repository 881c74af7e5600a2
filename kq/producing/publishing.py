"""Publishing: what is enqueued, told to a message log when the broker has acknowledged it.

1. In the thread of the caller the arguments become text: that runs code of the user's, and the caller may change them
   afterwards. The rest is put into a feed as it is.
2. In the thread of the store it becomes rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kq.job import Job
from kq.messagelog import MessageStore, Row, call_text, cleaned, position
from kq.producing.delivery import Sent
from kq.utils import MASKED, get_call_repr

__all__ = ["Publishing"]

_PUBLISHED = position("PUBLISHED")
#: Rows after which others have Python's lock.
_AT_ONCE = 64


class Publishing:
    """What one queue has to say to a message log. Any thread may use it.

    :param given: The store, or its address: then the store is made, and closed, by this.
    :param hides: Whether arguments and keys stay out.
    """

    def __init__(self, given: MessageStore | str, hides: bool = False) -> None:
        self._hides = hides
        self.store = given if isinstance(given, MessageStore) else MessageStore(given)
        self._is_owner = self.store is not given
        self._feed = self.store.feed(_rows)

    def note(self, sent: Sent) -> None:
        """Note that a job is on its topic."""
        job = sent.job
        is_masked = self._hides or self.store.mask_arguments
        arguments = MASKED if is_masked else call_text(job.args or (), job.kwargs or {})
        key = None if self._hides else job.key
        self._feed.put((job._replace(args=None, kwargs=None, key=key), getattr(sent.future, "value", None), arguments))

    def close(self, timeout: float | None) -> None:
        """Write what was put, within so many seconds."""
        if self._is_owner:
            self.store.close(*([] if timeout is None else [timeout]))
        else:
            self.store.remove(self._feed, 1.0 if timeout is None else timeout)


def _rows(batches: Sequence[tuple[Job, Any, str]]) -> Iterator[list[Row]]:
    """Yield the rows of jobs, each with the producer's word of where its record is."""
    for begin in range(0, len(batches), _AT_ONCE):
        yield [_row(*one) for one in batches[begin : begin + _AT_ONCE]]


def _row(job: Job, place: Any, arguments: str) -> Row:
    is_there = place is not None and place.topic == job.topic  # otherwise it waits elsewhere
    name = None if job.func is None else cleaned(get_call_repr(job.func)[:-2], 200)
    return (
        *(cleaned(job.id, 255), _PUBLISHED, "PUBLISHED", 1, job.topic),
        *((place.partition, place.offset) if is_there else (None, None)),
        *(job.key or None, name, name, job.timestamp, None, None, None),
        *(arguments, None, None, None, None),
    )
