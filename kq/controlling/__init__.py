"""Controlling: what is wished of workers, and what they say of themselves, in the topic ``T.control``."""

from kq.controlling.board import Board
from kq.controlling.wishes import CONTROL, SUFFIX, Cancels, cancel_key, packed

__all__ = ["CONTROL", "SUFFIX", "Board", "Cancels", "cancel_key", "packed"]
