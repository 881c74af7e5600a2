"""The reporter: tells companions of runs while they go on, and of what was not told yet when one ends.

The watchdog's thread looks several times a second. The loop tells of each end. What is told of one message comes in
order, and nothing after its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from kq.context import Said
from kq.executors import Run
from kq.job import Outcome
from kq.message import Message
from kq.working.companions import Companions

__all__ = ["Reporter"]

#: Seconds that a run must have lasted before it is told of while it goes on: most are over by then.
_BRIEF = 0.15


class _Told:
    """What was told of a run."""

    __slots__ = ("run", "said")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.said: Said | None = None


class Reporter:
    """Tells the companions of one worker.

    :param running: Messages whose runs have no outcome yet, by their identity.
    """

    def __init__(self, companions: Companions, running: Mapping[int, tuple[Message, float]]) -> None:
        self._companions = companions
        self._running = running
        self._told: dict[int, _Told] = {}
        self._lock = threading.Lock()

    def look(self, runs: Callable[[], Iterable[Run]], now: float) -> None:
        """Tell what is new of the runs that go on. From the watchdog's thread.

        :param now: The monotonic clock.
        """
        for run in runs():
            with self._lock:
                if id(run.message) in self._running:  # otherwise its end may have been told meanwhile
                    self._look_at(run, now)
        with self._lock:
            self._told = {key: told for key, told in self._told.items() if key in self._running}

    def _look_at(self, run: Run, now: float) -> None:
        told = self._told.get(id(run.message))
        if told is None or told.run.message is not run.message:
            if now - run.since < _BRIEF:
                return
            told = self._told[id(run.message)] = _Told(run)
            self._companions.begun(run.message, run.since)
        told.run = run
        self._tell(told, run.message, run.said, run.take_lines())

    def ended(self, message: Message, outcome: Outcome) -> None:
        """Tell what was not told yet of a run that has ended."""
        if outcome.progress is None and not outcome.logs and id(message) not in self._told:
            return
        with self._lock:
            told = self._told.pop(id(message), None)
            if told is None or told.run.message is not message:
                told = _Told(Run(message, 0.0))
            lines = outcome.logs if told.run.capture is None else told.run.take_lines()
            self._tell(told, message, outcome.progress, lines)

    def _tell(self, told: _Told, message: Message, said: Said | None, lines: Iterable[str]) -> None:
        if said is not None and said != told.said:
            told.said = said
            self._companions.progressed(message, *said)
        if lines := list(lines):
            self._companions.logged(message, lines)
