"""Helpers for the tests of programs that use KQ.

1. ``eager``: what is enqueued runs at once, in this process, and no Kafka is needed. The job goes through bytes and
   back as it would on its way through Kafka, so what cannot be serialized is found. What is delayed waits until the
   test moves the clock.
2. ``drain``: a real worker runs what is on a queue's topic, and returns when nothing is left.
3. Where freezegun stops the time, KQ's clocks and Kafka's client go on.
4. With ``pytest_plugins = ["kq.testing"]`` in a ``conftest.py``, pytest has fixtures: ``kq_kafka`` is a Kafka for the
   whole run, ``kq_hosts`` its addresses, ``kq_queue`` a queue on a topic of its own, and ``kq_eager`` is ``eager``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from heapq import heappop, heappush
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from unittest import mock

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from kq.clients import connect
from kq.errors import ArgumentError, KQError
from kq.executors import Executor, Setting, best_interrupter, log_invalid, run_message, unfit
from kq.frozen import keep_clocks_going
from kq.job import INVALID, Job, Outcome, Status
from kq.letter import DeadLetter, parsed
from kq.local import LocalKafka
from kq.message import HEADER_AT, HEADER_KEY, Headers, Message, Record
from kq.producing import Delivery, EnqueueError, Later, Sent, moment_in
from kq.queue import Queue
from kq.retry import Retry, check_retry
from kq.scheduling import Cron, Every, Owner, Plan, Schedule, Schedules, due_of, plan_of, waiting
from kq.serializers import loads
from kq.signing import JOB
from kq.utils import hides_arguments
from kq.worker import CONSUMER_DEFAULTS, Worker
from kq.working import Context, Letters, Retrier, next_run, takes_message

__all__ = ["Eager", "Ran", "drain", "eager", "redirected"]

_logger = logging.getLogger("kq.worker")

Callback = Callable[..., Any]

#: Stands in for the future of a record that the broker has acknowledged.
_ACKNOWLEDGED = SimpleNamespace(is_done=True, exception=None)

#: Milliseconds without a message after which ``drain`` counts what is left: some offsets hold no message. Within that
#: time the worker must be able to begin, and what it asks a broker waits behind the fetch before, for so long at most.
_IDLE, _FETCH = 500, 50
#: Seconds until ``drain`` looks again whether what is due has been fired.
_LOOK_AGAIN = 0.1


class Ran(NamedTuple):
    """The outcome of one message, as a callback gets it."""

    status: Status
    message: Message
    job: Any
    result: Any
    exception: BaseException | None
    stacktrace: str | None


class Eager(list[Ran]):
    """The outcomes of the jobs that ran, and the clock of those that wait."""

    def __init__(self, run: Callable[[Message], None]) -> None:
        super().__init__()
        #: What a worker with ``dead_letters`` would have kept.
        self.letters: list[DeadLetter] = []
        self._run = run
        self._ahead = 0
        #: Schedules, by topic and name.
        self._plans: dict[tuple[str, str], Plan] = {}
        self._offsets = itertools.count()
        #: Jobs that wait: when each is due, a number that keeps those of one time in order, the job and its message.
        self._waiting: list[tuple[int, int, Job, Message]] = []

    @property
    def now(self) -> float:
        """The time, in Unix seconds."""
        return self._millis() / 1000

    @property
    def pending(self) -> list[Job]:
        """The jobs that wait, the next one first."""
        return [waiting[2] for waiting in sorted(self._waiting)]

    def advance(self, duration: float | int | timedelta) -> None:
        """Move the clock on, and run what is due by then, each job and each run of a schedule at its time.

        :param duration: Seconds, or a ``timedelta``.
        :raises kq.ArgumentError: It is negative, or of the wrong type.
        """
        end = self._millis() + moment_in(duration, "duration").value
        while True:
            due, (topic, _), plan = min(
                ((plan.next, key, plan) for key, plan in self._plans.items()),
                key=itemgetter(0), default=(end + 1, ("", ""), None),
            )  # fmt: skip
            is_job = bool(self._waiting) and self._waiting[0][0] <= due
            due = self._waiting[0][0] if is_job else due
            if due > end:
                break
            self._ahead += max(0, due - self._millis())
            if is_job:
                self._run(heappop(self._waiting)[3])
            elif plan is not None:
                plan.note_fired(due)
                self._run(_message(plan.run(topic, due, self._millis()), next(self._offsets)))
        self._ahead += max(0, end - self._millis())

    def _millis(self) -> int:
        return int(time.time() * 1000) + self._ahead

    def _put(
        self, schedules: Schedules, name: str, when: Every | Cron, job: Job, value: bytes, headers: Headers,
        expires: int | None,
    ) -> Schedule:  # fmt: skip
        """Make a schedule, as ``Schedules.put`` does."""
        old = self._plans.get((schedules.topic, name))
        is_same = old is not None and old.when.spec() == when.spec()
        since = old.since if old is not None and is_same else self._millis()
        record = schedules.record(name, when, job, value, headers, expires, since)
        plan = self._plans[schedules.topic, name] = cast("Plan", plan_of(SimpleNamespace(**record._asdict())))
        if old is not None and is_same:
            plan.note_fired(old.last)
        return plan.as_schedule()

    def _remove(self, schedules: Schedules, name: str) -> bool:
        return self._plans.pop((schedules.topic, name), None) is not None

    def _list(self, schedules: Schedules) -> list[Schedule]:
        plans = sorted(self._plans.items(), key=itemgetter(0))
        return [plan.as_schedule() for (topic, _), plan in plans if topic == schedules.topic]

    def _take(self, job: Job, message: Message) -> None:
        due = due_of(message.headers)
        if due is None or due <= self._millis():
            self._run(message)
        else:
            heappush(self._waiting, (due, message.offset, job, message))


keep_clocks_going()


@contextmanager
def eager(
    callback: Callback | None = None,
    deserializer: Callable[[bytes], Any] | None = None,
    *,
    timeout: float | int | None = None,
    retry: Retry | int | None = None,
) -> Iterator[Eager]:
    """Run each job where and when it is enqueued, on any queue of this process, without Kafka.

    A job that fails does not make ``enqueue`` raise: it has an outcome, as in a worker. One that is delayed waits until
    the clock, which the list that is returned has, is moved by its ``advance``; so does the next attempt of one that
    failed and has a retry policy, and so does each run of a schedule. What failed for good is in its ``letters``.

    :param callback: Called for each job, as by a worker.
    :param deserializer: Turns bytes into a job; :func:`kq.loads` if left out.
    :param timeout: Overrides the time that each job may take, in seconds.
    :param retry: As for :class:`kq.Worker`.
    :returns: A list to which each job's outcome is added.
    """
    setting = Setting(deserializer or loads, timeout, _logger, True, _nothing, _nothing, _nothing)
    setting = setting._replace(hides=hides_arguments(None))
    ran = Eager(lambda message: settle(message, *_run(message, setting, ran.now)))
    settle = _settling(ran, _noting(ran, callback), check_retry(retry))

    def send(delivery: Delivery, job: Job, record: Record, _deadline: float | None = None) -> Sent:
        if delivery.is_closed:
            raise EnqueueError(f"the queue of topic {delivery.topic} is closed", [job])
        ran._take(job, _message(record, next(ran._offsets)))
        return Sent(job, len(record.value), None, _ACKNOWLEDGED, None)

    patches: dict[str, Any] = {"send": send, "wait": _nothing, "is_ready": lambda *_: True}
    later: dict[str, Any] = {"prepare": _nothing, "is_ready": True, "record": _waiting_record, "place": _place}
    # functions of this class's, not methods, so that they get the schedules of the queue that is asked
    schedules: dict[str, Any] = {
        "put": lambda *given: ran._put(*given),
        "remove": lambda *given: ran._remove(*given),
        "all": lambda *given: ran._list(*given),
    }
    with (
        mock.patch.multiple(Delivery, **patches),
        mock.patch.multiple(Later, **later),
        mock.patch.multiple(Schedules, **schedules),
        mock.patch("kq.producing.spec.now_millis", ran._millis),
    ):
        yield ran


@contextmanager
def redirected(queue: Queue, to: Queue) -> Iterator[None]:
    """Have what is enqueued on one queue go to another: to the topic of a test, say, instead of the program's own.

    That holds for whatever belongs to the queue: what ``using`` returned, and decorated functions. ``Job.topic`` stays
    what the program would see.
    """
    before = queue._deliver_by(cast("Delivery", _Elsewhere(queue.topic, to)), to._later)
    try:
        yield
    finally:
        queue._deliver_by(*before)


class _Elsewhere:
    """Stands in for a delivery, and gives all to that of another queue."""

    def __init__(self, topic: str, to: Queue) -> None:
        self._topic = topic
        self._delivery = to._delivery
        self._signer = to.signer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    def send(self, job: Job, record: Record, deadline: float | None = None) -> Sent:
        if record.topic == self._topic:  # what is delayed waits in the other queue's topic for that already
            record = record._replace(topic=self._delivery.topic)
            record = record if self._signer is None else self._signer.sign(JOB, record, record.timestamp_ms)
        return self._delivery.send(job, record, deadline)


def _waiting_record(later: Later, job: Job, value: bytes, headers: Headers, due: int) -> Record:
    """Return the record of a delayed job as it will stand on its topic."""
    headers = [(HEADER_AT, b"%d" % due), *headers]
    return Record(str(job.topic), value, job.key or None, headers, job.partition, job.timestamp or 0)


def _place(_later: Later, job: Job, _name: bytes) -> tuple[int, Headers]:
    """Return where a schedule stands, and the header that has its key."""
    return job.partition or 0, [(HEADER_KEY, job.key)] if job.key else []


def _message(record: Record, offset: int) -> Message:
    """Return a record as a worker gets it."""
    where = record.topic, record.partition or 0, offset
    return Message(*where, record.key, record.value, record.timestamp_ms, tuple(record.headers))


def _nothing(*_args: object) -> None:
    """There is nobody to wake, and nothing to wait for."""


def _noting(ran: list[Ran], callback: Callback | None) -> Callback:
    """Return a callback that adds to a list and calls the user's, which takes five arguments or six."""
    if not (callback is None or callable(callback)):
        raise ArgumentError("callback must be a callable")
    has_message = callback is None or takes_message(callback)

    def note(*told: Any) -> None:
        ran.append(Ran(*told))
        if callback is None or (told[0] == INVALID and not has_message):
            return
        try:
            callback(*(told if has_message else told[:1] + told[2:]))
        except Exception:  # the user's hook: it is logged, and changes nothing
            _logger.exception("Callback raised an exception:")

    return note


def _settling(ran: Eager, note: Callback, retry: Retry | None) -> Callable[[Message, Any, Outcome], None]:
    """Return what is done with an outcome: as a worker does, it is told, and the job runs again or is a dead letter."""
    retrier, letters = Retrier(retry, "key", _nothing), Letters("letters")
    letters.open(Context("", "", "", {}))

    def settle(message: Message, job: Any, outcome: Outcome) -> None:
        note(outcome.status, message, job, outcome.result, outcome.exception, outcome.stacktrace)
        outcome, _ = retrier.judge(message, outcome)
        if outcome.retry_in is not None:
            again = next_run(message)
            due = (HEADER_AT, b"%d" % (ran._millis() + outcome.retry_in * 1000))
            ran._take(job, again._replace(headers=(due, *again.headers)))
        found = [parsed(record) for record in letters.on_settled(message, outcome)]
        ran.letters += [letter for letter in found if letter is not None]

    return settle


def _run(message: Message, setting: Setting, now: float) -> tuple[Any, Outcome]:
    """Run a message here; in another thread if this one runs an event loop, as coroutine jobs need one of their own."""
    if (end := unfit(message, now)) is not None:
        assert end.outcome is not None
        return end.job, end.outcome
    if asyncio._get_running_loop() is None:
        return _run_here(message, setting)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_run_here, message, setting).result()


def _run_here(message: Message, setting: Setting) -> tuple[Any, Outcome]:
    interrupter = best_interrupter()
    try:
        _, job, outcome, why = run_message(message, setting, interrupter)
    finally:
        interrupter.close()
    assert outcome is not None  # nobody stops it
    if why is not None:
        log_invalid(setting.logger, message, *why)
    return job, outcome


def drain(
    queue: Queue,
    callback: Callback | None = None,
    *,
    group: str | None = None,
    timeout: float = 60.0,
    deserializer: Callable[[bytes], Any] | None = None,
    executor: str | Executor = "inline",
    concurrency: int = 1,
    ahead: float | int | timedelta = 0,
    retry: Retry | int | None = None,
    dead_letters: bool | str = False,
) -> list[Ran]:
    """Run the jobs of a queue's topic until none is left, also those that jobs enqueue, and return their outcomes.

    :param queue: The queue; its topic, its brokers and what is needed to get to them are taken from it.
    :param callback: Called for each message, as by a worker.
    :param group: Consumer group: what it has done is not run again. The topic's name if left out.
    :param timeout: How long all may take, in seconds.
    :param deserializer: As for :class:`kq.Worker`.
    :param executor: As for :class:`kq.Worker`.
    :param concurrency: As for :class:`kq.Worker`.
    :param ahead: Delayed jobs, runs of schedules and next attempts that are due within so much time, in seconds or as
        a ``timedelta``, run now; the others wait on.
    :param retry: As for :class:`kq.Worker`.
    :param dead_letters: As for :class:`kq.Worker`.
    :returns: The outcomes, in the order in which they came.
    :raises kq.KQError: There were jobs left after that time.
    """
    ran: list[Ran] = []
    deadline, until = time.monotonic() + timeout, moment_in(ahead, "ahead").value
    settings = {**CONSUMER_DEFAULTS, **queue._access(KafkaConsumer.DEFAULT_CONFIG), "consumer_timeout_ms": _IDLE}
    settings |= {"group_id": group or queue.topic, "enable_auto_commit": False, "fetch_max_wait_ms": _FETCH}
    consumer = connect(KafkaConsumer, queue.hosts, settings, queue.topic)
    options: dict[str, Any] = {"deserializer": deserializer, "executor": executor, "concurrency": concurrency}
    options |= {"retry": retry, "dead_letters": dead_letters, "later": False, "signer": queue.signer}
    worker = Worker(queue.topic, consumer, _noting(ran, callback), **options)
    alarm = threading.Timer(timeout, worker.stop)
    alarm.daemon = True
    alarm.start()
    try:
        with _firing(queue, until) as has_more:
            # first what waits: when it waits no more it is on the topic
            while has_more(consumer) + (left := _left(consumer, queue.topic)):
                if time.monotonic() > deadline:
                    raise KQError(f"{left} messages of topic {queue.topic} are left after {timeout:g} s")
                worker.start(max_messages=left)
    finally:
        alarm.cancel()
        consumer.close()
    return ran


@contextmanager
def _firing(queue: Queue, ahead: int) -> Iterator[Callable[[KafkaConsumer], bool]]:
    """Give what tells whether something is due, at a clock that is so many milliseconds ahead, and see to it then."""
    stopping, threads = threading.Event(), list[threading.Thread]()
    access = queue._access({**KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG})
    start = time.time()  # the clock stands: what runs every second would never end
    clock = (lambda: start + ahead / 1000) if ahead else time.time
    owner = Owner(queue.topic, queue.hosts, access, signer=queue.signer, clock=clock)

    def has_more(consumer: KafkaConsumer) -> bool:
        if owner.later not in consumer.topics():
            return False
        waits = waiting(queue.topic, queue.hosts, access)
        now = start + ahead / 1000 if ahead else time.time()
        if waits is None or waits.next_due is None or waits.next_due.timestamp() > now:
            return False
        if not threads:
            threads.append(threading.Thread(target=owner.run, args=[stopping], name="kq-drain", daemon=True))
            threads[0].start()
        time.sleep(_LOOK_AGAIN)
        return True

    try:
        yield has_more
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        owner.close()


def _left(consumer: KafkaConsumer, topic: str) -> int:
    """Return how many messages, or other offsets, a group has not done.

    Only commits tell: the consumer's position may be behind messages that came before the worker was ready for them.
    """
    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
    if not partitions:
        return 0
    begin, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    return sum(max(0, end[tp] - max(consumer.committed(tp) or 0, begin[tp])) for tp in partitions)


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(scope="session")
    def kq_kafka() -> Iterator[LocalKafka]:
        """A real Kafka, for all tests of the run."""
        with LocalKafka() as local:
            yield local

    @pytest.fixture(scope="session")
    def kq_hosts(kq_kafka: LocalKafka) -> str:
        """The addresses of the Kafka for tests: override this fixture to use another than ``kq_kafka``."""
        return kq_kafka.hosts

    @pytest.fixture
    def kq_queue(kq_hosts: str) -> Iterator[Queue]:
        """A queue on a topic that no other test uses."""
        with Queue(f"test-{uuid.uuid4().hex[:12]}", hosts=kq_hosts) as queue:
            queue.ensure_topic()
            yield queue

    @pytest.fixture
    def kq_eager() -> Iterator[Eager]:
        """Jobs run where they are enqueued; the list gets their outcomes."""
        with eager() as ran:
            yield ran
