"""Working: the side of the thread that called ``Worker.start``."""

from kq.working.agent import Agent
from kq.working.backlog import Ordering
from kq.working.brake import Unimportable
from kq.working.callback import takes_message
from kq.working.companions import Companion, Companions, Context, Move, ThreadedCompanion
from kq.working.garbage import rare_collections
from kq.working.letters import Letters
from kq.working.loop import Loop
from kq.working.recording import Recording
from kq.working.replies import Replies
from kq.working.retrier import Retrier, next_run
from kq.working.settings import Plan, Settings
from kq.working.state import State, Stats
from kq.working.stop import Stop, signals_handled
from kq.working.timekeeper import Timekeeper
from kq.working.waker import Waker

__all__ = [
    "Agent",
    "Companion",
    "Companions",
    "Context",
    "Letters",
    "Loop",
    "Move",
    "Ordering",
    "Plan",
    "Recording",
    "Replies",
    "Retrier",
    "Settings",
    "State",
    "Stats",
    "Stop",
    "ThreadedCompanion",
    "Timekeeper",
    "Unimportable",
    "Waker",
    "next_run",
    "rare_collections",
    "signals_handled",
    "takes_message",
]
