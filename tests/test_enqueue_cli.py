"""The commands that enqueue many jobs and make topics."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until
from kafka import KafkaConsumer
from test_enqueue import ids_of, on_topic

import kq
from kq.cli.main import main

LINES = [
    {"func": "operator:add", "args": [1, 2]},
    {"func": "operator:add", "args": [3, 4], "id": "mine", "timeout": 5, "key": "k"},
    {"func": "jobs:echo", "kwargs": {"a": None}, "partition": 0},
]


@pytest.fixture
def enqueue(hosts: str, topic: str, tmp_path: Path) -> Callable[..., int]:
    """Return a function that enqueues the lines of a file, and returns the exit code."""

    def run(*lines: Any) -> int:
        path = tmp_path / "jobs.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return main(["enqueue", "--hosts", hosts, "--topic", topic, "--timeout", "9", "--from-file", str(path)])

    return run


def test_a_file_of_jobs_is_enqueued(
    enqueue: Callable[..., int], hosts: str, topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a line says wins over the options; empty lines are left out."""
    assert enqueue(LINES[0], "", *LINES[1:]) == 0
    found = [kq.loads(record.value) for record in on_topic(hosts, topic)]
    assert [(job.args, job.kwargs, job.timeout, job.key) for job in found] == [
        ((1, 2), {}, 9, None),
        ((3, 4), {}, 5, b"k"),
        ((), {"a": None}, 9, None),
    ]
    assert found[1].id == "mine"
    told = capsys.readouterr()
    assert told.out == f"3 jobs are on topic {topic}\n"
    assert "Enqueueing: 3 of 3" in told.err


def test_standard_input_will_do(hosts: str, topic: str, monkeypatch: Any, capsys: Any) -> None:
    """A pipe has no length."""
    text = "".join(json.dumps(line) + "\n" for line in LINES)

    class Pipe(io.StringIO):
        def seekable(self) -> bool:
            return False

    monkeypatch.setattr("sys.stdin", Pipe(text))
    assert main(["enqueue", "--hosts", hosts, "--topic", topic, "--from-file", "-"]) == 0
    assert capsys.readouterr().out == f"3 jobs are on topic {topic}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: Expecting"),
        ("5", "line 2: must be an object such as"),
        ({"func": 5}, "line 2: must be an object such as"),
        ({"func": "operator:add", "argz": []}, "line 2: must be an object such as"),
        ({"func": "operator:nothing"}, "line 2: operator has no 'nothing'"),
        ({"func": "operator:add", "args": 5}, "line 2: Job.args must be a list or tuple"),
        ({"func": "jobs:echo", "args": [1], "timeout": -1}, "line 2: "),
        ({"func": "operator:add", "args": [1]}, "line 2: "),
        ({"func": "operator:add", "args": [1, 2], "partition": 99}, "1 of 3 jobs were not enqueued"),
    ],
)
def test_a_bad_line_is_told_in_one(
    line: Any, words: str, enqueue: Callable[..., int], capsys: pytest.CaptureFixture[str], hosts: str, topic: str
) -> None:
    """With its place; the lines before it are enqueued."""
    assert enqueue(LINES[0], line, LINES[1]) != 0
    (error,) = [told for told in capsys.readouterr().err.splitlines() if told.startswith("Error: ")]
    assert words in error
    assert "line 2" in error
    if "not enqueued" not in words:
        assert error.endswith("what stands before it is enqueued: go on with --skip 1")
    assert len(ids_of(on_topic(hosts, topic))) >= 1


def test_lines_may_be_left_out(hosts: str, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as --skip says, empty ones included; numbers in errors are those of the file."""
    path = tmp_path / "jobs.jsonl"
    path.write_text("\n".join([json.dumps(LINES[0]), "", json.dumps(LINES[1]), ""]))
    at = ["enqueue", "--hosts", hosts, "--topic", topic, "--from-file", str(path)]
    assert main([*at, "--skip", "2"]) == 0
    assert capsys.readouterr().out == f"1 job is on topic {topic}\n"
    assert ids_of(on_topic(hosts, topic)) == ["mine"]
    path.write_text("\n".join([json.dumps(LINES[0]), "", "{"]))
    assert main([*at, "--skip", "1"]) != 0
    assert "line 3: " in capsys.readouterr().err


@pytest.mark.parametrize("while_reading", [False, True])
def test_ctrl_c_says_where_to_go_on(hosts: str, topic: str, tmp_path: Path, while_reading: bool) -> None:
    """What was read is on the topic, and nothing else is: with --skip the rest follows, and nothing is there twice."""
    count = 20 if while_reading else 200_000
    line = json.dumps({"func": "operator:add", "args": [1, 2]}) + "\n"
    path = tmp_path / "jobs.jsonl"
    path.write_text(line * count)
    command = [sys.executable, "-m", "kq", "enqueue", "--hosts", hosts, "--topic", topic, "--from-file"]
    source = "-" if while_reading else str(path)
    process = subprocess.Popen([*command, source], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        if while_reading:
            process.stdin.write(line * count)
            process.stdin.flush()
        with KafkaConsumer(topic, bootstrap_servers=hosts, auto_offset_reset="earliest") as consumer:
            wait_until(lambda: consumer.poll(100), timeout=40)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    found = re.search(r"([\d,]+) jobs? of .+ on the topic, up to line (\d+): go on with --skip (\d+)", told)
    assert found is not None, told
    jobs, last, skip = (int(text.replace(",", "")) for text in found.groups())
    assert jobs == last == skip == len(on_topic(hosts, topic))
    assert 0 < jobs <= count
    assert while_reading or jobs < count


@pytest.mark.parametrize("arguments", [[], ["operator:add", "--from-file", __file__]])
def test_a_function_or_a_file(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One of them, not both."""
    assert main(["enqueue", *arguments]) != 0
    assert "give either MODULE:FUNCTION or --from-file" in capsys.readouterr().err


def test_a_topic_is_made_and_left_alone(hosts: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As by ``ensure_topic``."""
    name = f"topic-{uuid.uuid4().hex[:8]}"
    for partitions in ("2", "5"):
        assert main(["topic", "create", name, "--hosts", hosts, "--partitions", partitions]) == 0
    lines = [f"topic {name} is made: partitions 2", f"topic {name} was there: partitions 2"]
    assert capsys.readouterr().out.splitlines() == lines


def test_a_topic_command_without_a_verb_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line."""
    assert main(["topic"]) != 0
    assert "Missing command" in capsys.readouterr().err
