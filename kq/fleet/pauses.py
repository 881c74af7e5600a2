"""Pauses: how long to wait before something that failed is tried again."""

from __future__ import annotations

__all__ = ["Pauses"]

#: Seconds of the first pause: a broker that restarts is not back sooner. Each one after it is twice as long.
FIRST = 1.0
#: Seconds of the longest: who repaired what was wrong should not have to wait for more.
LONGEST = 30.0


class Pauses:
    """The pauses of one thing that is tried again and again."""

    def __init__(self) -> None:
        self._next = FIRST

    def after(self, lived: float) -> float:
        """Return the seconds to wait.

        :param lived: How many seconds it had worked. Longer than the longest pause, and the next one is short again.
        """
        pause = FIRST if lived > LONGEST else self._next
        self._next = min(LONGEST, pause * 2)
        return pause
