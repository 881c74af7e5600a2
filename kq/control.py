"""Control: what steers the workers of a topic, from any process.

1. A wish, such as a cancel, is a record of the topic ``T.control``. It is there when the call returns, whether a worker
   is there or not.
2. Workers read that topic, and carry out what is wished.
3. Workers report there, too. Who looks reads the topic as a table, and follows it until ``close``.
4. The first wish makes the topic; a look does not. Clients are made at first use, and ``close`` closes them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from kq.clients import (
    DEFAULT_TOPIC,
    LOOKING,
    check_config,
    check_hosts,
    check_topic,
    connect,
    ends_of,
    kafka_python,
    scan,
    settings_for,
    topics,
)
from kq.controlling import CONTROL, REPORT_EVERY, SUFFIX, Board, Seal, Wish, WorkerInfo, key_of, packed, parsed
from kq.errors import ArgumentError, KQError
from kq.job import Job
from kq.producing import Delivery, describe
from kq.signing import Signer, check_signer

__all__ = ["Control", "Lag"]

#: Settings of the producer. Who steers waits for the answer, and must not have a topic made with wrong settings.
_WRITING: Mapping[str, Any] = {
    "acks": "all",
    "allow_auto_create_topics": False,
    "max_block_ms": 10_000,
    "delivery_timeout_ms": 30_000,
    "request_timeout_ms": 10_000,
    "linger_ms": 0,
}
#: Settings of a consumer that looks at what a group has not done yet.
_READING: Mapping[str, Any] = {**LOOKING, "max_poll_records": 1}
#: Seconds until the broker has acknowledged a wish, until the producer knows the topic, and until it is closed.
_PATIENCE, _KNOWN_IN, _CLOSING = 40.0, 10.0, 5.0
#: Seconds until the topic is read, and until what was written just now is read back.
_READ_IN, _BACK_IN = 20.0, 5.0
#: Seconds between looks at what comes; and until a worker that lives must have reported again.
_LOOK_EVERY, _NEXT_REPORT = 0.02, REPORT_EVERY + 0.5
#: Characters of a job's ID, and of a group's or a worker's name.
_LONGEST_ID = 500


class Lag(NamedTuple):
    """How far a group is on a partition.

    :param end: The end of the partition.
    :param committed: What the group has committed; None where it has not.
    :param lag: How many messages are between the two, by their offsets; some of them may be done already.
    :param behind: How many seconds ago the oldest message that is not committed was put there; None where none is.
    """

    end: int
    committed: int | None
    lag: int
    behind: float | None


class Control:
    """Steers the workers of a topic. Safe for many threads.

    :param topic: The topic of the jobs; ``"default"`` if left out.
    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param config: More settings for Kafka clients, such as those that get to the brokers.
    :param signer: The :class:`kq.Signer` of the workers: signs what is wished. What it does not verify has no
        effect, and the log says so.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        topic: str = DEFAULT_TOPIC,
        hosts: str = "127.0.0.1:9092",
        config: Mapping[str, Any] | None = None,
        *,
        signer: Signer | None = None,
    ) -> None:
        self._topic = check_topic(topic)
        self._hosts = check_hosts(hosts)
        self._control = f"{topic}.{SUFFIX}"
        self._seal = Seal(topic, check_signer(signer))
        known = {**KafkaAdminClient.DEFAULT_CONFIG, **KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG}
        self._config = check_config(config, known, ("bootstrap_servers", "group_id", "transactional_id"))
        writing = {**settings_for(KafkaProducer.DEFAULT_CONFIG, self._config), **_WRITING}
        self._delivery = Delivery(repr(self), topic, None, self._hosts, writing)
        #: Guards that the topic is made once.
        self._lock = threading.Lock()
        self._board: Board | None = None
        #: The offset that was written last.
        self._written = -1
        #: For how many milliseconds a cancel is remembered; None for ever. Not there until it is known.
        self._retention: list[int | None] = []

    def __repr__(self) -> str:
        return f"Control(hosts={self._hosts}, topic={self._topic})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Control cannot be serialized: make it where it is needed")

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def hosts(self) -> str:
        """The Kafka brokers, as ``"host:port,host:port"``."""
        return self._hosts

    @property
    def topic(self) -> str:
        """The name of the topic of the jobs."""
        return self._topic

    def close(self) -> None:
        """Close the clients. Used again, it makes others."""
        with self._lock:
            board, self._board = self._board, None
        if board is not None:
            board.close()
        self._delivery.close(_CLOSING)

    def cancel(self, job: Job | str) -> None:
        """Have a job never run, if it has not started yet.

        Also where it is delayed, waits for a retry, or no worker is there. Its callback is told of a ``failure`` with
        :class:`kq.Cancelled`, and so are results. A job that runs may ask ``kq.current_job().is_cancelled()``. A job
        that is over, or that nobody knows, is left alone.

        :param job: The job as ``enqueue`` returned it, or its ID.
        :raises kq.KQError: The broker did not acknowledge it, or there is no such topic.
        :raises kq.ArgumentError: It is no job.
        """
        self._cancel(self._id_of(job))

    def terminate(self, job: Job | str) -> None:
        """Cancel a job, and end it if it runs: it is a ``failure`` with :class:`kq.Cancelled`.

        A child gets SIGTERM, and after the grace SIGKILL, as by a timeout; in threads and inline the job is interrupted
        as by a timeout.

        :param job: The job as ``enqueue`` returned it, or its ID.
        :raises kq.KQError: The broker did not acknowledge it, or there is no such topic.
        :raises kq.ArgumentError: It is no job.
        """
        self._cancel(self._id_of(job), terminate=True)

    def pause(self, group: str | None = None) -> None:
        """Have workers start no more jobs of this topic, until ``resume``: also those that start later.

        Jobs that run finish, and the workers keep their partitions.

        :param group: The consumer group; None for all.
        :raises kq.KQError: The broker did not acknowledge it, or there is no such topic.
        """
        self._have_topic()
        self._write(key_of(Wish.PAUSE, _name(group, "group")), packed(at=int(time.time() * 1000)))

    def resume(self, group: str | None = None) -> None:
        """End a pause; where nothing is paused, do nothing.

        :param group: The consumer group that was paused; None ends every pause of the topic.
        :raises kq.KQError: The broker did not acknowledge it.
        """
        name = _name(group, "group")
        board = self._look()
        for paused in [] if board is None else sorted(board.pauses):
            if group is None or paused == name:
                self._have_topic()
                self._write(key_of(Wish.PAUSE, paused), None)

    def pauses(self) -> list[str | None]:
        """Return the groups that are paused; None stands for all groups of the topic."""
        board = self._look()
        return [] if board is None else [name or None for name in sorted(board.pauses)]

    def shutdown(self, worker_id: str | None = None) -> list[str]:
        """Have workers stop as ``Worker.stop`` does: what runs may finish.

        :param worker_id: One worker, as :meth:`workers` names it; None for all that are there at this moment.
        :returns: The names of the workers that are asked.
        :raises kq.KQError: There is no worker of this name, or the broker did not acknowledge it.
        """
        if worker_id is not None:
            _name(worker_id, "worker_id")
        there = [worker.id for worker in self.workers()]
        if worker_id is not None and worker_id not in there:
            known = ", ".join(there) or "none"
            raise KQError(f"no worker {worker_id!r} on topic {self._topic}; there are: {known}")
        asked = there if worker_id is None else [worker_id]
        for name in asked:
            self._write(key_of(Wish.STOP, name), packed(at=int(time.time() * 1000)))
        return asked

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are there, by their names, as they report themselves every other second.

        One that takes no part in control is not among them. Who has not reported for 10 s is gone.
        """
        board = self._look()
        if board is None:
            return []
        deadline = time.monotonic() + _NEXT_REPORT
        # by its clock this machine may take all for gone: who lives reports again by then
        while board.reports and not (there := board.present()) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
        there = board.present()
        found = [parsed(name, *seen[:2]) for name, seen in sorted(there.items())]
        return [one[0] for one in found if one is not None]

    def ping(self, timeout: float = 3.0) -> dict[str, float]:
        """Ask all workers to answer; return those that did, and after how many seconds.

        :param timeout: How long to wait for those that do not, in seconds.
        :raises kq.KQError: The broker did not acknowledge it, or there is no such topic.
        """
        expected = {worker.id for worker in self.workers()}
        board, nonce, answered = self._look(), os.urandom(8).hex(), dict[str, float]()
        if board is None or not expected:
            return answered
        begun = time.monotonic()
        self._have_topic()
        self._write(key_of(Wish.PING), packed(nonce=nonce))
        while expected - answered.keys() and time.monotonic() - begun < timeout:
            time.sleep(_LOOK_EVERY)
            for name, seen in board.present().items():
                told = parsed(name, *seen[:2]) if name not in answered else None
                if told is not None and told[1] == nonce:
                    answered[name] = round((seen.at or begun) - begun, 3)
        return answered

    def lag(self, group: str | None = None) -> dict[int, Lag]:
        """Return how far a group is, by partition; whether its workers take part or not.

        :param group: The consumer group; the one named like the topic if left out.
        :raises kq.KQError: There is no such topic, or the brokers do not answer.
        """
        group = _name(group, "group") or self._topic
        reading = settings_for(KafkaConsumer.DEFAULT_CONFIG, self._config)
        with self._admin() as admin:
            committed = admin.list_group_offsets([group])[group]
        consumer = connect(KafkaConsumer, self._hosts, {**reading, **_READING})
        try:
            own = {tp.partition: at.offset for tp, at in committed.items() if tp.topic == self._topic}
            return self._lags(consumer, own)
        except KafkaError as error:
            raise KQError(f"topic {self._topic} does not tell how far group {group} is: {describe(error)}") from error
        finally:
            kafka_python.throw_away(consumer, 1_000)

    def _lags(self, consumer: KafkaConsumer, committed: Mapping[int, int]) -> dict[int, Lag]:
        ends = ends_of(consumer, self._topic)
        if not ends:
            raise KQError(f"there is no topic {self._topic} at {self._hosts}")
        tps = [TopicPartition(self._topic, number) for number in ends]
        begins = {tp.partition: begin for tp, begin in consumer.beginning_offsets(tps).items()}
        lags = {}
        for number, end in sorted(ends.items()):
            done = committed.get(number, -1)
            begin = max(begins[number], done)
            record = next(scan(consumer, self._topic, {number: (begin, end)}), None) if begin < end else None
            behind = None if record is None else max(0.0, time.time() - record.timestamp / 1000)
            lags[number] = Lag(end, done if done >= 0 else None, max(0, end - begin), behind)
        return lags

    def _admin(self) -> Any:
        return connect(KafkaAdminClient, self._hosts, settings_for(KafkaAdminClient.DEFAULT_CONFIG, self._config))

    def _look(self) -> Board | None:
        """Return the topic of wishes as it is read; None where there is none.

        :raises kq.KQError: It could not be read.
        """
        with self._lock:
            if self._board is None:
                with self._admin() as admin:
                    if self._control not in admin.list_topics():
                        return None
                self._board = Board(self._topic, self._hosts, self._config, seal=self._seal)
                self._board.start()
            board = self._board
        if not board.wait_loaded(_READ_IN):
            raise KQError(f"topic {self._control} could not be read within {_READ_IN:g} s")
        deadline = time.monotonic() + _BACK_IN
        while board.offset < self._written and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
        return board

    def _cancel(self, job_id: str, *, terminate: bool | None = None) -> None:
        retention = self._have_topic()
        until = None if retention is None else int(time.time() * 1000) + retention
        self._write(key_of(Wish.CANCEL, job_id), packed(until=until, terminate=terminate))

    def _id_of(self, job: Job | str) -> str:
        job_id = job.id if isinstance(job, Job) else job
        if not isinstance(job_id, str) or not 0 < len(job_id) <= _LONGEST_ID:
            raise ArgumentError("job must be a Job, as enqueue returns it, or a job's ID")
        if isinstance(job, Job) and job.topic not in (None, self._topic):
            raise ArgumentError(f"job {job_id} is of topic {job.topic}, and this steers workers of {self._topic}")
        return job_id

    def _have_topic(self) -> int | None:
        """Have the topic of wishes; return for how many milliseconds a cancel is remembered, None for ever."""
        with self._lock:
            if not (self._retention and self._delivery.knows(self._control)):
                try:
                    topics.companion_at(self._hosts, self._config, self._topic, SUFFIX, CONTROL, partitions=1)
                    told = topics.setting_at(self._hosts, self._config, self._topic, "retention.ms")
                    kafka_python.await_topic(self._delivery.producer, self._control, _KNOWN_IN)
                except KafkaError as error:
                    raise KQError(f"topic {self._control} cannot be had: {describe(error)}") from error
                millis = int(told) if told is not None and told.lstrip("-").isdigit() else -1
                self._retention = [millis if millis >= 0 else None]
            return self._retention[0]

    def _write(self, key: bytes, value: bytes | None) -> None:
        """Write a wish, or a tombstone, and return when it is acknowledged."""
        try:
            told = self._seal.write(self._delivery.producer, key, value).get(_PATIENCE)
            self._written = told.offset
        except KafkaError as error:
            raise KQError(f"topic {self._control} did not take a wish: {describe(error)}") from error


def _name(given: str | None, what: str) -> str:
    """Return a group's or a worker's name, "" for all of them; raise where it is none."""
    if given is None:
        return ""
    if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_ID:
        raise ArgumentError(f"{what} must be a str, and not an empty one")
    return given
