"""A record that cannot be read stops its partition, loudly, and no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import wait_until
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.codec import has_zstd

import kq
from kq.cli.main import main


@contextmanager
def working(hosts: str, topic: str, group: str | None = None) -> Iterator[list[tuple[int, int]]]:
    """Run a worker, and give the partitions and offsets that it has processed."""
    seen: list[tuple[int, int]] = []

    def callback(_: str, message: kq.Message, *rest: object) -> None:
        seen.append((message.partition, message.offset))

    worker = kq.Worker(topic, hosts=hosts, group=group, callback=callback)
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        yield seen
    finally:
        worker.stop()
        thread.join()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if (record.name, record.levelname) == ("kq.pump", "ERROR")]


def damage(data: Path, topic: str, batch: int) -> None:
    """Turn a byte over in a batch of partition 0, on the disk of a broker that does not run."""
    (log,) = data.glob(f"node-0/data/{topic}-0/*.log")
    raw, at = bytearray(log.read_bytes()), 0
    for _ in range(batch):
        at += int.from_bytes(raw[at + 8 : at + 12], "big") + 12
    raw[at + 100] ^= 0xFF
    log.write_bytes(raw)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a Kafka with a topic whose partition 0 has jobs at offsets 0 to 4, a damaged batch, and one more job."""
    data = tmp_path_factory.mktemp("kafka")
    with kq.LocalKafka(data=data) as kafka:
        with kq.Queue("damaged", hosts=kafka.hosts) as queue:
            queue.ensure_topic(partitions=2)
            spec = queue.using(partition=0)
            for number in range(5):
                spec.enqueue(abs, number)
            with kq.Queue("damaged", hosts=kafka.hosts, config={"linger_ms": 1000}) as slow:  # one batch
                slow.using(partition=0).enqueue_many([(abs, (-7,))] * 3)
            spec.enqueue(abs, -8)
        kafka.terminate()
        damage(data, "damaged", batch=5)
        kafka.restart()
        yield kafka.hosts


def test_a_damaged_batch_stops_its_partition_only(broker: str, caplog: pytest.LogCaptureFixture) -> None:
    """What stands before it runs, once; another partition runs to its end; what is wrong, and what to do, is said."""
    with working(broker, "damaged") as seen, kq.Queue("damaged", hosts=broker) as queue:
        wait_until(lambda: said(caplog), timeout=30)
        for number in range(30):
            queue.using(partition=1).enqueue(abs, number)
        wait_until(lambda: (1, 29) in seen, timeout=5)
    assert sorted(seen) == [(0, number) for number in range(5)] + [(1, number) for number in range(30)]
    (text,) = said(caplog)
    assert text.startswith("Topic damaged, partition 0 stands still at offset 5, which cannot be read: CorruptRecord")
    assert "kq skip --group damaged damaged 0 5" in text


def test_kq_skip_goes_past_a_damaged_batch(broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A stopped group goes on after the whole batch, and only there."""
    group = "skips"
    with working(broker, "damaged", group) as seen:
        wait_until(lambda: (0, 4) in seen, timeout=30)
    assert main(["skip", "--hosts", broker, "--group", group, "damaged", "0", "6"]) == 1
    assert (
        "Error: group skips is at offset 5 of partition 0: it can skip only what it stands at"
        in capsys.readouterr().err
    )
    assert main(["skip", "--hosts", broker, "--group", group, "damaged", "0", "5"]) == 0
    assert capsys.readouterr().out.startswith("offsets 5 to 7 are skipped: group skips goes on at 8 of partition 0")
    with working(broker, "damaged", group) as seen:
        wait_until(lambda: (0, 8) in seen, timeout=30)
    assert main(["skip", "--hosts", broker, "--group", group, "damaged", "0", "5"]) == 1
    assert "Error: group skips is at offset 9 of partition 0" in capsys.readouterr().err


def test_kq_skip_refuses_while_workers_run(hosts: str, topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The broker would not take the commit; the error says what to do."""
    with kq.Queue(topic, hosts=hosts) as queue, working(hosts, topic) as seen:
        queue.enqueue(abs, -1)
        wait_until(lambda: seen, timeout=30)
        queue.using(partition=0).enqueue(_wait_for_skip)
        assert _at_work.wait(30)
        assert main(["skip", "--hosts", hosts, topic, "0", "1"]) == 1
        _skipped.set()
    assert f"Error: group {topic} is at work: stop its workers, skip, and start them again" in capsys.readouterr().err


_at_work, _skipped = threading.Event(), threading.Event()


def _wait_for_skip() -> None:
    _at_work.set()
    assert _skipped.wait(30)


def compressed(hosts: str, admin: KafkaAdminClient, topic: str, codec: str) -> None:
    """Enqueue a job that the broker stores compressed, on partition 1, and let others be."""
    for compression in (codec, "producer"):
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"compression.type": compression})])
        with kq.Queue(topic, hosts=hosts) as queue:
            queue.using(partition=int(compression == codec)).enqueue(abs, -1)


@pytest.mark.skipif(has_zstd(), reason="the library that is to be missing is here")
def test_a_codec_that_is_missing_stops_its_partition_only(
    hosts: str, make_topic: Callable[..., str], admin: KafkaAdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Another partition runs, and what is to be installed is said, once."""
    topic = make_topic(partitions=2)
    compressed(hosts, admin, topic, "zstd")
    with working(hosts, topic) as seen:
        wait_until(lambda: said(caplog) and seen, timeout=30)
    assert seen == [(0, 0)]
    (text,) = said(caplog)
    assert f"Topic {topic}, partition 1 stands still at offset 0" in text
    assert "pip install 'kafka-python[zstd]'" in text


def test_what_could_not_be_read_is_tried_again(
    hosts: str, make_topic: Callable[..., str], admin: KafkaAdminClient, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The partition goes on by itself once its record can be read."""
    monkeypatch.setattr("kq.consuming.feed.STILL_WAIT", 0.2)
    monkeypatch.setattr("kafka.codec.has_gzip", lambda: False)
    topic = make_topic(partitions=2)
    compressed(hosts, admin, topic, "gzip")
    with working(hosts, topic) as seen:
        wait_until(lambda: said(caplog) and seen, timeout=30)
        monkeypatch.setattr("kafka.codec.has_gzip", lambda: True)
        wait_until(lambda: len(seen) == 2, timeout=20)
    assert seen == [(0, 0), (1, 0)]
