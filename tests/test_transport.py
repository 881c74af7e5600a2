"""Everything works by TLS, with certificates, and with each login that Kafka has."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
import retry_jobs
from helpers import at_work, wait_until
from secured import LOGINS, WAYS, Kafkas

import kq

Tell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def topic() -> str:
    """Return the name of a topic that is not there yet."""
    return f"secured-{uuid.uuid4().hex[:12]}"


@pytest.mark.parametrize("way", WAYS)
def test_jobs_delays_retries_letters_results_and_control(secured: Kafkas, way: str, topic: str) -> None:
    """One worker with everything on, and all who ask it, by each way in."""
    hosts, config = secured.way(way)
    at = {"hosts": hosts, "config": config}
    worker = kq.Worker(topic, **at, results=True, dead_letters=True, control=True, executor="thread", concurrency=4)
    with kq.Queue(topic, **at) as queue, kq.Control(topic, **at) as control, queue.collect() as results:
        queue.ensure_topic(partitions=2)
        now = queue.enqueue(jobs.add, 1, 2)
        later = queue.using(delay=0.3).enqueue(jobs.add, 3, 4)
        again = queue.using(retry=kq.Retry(1, delay=0.1)).enqueue(retry_jobs.flaky)
        dropped = queue.using(delay=3600).enqueue(jobs.add, 5, 6)
        control.cancel(dropped)
        with at_work(worker):
            assert results.get(now, timeout=30) == 3
            assert results.get(later, timeout=30) == 7
            with pytest.raises(retry_jobs.Flaky):
                results.get(again, timeout=30)
            with pytest.raises(kq.Cancelled):
                results.get(dropped, timeout=30)
            wait_until(control.workers, timeout=30)
    (letter,) = kq.DeadLetters(topic, **at).iterate()
    assert (dict(letter.headers)["kq-id"], letter.attempts) == (again.id.encode(), 2)


JAVA = """
security.protocol=SASL_SSL
sasl.mechanism={mechanism}
sasl.jaas.config=org.apache.kafka.common.security.{module} required \\
    {options};
ssl.truststore.type=PEM
ssl.truststore.location={ca}
ssl.endpoint.identification.algorithm=https
"""
NAMED = 'username="admin" password="{password}"'
LOGIN_MODULES = {
    "PLAIN": ("plain.PlainLoginModule", NAMED),
    "SCRAM-SHA-256": ("scram.ScramLoginModule", NAMED),
    "SCRAM-SHA-512": ("scram.ScramLoginModule", NAMED),
    "OAUTHBEARER": ("oauthbearer.OAuthBearerLoginModule", 'unsecuredLoginStringClaim_sub="admin"'),
}


@pytest.mark.parametrize("mechanism", LOGINS)
def test_the_command_line_reads_what_java_reads(
    secured: Kafkas, tell: Tell, tmp_path: Path, mechanism: str, topic: str
) -> None:
    """A ``client.properties`` gets a job onto its topic, and a worker to it."""
    config = secured.logins.config_for("admin", "PLAIN")
    module, options = LOGIN_MODULES[mechanism]
    words = {"mechanism": mechanism, "module": module, "ca": config["ssl_cafile"]}
    path = tmp_path / "client.properties"
    path.write_text(JAVA.format(**words, options=options.format(password=config["sasl_plain_password"])))
    at = ("--hosts", secured.logins.hosts, "--config", path, "--topic", topic)
    assert tell("enqueue", *at, "math:sqrt", 4)[0] == 0
    code, _, stderr = tell("worker", *at, "--inline", "--max-messages", 1)
    assert (code, "1 message processed" in stderr) == (0, True), stderr


def test_the_command_line_takes_certificates(secured: Kafkas, tell: Tell, tmp_path: Path, topic: str) -> None:
    """By Java's names in JSON, too."""
    hosts, config = secured.way("mtls")
    java = {
        "security.protocol": "SSL",
        "ssl.truststore.location": config["ssl_cafile"],
        "ssl.keystore.location": config["ssl_certfile"],
        "ssl.keystore.type": "PEM",
    }
    path = tmp_path / "client.json"
    path.write_text(json.dumps(java))
    at = ("--hosts", hosts, "--config", path)
    assert tell("topic", "create", topic, *at)[0] == 0
    code, stdout, _ = tell("topic", "list", *at)
    assert (code, topic in stdout) == (0, True)


# -- what LocalKafka says ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_kafka_in_the_clear_with_logins() -> None:
    """Made-up passwords, three nodes that find each other, and one that is restarted."""
    with kq.LocalKafka(3, security="sasl_plaintext", users=["bob"]) as local:
        for name in ("bob", "admin"):
            with kq.Queue("clear", hosts=local.hosts, config=local.config_for(name)) as queue:
                queue.enqueue(abs, -1)
        local.restart(1)
        worker = kq.Worker("clear", hosts=local.hosts, config=local.client_config)
        assert worker.start(max_messages=2) == 2


def test_secrets_are_in_files_that_nobody_else_can_read(secured: Kafkas) -> None:
    """And in no command line and no repr."""
    for local, user in ((secured.logins, "bob"), (secured.certificates, "bob")):
        folder = Path(local.config_for(user)["ssl_cafile"]).parent.parent
        secret = [*folder.glob("tls/*"), *folder.glob("node-*/server.properties")]
        assert len(secret) >= 3
        assert {path.stat().st_mode & 0o777 for path in secret} == ({0o600} if os.name == "posix" else {0o666})
        for pid in local.pids if os.path.exists("/proc") else ():
            assert "the-hidden-word" not in Path(f"/proc/{pid}/cmdline").read_text()
    assert "the-hidden-word" not in repr(secured.logins.config_for("bob", "PLAIN")) + repr(secured.logins)
    assert secured.logins.config_for("bob", "PLAIN")["sasl_plain_password"] == "the-hidden-word"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"security": "tls"}, "security must be one of 'ssl', 'mtls', 'sasl_ssl', 'sasl_plaintext', not 'tls'"),
        ({"users": ["bob"]}, "users, acls and mechanisms need security"),
        ({"acls": True}, "users, acls and mechanisms need security"),
        ({"security": "ssl", "acls": True}, "acls=True needs to know its clients"),
        ({"security": "mtls", "users": ["a/b"]}, "users has 'a/b'"),
        ({"security": "mtls", "users": "bob"}, "users must be names, or a dict"),
        ({"security": "sasl_ssl", "users": {"bob": 'hid"den'}}, "users has a password of 'bob' that"),
        ({"security": "sasl_ssl", "mechanisms": ["GSSAPI"]}, "mechanisms has 'GSSAPI'"),
    ],
)
def test_what_does_not_fit_is_said_at_once(options: dict[str, Any], words: str) -> None:
    """With the argument's name, and without a password."""
    with pytest.raises(kq.ArgumentError) as caught:
        kq.LocalKafka(**options)
    assert words in str(caught.value) and 'hid"den' not in str(caught.value)


def test_without_trustme_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left running."""
    monkeypatch.setitem(sys.modules, "trustme", None)
    local = kq.LocalKafka(security="ssl")
    with pytest.raises(kq.MissingExtra, match=r'pip install "kq\[broker\]"'):
        local.start()
    assert local.pids == []


def test_only_its_users_have_a_config(secured: Kafkas) -> None:
    """A name or a mechanism that is not there is named; and a Kafka without security has no users."""
    with pytest.raises(kq.ArgumentError, match="user 'mallory' is not one of users: bob, eve, admin"):
        secured.logins.config_for("mallory")
    with pytest.raises(kq.ArgumentError, match="mechanism 'GSSAPI' is not one of mechanisms"):
        secured.logins.config_for("bob", "GSSAPI")
    with pytest.raises(kq.LocalKafkaError, match="is not started"):
        kq.LocalKafka(security="ssl").config_for("admin")


def test_a_file_of_settings_is_written_for_the_command_line(secured: Kafkas, tell: Tell, topic: str) -> None:
    """Of each kind; nobody else can read it."""
    for local in (secured.certificates, secured.logins):
        path = local.config_file("admin" if local is secured.logins else "bob")
        assert path.stat().st_mode & 0o777 == 0o600 or os.name != "posix"
        assert tell("topic", "create", topic, "--hosts", local.hosts, "--config", path)[0] == 0


@pytest.mark.long
def test_the_command_line_runs_a_kafka_with_security(tmp_path: Path) -> None:
    """It prints a file of settings for each user, and no password."""
    command = [sys.executable, "-m", "kq", "broker", "--security", "sasl_plaintext", "--user", "bob", "--acls"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready, bob, admin = (process.stdout.readline() for _ in range(3))
            hosts, path = ready.split()[-1], Path(bob.split()[-1])
            (password,) = re.findall('password="([^"]+)"', path.read_text())
            assert bob.startswith("bob: --config ") and admin.startswith("admin: --config ")
            assert password not in ready + bob + admin
            done = subprocess.run(
                [sys.executable, "-m", "kq", "topic", "create", "t", "--hosts", hosts, "--config", str(path)],
                capture_output=True,
                text=True,
            )
            assert (done.returncode, "AuthorizationFailedError" in done.stderr) == (1, True)
        finally:
            process.send_signal(signal.SIGTERM)
    assert not path.exists()
