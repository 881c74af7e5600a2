"""Questions about a topic, put by a consumer's own client, without a metadata update of all topics."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kafka import KafkaConsumer
from kafka.errors import TopicAuthorizationFailedError
from kafka.protocol.metadata import MetadataRequest

__all__ = ["ask_for", "is_hidden"]


def is_hidden(consumer: KafkaConsumer, topic: str, timeout: float) -> bool:
    """Return whether a consumer may not see a topic, whether there is one or not; False where nobody tells in time."""
    codes: list[int] = []
    answered = threading.Event()

    def take(code: int) -> None:
        codes.append(code)
        answered.set()

    _ask(consumer, topic, take)
    answered.wait(timeout)
    return codes == [TopicAuthorizationFailedError.errno]


def ask_for(consumer: KafkaConsumer, topic: str, answer: Callable[[bool], None]) -> None:
    """Ask a broker whether there is a topic, without waiting; the client's thread gives the answer, if one comes."""
    _ask(consumer, topic, lambda code: answer(code == 0))


def _ask(consumer: KafkaConsumer, topic: str, take: Callable[[int], object]) -> None:
    manager = getattr(consumer, "_manager", None)
    if manager is None:
        return
    request = MetadataRequest(
        topics=[MetadataRequest.MetadataRequestTopic(name=topic)],
        allow_auto_topic_creation=False,
        include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )
    try:
        asked = manager.call_soon(manager.send, request)
    except Exception:  # noqa: BLE001 - its client is closed, or its loop has ended of something: nobody answers
        return
    asked.add_callback(lambda response: take(response.topics[0].error_code))
