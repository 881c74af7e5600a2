"""Single records, read from their places: the inside of a letter, and what waits next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from kq.clients import LOOKING, connect, kafka_python, scan, settings_for
from kq.errors import KQError
from kq.producing import describe

__all__ = ["SingleReader"]

_READING: Mapping[str, Any] = {**LOOKING, "max_poll_records": 1}
#: Records that are kept, for pages that are looked at again and again; and the bytes of one that is.
_MOST, _LARGEST = 500, 65_536


class SingleReader:
    """Reads records one by one, from any thread, with one consumer.

    :param config: More settings of any Kafka client.
    """

    def __init__(self, hosts: str, config: Mapping[str, Any]) -> None:
        self._hosts = hosts
        self._settings = {**settings_for(KafkaConsumer.DEFAULT_CONFIG, config), **_READING}
        #: Held while the consumer is used.
        self._lock = threading.Lock()
        self._consumer: KafkaConsumer | None = None
        self._kept: OrderedDict[tuple[str, int, int], Any] = OrderedDict()

    def read(self, topic: str, partition: int, offset: int) -> Any | None:
        """Return the record at a place; None where it is gone.

        :raises kq.KQError: The brokers do not answer.
        """
        place = (topic, partition, offset)
        if (kept := self._kept.get(place)) is not None:
            return kept
        with self._lock:
            try:
                found = self._read(topic, partition, offset)
            except (KafkaError, KQError) as error:
                self._drop()
                raise KQError(f"topic {topic} could not be read: {describe(error)}") from error
            if found is not None and len(found.value or b"") <= _LARGEST:
                self._kept[place] = found
                while len(self._kept) > _MOST:
                    self._kept.popitem(last=False)
        return found

    def close(self) -> None:
        """Let the consumer go."""
        with self._lock:
            self._drop()

    def _read(self, topic: str, partition: int, offset: int) -> Any | None:
        if self._consumer is None:
            self._consumer = connect(KafkaConsumer, self._hosts, self._settings)
        if partition not in (self._consumer.partitions_for_topic(topic) or ()):
            return None
        return next(scan(self._consumer, topic, {partition: (offset, offset + 1)}), None)

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            kafka_python.throw_away(consumer, 1_000)
