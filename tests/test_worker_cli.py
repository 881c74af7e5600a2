"""``kq worker`` as whoever is on call sees it: its log, its stops, ``--check``, ``--burst``, several topics."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import wait_until
from test_cli import PATIENCE, command, run

import kq

#: A line of the log: its time, and what follows.
LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (\[[A-Z]+\] .*)")
NOISE = """import logging
def say():
    logging.getLogger('app').warning('hello')
    logging.getLogger('app').debug('x')
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Give a folder with a module of jobs."""
    (tmp_path / "tasks.py").write_text(
        "import pathlib, time\n"
        "def nap(path, seconds):\n"
        "    pathlib.Path(path).touch()\n"
        "    time.sleep(seconds)\n"
        "def fail(): raise ValueError('no')\n"
        "def touch(path): pathlib.Path(path).touch()\n" + NOISE
    )
    return tmp_path


@contextmanager
def started(*args: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``kq worker`` while something else is done."""
    env = {**os.environ, "PYTHONPATH": str(Path(kq.__file__).parent.parent)}
    process = subprocess.Popen(command("worker", *args), stderr=subprocess.PIPE, text=True, cwd=cwd, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lag(*at: str) -> str:
    found = re.search(r"lag (\d+)", run("info", *at).stdout)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (None, (True, False, True, False)),
        ("error", (False, False, False, False)),
        ("warning", (False, False, True, False)),
        ("info", (True, True, True, False)),
        ("debug", (True, True, True, True)),
    ],
)
def test_levels_say_what_is_logged(hosts, topic, here, level, shown):
    """Its own doings, each job, what jobs log, and their debug lines; what fails is always shown."""
    at = ("--hosts", hosts, "--topic", topic)
    for function in ("say", "fail"):
        run("enqueue", *at, f"tasks:{function}", cwd=here)
    done = run("worker", *at, "--burst", *([] if level is None else ["--log-level", level]), cwd=here)
    assert done.returncode == 0
    words = (f"[INFO] Topic {topic}, partition 0 is assigned", "[INFO] Executing job ", "[WARNING] app: hello")
    assert tuple(word in done.stderr for word in (*words, "[DEBUG] app: x")) == shown
    lines = done.stderr.splitlines()
    assert len([line for line in lines if re.search(r"\[ERROR\] Job \w+ raised an exception: tasks.fail, ", line)]) == 1
    assert len([line for line in lines if line == "ValueError: no"]) == 1
    assert lines[-1].endswith("2 messages processed: 1 well, 1 failed") is (level in (None, "info", "debug"))
    dated = [line for line in lines if line.startswith("20")]
    assert all(LINE.fullmatch(line) for line in dated)
    assert dated


def test_json_lines_hold_what_they_tell_of(hosts, topic, here):
    """Each line is one object, with the job's place in fields of their own; a traceback stands in one, once."""
    at = ("--hosts", hosts, "--topic", topic)
    job_id = run("enqueue", *at, "tasks:fail", cwd=here).stdout.strip()
    done = run("worker", *at, "--burst", "--log-format", "json", cwd=here)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    (failed,) = [line for line in lines if line["level"] == "error"]
    assert (failed["job_id"], failed["topic"], failed["partition"], failed["offset"]) == (job_id, topic, 0, 0)
    assert failed["logger"] == "kq.worker"
    assert failed["exception"].count("ValueError: no") == 1
    assert "Traceback" not in failed["message"]


def test_the_error_that_ends_a_worker_is_json_too(hosts, topic, here):
    """What collects the log finds the reason."""
    at = ("--hosts", hosts, "--topic", topic)
    run("enqueue", *at, "tasks:fail", cwd=here)
    done = run("worker", *at, "--unimportable", "stop", "--log-format", "json", cwd="/")
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["level"] == "error"
    assert "tasks" in last["message"]


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_colors(hosts, topic, here, no_color):
    """Levels are coloured where a person looks, unless NO_COLOR says otherwise."""
    at = ("--hosts", hosts, "--topic", topic)
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    env |= {"PYTHONPATH": str(Path(kq.__file__).parent.parent)} | ({"NO_COLOR": "1"} if no_color else {})
    done = subprocess.run(command("worker", *at, "--burst"), stderr=theirs, cwd=here, env=env, timeout=PATIENCE)
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert ("\x1b[32m[INFO]\x1b[0m " in text, "[INFO]" in text) == (not no_color, True)


def test_a_stop_says_what_it_waits_for_and_what_it_interrupts(hosts, topic, here):
    """The first signal names the job and the time it has; the second ends it, names it, and the exit code says so."""
    at = ("--hosts", hosts, "--topic", topic)
    job_id = run("enqueue", *at, "tasks:nap", str(here / "runs"), "30", cwd=here).stdout.strip()
    with started(*at, "--processes", "2", "--shutdown-timeout", "20", cwd=here) as process:
        wait_until((here / "runs").exists, timeout=PATIENCE)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        first = next(line for line in process.stderr if "Stopping" in line)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE)
    place = rf"tasks\.nap, topic {topic}, partition 0, offset 0, ran for [\d.]+ s"
    assert re.search(rf"1 job runs, for 20 s more at most. A second signal .* job {job_id} \({place}\)", first)
    assert re.search(rf"\[WARNING\] Job {job_id} was interrupted by the stop, and runs again \({place}\)", rest)
    assert rest.endswith("Error: 1 job was interrupted, and runs again\n")
    assert process.returncode == 1
    assert lag(*at) == "1"


def test_a_stop_with_nothing_to_wait_for_says_that(hosts, topic, here):
    """And ends with 0."""
    with started("--hosts", hosts, "--topic", topic, cwd=here) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "is assigned" in line)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=PATIENCE)
    assert "Stopping: no job runs" in rest
    assert process.returncode == 0


@pytest.mark.parametrize("mode", [["--inline"], ["--threads", "2"], ["--processes", "2"]])
def test_burst_ends_when_nothing_is_left(hosts, make_topic, here, mode):
    """All that waits is run, in all partitions, and a job that takes its time is awaited; then it ends with 0."""
    topic = make_topic(partitions=2)
    at = ("--hosts", hosts, "--topic", topic)
    with kq.Queue(topic, hosts=hosts) as queue:
        for number in range(30):
            queue.using(partition=number % 2).enqueue(max, number, 1)
    run("enqueue", *at, "tasks:nap", str(here / "slow"), "1.5", cwd=here)
    done = run("worker", *at, "--burst", *mode, cwd=here)
    assert (done.returncode, lag(*at)) == (0, "0"), done.stderr
    assert done.stderr.endswith(f"[INFO] Topic {topic}: 31 messages processed\n")
    assert run("worker", *at, "--burst", *mode, cwd=here).returncode == 0  # and again, with nothing there


def test_check_tells_what_could_run_and_changes_nothing(hosts, topic, here):
    """In the right folder all can run; elsewhere none; where a function has changed its call is told; no commit."""
    at = ("--hosts", hosts, "--topic", topic)
    empty = run("worker", *at, "--check", cwd=here)
    assert (empty.returncode, empty.stdout) == (0, f"topic {topic}, group {topic}: no message waits\n")
    job_id = run("enqueue", *at, "tasks:touch", str(here / "ran"), cwd=here).stdout.strip()
    run("enqueue", *at, "tasks:fail", cwd=here)
    good = run("worker", *at, "--check", cwd=here)
    assert good.returncode == 0, good.stderr
    assert re.search(rf"0 +0 +{job_id} +tasks\.touch +can run", good.stdout)
    assert good.stdout.endswith("the next 2 messages can run here\n")
    wrong = run("worker", *at, "--check", cwd="/")
    assert wrong.returncode == 1
    assert wrong.stdout.count("ModuleNotFoundError: No module named 'tasks'") == 2
    assert wrong.stderr == f"Error: 2 of the next 2 messages of topic {topic} cannot run here\n"
    (here / "tasks.py").write_text("def touch(path, mode): pass\ndef fail(): pass\n")
    changed = run("worker", *at, "--check", cwd=here)
    assert (changed.returncode, "touch() missing a required argument: 'mode'" in changed.stdout) == (1, True)
    assert not (here / "ran").exists()
    assert lag(*at) == "2"


def test_check_begins_where_the_group_stands(hosts, topic, here):
    """What is done is not tried again."""
    at = ("--hosts", hosts, "--topic", topic)
    for number in range(3):
        run("enqueue", *at, "operator:add", number, 1)
    run("worker", *at, "--max-messages", 2)
    done = run("worker", *at, "--check")
    assert re.search(r"0 +2 +\w+ +_operator\.add +can run", done.stdout)
    assert "the next message can run here" in done.stdout


def test_check_preloads_and_knows_byte_code(hosts, topic, here, client):
    """What the worker's children would have is there; what this Python cannot run is told, and not read."""
    at = ("--hosts", hosts, "--topic", topic)
    (here / "early.py").write_text("import builtins\nbuiltins.early = max\n")
    client.send(topic, b"cbuiltins\nearly\n.", headers=[("kq-func", b"early")]).get(10)
    assert "attribute 'early'" in run("worker", *at, "--check", cwd=here).stdout
    assert "attribute 'early'" not in run("worker", *at, "--check", "--preload", "early", cwd=here).stdout
    client.send(topic, b"any", headers=[("kq-python", b"3.999")]).get(10)
    assert "it holds byte code of Python 3.999" in run("worker", *at, "--check", cwd=here).stdout


def test_several_topics_are_worked_on_by_one_command(hosts, make_topic, here):
    """Each has its own group; a stop ends them all; max-messages would mean nothing."""
    topics = [make_topic(), make_topic()]
    both = ("--hosts", hosts, "--topic", topics[0], "--topic", topics[1])
    for number, topic in enumerate(topics):
        run("enqueue", "--hosts", hosts, "--topic", topic, "tasks:touch", str(here / f"ran{number}"), cwd=here)
    with started(*both, "--processes", "1", cwd=here) as process:
        for number in (0, 1):
            wait_until((here / f"ran{number}").exists, timeout=PATIENCE)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert stderr.count("[INFO] 1 process runs jobs of topic") == 2
    assert [lag("--hosts", hosts, "--topic", topic) for topic in topics] == ["0", "0"]
    done = run("worker", *both, "--burst", "--max-messages", 3)
    assert (done.returncode, done.stderr) == (2, "Error: --max-messages is for one --topic\n")


def test_a_second_signal_ends_the_jobs_of_all_topics(hosts, make_topic, here):
    """Each interrupted job is named, and counted."""
    topics = [make_topic(), make_topic()]
    for number, topic in enumerate(topics):
        run("enqueue", "--hosts", hosts, "--topic", topic, "tasks:nap", str(here / f"runs{number}"), "60", cwd=here)
    with started("--hosts", hosts, "--topic", topics[0], "--topic", topics[1], "--processes", "1", cwd=here) as process:
        for number in (0, 1):
            wait_until((here / f"runs{number}").exists, timeout=PATIENCE)
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        next(line for line in process.stderr if "Stopping" in line)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=PATIENCE)
    assert rest.count(" was interrupted by the stop, and runs again") == 2
    assert (process.returncode, rest.splitlines()[-1]) == (1, "Error: 2 jobs were interrupted, and run again")


def test_a_topic_that_fails_ends_the_others(hosts, make_topic, here):
    """What it failed by is the error of the command."""
    topics = [make_topic(), make_topic()]
    run("enqueue", "--hosts", hosts, "--topic", topics[1], "tasks:fail", cwd=here)
    at = ("--hosts", hosts, "--topic", topics[0], "--topic", topics[1])
    done = run("worker", *at, "--unimportable", "stop", "--inline", cwd="/")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "No module named 'tasks'" in done.stderr.splitlines()[-1]


def test_a_module_to_preload_that_is_not_there_is_one_line(hosts, topic, here):
    """Before anything starts."""
    at = ("--hosts", hosts, "--topic", topic)
    for name in ("taskz", "tasks.more"):
        done = run("worker", *at, "--preload", name, cwd=here)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert name in done.stderr


def test_burst_and_a_brake(hosts, topic, here):
    """What cannot be imported here is not nothing: the worker says so, and commits none of it."""
    at = ("--hosts", hosts, "--topic", topic)
    for _ in range(3):
        run("enqueue", *at, "tasks:fail", cwd=here)
    done = run("worker", *at, "--burst", cwd="/")
    assert done.returncode == 1
    assert "No module named 'tasks'" in done.stderr
    assert lag(*at) == "3"
