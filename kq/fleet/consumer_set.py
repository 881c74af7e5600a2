"""Sets of consumers: several in one program, each with a connection of its own, and each replaced if it dies.

1. ``start_consuming`` makes and starts them, and a thread that looks after them; it returns at once.
2. One whose thread has ended though nobody asked for that is reported, and replaced after a pause that grows while that
   happens again and again.
3. ``stop_consuming`` tells all of them, and then waits for all: in one pass, the last would go on with new jobs while
   the first is waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from kq.errors import ArgumentError, KQError
from kq.fleet.consumer import Consumer
from kq.fleet.hooks import log_error
from kq.fleet.pauses import Pauses
from kq.fleet.virtual_host import VirtualHost, access_to
from kq.utils import safe_str

__all__ = ["ConsumerSet"]

#: Seconds between looks at the consumers: what died is not missed for longer.
_LOOK_EVERY = 0.1
#: By what a member of a group is known across its restarts; each consumer needs one of its own.
_STATIC = "group_instance_id"


class ConsumerSet:
    """Several consumers of one topic and one group.

    The group shares the partitions out among them, and among those of other machines: a set needs as many partitions as
    it is to have consumers at work, and jobs with one key stay in order.

    :param host: As for :class:`kq.Consumer`, like all that is not explained here.
    :param concurrency: How many consumers there are.
    :param name: How their names begin: ``consumer-1``, ``consumer-2`` and so on.
    :param consumer_class: The dotted name of a subclass of :class:`kq.Consumer`, or the class.
    :param worker: As for :class:`kq.Consumer`, for each of them. An executor with settings is made by a function here,
        such as ``functools.partial(kq.ProcessExecutor, max_jobs=100)``: each consumer needs one of its own.
    :raises kq.ArgumentError: An argument has the wrong type or value; or there is no such class.
    """

    def __init__(
        self,
        host: str | VirtualHost,
        queue: str,
        logger: logging.Logger,
        concurrency: int = 1,
        name: str = "consumer",
        consumer_class: str | type[Consumer] = "kq.Consumer",
        *,
        group: str | None = None,
        config: Mapping[str, Any] | None = None,
        message_log: Any = None,
        worker: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ArgumentError("concurrency must be an int of 1 or greater")
        executor = (worker or {}).get("executor", "inline")
        if not (isinstance(executor, str) or callable(executor)):
            raise ArgumentError(
                "each consumer of a set needs an executor of its own: pass a function that makes one, such as "
                "functools.partial(kq.ProcessExecutor, max_jobs=100)"
            )
        self._class = self.get_consumer_class(consumer_class) if isinstance(consumer_class, str) else consumer_class
        _check_class(self._class, repr(consumer_class))
        self._args = host, queue, logger
        self._options = {"group": group, "message_log": message_log, "worker": worker}
        self._config = config
        self.logger = logger
        self._concurrency = concurrency
        self._name = name
        self._stopping = threading.Event()
        self._stops_now = False
        self._places: tuple[_Place, ...] = ()
        self._thread: threading.Thread | None = None
        self._make(1)  # to have the arguments checked

    def __repr__(self) -> str:
        host, queue, _ = self._args
        return f"ConsumerSet(host={host}, queue={queue}, concurrency={self._concurrency}, name={self._name})"

    @staticmethod
    def get_consumer_class(consumer_class: str) -> type[Consumer]:
        """Return the class that ``package.module.Class`` names.

        :raises kq.ArgumentError: It cannot be imported, or is no :class:`kq.Consumer`.
        """
        module, _, name = consumer_class.rpartition(".")
        if not module:
            raise ArgumentError(f"consumer_class {consumer_class!r} must be package.module.Class")
        try:
            found = getattr(import_module(module), name)
        except Exception as error:  # the door of user code: a module may raise anything
            text = f"consumer_class {consumer_class!r} cannot be imported: {type(error).__name__}: {error}"
            raise ArgumentError(" ".join(text.split())) from error
        return _check_class(found, repr(consumer_class))

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The consumers of this moment, by their places. One that died is among them until it is replaced."""
        return tuple(place.consumer for place in self._places)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start_consuming(self) -> None:
        """Start all consumers, each in a thread of its own, and return at once.

        :raises kq.KQError: They run already.
        """
        if self.is_alive():
            raise KQError(f"{self!r} is started already")
        self._stopping.clear()
        self._stops_now = False
        self._places = tuple(_Place(partial(self._make, number)) for number in range(1, self._concurrency + 1))
        for place in self._places:
            place.consumer.start()
        self._thread = threading.Thread(target=self._look_after, name=f"{self._name}-set", daemon=True)
        self._thread.start()

    def stop_consuming(self, timeout: float | None = None) -> bool:
        """Stop all consumers: first all are told, and nothing starts from then on; then all are waited for.

        :param timeout: How many seconds to wait for what runs; it goes on in any case.
        :returns: Whether all have ended.
        """
        self.stop()
        self.join(timeout)
        return not self.is_alive()

    def stop(self, *, now: bool = False) -> None:
        """Tell all consumers to stop, and return at once. From any thread, signal handler or job, any number of times.

        :param now: End what runs: it has no outcome, and runs again.
        """
        self._stops_now = self._stops_now or now
        self._stopping.set()
        for consumer in self.consumers:
            consumer.stop(now=now)

    def join(self, timeout: float | None = None) -> None:
        """Wait until all consumers have ended, at most so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def is_alive(self) -> bool:
        """Return whether any consumer runs, or will again."""
        return self._thread is not None and self._thread.is_alive()

    # -- the thread that looks after them ------------------------------------------------------------------------------

    def _look_after(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY) and any(place.is_taken() for place in self._places):
            for place in self._places:
                if place.is_due(time.monotonic()) and not self._stopping.is_set():
                    place.replace()
            if self._stopping.is_set():  # who asked for that may have missed those that have just come
                self.stop(now=self._stops_now)
        for consumer in self.consumers:
            consumer.join()

    def _make(self, number: int) -> Consumer:
        host, queue, logger = self._args
        name, config = f"{self._name}-{number}", self._config
        _, settings = access_to(host, config)
        if _STATIC in settings:
            config = {**(config or {}), _STATIC: f"{settings[_STATIC]}-{name}"}
        return self._class(host, queue, logger, name, config=config, **self._options)


class _Place:
    """The place of one consumer in a set, and of those that come after it."""

    def __init__(self, make: Callable[[], Consumer]) -> None:
        self._make = make
        self._pauses = Pauses()
        self._since = time.monotonic()
        #: When the consumer, which died, is to be replaced.
        self._due: float | None = None
        self.consumer = make()

    def is_taken(self) -> bool:
        """Return whether the consumer runs, or another one is to take its place: it has ended without being asked."""
        return self.consumer.is_alive() or not self.consumer.shutdown_requested or self.consumer.failure is not None

    def is_due(self, now: float) -> bool:
        """Return whether the consumer is to be replaced now; say so when it is found dead."""
        if self.consumer.is_alive() or not self.is_taken():
            return False
        if self._due is None:
            failure = self.consumer.failure
            self._report("died: it returned" if failure is None else f"died: {failure!r}", now)
        return self._due is not None and now >= self._due

    def replace(self) -> None:
        """Have another consumer in place of this one."""
        self._since, self._due = time.monotonic(), None
        try:
            self.consumer = self._make()
            self.consumer.start()
        except Exception as error:  # noqa: BLE001 - the door of user code, and there may be no room for a thread: again
            self._report(f"could not be replaced: {error!r}", time.monotonic())

    def _report(self, what: str, now: float) -> None:
        pause = self._pauses.after(now - self._since)
        self._due = now + pause
        line = "Consumer %s %s. It is replaced in %g s"
        log_error(self.consumer.logger, line, self.consumer.name, what, pause)


def _check_class(found: Any, what: str) -> type[Consumer]:
    if not (isinstance(found, type) and issubclass(found, Consumer)):
        raise ArgumentError(f"consumer_class {what} is no kq.Consumer, but {type(found).__name__} {safe_str(found)}")
    return found
