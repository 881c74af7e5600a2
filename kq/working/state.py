"""What a worker is doing: its states, forward only within one ``start``, and its figures."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["FORWARD", "State", "Stats"]


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
