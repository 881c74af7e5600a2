"""The stamp: what is due is verified, and signed anew for the topic of the jobs, at its own time.

1. A delayed job that is not signed as it must be goes on without a signature that holds: the worker tells of it as of
   any other invalid message. Here the log has the reason.
2. A schedule that is not is left alone, for it would be told of at each of its runs.

The age of a delayed job counts from when it is due. A schedule has none. An owner's clock may be moved on, as in tests;
a signature is made, and looked at, by the time that it is.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from kq.errors import SignatureError
from kq.message import Record
from kq.scheduling.entries import due_of, is_entry
from kq.scheduling.schedule import Plan
from kq.signing import JOB, LATER, Signer

__all__ = ["Stamp"]

_logger = logging.getLogger("kq.scheduling")

#: Milliseconds until a schedule that is not verified is looked at again: the key may come to be known.
LOOK_AGAIN = 60_000


class Stamp:
    """Verifies and signs for one owner.

    :param topic: Where entries wait.
    """

    def __init__(self, topic: str, signer: Signer | None) -> None:
        self._topic = topic
        self._signer = signer

    def admits(self, plan: Plan, now: int) -> bool:
        """Return whether a schedule may run; if not, it is held for a while.

        :param now: The owner's time, in Unix milliseconds.
        """
        if self._signer is None:
            return True
        try:
            self._signer.verify(LATER, plan.record, wall := _millis(), since=wall)
        except SignatureError as error:
            plan.held_until = now + LOOK_AGAIN
            _logger.error("Schedule %s of topic %s does not run: %s", ascii(plan.name), self._topic, error)
            return False
        return True

    def anew(self, entry: Any, record: Record) -> Record:
        """Return the record that an entry, or a schedule, becomes, with a signature of its own."""
        if self._signer is None:
            return record
        now = _millis()
        try:
            self._signer.verify(LATER, entry, now, since=due_of(entry.headers) if is_entry(entry.key) else now)
        except SignatureError as error:
            where = f"offset {entry.offset} of partition {entry.partition}"
            _logger.error("A delayed job of topic %s, at %s, is invalid: %s", self._topic, where, error)
            return record
        return self._signer.sign(JOB, record, now)


def _millis() -> int:
    return int(time.time() * 1000)
