"""The watcher: one thread reads the cluster every other second, and publishes what it has found.

1. ``start`` begins. Each look asks the brokers for topics, offsets and groups, and takes from the topics beside them,
   which are followed all the time, who works, what waits and what is dead.
2. What it finds is a ``Snapshot``, which nobody changes. Pages show the last one.
3. A broker that is away is asked again, after growing pauses; the last snapshot stays, with what is wrong.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from kq.clients import connect, settings_for
from kq.controlling import SUFFIX as CONTROL
from kq.controlling import Board, Seal, WorkerInfo, parsed
from kq.errors import KQError
from kq.letter import SUFFIX as DEAD
from kq.producing import SUFFIX as LATER
from kq.producing import describe
from kq.resulting import SUFFIX as RESULTS
from kq.scheduling import Schedule
from kq.survey import Group, Standing, Topic, groups_on, stand, topics_on
from kq.web.delays import DelayIndex
from kq.web.history import History, Point, Rates
from kq.web.letters import LetterIndex
from kq.web.settings import Settings

__all__ = ["Snapshot", "TopicView", "Watcher"]

_logger = logging.getLogger("kq.web")

#: Seconds between two looks, and between two at groups that nobody has named; a look that takes long is followed by as
#: long a pause.
_EVERY, _GROUPS_EVERY = 2.0, 10.0
#: Seconds before a broker that is away is asked again: the first and the longest pause.
_PAUSES = 1.0, 5.0
#: Milliseconds that a broker may take for an answer.
_ASK_MS = 5_000
#: Seconds until a topic's letters, or the first look, must be there for who waits.
_SOON = 10.0
#: Seconds until what was written is read back, about; and that who has changed something waits for the next look.
_BACK_IN, _PATIENCE = 0.1, 2.0
#: What the names of topics beside a topic of jobs end with.
_BESIDE = (CONTROL, LATER, DEAD, RESULTS)
#: Topics whose companions are followed at most: each takes a client.
_MOST = 100


class TopicView(NamedTuple):
    """What is known of a topic.

    :param standings: How far each group is.
    :param workers: Who works, as they say.
    :param pauses: Groups that are paused; None stands for all.
    :param delayed: How many jobs wait for their time; None where none ever has.
    :param letters: How many dead letters wait for somebody; None where there is no topic of them.
    :param rates: The last of them, of which there may be none yet.
    :param lags: The lag at the last looks.
    """

    topic: Topic
    standings: tuple[Standing, ...]
    workers: tuple[WorkerInfo, ...]
    pauses: tuple[str | None, ...]
    delayed: int | None
    schedules: tuple[Schedule, ...]
    letters: int | None
    rates: tuple[Rates, ...]
    lags: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the topic."""
        return self.topic.name

    @property
    def lag(self) -> int:
        """Messages that are before its groups."""
        return sum(standing.lag for standing in self.standings)

    @property
    def rate(self) -> Rates:
        """Messages a second, at this moment."""
        return self.rates[-1] if self.rates else Rates()

    @property
    def running(self) -> int:
        """How many jobs run."""
        return sum(int(worker.stats.get("in_flight", len(worker.running))) for worker in self.workers)

    @property
    def failed(self) -> int:
        """How many messages did not do well with the workers that are there."""
        bad = ("failed", "timed_out", "invalid")
        return sum(int(worker.stats.get(name, 0)) for worker in self.workers for name in bad)


class Snapshot(NamedTuple):
    """What a look has found.

    :param number: It grows with each look.
    :param at: When, in Unix seconds; 0 before the first.
    :param topics: By their names.
    :param error: What is wrong, where this is older than it should be.
    """

    number: int
    at: float
    topics: Mapping[str, TopicView]
    error: str | None = None


class _Followed:
    """The topics beside one topic of jobs, which are followed from when they are there."""

    def __init__(self) -> None:
        self.board: Board | None = None
        self.delays: DelayIndex | None = None
        self.letters: LetterIndex | None = None
        self.history = History()

    def close(self) -> None:
        for one in (self.board, self.delays, self.letters):
            if one is not None:
                one.close()


class Watcher:
    """Watches a cluster. Its thread writes, any thread reads ``snapshot``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.snapshot = Snapshot(0, 0.0, {})
        self._followed: dict[str, _Followed] = {}
        #: Names of the groups that have to do with a topic, and when all were asked for last.
        self._groups: dict[str, set[str]] = {}
        self._asked_at = float("-inf")
        #: When the last look began that was published, by the monotonic clock.
        self._begun = float("-inf")
        self._published = threading.Condition()
        #: Set to have a look at once.
        self._poked = threading.Event()
        self._closing = threading.Event()
        self._first = threading.Event()
        self._listeners: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._run, name="kq-web-watcher", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        self._poked.set()
        self._thread.join(_SOON)
        for followed in self._followed.values():
            followed.close()

    def wait_first(self, timeout: float = _SOON) -> bool:
        """Return whether there was a first look, or an error instead, within so many seconds."""
        return self._first.wait(timeout)

    def refresh(self) -> None:
        """Have a look at once, and return when it is published, or after a moment: something was changed."""
        time.sleep(_BACK_IN)
        now = time.monotonic()
        self._poked.set()
        with self._published:
            self._published.wait_for(lambda: self._begun >= now, _PATIENCE)

    def listen(self, call: Callable[[], object]) -> None:
        """Have something called after each look, in the watcher's thread; it must be quick."""
        self._listeners.append(call)

    def letters_of(self, topic: str) -> LetterIndex | None:
        """Return the index of a topic's letters, when it is read; None where there are none."""
        followed = self._followed.get(topic)
        if followed is None or followed.letters is None:
            return None
        followed.letters.wait_loaded(_SOON)
        return followed.letters

    def delays_of(self, topic: str) -> DelayIndex | None:
        """Return what waits for a topic; None where nothing ever has."""
        followed = self._followed.get(topic)
        return None if followed is None else followed.delays

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = _PAUSES[0]
        while not self._closing.is_set():
            try:
                with self._admin() as admin:
                    while not self._closing.is_set():
                        self._poked.clear()
                        begun = time.monotonic()
                        self._publish(self._look(admin), None, begun)
                        pause = _PAUSES[0]
                        self._poked.wait(max(_EVERY, time.monotonic() - begun))
            except (KafkaError, KQError) as error:
                self._publish(None, describe(error))
            except Exception as error:  # the door of the thread: whatever it is, the next look may do
                _logger.exception("The cluster could not be looked at")
                self._publish(None, type(error).__name__)
            self._closing.wait(pause)
            pause = min(2 * pause, _PAUSES[1])

    def _publish(self, topics: Mapping[str, TopicView] | None, error: str | None, begun: float = 0.0) -> None:
        last = self.snapshot
        at = last.at if topics is None else time.time()
        self.snapshot = Snapshot(last.number + 1, at, last.topics if topics is None else topics, error)
        self._first.set()
        with self._published:
            self._begun = begun or self._begun
            self._published.notify_all()
        for call in self._listeners:
            call()

    def _admin(self) -> Any:
        settings = settings_for(KafkaAdminClient.DEFAULT_CONFIG, self._settings.config)
        return connect(KafkaAdminClient, self._settings.hosts, {"request_timeout_ms": _ASK_MS, **settings})

    def _look(self, admin: KafkaAdminClient) -> dict[str, TopicView]:
        there = set(admin.list_topics())
        wanted = sorted(_topics_of_jobs(there) if not self._settings.topics else there & {*self._settings.topics})
        topics = topics_on(admin, wanted) if wanted else []
        groups = self._groups_of(admin, wanted)
        for name in set(self._followed) - set(wanted):
            self._followed.pop(name).close()
        return {one.name: self._view(one, groups, there) for one in topics}

    def _groups_of(self, admin: KafkaAdminClient, topics: list[str]) -> list[Group]:
        """Return the groups that have to do with topics; who they are is asked for now and then only."""
        now = time.monotonic()
        if now - self._asked_at >= _GROUPS_EVERY:
            found = [group for group in groups_on(admin) if group.topics & set(topics)]
            self._asked_at = now
            self._groups = {group.name: group.topics for group in found}
            return found
        told = {worker.group for view in self.snapshot.topics.values() for worker in view.workers if worker.group}
        return groups_on(admin, sorted(told | set(self._groups)))

    def _view(self, topic: Topic, groups: list[Group], there: set[str]) -> TopicView:
        followed = self._follow(topic.name, there)
        standings = tuple(stand(topic, group) for group in groups if topic.name in group.topics)
        done = sum(one.committed or 0 for standing in standings for one in standing.progress) if standings else None
        lag = sum(standing.lag for standing in standings)
        end = sum(partition.end or 0 for partition in topic.partitions)
        followed.history.add(Point(time.monotonic(), end, done, lag))
        board, delays, letters = followed.board, followed.delays, followed.letters
        return TopicView(
            topic=topic,
            standings=standings,
            workers=() if board is None else _workers(board),
            pauses=() if board is None else tuple(name or None for name in sorted(board.pauses)),
            delayed=None if delays is None else delays.count(),
            schedules=() if delays is None else delays.schedules(),
            letters=None if letters is None else letters.count(),
            rates=followed.history.rates,
            lags=followed.history.lags,
        )

    def _follow(self, topic: str, there: set[str]) -> _Followed:
        """Return what is followed of a topic, after taking up what has come into being."""
        if topic not in self._followed:
            self._followed[topic] = _Followed()
        followed, settings = self._followed[topic], self._settings
        if len(self._followed) > _MOST:
            return followed
        if followed.board is None and f"{topic}.{CONTROL}" in there:
            seal = Seal(topic, settings.signer)
            followed.board = Board(topic, settings.hosts, settings.config, seal=seal)
            followed.board.start()
        if followed.delays is None and f"{topic}.{LATER}" in there:
            followed.delays = DelayIndex(topic, settings.hosts, settings.config)
            followed.delays.start()
        if followed.letters is None and f"{topic}.{DEAD}" in there:
            followed.letters = LetterIndex(topic, settings.hosts, settings.config, settings.signer)
            followed.letters.start()
        return followed


def _topics_of_jobs(there: set[str]) -> list[str]:
    """Return the topics that are neither Kafka's own nor beside another one."""
    beside = {f"{name}.{suffix}" for name in there for suffix in _BESIDE}
    return [name for name in there if name not in beside and not name.startswith("__")]


def _workers(board: Board) -> tuple[WorkerInfo, ...]:
    found = [parsed(name, *seen[:2]) for name, seen in sorted(board.present().items())]
    return tuple(one[0] for one in found if one is not None)
