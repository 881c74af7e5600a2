"""Runs as others may look at them while they go on: since when, how far, and what was logged."""

from __future__ import annotations

from typing import NamedTuple

from kq.context import Report, Said
from kq.job import Outcome
from kq.logs import Capture
from kq.message import HEADER_REPLY, Message

__all__ = ["Run", "is_asked", "with_report"]


class Run(NamedTuple):
    """A run that has begun and not ended, as far as is known."""

    message: Message
    #: When it began, by the monotonic clock.
    since: float
    report: Report | None = None
    #: What it logs, where that is captured.
    capture: Capture | None = None

    @property
    def said(self) -> Said | None:
        """What it said last of how far it is."""
        return None if self.report is None else self.report.said

    def take_lines(self) -> list[str]:
        """Return what it has logged since this was called last."""
        return [] if self.capture is None else self.capture.take()


def is_asked(message: Message) -> bool:
    """Return whether somebody asks for the result of a message's job."""
    return (HEADER_REPLY, b"1") in message.headers


def with_report(outcome: Outcome, said: Said | None, capture: Capture | None) -> Outcome:
    """Return an outcome with what the run told of itself."""
    if said is None and capture is None:
        return outcome
    return outcome._replace(progress=said, logs=() if capture is None else tuple(capture.lines))
