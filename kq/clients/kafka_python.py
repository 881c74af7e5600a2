"""The inside of kafka-python, as of 3.0.12: what KQ must look at, and what it mends, where the public face has no way.

Each release of the client is to be compared with this, and each mend can go with a release that does it itself.

1. Under ``python -O`` the client's reading of answers is mended when this is imported; it understands no broker else.
2. ``hush``: what the client calls an error, and is none, stays out of the log.
3. ``mend``: a consumer dates its coordinator's answers by the question, and a record that it cannot read stops only
   that record's partition. ``take_faults`` returns which.
4. ``take_up_join``: a join that a poll ended in the middle of is taken up again.
5. ``unpark``: records that were set aside while their partition was paused are given out after it was resumed.
6. The other functions tell what a consumer or a producer knows and has no public word for.

Where a client of other make has no such parts, they do nothing and know nothing. The thread that polls calls those
that take a consumer.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, NamedTuple
from uuid import UUID

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import Cancelled, KafkaError, OffsetOutOfRangeError, TopicAuthorizationFailedError
from kafka.record import MemoryRecords
from kafka.structs import MemberState, OffsetAndMetadata

__all__ = [
    "Fault",
    "ask_again",
    "await_topic",
    "batch_of",
    "disown",
    "forbid_auto_create",
    "force_close",
    "future_of_batch",
    "give_back",
    "has_fatal_error",
    "has_leader",
    "has_no_thread",
    "hush",
    "is_closed",
    "is_connected",
    "is_own_answer",
    "is_silent",
    "last_heartbeat",
    "mend",
    "partition_of",
    "partitions",
    "replace_listener",
    "seek",
    "send_small",
    "switch_off_auto_commit",
    "take_faults",
    "take_up_join",
    "throw_away",
    "topic_id",
    "unpark",
]

_logger = logging.getLogger("kq.clients")

#: Seconds that a topic may take to be made by its first record: until then it is no error that it is not there.
_MAKING = 5.0
#: Bytes of a value with which a record is below all limits of a producer's.
_SMALL = 4096
#: The number of the request that logs in, SaslAuthenticate, as it goes over the wire.
_LOGIN = b"\x00\x24"
#: Topic -> when it was first said not to be there.
_missing: dict[str, float] = {}


class Fault(NamedTuple):
    """A record, or a batch of them, that cannot be read: its offset, the one after it, and why."""

    offset: int
    next: int
    error: Exception


def hush() -> None:
    """Keep out of the log, for good, what the client calls an error and is none, and what nobody is to read.

    That it was closed while it asked for metadata; that a topic is not there, while its first record makes it; and
    requests that log in, which have a password or a token in them and which its debugging would show.
    """
    logging.getLogger("kafka.cluster").addFilter(_is_error)
    for name in ("kafka.protocol.parser", "kafka.net.connection"):
        logging.getLogger(name).addFilter(_has_no_login)


def _has_no_login(record: logging.LogRecord) -> bool:
    args = record.args if isinstance(record.args, tuple) else ()
    return not any(type(arg).__name__.startswith("Sasl") or _is_login(arg) for arg in args)


def _is_login(arg: object) -> bool:
    """Return whether these are the bytes of a request that logs in: its number stands behind the length."""
    return isinstance(arg, (bytes, bytearray)) and arg[4:6] == _LOGIN


def _is_error(record: logging.LogRecord) -> bool:
    args = record.args if isinstance(record.args, tuple) else ()
    if args and record.msg == "Topic %s not found in cluster metadata":
        now = time.monotonic()
        return now - _missing.setdefault(str(args[0]), now) > _MAKING
    return not any(isinstance(arg, Cancelled) for arg in args)


# -- consumers ---------------------------------------------------------------------------------------------------------


def mend(consumer: KafkaConsumer) -> None:
    """Mend a consumer."""
    coordinator: Any = getattr(consumer, "_coordinator", None)
    fetcher: Any = getattr(consumer, "_fetcher", None)
    if hasattr(fetcher, "_append") and not hasattr(fetcher, "kq_faults"):
        fetcher.kq_faults = {}
        _contain_faults(fetcher)
    if hasattr(coordinator, "heartbeat") and "received_heartbeat" not in vars(coordinator.heartbeat):
        _date_by_question(coordinator)


def give_back(consumer: KafkaConsumer) -> None:
    """Have the polls of a user's consumer raise what they cannot read, as before it was mended."""
    for name in ("_append", "_parse_fetched_data", "kq_faults"):
        vars(getattr(consumer, "_fetcher", consumer)).pop(name, None)


def _date_by_question(coordinator: Any) -> None:
    """Have ``last_receive`` say when the last heartbeat, or join, that was answered was sent.

    An answer may wait in the socket of a stopped process long after the coordinator has given its partitions away.
    """
    heartbeat, process = coordinator.heartbeat, coordinator._process_sync_group_response

    def received_heartbeat() -> None:
        heartbeat.last_receive = heartbeat.last_send

    def process_sync(response: Any, send_time: float) -> Any:
        answer = process(response, send_time)
        heartbeat.last_receive = send_time
        return answer

    heartbeat.received_heartbeat, coordinator._process_sync_group_response = received_heartbeat, process_sync


def last_heartbeat(consumer: KafkaConsumer) -> float | None:
    """Return when the coordinator was last asked what it answered as to a member; None where nobody knows."""
    heartbeat = getattr(getattr(consumer, "_coordinator", None), "heartbeat", None)
    return getattr(heartbeat, "last_receive", None)


def _contain_faults(fetcher: Any) -> None:
    """Have a poll note what it cannot read, instead of raising it, and go on with other partitions.

    Raised, it would end the poll of all partitions, and the next poll would not end.
    """
    parse, append, faults = fetcher._parse_fetched_data, fetcher._append, fetcher.kq_faults

    def parse_fetched_data(fetch: Any) -> Any:
        data = fetch.partition_data.records
        try:
            part = parse(fetch)
        except (OffsetOutOfRangeError, TopicAuthorizationFailedError):  # these are not about a record
            raise
        except Exception as error:  # whatever it is, the bytes are to blame for it  # noqa: BLE001
            faults[fetch.topic_partition] = _fault(fetch.fetched_offset, data, error)
            return None
        if part is not None:
            part.kq_data = data
        return part

    def append_records(drained: Any, part: Any, *options: Any) -> int:
        try:
            return int(append(drained, part, *options))
        except Exception as error:  # as above  # noqa: BLE001
            faults[part.topic_partition] = _fault(part.next_fetch_offset, part.kq_data, error)
            part.drain()
            return 0

    fetcher._parse_fetched_data = parse_fetched_data
    fetcher._append = append_records


def _fault(offset: int, data: Any, error: Exception) -> Fault:
    """Return the fault at an offset; it ends where the next batch begins, or else where its own batch says."""
    try:
        batches = list(MemoryRecords(data))
        ends = [batch.base_offset for batch in batches[1:]] + [batches[-1].next_offset]
        after = next(end for batch, end in zip(batches, ends, strict=True) if batch.base_offset <= offset < end)
    except (AttributeError, IndexError, KafkaError, StopIteration, TypeError):  # not even that can be read
        after = offset + 1
    return Fault(offset, after, error)


def take_faults(consumer: KafkaConsumer) -> dict[TopicPartition, Fault]:
    """Return what the polls since the last call could not read."""
    faults: dict[TopicPartition, Fault] = getattr(getattr(consumer, "_fetcher", None), "kq_faults", {})
    taken = dict(faults)
    faults.clear()
    return taken


def seek(consumer: KafkaConsumer, tp: TopicPartition, offset: int, leader_epoch: int) -> None:
    """Seek, and say which leader's log the offset is from: a log that was cut meanwhile is noticed by that."""
    consumer.seek(tp, offset)
    state = getattr(getattr(consumer, "_subscription", None), "assignment", {}).get(tp)
    if state is not None and leader_epoch >= 0:
        state.seek(OffsetAndMetadata(offset, "", leader_epoch))


def ask_again(producer: KafkaProducer, timeout: float) -> None:
    """Have a producer ask the brokers which partitions its topics have, and return when it knows, or after a time."""
    answered = threading.Event()
    metadata: Any = getattr(producer, "_metadata", None)
    if metadata is not None:
        metadata.request_update().add_both(lambda _: answered.set())
        answered.wait(timeout)


def take_up_join(consumer: KafkaConsumer) -> bool:
    """Have the next poll go on with a join that has not ended; return whether there is one.

    Where it was not the coordinator that asked for a join, the client forgets one that a poll ends in the middle of:
    the member would wait for its partitions, without a heartbeat, for ever.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is None or not coordinator.rejoining:
        return False
    with coordinator._lock:
        if coordinator.rejoining:
            coordinator.rejoin_needed = True
    return True


def unpark(consumer: KafkaConsumer) -> None:
    """Have the next poll give out records of a partition that was paused, and resumed, after they had come.

    The client sets them aside while the partition is paused, and takes them up again only while it has no records at
    hand at all, which it has from its first ones on: read to their end, they still stand there. Until the next pause
    of another partition the one that was resumed is neither read nor fetched.
    """
    fetcher: Any = getattr(consumer, "_fetcher", None)
    for tp, parked in list(getattr(fetcher, "_paused_partition_records", {}).items()):
        if consumer._subscription.is_paused(tp):
            continue
        # they change places, so that none waits for long; at no moment is one in neither, or it were fetched again
        current = fetcher._next_partition_records
        if current:
            fetcher._paused_partition_records[current.topic_partition] = current
        fetcher._next_partition_records = parked
        del fetcher._paused_partition_records[tp]
        return


def is_silent(consumer: KafkaConsumer) -> bool:
    """Return whether a member of a group sends no heartbeats, and means to go on so: another has its name."""
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is None or coordinator.state != MemberState.STABLE:
        return False
    return not (getattr(coordinator, "_heartbeat_enabled", True) or coordinator.need_rejoin())


def has_leader(consumer: KafkaConsumer, tp: TopicPartition) -> bool:
    """Return whether somebody can be asked about a partition's log; True where that is unknown."""
    cluster = _cluster(consumer)
    return cluster is None or cluster.leader_for_partition(tp) not in (None, -1)


def partitions(client: Any, topic: str) -> set[int] | None:
    """Return the partitions of a topic as far as a client knows, without asking; None if it knows nothing of it."""
    cluster = _cluster(client)
    return None if cluster is None else cluster.partitions_for_topic(topic)


def partition_of(producer: KafkaProducer, topic: str, partition: int | None, key: bytes) -> int:
    """Return where a producer that knows a topic would put a key; the named partition, if that is there."""
    return int(producer._partition(topic, partition, key, None, key, None))


def _cluster(client: Any) -> Any:
    return getattr(client, "_cluster", None) or getattr(client, "_metadata", None)


def topic_id(consumer: KafkaConsumer, topic: str) -> UUID | None:
    """Return the ID of a topic, by which one that was made anew is told from the old one; None while it is unknown."""
    cluster = _cluster(consumer)
    return None if cluster is None else cluster.topic_id(topic)


def replace_listener(consumer: KafkaConsumer, listener: AsyncConsumerRebalanceListener) -> bool:
    """Have another listener hear of rebalances, the subscription unchanged; return whether that is possible."""
    state: Any = getattr(consumer, "_subscription", None)
    if not hasattr(state, "rebalance_listener"):
        return False
    state.rebalance_listener = listener
    return True


def forbid_auto_create(client: Any) -> None:
    """Hand ``allow_auto_create_topics=False`` on, which the client does not: it would make a deleted topic anew."""
    config = getattr(_cluster(client), "config", None)
    if isinstance(config, dict):
        config["allow_auto_create_topics"] = False


def switch_off_auto_commit(consumer: KafkaConsumer) -> bool:
    """Have a consumer commit nothing by itself; return whether that is possible."""
    config = getattr(getattr(consumer, "_coordinator", None), "config", None)
    if not isinstance(config, dict):
        return False
    consumer.config["enable_auto_commit"] = config["enable_auto_commit"] = False
    return True


def throw_away(consumer: KafkaConsumer, timeout_ms: float) -> None:
    """Close a consumer: how it ends matters to nobody."""
    try:
        consumer.close(autocommit=False, timeout_ms=timeout_ms)
    except Exception as error:  # whatever it is: it is done with  # noqa: BLE001
        _logger.debug("The consumer did not close: %s", error)


def is_connected(client: Any) -> bool:
    """Return whether a consumer or producer is connected to a broker; True where that is unknown."""
    sender = getattr(client, "_sender", None)
    manager = getattr(getattr(sender, "_client", client), "_manager", None)
    connections = list(getattr(manager, "_conns", {}).values())
    return manager is None or any(getattr(connection, "connected", True) for connection in connections)


def is_closed(client: Any) -> bool:
    """Return whether a consumer or a producer was closed."""
    return bool(getattr(client, "_closed", False))


# -- producers ---------------------------------------------------------------------------------------------------------


def future_of_batch(future: Any) -> Any:
    """Return the future of the batch that a record went into; None where that is unknown."""
    return getattr(future, "_produce_future", None)


def await_topic(producer: KafkaProducer, topic: str, seconds: float) -> None:
    """Return when a producer knows the partitions of a topic.

    :raises KafkaTimeoutError: They are not known within so many seconds.
    """
    producer._wait_on_metadata(topic, seconds * 1000)


def send_small(producer: KafkaProducer, record: Any) -> Any:
    """Do what ``send`` does with a record, in half of its time where that is small, and for a partition that is known.

    ``send`` looks at types, sizes and log lines that are no question for the records that the library makes itself.
    """
    topic, value, key, headers, partition, timestamp = record
    accumulator: Any = getattr(producer, "_accumulator", None)
    is_known = partition is not None and partition in (partitions(producer, topic) or ())
    if not is_known or len(value) > _SMALL or not hasattr(accumulator, "append") or is_closed(producer):
        return producer.send(*record)
    future, is_full, is_new, _ = accumulator.append(TopicPartition(topic, partition), timestamp, key, value, headers)
    if is_full or is_new:
        producer._sender.wakeup()
    return future


def batch_of(producer: KafkaProducer, future: Any) -> Any:
    """Return the batch, by its future, that a record was just put into, or None where it cannot be told.

    A batch that was never drained never left this process, whatever its future says. The client has no public word
    for that; where its insides change, or the batch has left already, an outcome is less often known, never wrong.
    """
    try:
        batch = producer._accumulator._batches[future.topic_partition][-1]
        return batch if batch.produce_future is future and hasattr(batch, "drained") else None
    except (AttributeError, IndexError, KeyError, TypeError):
        return None


def is_own_answer(future: Any) -> bool:
    """Return whether an error is the broker's answer to this very record.

    When the client gives up it fails all that it has with one error; those records have the base offset -1.
    """
    value = getattr(future_of_batch(future), "value", None)
    return not (isinstance(value, tuple) and value[:1] == (-1,))


def has_fatal_error(producer: KafkaProducer | None) -> bool:
    """Return whether a producer has ended for good: after one refusal an idempotent one sends nothing."""
    state = getattr(producer, "_transaction_manager", None)
    return state is not None and bool(state.has_fatal_error())


def has_no_thread(producer: KafkaProducer) -> bool:
    """Return whether a producer that is not closed has lost its thread, as it does in a fork."""
    thread = getattr(producer, "_sender", None)
    return thread is not None and not thread.is_alive() and not getattr(producer, "_closed", True)


def force_close(producer: KafkaProducer, timeout: float = 0.0) -> None:
    """Have a producer fail all that it has, and end; wait so many seconds for that."""
    producer._sender.force_close()
    producer._unregister_cleanup()
    producer._closed = True
    producer._sender.join(timeout)


def disown(producer: KafkaProducer) -> None:
    """Keep a parent's producer from closing itself at exit: it would wait for a thread that is not in this process."""
    producer._closed = True


if not __debug__:
    # a byte of every answer is read inside an assertion: without assertions all that follows is read one byte off
    from kafka.protocol.schemas.fields.codecs import UnsignedVarInt32
    from kafka.protocol.schemas.fields.codecs.tagged_fields import TaggedFields

    def _read_no_tags(_cls: type, data: Any) -> None:
        UnsignedVarInt32.decode(data)

    TaggedFields.decode_empty = classmethod(_read_no_tags)
