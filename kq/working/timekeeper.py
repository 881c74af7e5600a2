"""The timekeeper: how a worker takes part in firing delayed jobs.

While there is no topic ``T.later`` it has no thread and no client: now and then the worker's own consumer asks for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from kq.controlling import Cancels
from kq.scheduling import Owner
from kq.working.companions import Context, ThreadedCompanion

__all__ = ["Timekeeper"]

_logger = logging.getLogger("kq.scheduling")

#: Seconds between two questions whether the topic has come into being.
_ASK_EVERY = 4.0
#: The same, where it is about to.
_ASK_SOON = 0.05


class Timekeeper(ThreadedCompanion):
    """Fires the delayed jobs of a worker's topic, once there are any.

    :param hosts: The brokers, if not the worker's.
    :param cancels: Which jobs are cancelled, where somebody reads that.
    """

    def __init__(self, hosts: str | None = None, cancels: Cancels | None = None) -> None:
        super().__init__()
        self._cancels = cancels
        self._hosts = hosts
        self._owner: Owner | None = None
        self._ask_at = 0.0
        self._ask_every = _ASK_EVERY
        #: Whether the topic is there; set on the client's thread.
        self._is_there = False

    def open(self, context: Context) -> None:
        self.context = context

    def expect(self) -> None:
        """Look at every chance, from now on: the topic is about to come into being. From any thread."""
        self._ask_every = _ASK_SOON

    def look(self, now: float) -> None:
        if self.has_begun:
            return
        if self._is_there:
            self.begin()
        elif now >= self._ask_at:
            self._ask_at = now + self._ask_every
            self.context.ask_for(f"{self.context.topic}.later", self._hear)

    def run(self, stopping: threading.Event) -> None:
        context, hosts = self.context, self._hosts or self.context.hosts
        owner = Owner(context.topic, hosts, context.config, signer=context.signer, cancels=self._cancels)
        self._owner = owner
        try:
            owner.run(stopping)
        finally:
            owner.close()

    def stats(self) -> Mapping[str, float]:
        return {} if self._owner is None else self._owner.stats()

    def _hear(self, is_there: bool) -> None:
        self._is_there = is_there
