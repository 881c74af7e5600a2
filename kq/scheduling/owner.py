"""The owner: fires what waits in ``T.later`` when it is due.

1. Owners of one topic are a consumer group, ``T.later``. Who has a partition owns what waits there. Nothing is
   committed: a partition is read from its start, and then followed.
2. What is due is produced to ``T``: the same value, headers, key and partition.
3. When the broker has acknowledged that, a tombstone ends the entry. A death in between fires it again, with the same
   job ID.
4. A job that is cancelled goes to ``T`` at once, marked: the worker that gets it tells of that, and does not run it.
5. Nothing is fired on behalf of a member that is gone, nor before its time by this machine's clock.

One thread runs all of it. The listener, on the client's I/O thread, notes what comes and goes; the producer's thread
notes answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from uuid import UUID

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.structs import MemberState

from kq.clients import BusyFirstAssignor, connect, kafka_python, settings_for
from kq.controlling import Cancels
from kq.job import Job
from kq.message import Record
from kq.producing import SUFFIX, Delivery, describe
from kq.scheduling.entries import fired
from kq.scheduling.part import Part, Staged
from kq.scheduling.rereader import Rereader
from kq.scheduling.schedule import FIRED, Plan, fired_value
from kq.scheduling.stamp import Stamp
from kq.signing import Signer

__all__ = ["Owner"]

_logger = logging.getLogger("kq.scheduling")

#: Settings of the consumer. ``session_timeout_ms``: how long what a dead owner had is late; to fire twice because one
#: was taken for dead costs a repeat. ``metadata_max_age_ms``: a partition that is added is followed within that time.
SETTINGS: Mapping[str, Any] = {
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metadata_max_age_ms": 5_000,
    # of these a client has several at once, for each partition: what is pending should cost more than how it came
    "max_poll_records": 1_000,
    "max_partition_fetch_bytes": 262_144,
    "metrics_enabled": False,
    "session_timeout_ms": 10_000,
    "heartbeat_interval_ms": 1_000,
}
#: Settings of the producer: it makes no topic, and one that is not there is soon known.
_PRODUCER = {"allow_auto_create_topics": False, "max_block_ms": 2_000}
#: How large a record may be its topic says: a worker's settings are a consumer's.
_LARGEST = {"max_request_size": 32 << 20}
#: Milliseconds of a poll while nothing is due, and while answers or records are awaited.
_IDLE_MS, _BUSY_MS = 250, 2
#: Milliseconds of a poll in a rebalance: shorter ones may keep a join from ever finishing.
_JOIN_MS = 100
#: Milliseconds until the broker has told where logs begin and end, and until the client is closed.
_ASK_MS, _CLOSE_MS = 5_000, 1_000
#: Entries that are on their way at most, and that are sent before the consumer is polled again.
_MOST_FLIGHTS, _AT_ONCE = 10_000, 1_000
#: Milliseconds until what was refused is tried again, at first and at most.
_RETRY_MS = 250, 5_000
#: Seconds between two lines in the log about refusals.
_COMPLAIN_EVERY = 60.0
#: Seconds that what is on its way has at the end.
_LAST_PATIENCE = 2.0
#: Stands where a delivery wants a job to name in its errors.
_NO_JOB = Job()


class _Flight:
    """A record on its way: to the topic of the jobs, or to ``T.later`` to say that it is there.

    :param what: An entry, or a schedule and the run.
    """

    __slots__ = ("is_last", "part", "refusals", "since", "what")

    def __init__(self, part: Part, what: Staged | tuple[Plan, int], *, is_last: bool = False) -> None:
        self.part = part
        self.what = what
        self.since = time.monotonic()
        #: Whether it is the second record: a tombstone, or what was fired last.
        self.is_last = is_last
        self.refusals = 0

    def record(self, topic: str, now: int) -> Record:
        """Return the first record."""
        if isinstance(self.what, Staged):
            record = self.what.record
            return fired(topic, record, now, is_cancelled=self.part.is_cancelled(record))
        plan, due = self.what
        return plan.run(topic, due, now)

    def source(self) -> Any:
        """Return the record of ``T.later`` that the first one is made of."""
        return self.what.record if isinstance(self.what, Staged) else self.what[0].record

    def last(self) -> tuple[bytes, bytes | None]:
        """Return key and value of the second record."""
        if isinstance(self.what, Staged):
            return self.what.record.key, None
        plan, due = self.what
        return FIRED + plan.name.encode(), fired_value(due)

    def due(self) -> int:
        return self.what.due if isinstance(self.what, Staged) else self.what[1]


class Owner:
    """Fires the delayed jobs of one topic, as a member of the group of its owners.

    :param config: More settings of any Kafka client.
    :param signer: Verifies what is to be fired, and signs what it becomes.
    :param clock: Returns Unix seconds.
    :param cancels: Which jobs are cancelled, where somebody reads that.
    """

    def __init__(
        self,
        topic: str,
        hosts: str,
        config: Mapping[str, Any],
        *,
        signer: Signer | None = None,
        clock: Callable[[], float] = time.time,
        cancels: Cancels | None = None,
    ) -> None:
        self.topic, self.later = topic, f"{topic}.{SUFFIX}"
        self._hosts = hosts
        own = settings_for(KafkaConsumer.DEFAULT_CONFIG, config)
        own = {name: value for name, value in own.items() if name != "group_instance_id"}
        forced = {"group_id": self.later, "enable_auto_commit": False, "auto_offset_reset": "earliest"}
        self._settings = {**SETTINGS, **own, **forced}
        producer = {**_LARGEST, **settings_for(KafkaProducer.DEFAULT_CONFIG, config), **_PRODUCER}
        self._delivery = Delivery(f"the owner of {self.later}", topic, None, hosts, producer)
        self._rereader = Rereader(self.later, hosts, self._settings)
        self._clock = clock
        self._stamp = Stamp(self.later, signer)
        self._cancels = cancels or Cancels()
        #: IDs of jobs that were cancelled since the parts were looked through.
        self._cancelled = self._cancels.follow()
        #: What the listener has noted: partitions that came, or went.
        self._news: deque[tuple[bool, list[TopicPartition]]] = deque()
        self._parts: dict[int, Part] = {}
        self._flights: dict[int, tuple[_Flight, Any]] = {}
        self._answers: deque[tuple[_Flight, BaseException | None]] = deque()
        #: Tombstones that were refused: when each is sent again.
        self._unburied: list[tuple[float, _Flight]] = []
        self._topic_id: UUID | None = None
        self._complain_at = 0.0
        self._has_told = False
        self._fired = self._late = 0

    def stats(self) -> dict[str, float]:
        """Return how many partitions, pending entries and firings there are. From any thread."""
        parts = list(self._parts.values())
        pending = sum(map(len, parts))
        return {"partitions": len(parts), "pending": pending, "fired": self._fired, "latest_ms": self._late}

    @property
    def is_loaded(self) -> bool:
        """Whether all that was in the partitions is known. From any thread."""
        parts = list(self._parts.values())
        return bool(parts) and all(part.is_loaded for part in parts)

    def run(self, stopping: threading.Event) -> None:
        """Fire what is due until ``stopping`` is set."""
        settings = {"partition_assignment_strategy": (BusyFirstAssignor(),), **self._settings}
        consumer = connect(KafkaConsumer, self._hosts, settings)
        self._news.clear()
        self._parts.clear()
        try:
            kafka_python.mend(consumer)
            consumer.subscribe([self.later], listener=_Listener(self))
            while not stopping.is_set():
                self._turn(consumer)
            self._settle(time.monotonic() + _LAST_PATIENCE)
        finally:
            for part in self._parts.values():
                part.is_closed = True
            kafka_python.throw_away(consumer, _CLOSE_MS)
            self._rereader.close()

    def close(self) -> None:
        """Close the producer."""
        self._delivery.close(_LAST_PATIENCE)

    def note(self, tps: Iterable[TopicPartition], *, has_come: bool) -> None:
        """Note partitions that come or go, on the client's I/O thread."""
        tps = list(tps)
        if not has_come:
            for tp in tps:
                if (part := self._parts.get(tp.partition)) is not None:
                    part.is_closed = True  # at once: the next owner may be loading
        self._news.append((has_come, tps))

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _turn(self, consumer: KafkaConsumer) -> None:
        self._take_news(consumer, {})
        kafka_python.unpark(consumer)
        records = consumer.poll(timeout_ms=self._patience(consumer))
        kafka_python.take_up_join(consumer)
        self._pass_faults(consumer)
        self._check_topic(consumer)
        self._take_news(consumer, records)
        self._take_in(records)
        self._note_loaded(consumer)
        self._read_again()
        self._note_answers()
        self._hasten()
        if self._is_vouched(consumer):
            self._stage()
            self._fire()

    def _millis(self) -> int:
        return int(self._clock() * 1000)

    def _patience(self, consumer: KafkaConsumer) -> int:
        """Return for how many milliseconds the consumer may wait for records."""
        if consumer.group_metadata().state != MemberState.STABLE:
            return _JOIN_MS
        if self._flights or self._answers or self._unburied or self._rereader:
            return _BUSY_MS
        looks = [look for part in self._open_parts() if (look := part.next_look()) is not None]
        return max(1, min(_IDLE_MS, min(looks) - self._millis())) if looks else _IDLE_MS

    def _open_parts(self) -> list[Part]:
        return [part for part in self._parts.values() if part.is_loaded and not part.is_closed]

    def _is_vouched(self, consumer: KafkaConsumer) -> bool:
        """Return whether the coordinator knew this member within the session timeout: others may have its parts."""
        answered = kafka_python.last_heartbeat(consumer)
        return answered is None or time.monotonic() - answered < self._settings["session_timeout_ms"] / 1000

    # -- what comes in -------------------------------------------------------------------------------------------------

    def _take_news(self, consumer: KafkaConsumer, records: dict[TopicPartition, list[Any]]) -> None:
        while self._news:
            has_come, tps = self._news.popleft()
            for tp in tps:
                self._parts.pop(tp.partition, None)
                self._rereader.forget(tp.partition)
                records.pop(tp, None)  # from a position that nobody vouches for
            if has_come:
                self._begin(consumer, [tp for tp in tps if tp in consumer.assignment()])

    def _begin(self, consumer: KafkaConsumer, tps: list[TopicPartition]) -> None:
        """Read partitions from their start."""
        if not tps:
            return
        ends = consumer.end_offsets(tps, timeout_ms=_ASK_MS)
        begins = consumer.beginning_offsets(tps, timeout_ms=_ASK_MS)
        for tp in tps:
            if tp in consumer.assignment():
                consumer.seek(tp, begins[tp])
                self._parts[tp.partition] = Part(tp.partition, ends[tp], self._cancels.ids)

    def _check_topic(self, consumer: KafkaConsumer) -> None:
        """Begin anew where the topic was made anew."""
        before, now = self._topic_id, kafka_python.topic_id(consumer, self.later)
        self._topic_id = now or before
        if before is not None and before != self._topic_id:
            _logger.warning("Topic %s was made anew: it is read from the start", self.later)
            self._news.append((True, list(consumer.assignment())))

    def _take_in(self, records: Mapping[TopicPartition, list[Any]]) -> None:
        now = self._millis()
        for tp, polled in records.items():
            part = self._parts.get(tp.partition)
            foreign = [] if part is None else [record for record in polled if not part.apply(record, now)]
            if foreign and not self._has_told:
                self._has_told = True
                line = "Topic %s holds what is no delayed job, at offset %s of partition %s: such records are skipped"
                _logger.warning(line, self.later, foreign[0].offset, tp.partition)

    def _note_loaded(self, consumer: KafkaConsumer) -> None:
        for part in self._parts.values():
            if not part.is_loaded and not part.is_closed:
                position = consumer.position(TopicPartition(self.later, part.number), timeout_ms=0)
                part.is_loaded = (position or 0) >= part.end

    def _pass_faults(self, consumer: KafkaConsumer) -> None:
        """Pass over what is damaged, loudly: what stands behind it is due, too."""
        for tp, fault in kafka_python.take_faults(consumer).items():
            line = "Topic %s, partition %s: offsets %s to %s cannot be read and are passed over: %s"
            _logger.error(line, *tp, fault.offset, fault.next - 1, fault.error)
            consumer.seek(tp, fault.next)

    def _hasten(self) -> None:
        """Have what was cancelled go at once."""
        ids = [self._cancelled.popleft() for _ in range(len(self._cancelled))]
        if ids:
            for part in self._parts.values():
                part.hasten(ids, self._millis())

    def _stage(self) -> None:
        for part in self._open_parts():
            if offsets := part.stage(self._millis()):
                self._rereader.want(part.number, offsets)

    def _read_again(self) -> None:
        found, gone = self._rereader.poll(_BUSY_MS)
        for record in found:
            if (part := self._parts.get(record.partition)) is not None:
                part.give(record)
        for number, offset in gone:
            if (part := self._parts.get(number)) is not None:
                part.gone(offset)

    # -- firing --------------------------------------------------------------------------------------------------------

    def _fire(self) -> None:
        """Send what is due to the topic of the jobs."""
        left = min(_AT_ONCE, _MOST_FLIGHTS - len(self._flights))
        for part in self._open_parts():
            while left > 0 and not part.is_closed and (staged := part.take(self._millis())) is not None:
                left -= 1
                self._produce(_Flight(part, staged))
            for run in part.runs(self._millis()) if not part.is_closed else ():
                if not self._stamp.admits(run[0], self._millis()):
                    continue
                run[0].is_in_flight = True
                self._produce(_Flight(part, run))

    def _produce(self, flight: _Flight) -> None:
        now = self._millis()
        try:
            sent = self._delivery.send(_NO_JOB, self._stamp.anew(flight.source(), flight.record(self.topic, now)))
        except Exception as error:  # noqa: BLE001 - the door of the client: whatever it is, the job is not there
            self._refused(flight, error.__cause__ or error)
            return
        self._late = now - flight.due()
        self._await(flight, sent.future)

    def _await(self, flight: _Flight, future: Any) -> None:
        self._flights[id(flight)] = flight, future
        future.add_both(partial(self._hear, flight, future))

    def _hear(self, flight: _Flight, future: Any, _: object) -> None:
        """Note an answer, in the producer's thread."""
        self._answers.append((flight, future.exception))

    def _note_answers(self) -> None:
        while self._answers:
            flight, error = self._answers.popleft()
            if self._flights.pop(id(flight), None) is None:
                continue
            if error is not None:
                self._refused(flight, error)
            elif not flight.is_last:
                self._fired += 1
                if not isinstance(flight.what, Staged):
                    flight.part.end_run(*flight.what)
                self._bury(flight)
        now = time.monotonic()
        due, self._unburied = (
            [flight for at, flight in self._unburied if at <= now],
            [(at, flight) for at, flight in self._unburied if at > now],
        )
        for flight in due:
            self._bury(flight)
        self._give_up_on_silent(now)

    def _bury(self, flight: _Flight) -> None:
        """Say that a job is on its topic, an entry's by a tombstone. Also where the partition is another's by now."""
        last, (key, value) = _Flight(flight.part, flight.what, is_last=True), flight.last()
        last.refusals = flight.refusals if flight.is_last else 0
        try:
            future = self._delivery.producer.send(self.later, value, key=key, partition=flight.part.number)
        except Exception as error:  # noqa: BLE001 - the door of the client
            self._refused(last, error)
            return
        self._await(last, future)

    def _refused(self, flight: _Flight, error: BaseException) -> None:
        """Have what was refused sent again after a pause."""
        now, what = time.monotonic(), flight.what
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_EVERY
            topic = self.later if flight.is_last else self.topic
            _logger.error("Topic %s refuses a record, which is tried again: %s", topic, describe(error))
        refused = what if isinstance(what, Staged) and not flight.is_last else flight
        pause = min(_RETRY_MS[1], _RETRY_MS[0] * 2 ** min(refused.refusals, 10))
        refused.refusals += 1
        if flight.is_last:
            self._unburied.append((now + pause / 1000, flight))
        elif not isinstance(what, Staged):
            what[0].held_until, what[0].is_in_flight = self._millis() + _RETRY_MS[1], False
        elif not flight.part.is_closed:
            flight.part.put_back(what, self._millis() + pause)

    def _give_up_on_silent(self, now: float) -> None:
        """Have a producer that does not answer in time fail what it has; another is made."""
        first = next(iter(self._flights.values()), None)
        if first is None or now < first[0].since + self._delivery.patience:
            return
        self._delivery.abandon()
        for _, future in list(self._flights.values()):
            if not future.is_done:
                future.failure(KafkaTimeoutError("the producer does not answer"))

    def _settle(self, deadline: float) -> None:
        """Wait for what is on its way, so that the next owner does not repeat it."""
        while (self._flights or self._answers) and time.monotonic() < deadline:
            self._note_answers()
            time.sleep(_BUSY_MS / 1000)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Hears of rebalances. Runs on the client's I/O thread."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._owner.note(assigned, has_come=True)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._owner.note(revoked, has_come=False)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._owner.note(lost, has_come=False)
