"""Reads single records of a log again, many in one go where they stand close together."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from kq.clients import connect, kafka_python

__all__ = ["Rereader"]

#: Offsets between two records that are wanted, beyond which the consumer seeks: to read on is cheaper up to there.
_FAR = 2_000
#: Milliseconds that closing may take.
_CLOSE_MS = 1_000


class Rereader:
    """A consumer that goes where a record is wanted. It is made at first use."""

    def __init__(self, topic: str, hosts: str, config: Mapping[str, Any]) -> None:
        self._topic = topic
        self._hosts = hosts
        self._config = config
        self._consumer: KafkaConsumer | None = None
        #: Partition -> the offsets that are wanted, ascending.
        self._wanted: dict[int, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def want(self, partition: int, offsets: Iterable[int]) -> None:
        """Have records read."""
        wanted = self._wanted.setdefault(partition, [])
        for offset in offsets:
            insort(wanted, offset)
        if not wanted:
            del self._wanted[partition]
            return
        consumer, tp = self._open(), TopicPartition(self._topic, partition)
        if tp not in consumer.assignment():
            consumer.assign([*consumer.assignment(), tp])
            for number, offsets_there in self._wanted.items():  # the client may forget where it was
                consumer.seek(TopicPartition(self._topic, number), offsets_there[0])
        consumer.resume(tp)
        consumer.seek(tp, wanted[0])

    def forget(self, partition: int) -> None:
        """Want nothing more of a partition."""
        if self._wanted.pop(partition, None) is not None:
            self._let_go(partition)

    def poll(self, timeout_ms: int) -> tuple[list[Any], list[tuple[int, int]]]:
        """Return the records that have come, and partition and offset of those that are gone."""
        found: list[Any] = []
        gone: list[tuple[int, int]] = []
        if not self._wanted:
            return found, gone
        consumer = self._open()
        for tp, records in consumer.poll(timeout_ms=timeout_ms).items():
            self._match(tp, records, found, gone)
        for tp, fault in kafka_python.take_faults(consumer).items():  # it cannot be read, now or ever
            consumer.seek(tp, fault.next)
            self._drop_through(tp, fault.next - 1, gone)
        for number in list(self._wanted):  # where the end of the log was compacted away, no record tells
            tp = TopicPartition(self._topic, number)
            self._drop_through(tp, (consumer.position(tp, timeout_ms=0) or 0) - 1, gone)
        return found, gone

    def close(self) -> None:
        """Close the consumer."""
        if self._consumer is not None:
            kafka_python.throw_away(self._consumer, _CLOSE_MS)
            self._consumer = None

    def _open(self) -> KafkaConsumer:
        if self._consumer is None:
            config = {**self._config, "group_id": None}
            self._consumer = connect(KafkaConsumer, self._hosts, config)
            kafka_python.mend(self._consumer)
        return self._consumer

    def _match(self, tp: TopicPartition, records: list[Any], found: list[Any], gone: list[tuple[int, int]]) -> None:
        wanted = self._wanted.get(tp.partition, [])
        by_offset = {record.offset: record for record in records}
        last, count = records[-1].offset, 0
        for offset in wanted:
            if offset > last:
                break
            count += 1
            if offset in by_offset:
                found.append(by_offset[offset])
            else:
                gone.append((tp.partition, offset))
        del wanted[:count]
        self._go_on(tp, last)

    def _drop_through(self, tp: TopicPartition, last: int, gone: list[tuple[int, int]]) -> None:
        wanted = self._wanted.get(tp.partition, [])
        while wanted and wanted[0] <= last:
            gone.append((tp.partition, wanted.pop(0)))
        self._go_on(tp, last)

    def _go_on(self, tp: TopicPartition, last: int) -> None:
        wanted = self._wanted.get(tp.partition, [])
        if not wanted:
            self._wanted.pop(tp.partition, None)
            self._let_go(tp.partition)
        elif wanted[0] > last + _FAR and self._consumer is not None:
            self._consumer.seek(tp, wanted[0])

    def _let_go(self, partition: int) -> None:
        """Fetch nothing more of a partition."""
        if self._consumer is not None:
            self._consumer.pause(TopicPartition(self._topic, partition))
