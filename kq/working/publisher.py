"""The publisher: sends the records that companions answer with, and tells whose records are all acknowledged.

1. ``publish`` takes the records of a message. Each topic that they go to has a thread and a producer of its own: one
   that is away, or refuses, holds up no other.
2. A thread hands records over, many at a time. The producer's own thread notes each answer and wakes the loop.
3. ``tell`` takes a record that nothing waits for.
4. ``acknowledged`` gives the messages whose last record was acknowledged. A record that was refused is sent again after
   a pause; only its own message waits for it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from kq.clients import kafka_python, settings_for
from kq.job import Job
from kq.message import Message, Record
from kq.producing import Delivery, describe
from kq.working.companions import Companion

__all__ = ["Publisher"]

_logger = logging.getLogger("kq.publisher")

#: Bytes of records that are on their way, beyond which no job is started.
MOST_BYTES = 32 * 1024 * 1024
#: Seconds until a refused record is sent again, at first and at most; each refusal doubles it.
RETRY_WAIT = (0.25, 5.0)
#: Seconds between two lines in the log about one topic that refuses.
COMPLAIN_EVERY = 60.0
#: Seconds between looks for records that were never answered.
LOOK_EVERY = 1.0
#: Records that nothing waits for, and that are on their way, beyond which more of them are dropped.
MOST_TOLD = 10_000
#: Seconds between two tries to have a topic.
PREPARE_EVERY = 1.0
#: Seconds without an answer after which the producer is asked whether it still knows the topic.
MISS_AFTER = 2.0
#: Stands where a delivery wants a job to name in its errors: a record of a companion is none.
_NO_JOB = Job()


class _Entry:
    """One record of one message, until it is acknowledged; without a message, one that nothing waits for."""

    __slots__ = ("companion", "record", "refusals", "source")

    def __init__(self, source: Message | None, companion: Companion, record: Record) -> None:
        self.source = source
        self.companion = companion
        self.record = record
        self.refusals = 0


#: A record, and what became of it; None where it was acknowledged.
_Answer = tuple[_Entry, BaseException | None]
#: Settings of the producers: they make no topic, and one that is not there is soon known.
_SETTINGS = {"allow_auto_create_topics": False, "max_block_ms": 2_000, "linger_ms": 3}
#: How large a record may be its topic says: a worker's settings are a consumer's.
_LARGEST = {"max_request_size": 32 << 20}


class Publisher:
    """Publishes for one worker. Belongs to the thread that called ``Worker.start``, but for ``tell`` and ``_answer``.

    :param config: Settings of any client that gets to these brokers.
    :param wake: Called from any thread when an answer has come.
    """

    def __init__(self, hosts: str, config: Mapping[str, Any], wake: Callable[[], None]) -> None:
        self._hosts = hosts
        self._config = {**_LARGEST, **settings_for(KafkaProducer.DEFAULT_CONFIG, config), **_SETTINGS}
        self._wake = wake
        self._topics: dict[str, _Topic] = {}
        #: Guards the making of topics, and how many records that nothing waits for are on their way.
        self._lock = threading.Lock()
        self._telling = 0
        #: A message, by its identity, and how many of its records are not acknowledged.
        self._left: dict[int, int] = {}
        self._bytes = 0
        #: Records with what became of them, None where they were acknowledged.
        self._answers: deque[tuple[_Entry, BaseException | None]] = deque()
        #: What was published and not handed on, by its topic.
        self._batches: dict[str, list[_Entry]] = {}
        self._is_woken = False
        #: Heap of refused records: when to send each again, and a number that orders those of one time.
        self._refused: list[tuple[float, int, _Entry]] = []
        self._count = 0

    def __len__(self) -> int:
        """Return how many messages have records that are not acknowledged."""
        return len(self._left)

    def is_full(self) -> bool:
        """Return whether no more jobs should be started before some messages are through."""
        return self._bytes >= MOST_BYTES

    def patience(self, now: float) -> float:
        """Return the seconds after which ``acknowledged`` has something to do, though nothing woke the worker."""
        return max(0.0, self._refused[0][0] - now) if self._refused else float("inf")

    def publish(self, source: Message, records: Sequence[tuple[Companion, Record]]) -> None:
        """Publish the records of a message, each with the companion that it comes from.

        They go out when ``flush`` is called.
        """
        self._left[id(source)] = len(records)
        for companion, record in records:
            self._bytes += len(record.value)
            self._batches.setdefault(record.topic, []).append(_Entry(source, companion, record))

    def flush(self) -> None:
        """Hand on what was published, all at once: to wake a thread costs more than a record."""
        if self._batches:
            batches, self._batches = self._batches, {}
            for topic, entries in batches.items():
                self._topic(topic).send(entries)

    def tell(self, companion: Companion, record: Record) -> None:
        """Publish a record that nothing waits for, in its order with others; or drop it. From any thread."""
        with self._lock:
            is_dropped = self._telling >= MOST_TOLD
            self._telling += not is_dropped
        if is_dropped:
            _logger.debug("A record for topic %s is dropped: too many are on their way", record.topic)
        else:
            self._topic(record.topic).send([_Entry(None, companion, record)])

    def acknowledged(self, now: float) -> list[Message]:
        """Return the messages whose last record was acknowledged since the last call."""
        self._is_woken = False
        while self._refused and self._refused[0][0] <= now:
            entry = heappop(self._refused)[2]
            self._topic(entry.record.topic).send([entry])
        self.flush()
        done = []
        for entry, error in [self._answers.popleft() for _ in range(len(self._answers))]:
            self._topics[entry.record.topic].note(error, now)
            if error is not None:
                self._try_again(entry, error, now)
                continue
            assert entry.source is not None
            source = id(entry.source)
            self._bytes -= len(entry.record.value)
            self._left[source] -= 1
            if not self._left[source]:
                del self._left[source]
                done.append(entry.source)
        return done

    def close(self, timeout: float) -> None:
        """Let the producers go, within so many seconds, however many there are.

        What is not acknowledged by now may be published or not; its messages are undone.
        """
        deadline = time.monotonic() + timeout
        for topic in list(self._topics.values()):
            topic.end(timeout)
        for topic in self._topics.values():
            topic.join(max(0.0, deadline - time.monotonic()))

    def _topic(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            with self._lock:
                if name not in self._topics:
                    delivery = Delivery(f"the publisher of topic {name}", name, None, self._hosts, self._config)
                    self._topics[name] = _Topic(name, delivery, self._answer)
                topic = self._topics[name]
        return topic

    def _answer(self, answers: Sequence[tuple[_Entry, BaseException | None]]) -> None:
        """Note what became of records, from any thread; one wake-up serves all that come before the loop looks."""
        awaited = [answer for answer in answers if answer[0].source is not None]
        if len(awaited) < len(answers):
            with self._lock:
                self._telling -= len(answers) - len(awaited)
        self._answers.extend(awaited)
        if awaited and not self._is_woken:  # it is reset before the loop looks: these answers are seen too
            self._is_woken = True
            self._wake()

    def _try_again(self, entry: _Entry, error: BaseException, now: float) -> None:
        """Have a record sent again after a pause, or at once what its companion has instead."""
        shortest, longest = RETRY_WAIT
        wait = min(longest, shortest * 2 ** min(entry.refusals, 10))
        entry.refusals += 1
        assert entry.source is not None
        try:
            other = entry.companion.on_refused(entry.source, entry.record, error)
        except Exception:  # the door of a capability: the same record is tried again
            _logger.exception("%s failed to answer to a refusal", type(entry.companion).__name__)
            other = None
        if other is not None:
            self._bytes += len(other.value) - len(entry.record.value)
            entry.record, wait = other, 0.0
        self._count += 1
        heappush(self._refused, (now + wait, self._count, entry))


def _blamed(future: Any, is_largest: bool) -> BaseException | None:
    """Return what became of a record; that a batch is too large is told of its largest record alone.

    All others that the producer had on their way fail with it: it ends of that.
    """
    if not isinstance(future.exception, MessageSizeTooLargeError):
        return future.exception  # type: ignore[no-any-return]
    if is_largest and kafka_python.is_own_answer(future):
        return future.exception  # type: ignore[no-any-return]
    return KafkaTimeoutError("it was on its way with one that is too large")  # type: ignore[no-any-return]


class _Topic:
    """One topic that records go to, and the thread that hands them to its producer."""

    def __init__(self, name: str, delivery: Delivery, answer: Callable[[list[_Answer]], None]) -> None:
        self._name = name
        self._delivery = delivery
        self._answer = answer
        #: Records to be sent; none, where the producer has told of some, and at the end.
        self._queue: SimpleQueue[list[_Entry]] = SimpleQueue()
        #: For the thread: records that the producer has, with their futures, by the batches that they went into, and
        #: when that began; oldest first. All of a batch are answered at once.
        self._sent: dict[int, list[tuple[Any, _Entry]]] = {}
        self._since: dict[int, float] = {}
        self._refusing_since: float | None = None
        self._complain_at = 0.0
        #: For the thread: whether the topic is there, as far as is known; when it is tried again, and what failed.
        self._is_prepared, self._prepare_at = False, 0.0
        self._unprepared: Exception | None = None
        #: Seconds that the producer has to close; None until the end.
        self._last_patience: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"kq-publish-{name}", daemon=True)
        self._thread.start()

    def send(self, entries: list[_Entry]) -> None:
        """Have records sent."""
        self._queue.put(entries)

    def note(self, error: BaseException | None, now: float) -> None:
        """Say, now and then, that the topic refuses records, and that it takes them again."""
        if error is None:
            if self._refusing_since is not None:
                _logger.warning("Topic %s takes records again, after %.0f s", self._name, now - self._refusing_since)
                self._refusing_since, self._complain_at = None, 0.0
            return
        self._refusing_since = self._refusing_since or now
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY
            line = "Topic %s refuses a record, which is tried again; its message stays undone until then: %s"
            _logger.error(line, self._name, describe(error))

    def end(self, patience: float) -> None:
        """Have the thread end, and close the producer: to connect may take it long, and who closes would wait."""
        self._last_patience = patience
        self._queue.put([])

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._last_patience is None:
            with contextlib.suppress(Empty):
                for entry in self._queue.get(timeout=LOOK_EVERY if self._sent else None):
                    self._hand_over(entry)
            self._take_answers()
            self._give_up_on_silent()
        self._delivery.close(self._last_patience)
        self._take_answers()

    def _hand_over(self, entry: _Entry) -> None:
        try:
            if not self._is_prepared:
                self._prepare(entry)
            sent = self._delivery.send(_NO_JOB, entry.record, is_checked=True)
        except Exception as error:  # noqa: BLE001 - the door of the thread: whatever it is, the record is not there
            self._is_prepared = False
            self._answer([(entry, error.__cause__ or error)])
            return
        batch = id(sent.future if sent.batch is None else sent.batch)
        if batch in self._sent:
            self._sent[batch].append((sent.future, entry))
            return
        self._sent[batch], self._since[batch] = [(sent.future, entry)], time.monotonic()
        sent.future.add_both(self._look_soon)

    def _look_soon(self, _: object) -> None:
        """Have answers taken, from the producer's thread."""
        self._queue.put([])

    def _take_answers(self) -> None:
        answers = []
        for batch, some in list(self._sent.items()):
            if not some[0][0].is_done:
                continue
            largest = max(some, key=lambda one: len(one[1].record.value))
            answers += [
                (entry, _blamed(future, (future, entry) == largest)) for future, entry in some if future.is_done
            ]
            left = [one for one in some if not one[0].is_done]
            if left:  # the producer is telling of them at this moment
                self._sent[batch] = left
                self._look_soon(None)
            else:
                del self._sent[batch], self._since[batch]
        if answers:
            self._answer(answers)

    def _prepare(self, entry: _Entry) -> None:
        """Have the topic, before the first record, after a refusal, which may be for want of it, and when it is missed.

        :raises Exception: It cannot be had.
        """
        if self._is_prepared:
            return
        if time.monotonic() >= self._prepare_at:
            self._unprepared = None
            try:
                entry.companion.prepare(self._name)
            except Exception as error:  # noqa: BLE001 - the door of a capability: the records are refused for it
                self._unprepared = error
            self._prepare_at = time.monotonic() + PREPARE_EVERY
        if self._unprepared is not None:
            raise self._unprepared
        self._is_prepared = True

    def _give_up_on_silent(self) -> None:
        """Have a producer that does not answer in time fail what it has; another is made."""
        if not self._sent:
            return
        batch, since = next(iter(self._since.items()))
        entry = self._sent[batch][0][1]
        if time.monotonic() >= since + MISS_AFTER and not self._delivery.knows(self._name):
            self._is_prepared = False  # it was deleted, and the producer waits for it
            with contextlib.suppress(Exception):  # the records that come next are refused for that
                self._prepare(entry)
        if time.monotonic() < since + self._delivery.patience:
            return
        self._delivery.abandon()
        for future, _ in itertools.chain(*self._sent.values()):
            if not future.is_done:
                future.failure(KafkaTimeoutError("the producer does not answer"))
        self._take_answers()
