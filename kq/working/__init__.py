"""Working: the side of the thread that called ``Worker.start``."""

from kq.working.backlog import Ordering
from kq.working.callback import takes_message
from kq.working.loop import Loop, Plan, State, Stats
from kq.working.stop import Stop, Waker, signals_handled

__all__ = ["Loop", "Ordering", "Plan", "State", "Stats", "Stop", "Waker", "signals_handled", "takes_message"]
