"""Whether a broker is there: one line when the last one goes, one when one is back.

The client itself says nothing that a program can ask for, and writes several lines a second.
"""

from __future__ import annotations

import logging

from kafka import KafkaConsumer
from kafka.structs import MemberState

from kq.clients import hosts_of, kafka_python

__all__ = ["Presence"]

_logger = logging.getLogger("kq.pump")

#: Seconds between two looks.
_LOOK_EVERY = 0.5
#: Seconds without a connection after which that is said: one that is made anew is no news.
_CUT_OFF_AFTER = 2.0
#: Seconds without an answer after which that is said, though there is a connection: heartbeats are 3 s apart.
_SILENT_AFTER = 12.0


class Presence:
    """Looks now and then whether a broker answers. For the pump's thread."""

    def __init__(self, now: float) -> None:
        self._looked = now
        #: When the broker was last there, and whether it was said that it is not.
        self._seen = now
        self._is_away = False

    def look(self, consumer: KafkaConsumer, vouched: float, now: float) -> None:
        """Look, and say what has changed.

        :param vouched: When the coordinator was last sent a commit that it answered, by the monotonic clock.
        """
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        answered = max(vouched, kafka_python.last_heartbeat(consumer) or 0.0)
        is_member = consumer.group_metadata().state == MemberState.STABLE
        is_silent = is_member and now - answered > _SILENT_AFTER
        if kafka_python.is_connected(consumer) and not is_silent:
            if self._is_away:
                _logger.warning("Kafka is back after %.1f s", now - self._seen)
            self._seen, self._is_away = now, False
        elif not self._is_away and now - self._seen > _CUT_OFF_AFTER:
            self._is_away = True
            self._seen = min(self._seen, answered) if is_silent and answered else self._seen
            _logger.warning(
                "Kafka is away: no broker of %s answers. Jobs that run go on, and what they did is committed when one "
                "is back",
                hosts_of(consumer),
            )
