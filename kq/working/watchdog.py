"""The watchdog: looks at the clock while the loop may be in a job, in a callback, or in a wait for a commit.

1. Time limits hold whatever the loop does: the executor is asked to look after them.
2. Signals are counted, also those of which no handler could run.
3. A stop is said: what is waited for, for how long, and what another request does.
4. What must end after a stop is ended, and named where it does not end. A pump that stands still is said aloud.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from kq.consuming import Pump
from kq.executors import Executor, describe
from kq.message import Message
from kq.working.reporter import Reporter
from kq.working.stop import KILL, Stop

__all__ = ["TICK", "Watchdog"]

_logger = logging.getLogger("kq.loop")

#: Seconds between looks at the clock.
TICK = 0.2
#: Seconds without a sign of the pump after which that is said aloud: longer than any wait of its own.
_STALLED_AFTER = 30.0
#: Seconds after which a job that was to be killed and still runs is named in the log.
_STUBBORN_AFTER = 1.0


class Watchdog:
    """Watches one run of a worker from a thread of its own, between ``start`` and ``stop``.

    :param running: What runs, and since when.
    :param look: Called each time, with the monotonic clock.
    :param reporter: Told what runs; None where nobody follows that.
    """

    def __init__(
        self,
        shutdown_timeout: float,
        stop: Stop,
        pump: Pump,
        running: Mapping[int, tuple[Message, float]],
        look: Callable[[float], None] = lambda now: None,
        reporter: Reporter | None = None,
    ) -> None:
        self._reporter = reporter
        #: Set while there is an executor to look after.
        self.executor: Executor | None = None
        self._shutdown_timeout = shutdown_timeout
        self._stop = stop
        self._pump = pump
        self._running = running
        self._look_around = look
        #: When it was first seen that what runs must end, or the last job that does not was named.
        self._kill_since: float | None = None
        #: How many requests to stop were said.
        self._said = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kq-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._say_news(time.monotonic())

    def must_kill(self, now: float) -> bool:
        """Return whether what runs is to be ended: the time after a stop is up, or a second request has come."""
        since = self._stop.since
        if since is None:
            return False
        return self._stop.requests >= KILL or now >= since + self._shutdown_timeout

    def _run(self) -> None:
        while not self._ended.wait(TICK):
            try:
                self._look(time.monotonic())
            except Exception:  # the door of the thread: it must look again
                _logger.exception("The watchdog failed to look")

    def _look(self, now: float) -> None:
        self._stop.look()
        if self._stop.requests:
            self._pump.expect_end()
        self._say_news(now)
        executor = self.executor
        if executor is not None:
            if self.must_kill(now):
                executor.kill()
                self._name_stubborn(now)
            executor.watch(now)
        if now - self._pump.heartbeat > _STALLED_AFTER:
            _logger.error("The consumer has not polled for %.0f s; its partitions may be lost", _STALLED_AFTER)
            self._pump.heartbeat = now  # said again after as long
        self._look_around(now)
        if executor is not None and self._reporter is not None:
            self._reporter.look(executor.running, now)

    def _say_news(self, now: float) -> None:
        requests = self._stop.requests
        if requests > self._said:
            self._said = requests
            self._say_stop(requests, now)

    def _say_stop(self, requests: int, now: float) -> None:
        """Say what a stop waits for, or ends."""
        running = list(self._running.values())
        if not running:
            if requests < KILL:
                _logger.info("Stopping: no job runs")
            return
        count, message, since = len(running), *running[0]
        jobs = "1 job runs" if count == 1 else f"{count} jobs run or wait in their process"
        oldest = describe(message, now - since)
        if requests >= KILL:
            _logger.warning("Stopping now: %s, to run again. The oldest: %s", jobs, oldest)
        else:
            line = "Stopping: %s, for %g s more at most. A second signal ends that now, to run again. The oldest: %s"
            _logger.info(line, jobs, self._shutdown_timeout, oldest)

    def _name_stubborn(self, now: float) -> None:
        if self._kill_since is None:
            self._kill_since = now
        if now - self._kill_since > _STUBBORN_AFTER:
            self._kill_since = now + _STALLED_AFTER
            for message, since in list(self._running.values()):
                _logger.warning("A job ignores the interrupt: %s", describe(message, now - since))
