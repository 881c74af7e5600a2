"""What a worker is doing: its states, forward only within one ``start``, and its figures."""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kq.consuming import Assignment
from kq.job import FAILURE, INVALID, TIMEOUT, Status

__all__ = ["FORWARD", "State", "Stats", "Tally"]


class State(enum.Enum):
    """What a worker is doing."""

    #: It was made and not started.
    NEW = "new"
    #: It polls and starts jobs.
    RUNNING = "running"
    #: It starts nothing more, and keeps its partitions while what runs finishes.
    QUIET = "quiet"
    #: As QUIET, with a deadline after which what runs is killed.
    DRAINING = "draining"
    #: ``start`` has returned.
    STOPPED = "stopped"


FORWARD: Mapping[State, tuple[State, ...]] = {
    State.NEW: (State.RUNNING,),
    State.RUNNING: (State.QUIET, State.DRAINING, State.STOPPED),
    State.QUIET: (State.DRAINING, State.STOPPED),
    State.DRAINING: (State.STOPPED,),
    State.STOPPED: (),
}


class Stats(NamedTuple):
    """Figures of a worker, at one moment, since its last ``start``."""

    state: State
    #: Jobs that were handed out and have not ended: with processes, also short ones that wait for their child.
    in_flight: int = 0
    #: Messages that were polled and have not started.
    backlog: int = 0
    #: Messages processed, whatever their outcome.
    done: int = 0
    failed: int = 0
    timed_out: int = 0
    invalid: int = 0
    #: Messages that ran again because a worker died while they ran.
    retried: int = 0
    #: Partition -> offsets from what is committed to what was polled.
    commit_lag: Mapping[int, int] = {}
    #: Seconds since the oldest job that runs was started; None if none runs.
    oldest: float | None = None
    #: Messages whose jobs have ended, and whose records the broker has not acknowledged yet.
    settling: int = 0
    #: Jobs that a stop has ended before they were done: they run again.
    interrupted: int = 0
    #: Messages whose next attempt waits here, with their key's or partition's others behind them.
    waiting: int = 0


class Tally:
    """What one ``start`` has counted so far."""

    def __init__(self) -> None:
        self.started = 0
        self.retried = 0
        self.interrupted = 0
        self.outcomes: Counter[Status] = Counter()

    def stats(self, state: State, since: float | None, assignments: Iterable[Assignment], **figures: int) -> Stats:
        """Return the figures of this moment.

        :param since: When the oldest job that runs was started, by the monotonic clock; None if none runs.
        """
        return Stats(
            state=state,
            done=self.outcomes.total(),
            failed=self.outcomes[FAILURE],
            timed_out=self.outcomes[TIMEOUT],
            invalid=self.outcomes[INVALID],
            retried=self.retried,
            interrupted=self.interrupted,
            commit_lag={assignment.partition: assignment.commit_lag() for assignment in assignments},
            oldest=None if since is None else time.monotonic() - since,
            **figures,
        )
