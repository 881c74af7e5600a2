"""The local Kafka starts, works, and leaves nothing behind."""

from __future__ import annotations


def test_a_message_sent_is_received(topic, producer, consumer, wait_until):
    """A producer and a consumer work at once."""
    assert 0 == producer().send(topic, b"hello").get(timeout=10).offset
    reader = consumer(topic)
    received = wait_until(lambda: reader.poll(500))
    assert [b"hello"] == [record.value for records in received.values() for record in records]
