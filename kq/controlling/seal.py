"""The seal: with a signer, wishes and reports are signed, and what is not has no effect.

1. ``write`` sends a wish, a report or a tombstone, signed where there is a signer.
2. ``holds`` looks at each record that is read, before any of it is used. What it refuses it tells of once.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from kafka import KafkaProducer

from kq.controlling.wishes import SUFFIX
from kq.errors import SignatureError
from kq.message import Record
from kq.signing import CONTROL, Signer

__all__ = ["Seal"]

_logger = logging.getLogger("kq.control")

#: The type of a record's timestamp that the broker has set, which no writer can choose.
_BY_BROKER = 1


class Seal:
    """Signs and verifies the records of ``T.control``.

    :param topic: The topic of the jobs.
    :param signer: None where nothing is signed or verified.
    """

    def __init__(self, topic: str, signer: Signer | None) -> None:
        self._topic = f"{topic}.{SUFFIX}"
        self._signer = signer

    def write(self, producer: KafkaProducer, key: bytes, value: bytes | None) -> Any:
        """Send a record, or a tombstone; return the future of its acknowledgement."""
        now = int(time.time() * 1000)
        made = Record(self._topic, value, key, [], 0, now)  # type: ignore[arg-type]  # a tombstone is signed, too
        if self._signer is not None:
            made = self._signer.sign(CONTROL, made, now)
        return producer.send(made.topic, value, key, made.headers, partition=made.partition)

    def holds(self, record: Any) -> bool:
        """Return whether a record counts; say why where it does not.

        A wish may have been there for long when a worker starts. So its age is that which it had when it was written,
        by the broker's clock: one that is sent again later is too old.
        """
        if self._signer is None:
            return True
        now = record.timestamp if record.timestamp_type == _BY_BROKER else int(time.time() * 1000)
        try:
            self._signer.verify(CONTROL, record, now)
        except SignatureError as error:
            _logger.error("Topic %s, offset %s has no effect: %s", self._topic, record.offset, error)
            return False
        return True
