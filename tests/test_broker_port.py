"""A local Kafka whose port is taken says so in one line."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kq
from kq.cli.main import main
from kq.local import broker, ports

#: An owner of a Kafka on a port, with data to keep.
OWNER = """
import sys, time, kq
with kq.LocalKafka(port=int(sys.argv[1]), data=sys.argv[2]):
    print("ready", flush=True)
    time.sleep(60)
"""


def refusal(local: kq.LocalKafka) -> str:
    """Return why it does not start."""
    with pytest.raises(kq.LocalKafkaError) as caught:
        local.start()
    assert local.pids == []
    return str(caught.value)


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port at which another program listens, and says nothing; those beside it are free.

    Outside of what the system gives to clients, or one of them may sit there.
    """
    while True:
        (port,) = ports.free_ports(1, None)[:1]
        if all(ports.is_free(port + beside) for beside in range(-2, 3)):
            break
    with socket.create_server(("127.0.0.1", port)):
        yield port


TAKEN = "port {} of 127.0.0.1 is taken by another program: end that, or give another port"


@pytest.mark.parametrize("node", [0, 2])
def test_a_taken_port_is_one_line(taken, node):
    """Of any node; it is told before anything is started."""
    lines: list[str] = []
    assert TAKEN.format(taken) == refusal(kq.LocalKafka(3, port=taken - node, on_progress=lines.append))
    assert lines == []


def test_kq_broker_says_it_in_one_line(taken, capsys):
    """With exit code 1."""
    assert main(["broker", "--port", str(taken)]) == 1
    assert capsys.readouterr() == ("", f"Error: {TAKEN.format(taken)}\n")


def test_a_port_that_a_kafka_has_is_said_to_be_of_use(kafka):
    """Who starts a second one by mistake may have wanted the first."""
    port = int(kafka.hosts.split(":")[1])
    assert f"port {port} of 127.0.0.1 is taken by a Kafka that answers: use that" in refusal(kq.LocalKafka(port=port))


def test_a_port_taken_during_the_start_is_the_same_line(taken, monkeypatch):
    """It was free when it was looked at: the node's log tells."""
    monkeypatch.setattr(broker, "check_ports", lambda ports: None)
    assert TAKEN.format(taken) == refusal(kq.LocalKafka(port=taken))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_the_port_of_an_owner_that_was_just_killed_is_waited_for(tmp_path: Path) -> None:
    """Its Kafka shuts down first, for it has data to keep."""
    (port,) = ports.free_ports(1, None)[:1]
    command = [sys.executable, "-c", OWNER, str(port), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        owner.kill()
    with kq.LocalKafka(port=port, data=tmp_path) as local:
        assert local.hosts == f"127.0.0.1:{port}"
