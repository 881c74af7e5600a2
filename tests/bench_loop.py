"""A loop between a pump and an executor that a test holds in its hands."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka import TopicPartition

import kq
from kq.consuming import Assigned, Assignment, Event, Polled, Revoked
from kq.consuming.metadata import Progress
from kq.executors import Executor, Finished
from kq.job import SUCCESS, Outcome
from kq.message import Message
from kq.working import Companion, Companions, Context, Loop, Plan, Settings, Stop, Waker

__all__ = ["FakeExecutor", "FakePump", "loop_between"]

FOREVER = float("inf")
WELL = Outcome(SUCCESS)


class FakePump:
    """Has the events that a test posts; what the loop asks of it, a test may answer."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.heartbeat = FOREVER
        self.is_known = True
        #: Called when the loop waits for a commit, and when it lets the pump go.
        self.on_flush: Callable[[], Any] = bool
        self.on_stop: Callable[[], Any] = bool
        self.assignments: dict[int, Assignment] = {}

    def assign(self, partition: int, progress: Progress, epoch: int = 1) -> None:
        assignment = self.assignments[partition] = Assignment(TopicPartition("t", partition), epoch)
        assignment.open(None, progress, -1)
        self.events.append(Assigned(assignment, progress))

    def revoke(self, partition: int) -> None:
        self.events.append(Revoked(self.assignments.pop(partition)))

    def poll(self, partition: int, offsets: Iterable[int], key: bytes | None = None) -> None:
        # as a record of the client begins, with what stands between
        records = [("t", partition, 0, offset, 0, 0, key, b"value", ()) for offset in offsets]
        self.events.append(Polled(self.assignments[partition], [_Record(*record) for record in records]))

    def start(self) -> None: ...

    def poke(self) -> None: ...

    def expect_end(self) -> None: ...

    def is_vouched(self, now: float) -> bool:
        return self.is_known

    def flush(self, timeout: float) -> bool:
        self.on_flush()
        return True

    def stop(self, timeout: float) -> bool:
        self.on_stop()
        return True


class _Record(tuple[Any, ...]):
    """A consumer's record, by position and by the one name that is asked for."""

    def __new__(cls, *fields: Any) -> _Record:
        return super().__new__(cls, fields)

    @property
    def value(self) -> bytes:
        return bytes(self[7])


class FakeExecutor(Executor):
    """Runs nothing by itself: a test ends what was started."""

    def __init__(self) -> None:
        self.started: list[Message] = []
        self.running: list[Message] = []
        self._finished: list[Finished] = []

    def end(self, message: Message, outcome: Outcome = WELL) -> None:
        self.running.remove(message)
        self._finished.append(Finished(message, None, outcome))

    def end_all(self) -> None:
        for message in list(self.running):
            self.end(message)

    def offsets(self) -> list[tuple[int, int]]:
        """Return what was started, as partitions and offsets."""
        return [(message.partition, message.offset) for message in self.started]

    def open(self, setting: Any, concurrency: int) -> None: ...

    def room(self) -> int:
        return 10 - len(self.running)

    def start(self, message: Message) -> None:
        self.started.append(message)
        self.running.append(message)

    def flush(self) -> None: ...

    def finished(self) -> list[Finished]:
        finished, self._finished = self._finished, []
        return finished

    def patience(self) -> float:
        return 0.0

    def watch(self, now: float) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...

    def release(self) -> None: ...


@contextmanager
def loop_between(
    pump: FakePump, executor: FakeExecutor, callback: Any = None, companions: Iterable[Companion] = ()
) -> Iterator[Loop]:
    """Give a loop that is open, whose turns the test takes."""
    settings = Settings(
        topic="t", consumer=None, hosts="h:1", group="g", config={}, callback=callback, takes_message=True,
        deserializer=kq.loads, logger=logging.getLogger("kq.worker"), timeout=None, executor=executor, concurrency=10,
        ordering="key", commit_interval=0.1, shutdown_timeout=1.0, max_deliveries=3, unimportable="brake", later=False,
    )  # fmt: skip
    plan = Plan(False, FOREVER, FOREVER, False, Companions(companions), Context("t", "g", "h:1", {}))
    waker = Waker()
    loop = Loop(settings, plan, Stop(), waker, pump)  # type: ignore[arg-type]
    loop._open()
    loop._advance(kq.working.State.RUNNING)
    try:
        yield loop
    finally:
        waker.close()
