"""Controlling: what is wished of workers, and what they say of themselves, in the topic ``T.control``."""

from kq.controlling.board import Board
from kq.controlling.reports import REPORT_EVERY, RunningJob, WorkerInfo, parsed, report_of
from kq.controlling.seal import Seal
from kq.controlling.wishes import CONTROL, SUFFIX, Cancels, Wish, key_of, packed

__all__ = [
    "CONTROL",
    "REPORT_EVERY",
    "SUFFIX",
    "Board",
    "Cancels",
    "RunningJob",
    "Seal",
    "Wish",
    "WorkerInfo",
    "key_of",
    "packed",
    "parsed",
    "report_of",
]
