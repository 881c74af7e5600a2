"""Topics that KQ makes have their settings, and a clock that is wrong loses no job there."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)

import kq
from kq.cli.main import main
from kq.clients import topics
from kq.producing import LATER

COMPACTED = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}


def settings(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, None)
    found = admin.describe_configs([resource], config_filter="all")["topic"][topic]
    return {name: setting["value"] for name, setting in found.items()}


def test_a_companion_has_its_settings_and_the_partitions_of_its_topic(
    admin: KafkaAdminClient, make_topic: Callable[..., str]
) -> None:
    """It is named after its topic, and there before anything is produced to it."""
    topic = make_topic(partitions=3)
    assert topics.companion(admin, topic, "later", {**COMPACTED, "retention.ms": "12345"}) == f"{topic}.later"
    found = settings(admin, f"{topic}.later")
    assert len(admin.describe_topics([f"{topic}.later"])[0]["partitions"]) == 3
    assert {name: found[name] for name in (*COMPACTED, "retention.ms")} == {**COMPACTED, "retention.ms": "12345"}


def test_a_companion_with_another_cleanup_policy_is_left_and_said_once(
    admin: KafkaAdminClient, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What somebody made is theirs; what it would do to the table is said."""
    admin.create_topics({f"{topic}.later": {"num_partitions": 1}})
    for _ in range(2):
        topics.companion(admin, topic, "later", COMPACTED)
    warnings = [record.getMessage() for record in caplog.records if record.name == "kq.topics"]
    assert warnings == [f"Topic {topic}.later has cleanup.policy=delete, and should have compact"]
    assert settings(admin, f"{topic}.later")["cleanup.policy"] == "delete"


def test_a_companion_of_no_topic_is_refused(admin: KafkaAdminClient) -> None:
    """Nobody knows how many partitions it would need."""
    with pytest.raises(kq.KQError, match=r"topic nowhere.later could not be made: .*UnknownTopicOrPartitionError"):
        topics.companion(admin, "nowhere", "later", COMPACTED)


@pytest.fixture(scope="module")
def strict() -> Iterator[str]:
    """Return a Kafka on which nobody may make a topic but ``allowed``."""
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with kq.LocalKafka(config=config) as kafka, KafkaAdminClient(bootstrap_servers=kafka.hosts) as admin:
        admin.create_topics({"allowed": {"num_partitions": 2}, "allowed.dead": {"num_partitions": 2}})
        cluster = ResourcePattern(ResourceType.CLUSTER, "kafka-cluster")
        everything = ResourcePattern(ResourceType.TOPIC, "*")
        for pattern in (cluster, everything):
            admin.create_acls(
                [
                    ACL("User:ANONYMOUS", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, pattern),
                    ACL("User:ANONYMOUS", "*", ACLOperation.CREATE, ACLPermissionType.DENY, pattern),
                ]
            )
        yield kafka.hosts


def test_where_it_may_not_be_made_the_command_is_told(strict: str) -> None:
    """In one line, to be given to somebody who may; what is there already needs no right."""
    with KafkaAdminClient(bootstrap_servers=strict) as admin:
        wait_until(lambda: _is_refused(admin), timeout=10)
        with pytest.raises(kq.KQError) as caught:
            topics.companion(admin, "allowed", "later", COMPACTED)
        assert topics.companion(admin, "allowed", "dead", {}) == "allowed.dead"
    assert str(caught.value).endswith(
        f"kafka-topics.sh --bootstrap-server {strict} --create --topic allowed.later --partitions 2 "
        "--config cleanup.policy=compact --config message.timestamp.type=LogAppendTime"
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "command",
    [
        ("enqueue", "--delay", "60", "operator:add", "1", "2"),
        ("schedule", "add", "--every", "60", "name", "operator:add", "1", "2"),
    ],
    ids=["delay", "schedule"],
)
def test_the_command_line_tells_the_command(strict: str, tell: Callable[..., Any], command: tuple[str, ...]) -> None:
    """What waits has nowhere to wait: one line, with what makes the topic as it should be."""
    with KafkaAdminClient(bootstrap_servers=strict) as admin:
        wait_until(lambda: _is_refused(admin), timeout=10)
    split = 2 if command[0] == "schedule" else 1
    code, out, err = tell(*command[:split], "--hosts", strict, "--topic", "allowed", *command[split:])
    settings = " ".join(f"--config {name}={value}" for name, value in LATER.items())
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert (
        f"kafka-topics.sh --bootstrap-server {strict} --create --topic allowed.later --partitions 2 {settings}" in err
    )


def test_a_queue_tells_the_command(strict: str) -> None:
    """With a delay, with a retry policy that has delays, and of a schedule."""
    with KafkaAdminClient(bootstrap_servers=strict) as admin:
        wait_until(lambda: _is_refused(admin), timeout=10)
    with kq.Queue("allowed", hosts=strict) as queue:
        for act in (
            queue.using(delay=60).enqueue,
            queue.using(retry=3).enqueue,
            lambda func: queue.schedule("name", kq.Every(60), func),
        ):
            with pytest.raises(kq.EnqueueError, match=r"kafka-topics\.sh .* --create --topic allowed\.later"):
                act(print)
        assert queue.using(retry=kq.Retry(3, delay=0)).enqueue(print).id


def _is_refused(admin: KafkaAdminClient) -> bool:
    try:
        return not topics.ensure(admin, f"probe-{uuid.uuid4().hex}", 1, {})
    except kq.KQError:
        return True


def test_a_job_from_a_clock_of_2006_has_the_brokers_time(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention goes by that, so a wrong clock has no job deleted."""
    topic = f"clock-{uuid.uuid4().hex[:8]}"
    stamps: list[Any] = []
    now = time.time()
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.ensure_topic()
        monkeypatch.setattr("kq.producing.spec.time.time", lambda: now - 20 * 365 * 86400)
        queue.enqueue(abs, -1)
        monkeypatch.undo()
    worker = kq.Worker(topic, hosts=hosts, callback=lambda _, message, *rest: stamps.append(message.timestamp))
    assert worker.start(max_messages=1) == 1
    assert abs(stamps[0] / 1000 - now) < 600


@pytest.mark.parametrize("age", [0, 20 * 365 * 86400], ids=["right", "2006"])
def test_a_worker_warns_once_and_kq_info_each_time_of_producers_clocks(
    hosts: str, make_topic: Callable[..., str], client: KafkaProducer, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str], age: int,
) -> None:  # fmt: skip
    """Where retention goes by them, and all that is there seems to be too old to be kept."""
    topic = make_topic(partitions=2, message_timestamp_type="CreateTime", retention_ms=86400_000)
    stamp = int((time.time() - age) * 1000)
    value = kq.dumps(kq.Job("id", stamp, topic, abs, (1,), {}))
    client.send(topic, value, partition=1, timestamp_ms=stamp).get(10)
    worker = kq.Worker(topic, hosts=hosts)
    assert worker.start(max_messages=0) == 0
    for _ in range(2):
        timer = threading.Timer(0.5, worker.stop)
        timer.start()
        worker.start()
        timer.join()
    texts = [text for text in caplog.messages if "CreateTime" in text]
    assert len(texts) == (1 if age else 0)
    assert not age or f"Topic {topic} has message.timestamp.type=CreateTime and keeps records for 86400 s" in texts[0]
    client.send(topic, value, partition=1, timestamp_ms=stamp).get(10)  # the broker may have deleted the other by now
    assert main(["info", "--hosts", hosts, "--topic", topic]) == 0
    assert ("Warning: Topic" in capsys.readouterr().err) is bool(age)
    assert not age or "all that partitions 1 hold is older" in texts[0]
