"""The command line: each command against a real Kafka, and each mistake as one line."""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

import kq
from kq.cli.options import Size
from kq.cli.reload import Watcher

#: Seconds for one command.
PATIENCE = 60
#: Nothing listens there.
NOWHERE = "127.0.0.1:1"


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "kq", *map(str, args)]


def run(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        command(*args),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(kq.__file__).parent.parent), **env},
    )


def undated(text: str) -> str:
    """Return a log without the times of its lines."""
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ", "", text, flags=re.MULTILINE)


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that a command failed with one clear line that has these words in it."""
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert done.returncode not in (0, None)
    assert [word for word in words if word not in done.stderr] == []


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Give a folder with a module of jobs, and modules of callbacks, good and bad."""
    (tmp_path / "jobs.py").write_text("import pathlib\ndef touch(path): pathlib.Path(path).touch()\nvalue = 3\n")
    (tmp_path / "good.py").write_text(
        "import sys\n"
        "def callback(status, message, job, result, exception, stacktrace): print(status, result, file=sys.stderr)\n"
        "def other(*args): print('other', args[0], file=sys.stderr)\n"
        "def wrong(status): pass\n"
        "value = 3\n"
    )
    (tmp_path / "raises.py").write_text("x = 1\nraise RuntimeError('no\\nway')\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit\n")
    (tmp_path / "half.py").write_text("x = (\n")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "unknown.json").write_text('{"nonsense": 1}')
    (tmp_path / "good.json").write_text('{"max_poll_records": 5}')
    return tmp_path


def test_help_and_version():
    """Both say what they should, and ``kq`` alone helps."""
    assert ((done := run("--version")).returncode, done.stdout) == (0, f"kq {kq.__version__}\n")
    for args in (["--help"], []):
        done = run(*args)
        assert done.returncode == 0
        for name in ("broker", "demo", "enqueue", "info", "worker"):
            assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_command_says_what_to_install(tmp_path, missing):
    """A missing dependency of the command line is one line with the cure."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{missing!r}] = None\n")
    done = run("--version", PYTHONPATH=f"{tmp_path}{os.pathsep}{Path(kq.__file__).parent.parent}")
    assert_one_line(done, 'pip install "kq[cli]"')
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nonsense"], ["nonsense"]),
        (["worker", "--nonsense"], ["--nonsense"]),
        (["worker", "--callback", "missing.py"], ["missing.py"]),
        (["worker", "--callback", "missing"], ["missing", "No module named"]),
        (["worker", "--callback", "raises.py"], ["RuntimeError: no way", "line 2"]),
        (["worker", "--callback", "leaves"], ["SystemExit"]),
        (["worker", "--callback", "half.py"], ["SyntaxError"]),
        (["worker", "--callback", "jobs.py"], ["jobs.py", "'callback'"]),
        (["worker", "--callback", "good:missing"], ["good", "'missing'"]),
        (["worker", "--callback", "good:value"], ["not a callable"]),
        (["worker", "--callback", "good.py:wrong"], ["callback must accept"]),
        (["worker", "--timeout", "-1"], ["timeout must be 0 or greater"]),
        (["worker", "--max-messages", "few"], ["--max-messages", "few"]),
        (["worker", "--threads", "2", "--inline"], ["--threads and --inline exclude each other"]),
        (["worker", "--processes", "0"], ["--processes"]),
        (["worker", "--inline", "--max-jobs", "3"], ["--max-jobs is for jobs in processes"]),
        (["worker", "--threads", "3", "--preload", "jobs"], ["--preload"]),
        (["worker", "--max-memory", "much"], ["'much' is not a size such as 512M"]),
        (["worker", "--max-memory", "0"], ["'0'"]),
        (["worker", "--kill-grace", "-1"], ["--kill-grace"]),
        (["worker", "--config", "missing.json"], ["missing.json"]),
        (["worker", "--config", "broken.json"], ["broken.json"]),
        (["worker", "--config", "list.json"], ["object"]),
        (["worker", "--config", "unknown.json"], ["nonsense"]),
        (["worker", "--hosts", ","], ["hosts"]),
        (["enqueue", "jobs"], ["package.module:function"]),
        (["enqueue", "missing:touch"], ["No module named 'missing'"]),
        (["enqueue", "jobs:missing"], ["jobs", "'missing'"]),
        (["enqueue", "jobs:value"], ["not a callable"]),
        (["enqueue", "raises:touch"], ["RuntimeError"]),
        (["enqueue", "jobs:touch", "[1"], ["bad JSON"]),
        (["enqueue", "jobs:touch", "path=1", "path=2"], ["twice"]),
        (["enqueue", "jobs:touch", "--topik", "x"], ["no such option: --topik"]),
        (["enqueue", "jobs:touch", "--partition", "one"], ["--partition"]),
        (["info", "--config", "unknown.json"], ["nonsense"]),
        (["demo", "missing"], ["missing"]),
        (["demo", "good.py"], ["good.py"]),
        (["broker", "--nodes", "0"], ["--nodes"]),
        (["broker", "--port", "70000"], ["--port"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(here, args, words):
    """Whatever is wrong with the arguments is told in one line, without a traceback and without a broker."""
    assert_one_line(run(*args, cwd=here), *words)


def test_a_folder_without_files_is_a_mistake(tmp_path):
    """There is nothing to show: exit code 2."""
    done = run("demo", tmp_path)
    assert_one_line(done, "no files", str(tmp_path))
    assert done.returncode == 2


def test_no_broker_is_one_line_within_ten_seconds(here):
    """Each command names the hosts, given as an option or by ``KQ_HOSTS``, and does not keep anybody waiting."""
    began = time.monotonic()
    cases = [("worker",), ("info",), ("enqueue", "math:sqrt", "4"), ("demo", ".", "--hosts", NOWHERE)]
    env = {**os.environ, "KQ_HOSTS": NOWHERE}
    started = [
        subprocess.Popen(command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here, env=env)
        for args in [*cases, ("info", "--hosts", "127.0.0.1:2")]
    ]
    ends = [(process.communicate(timeout=PATIENCE)[1], process.returncode) for process in started]
    assert time.monotonic() - began < 10 + 10  # five interpreters start at once, perhaps on a busy machine
    for (stderr, code), port in zip(ends, (1, 1, 1, 1, 2), strict=True):
        assert re.fullmatch(rf"Error: [^\n]*127\.0\.0\.1:{port} within 8 s[^\n]*\n", stderr), stderr
        assert code == 1


@pytest.mark.parametrize("name", ["worker", "info"])
def test_an_unknown_topic_is_one_line(hosts, name):
    """A worker does not wait for a topic that nobody made."""
    assert_one_line(run(name, "--hosts", hosts, "--topic", "no-such-topic"), "no-such-topic", hosts, "kq enqueue")


def test_what_is_enqueued_is_run(hosts, topic, here):
    """A call goes through Kafka with its positional and keyword arguments; the callback is told."""
    at = ("--hosts", hosts, "--topic", topic)
    touched = here / "touched"
    enqueued = run("enqueue", *at, "jobs:touch", f"path={touched}", cwd=here)
    assert re.fullmatch(r"[0-9a-f]{32}\n", enqueued.stdout), enqueued.stderr
    run("enqueue", *at, "operator:add", "2", "-5", cwd=here)
    run("enqueue", *at, "math:sqrt", "-1", cwd=here)
    done = run("worker", *at, "--callback", here / "good.py", "--max-messages", 3, cwd=here)
    assert (done.returncode, done.stdout) == (0, "")
    assert touched.exists()
    assert {"success None", "success -3", "failure None"} <= set(done.stderr.splitlines())
    assert "[ERROR] Job " in done.stderr
    assert "Executing job " not in done.stderr


def test_a_verbose_worker_logs_in_the_words_of_kq(hosts, topic, here):
    """With --verbose each step is a line that begins with its time and level, once."""
    at = ("--hosts", hosts, "--topic", topic)
    job_id = run("enqueue", *at, "operator:add", "2", "3").stdout.strip()
    done = run("worker", *at, "--verbose", "--callback=good:other", "--max-messages=1", "--config=good.json", cwd=here)
    assert done.returncode == 0
    for line in (
        f"[INFO] Starting Worker(hosts={hosts}, topic={topic}, group={topic}) ...",
        f"[INFO] Processing Message(topic={topic}, partition=0, offset=0) ...",
        f"[INFO] Executing job {job_id}: _operator.add(2, 3) (topic {topic}, partition 0, offset 0)",
        f"[INFO] Job {job_id} returned: 5 (_operator.add, topic {topic}, partition 0, offset 0, ran for # s)",
        "[INFO] Executing callback ...",
        "other success",
    ):
        lines = re.sub(r"ran for [\d.]+ s", "ran for # s", undated(done.stderr)).splitlines()
        assert lines.count(line) == 1, done.stderr


def test_a_worker_stopped_by_ctrl_c_ends_well(hosts, topic):
    """A warm stop is what was asked for: exit code 0."""
    at = ("--hosts", hosts, "--topic", topic)
    run("enqueue", *at, "operator:add", "2", "3")
    worker = subprocess.Popen(command("worker", *at, "--verbose"), stderr=subprocess.PIPE, text=True)
    try:
        assert worker.stderr is not None
        assert any("returned: 5" in line for line in worker.stderr)
        worker.send_signal(signal.SIGINT)
        _, stderr = worker.communicate(timeout=PATIENCE)
    finally:
        worker.kill()
    assert worker.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert "lag 0" in run("info", *at).stdout


def test_timeout_of_the_worker_wins(hosts, topic):
    """--timeout ends a job that would take longer."""
    at = ("--hosts", hosts, "--topic", topic)
    run("enqueue", *at, "time:sleep", "30")
    done = run("worker", *at, "--timeout", "0.3", "--max-messages", "1")
    assert (done.returncode, "timed out" in done.stderr) == (0, True)


def test_key_and_partition_reach_the_record(hosts, make_topic):
    """--partition says where a job goes; a partition that is not there is one line."""
    topic = make_topic(partitions=3)
    at = ("--hosts", hosts, "--topic", topic)
    assert run("enqueue", *at, "--partition", 2, "--key", "k", "--timeout", 5, "math:sqrt", 4).returncode == 0
    assert re.search(r"^ *2 +0 +1 +– +1 ", run("info", *at).stdout, re.MULTILINE)
    assert_one_line(run("enqueue", *at, "--partition", 9, "math:sqrt", 4), "9")


def test_info_shows_offsets_lag_and_members(hosts, make_topic):
    """What is on the topic, what is done of it, and who is at it."""
    topic = make_topic(partitions=2)
    at = ("--hosts", hosts, "--topic", topic)
    for partition in (0, 0, 1):
        run("enqueue", *at, "--partition", partition, "operator:add", 2, 3)
    assert "lag 3, members 0" in run("info", *at).stdout
    worker = subprocess.Popen(command("worker", *at, "--group", "g", "--verbose"), stderr=subprocess.PIPE, text=True)
    try:
        assert worker.stderr is not None
        while "lag 0, members 1" not in (shown := run("info", *at, "--group", "g").stdout):
            assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=PATIENCE)
    finally:
        worker.kill()
    (member,) = re.findall(r"^member (\S+) at ", shown, re.MULTILINE)
    assert re.search(rf"^ *0 +0 +2 +2 +0 +{re.escape(member)}", shown, re.MULTILINE)
    assert re.search(rf"^ *1 +0 +1 +1 +0 +{re.escape(member)}", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], None),
        (["--processes", "1"], "1 process runs"),
        (["--processes", "3", "--kill-grace", "1", "--max-jobs", "5", "--max-memory", "1G"], "3 processes run"),
        (["--threads", "2"], "2 threads run"),
        (["--inline"], "This process runs"),
    ],
)
def test_a_worker_says_what_runs_where(hosts, topic, here, options, expected):
    """One line at the start; processes, one a core, unless told otherwise."""
    at = ("--hosts", hosts, "--topic", topic)
    (here / "where.py").write_text("import os, sys\ndef where(): return os.getpid(), 'kafka' in sys.modules\n")
    run("enqueue", *at, "where:where", cwd=here)
    done = run("worker", *at, *options, "--callback", "good", "--max-messages", 1, cwd=here)
    first, _, second, last = undated(done.stderr).splitlines()
    cores = len(os.sched_getaffinity(0))
    expected = expected or ("1 process runs" if cores == 1 else f"{cores} processes run")
    assert first == f"[INFO] {expected} jobs of topic {topic} for group {topic}, from {hosts}"
    assert last == f"[INFO] Topic {topic}: 1 message processed"
    assert re.fullmatch(rf"success \(\d+, {'process' not in expected or expected == 'This process runs'}\)", second)


@pytest.mark.parametrize("folder", ["app-of-another", "app/.hidden", "app/site-packages"])
def test_a_module_imported_meanwhile_is_no_change(tmp_path, monkeypatch, folder):
    """With --reload, wherever it is; a new file of the user's is one."""
    for path in (tmp_path / "app", tmp_path / folder):
        path.mkdir(parents=True, exist_ok=True)
    name = f"late_{uuid.uuid4().hex}"
    (tmp_path / folder / f"{name}.py").touch()
    monkeypatch.chdir(tmp_path / "app")
    monkeypatch.syspath_prepend(tmp_path / folder)
    watcher = Watcher()
    importlib.import_module(name)
    assert not watcher._look()
    (tmp_path / "app" / "new.py").touch()
    assert watcher._look()


def test_modules_are_preloaded(hosts, topic, here):
    """--preload imports a module once, where children come from."""
    at = ("--hosts", hosts, "--topic", topic)
    (here / "heavy.py").write_text("import os\npid = os.getpid()\ndef is_elsewhere(): return os.getpid() != pid\n")
    run("enqueue", *at, "heavy:is_elsewhere", cwd=here)
    done = run("worker", *at, "--preload", "heavy", "--callback", "good", "--max-messages", 1, cwd=here)
    assert "success True" in done.stderr.splitlines()


def test_a_worker_starts_again_when_its_source_changes(hosts, topic, here, tmp_path):
    """With --reload: a new job runs the new code; source that cannot be imported is waited for, and no job is lost."""
    at = ("--hosts", hosts, "--topic", topic)
    source, callback = here / "changing.py", here / "told.py"
    source.write_text("def value(): return 'old'\n")
    callback.write_text((here / "good.py").read_text())
    correct = tmp_path / "correct"
    correct.mkdir()
    (correct / "changing.py").write_text(source.read_text())
    run("enqueue", *at, "changing:value", cwd=here)
    worker = subprocess.Popen(
        command("worker", *at, "--reload", "--callback", "told"),
        stderr=subprocess.PIPE,
        text=True,
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(Path(kq.__file__).parent.parent)},
    )
    guard = threading.Timer(2 * PATIENCE, worker.kill)
    guard.start()
    try:
        wait_for_line(worker, "success old")
        source.write_text("def value(): return 'the new one'\n")
        wait_for_line(worker, "changing.py has changed")
        run("enqueue", *at, "changing:value", cwd=here)
        wait_for_line(worker, "success the new one")
        callback.write_text("def callback(:\n")
        wait_for_line(worker, "cannot import told: SyntaxError")
        callback.write_text((here / "good.py").read_text())
        wait_for_line(worker, " jobs of topic ")
        run("enqueue", *at, "changing:value", cwd=here)
        wait_for_line(worker, "success the new one")
        source.write_text("def value(: return 'broken'\n")
        wait_for_line(worker, " jobs of topic ")
        run("enqueue", *at, "changing:value", cwd=correct)
        wait_for_line(worker, "Waiting for a change")
        source.write_text("def value(): return 'corrected'\n")
        wait_for_line(worker, "success corrected")
        worker.send_signal(signal.SIGINT)
        assert worker.wait(PATIENCE) == 0
    finally:
        guard.cancel()
        worker.kill()
        worker.communicate()


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    """Read what a process says until a line has these words."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return
    raise AssertionError(f"{words!r} was not said: {''.join(lines)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_broker_in_the_foreground_runs_until_it_is_told(number):
    """It prints the address to use, works, and ends well."""
    process = subprocess.Popen(command("broker"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        found = re.fullmatch(r"Kafka 4\.\S+ is ready: --hosts (\S+)\n", ready)
        assert found, ready
        assert run("enqueue", "--hosts", found[1], "math:sqrt", 4).returncode == 0
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()
    with socket.socket() as probe:
        host, port = found[1].split(":")
        assert probe.connect_ex((host, int(port))) != 0


@pytest.mark.parametrize(
    ("word", "expected"),
    [("1", 1), ("512M", 512 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("10 kb", 10240), ("1T", 1 << 40)],
)
def test_a_size_may_have_a_unit(word, expected):
    """Of powers of 1024, as memory is counted."""
    assert Size().convert(word, None, None) == expected
