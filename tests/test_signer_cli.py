"""Keys on the command line: from a file that nobody else can read, or from the environment; shown by nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import json_jobs
import pytest
from jobs import ROOT
from kafka import KafkaProducer
from test_retries import records
from test_signed import SIGNER, canary, now, send

import kq
from kq.message import Record
from kq.signing import JOB, LATER

Tell = Callable[..., tuple[int, str, str]]

TEXT = f"new:{'6e' * 32}\nold:{'6f' * 32}\n"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a file of the keys of ``SIGNER``."""
    path = tmp_path / "keys"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


def test_what_is_enqueued_with_keys_runs_with_them(
    tell: Tell, topic: str, keys: Path, client: KafkaProducer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else does: by the file, and by the environment."""
    at, path = ("--topic", topic), tmp_path / "canary"
    assert tell("enqueue", *at, "--signer-keys", keys, "json_jobs:touch", tmp_path / "one")[0] == 0
    monkeypatch.setenv("KQ_SIGNER_KEYS", TEXT.replace("\n", ","))
    assert tell("enqueue", *at, "json_jobs:touch", tmp_path / "two")[0] == 0
    client.send(topic, canary(path)).get(10)
    code, _, stderr = tell("worker", *at, "--check")
    assert (code, "1 of the next 3 messages" in stderr) == (1, True)
    assert not path.exists()
    monkeypatch.setenv("KQ_SIGNER_KEYS", str(keys))
    code, _, stderr = tell("worker", *at, "--inline", "--max-messages", 3, "--dead-letters")
    assert (code, "3 messages processed: 2 well, 1 invalid" in stderr) == (0, True)
    assert [(tmp_path / name).exists() for name in ("one", "two", "canary")] == [True, True, False]


def test_letters_and_schedules_have_keys(tell: Tell, hosts: str, topic: str, keys: Path, client: KafkaProducer) -> None:
    """A replay is signed anew; what was never signed is not."""
    at, signed = ("--topic", topic), ("--signer-keys", keys)
    assert tell("enqueue", *at, *signed, "json_jobs:add", 1, '"a"')[0] == 0
    client.send(topic, b"\x80").get(10)
    assert tell("worker", *at, *signed, "--inline", "--max-messages", 2, "--dead-letters")[0] == 0
    code, stdout, _ = tell("dead", "list", topic, *signed)
    assert (code, f"{topic}-0-0" in stdout, f"{topic}-0-1" in stdout) == (0, True, True)
    code, _, stderr = tell("dead", "replay", topic, *signed, "--all", "--yes")
    assert code == 1
    assert f"1 letters were replayed and marked, 1 were not: {topic}-0-1: " in stderr
    assert "the message is not signed" in stderr
    SIGNER.verify(JOB, records(hosts, topic)[-1], now())
    assert tell("dead", "show", topic, *signed, f"{topic}-0-0")[0] == 0
    assert tell("schedule", "add", *at, *signed, "--every", "1h", "s", "json_jobs:add", 1)[0] == 0
    SIGNER.verify(LATER, records(hosts, f"{topic}.later")[-1], now())


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_scheduler_has_keys(hosts: str, topic: str, keys: Path) -> None:
    """What it fires is signed for the topic of the jobs."""
    with kq.Queue(topic, hosts=hosts, signer=SIGNER) as queue:
        queue.using(delay=0.5).enqueue(len, "abc")
    command = [sys.executable, "-m", "kq", "scheduler", "--hosts", hosts, "--signer-keys", str(keys), topic]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    try:
        calls: list[str] = []
        kq.Worker(
            topic, hosts=hosts, signer=SIGNER, later=False, callback=lambda status, *_: calls.append(status)
        ).start(max_messages=1)
    finally:
        process.terminate()
        _, stderr = process.communicate(timeout=30)
    assert (calls, process.returncode) == (["success"], 0), stderr


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_file_that_others_can_read_is_refused(tell: Tell, keys: Path) -> None:
    """Nothing has been tried."""
    keys.chmod(0o640)
    code, _, stderr = tell("enqueue", "--hosts", "127.0.0.1:9", "--signer-keys", keys, "json_jobs:add", 1)
    assert code == 2
    assert f"{keys} can be read or written by others: chmod 600 {keys}" in stderr


@pytest.mark.parametrize(
    "text", ["5ec2e7" * 12, f"a:5ec2e7{'0' * 40}", f"5ec2e7{'0' * 400}", f"a:{'5ec2e7' * 11}x", ""]
)
def test_keys_of_the_environment_are_not_repeated(tell: Tell, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Whatever is wrong with them."""
    monkeypatch.setenv("KQ_SIGNER_KEYS", text)
    code, stdout, stderr = tell("enqueue", "--hosts", "127.0.0.1:9", "json_jobs:add", 1)
    assert code == (2 if text else 1)
    assert "5ec2e7" not in stdout + stderr
    assert ("KQ_SIGNER_KEYS" in stderr) is bool(text)


def test_keys_are_in_no_line(tell: Tell, topic: str, keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a run with everything said."""
    with caplog.at_level(logging.DEBUG):
        at = ("--topic", topic, "--signer-keys", keys)
        told = [*tell("enqueue", *at, "json_jobs:add", 1), *tell("worker", *at, "--verbose", "--inline", "--burst")]
    text = caplog.text + "".join(map(str, told))
    assert [secret for secret in ("6e6e6e", "nnnnnn", "6f6f6f", "oooooo") if secret in text] == []


def test_a_signature_that_is_too_old_is_invalid(
    tell: Tell, topic: str, keys: Path, client: KafkaProducer, tmp_path: Path
) -> None:
    """With ``--signer-max-age``, wherever that stands; a file that is read again has it still."""
    path = tmp_path / "ran"
    job = kq.Job("1", func=json_jobs.touch, args=(str(path),), kwargs={})
    record = Record(topic, kq.dumps(job), None, [("kq-id", b"1")], 0, 0)
    send(client, SIGNER.sign(JOB, record, now() - 10**7))
    client.flush()
    given = ("worker", "--topic", topic, "--inline", "--max-messages", 1)
    code, _, stderr = tell(*given, "--signer-keys", keys, "--signer-max-age", "2h", "--group", "young")
    assert (code, "is 10000 s old, and may be 7200 s" in stderr, path.exists()) == (0, True, False)
    assert tell(*given, "--signer-max-age", "3h", "--signer-keys", keys)[0] == 0
    assert path.exists()
    code, _, stderr = tell(*given, "--signer-max-age", "3h")
    assert (code, "--signer-max-age goes with --signer-keys" in stderr) == (2, True)


def test_a_worker_of_json_alone(tell: Tell, topic: str, hosts: str, client: KafkaProducer, tmp_path: Path) -> None:
    """It calls what ``--json-allow`` names, and unpickles nothing, ``--check`` neither."""
    path = tmp_path / "canary"
    client.send(topic, canary(path)).get(10)
    serializer = kq.JSONSerializer(["json_jobs:*", "os.path:basename"])
    with kq.Queue(topic, hosts=hosts, serializer=serializer.dumps) as queue:
        queue.enqueue(json_jobs.touch, str(tmp_path / "one"))
        queue.enqueue(os.path.basename, "/two")
    allow = ("--topic", topic, "--json-allow", "json_jobs:touch")
    code, stdout, _ = tell("worker", *allow, "--check")
    assert (code, "reads JSON alone" in " ".join(stdout.split()), "can run" in stdout) == (1, True, True)
    code, _, stderr = tell("worker", *allow, "--inline", "--max-messages", 3)
    assert (code, "3 messages processed: 1 well, 2 invalid" in stderr) == (0, True)
    assert (path.exists(), (tmp_path / "one").exists()) == (False, True)
    code, _, stderr = tell("worker", "--topic", topic, "--json-allow", "os.system")
    assert (code, "allow must hold names such as \"package.module:function\", not 'os.system'" in stderr) == (1, True)
