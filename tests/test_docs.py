"""What README and documentation show works as shown."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import docutils.core
import pytest

import kq
from kq.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent
#: The address in the examples; a test puts the one of its own Kafka there.
ADDRESS = "127.0.0.1:9092"
#: Seconds for a script of ten lines.
PATIENCE = 60


def blocks(text: str) -> list[str]:
    """Return the Python blocks of a page."""
    found = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).rstrip() + "\n" for block in found]


@pytest.fixture
def run(hosts, topic, tmp_path):
    """Give a function that starts a script of the documentation against the Kafka of the tests."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, source: str) -> subprocess.Popen[str]:
        source = source.replace(ADDRESS, hosts)
        source = re.sub(r'(Queue|Worker)\("\w+"', rf'\1("{topic}"', source)
        (tmp_path / name).write_text(source, encoding="utf-8")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            [sys.executable, name],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], line: str) -> list[str]:
    """Return the lines of a process up to the given one."""
    lines: list[str] = []
    deadline = time.monotonic() + PATIENCE
    assert process.stdout is not None
    while time.monotonic() < deadline and (read := process.stdout.readline()):
        lines.append(read.rstrip("\n"))
        if lines[-1] == line:
            return lines
    raise AssertionError(f"no line {line!r} in {lines}")


def assert_works(run, producer: str, worker: str, last: str) -> list[str]:
    """Run a producer to its end, then a worker until its last line; Ctrl-C ends it well."""
    produced = run("producer.py", producer)
    output, _ = produced.communicate(timeout=PATIENCE)
    assert (produced.returncode, bool(output.strip())) == (0, True), output
    working = run("worker.py", worker)
    lines = read_until(working, last)
    working.send_signal(signal.SIGINT)
    rest, _ = working.communicate(timeout=PATIENCE)
    assert (working.returncode, rest) == (0, "[INFO] Stopping: no job runs\n")
    return lines


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_the_readme_works(run):
    """The producer and the worker of README.rst do what it says."""
    _, producer, worker = blocks((ROOT / "README.rst").read_text(encoding="utf-8"))
    lines = assert_works(run, producer, worker, "success 5")
    assert "success 3" in lines
    assert any(
        re.fullmatch(r"\[INFO\] Executing job \w+: statistics\.mean\(\[1, 2, 6\]\) \(topic .*\)", line)
        for line in lines
    )


def test_the_first_page_of_the_readme_works(run, hosts, topic, tmp_path):
    """With the three functions of a shop, and a worker that has results."""
    shown, *_ = blocks((ROOT / "README.rst").read_text(encoding="utf-8"))
    functions = ("count_mails", "send_mail", "send_report")
    shop = "".join(f"def {name}(*args):\n    return f'{name} of {{args}}'\n\n" for name in functions)
    (tmp_path / "shop.py").write_text(shop, encoding="utf-8")
    worker = run("work.py", f'import kq\nkq.Worker("mails", hosts="{ADDRESS}", results=True).start()\n')
    output, _ = (program := run("shown.py", shown)).communicate(timeout=PATIENCE)
    assert (program.returncode, output) == (0, "count_mails of ('ann@example.com',)\n")
    with kq.Queue(topic, hosts=hosts) as queue:
        assert [schedule.name for schedule in queue.schedules()] == ["nightly"]
    worker.send_signal(signal.SIGTERM)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_the_tutorial_works(run, topic, tmp_path):
    """The files of the tutorial do what it says."""
    examples = ROOT / "docs" / "examples"
    (tmp_path / "tasks.py").write_bytes((examples / "tasks.py").read_bytes())
    producer, worker = ((examples / name).read_text(encoding="utf-8") for name in ("producer.py", "worker.py"))
    lines = assert_works(run, producer, worker, f"{topic}/0/1: timeout, None")
    assert f"{topic}/0/0: success, 6" in lines


@pytest.mark.parametrize("name", ["README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst"])
def test_pages_outside_the_documentation_are_well_formed(name):
    """A package index renders what docutils takes without a warning."""
    source = (ROOT / name).read_text(encoding="utf-8")
    docutils.core.publish_doctree(source, source_path=name, settings_overrides={"halt_level": 2})


@pytest.mark.parametrize("command", cli.commands.values(), ids=lambda command: command.name)
def test_every_command_and_option_is_documented(command):
    """The page of the command line knows each command and each of its options."""
    page = (ROOT / "docs" / "command-line.rst").read_text(encoding="utf-8")
    sections = re.split(r"^kq (\w+)\n-+\n", page, flags=re.MULTILINE)
    section = dict(zip(sections[1::2], sections[2::2], strict=True))[command.name]
    commands = [command, *getattr(command, "commands", {}).values()]
    params = [param for one in commands for param in one.params if isinstance(param, click.Option)]
    options = [name for option in params for name in option.opts]
    assert [name for name in options if f"{name}" not in section] == []
