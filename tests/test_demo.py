"""The demo: what it lists, what its job measures, and what ``kq demo`` leaves behind."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from kq.cli import demo

#: Seconds for one demo, the start of a Kafka included.
PATIENCE = 90
ESCAPE = "\x1b"


def kq_demo(*args: str) -> subprocess.CompletedProcess[str]:
    """Run ``kq demo`` without a terminal."""
    command = [sys.executable, "-m", "kq", "demo", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)


def descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def alive(pids: set[int]) -> list[str]:
    """Return what is left of some processes, given a moment to go."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, left = psutil.wait_procs(processes, timeout=10)
    return [str(process) for process in left]


def rows(stdout: str) -> dict[str, str]:
    """Return the table of totals."""
    found = re.findall(r"^(jobs a second|jobs|succeeded|failed|timed out) +(\S+)", stdout, re.MULTILINE)
    return dict(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of twelve files, some below another, the largest in the last place of the alphabet."""
    files = tmp_path / "files"
    (files / "below").mkdir(parents=True)
    for number in range(12):
        below = files / "below" if number % 2 else files
        (below / f"file-{number:02}.txt").write_text("two words\n" * (number + 1), encoding="utf-8")
    return files


@pytest.fixture
def troublesome(folder: Path) -> Path:
    """Give that folder with three files that cannot be read, and one whose name is no text for a terminal."""
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "a\x1b[31mb\n.txt").write_text("x" * 10_000, encoding="utf-8")
    return folder


def test_figures_are_those_of_the_whole_file(tmp_path, monkeypatch):
    """Lines, words, bytes and SHA-256 are right, also where a word lies across two reads."""
    data = b"one two\nthree  four\tfive\n\nsix"
    path = tmp_path / "file"
    path.write_bytes(data)
    for chunk in range(1, len(data) + 2):
        monkeypatch.setattr(demo, "CHUNK", chunk)
        assert demo.Figures(3, 6, len(data), hashlib.sha256(data).hexdigest()) == demo.measure(str(path))


def test_an_empty_file_has_figures_too(tmp_path):
    """Nothing is measured as nothing."""
    (tmp_path / "empty").touch()
    assert demo.Figures(0, 0, 0, hashlib.sha256().hexdigest()) == demo.measure(str(tmp_path / "empty"))


@pytest.mark.parametrize("name", ["pipe", "loop", "dangling", "below", "missing"])
def test_what_is_no_readable_file_is_an_os_error(troublesome, name):
    """Whatever cannot be read raises at once, and a named pipe does not wait for a writer."""
    with pytest.raises(OSError):
        demo.measure(str(troublesome / name))


def test_every_file_is_listed_once(troublesome):
    """Files of all folders below are listed, sorted, also those that cannot be read."""
    files = demo.files_of(troublesome)
    assert 16 == len(files) == len(set(files))
    assert sorted(files) == files
    assert str(troublesome / "below" / "file-01.txt") in files


def test_folders_can_be_left_out(folder):
    """A skipped folder is left out with all that is in it."""
    assert len(demo.files_of(folder, {"below"})) == 6


def test_a_job_that_ran_twice_counts_once():
    """At least once means that the callback may be told twice."""
    report = demo.Report(1)
    job = demo.kq.Job(args=("path",))
    report.collect("failure", job, None, OSError("no"))
    report.collect("success", job, demo.Figures(1, 1, 1, "0" * 64), None)
    assert [value for _, value in demo.summary(report)[:3]] == ["1", "1", "0"]


def test_jobs_succeed_fail_and_time_out_in_the_table(tmp_path):
    """Each status has its row, and the largest files are sorted by size."""
    report = demo.Report(4)
    for name, size in (("small", 1), ("large", 9)):
        report.collect("success", demo.kq.Job(args=(str(tmp_path / name),)), demo.Figures(1, 1, size, "ab" * 32), None)
    report.collect("timeout", demo.kq.Job(args=(str(tmp_path / "slow"),)), None, None)
    report.collect(
        "failure", demo.kq.Job(args=(str(tmp_path / "bad"),)), None, PermissionError(13, "Permission denied")
    )
    assert [value for _, value in demo.summary(report)[:4]] == ["4", "2", "1", "1"]
    assert [row[-1] for row in demo.largest(report, tmp_path)] == ["large", "small"]
    expected = [("bad", "PermissionError: Permission denied"), ("slow", "timed out after 30 s")]
    assert demo.failures(report, tmp_path) == expected


def test_without_a_terminal_all_is_plain_lines(hosts, troublesome):
    """Files that cannot be read are rows of the table; no traceback, no escape code, and exit code 0."""
    done = kq_demo(str(troublesome), "--hosts", hosts)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"jobs": "16", "succeeded": "13", "failed": "3", "timed out": "0"}.items() <= rows(done.stdout).items()
    assert "jobs a second" in rows(done.stdout)
    assert "Working: 16 of 16" in done.stdout
    assert "below/file-11.txt" in done.stdout
    assert "FileNotFoundError: No such file or directory" in done.stdout
    assert ESCAPE not in done.stdout
    assert "Traceback" not in done.stdout
    for command in ("kq broker", "kq worker", "kq enqueue", "docs/"):
        assert command in done.stdout


@pytest.mark.parametrize("interrupted", [False, pytest.param(True, marks=pytest.mark.long)])
def test_nothing_stays_on_the_broker(hosts, admin, wait_until, tmp_path, interrupted):
    """The demo's topic and consumer group are removed, after Ctrl-C too."""

    def ours() -> set[str]:
        return {name for name in [*admin.list_topics(), *map(str, admin.list_groups())] if "kq-demo" in name}

    before = ours()
    code, _, _ = started_and_signalled(
        many_files(tmp_path, 4000), "Working" if interrupted else None, signal.SIGINT, "--hosts", hosts
    )
    assert code == (130 if interrupted else 0)
    wait_until(lambda: ours() == before)


def test_a_demo_with_its_own_kafka_ends_without_a_trace(folder):
    """Kafka is started for the demo, and no process of it is left."""
    before = descendants()
    done = kq_demo(str(folder))
    assert (done.returncode, rows(done.stdout)["succeeded"]) == (0, "12")
    assert alive(descendants() - before) == []


def test_the_default_folder_is_the_standard_library():
    """The modules of this Python are there, those of others are not."""
    files = demo.files_of(demo.stdlib(), demo.NOT_STDLIB)
    assert str(Path(os.__file__).absolute()) in files
    assert [path for path in files if "site-packages" in Path(path).parts or "__pycache__" in Path(path).parts] == []


@pytest.mark.parametrize("text", ["Starting", "Enqueueing", "Working"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_at_any_moment_leaves_no_process(tmp_path, text, number, code):
    """Ctrl-C, and a polite kill, stop everything; Ctrl-C is answered with one line."""
    ended, stderr, children = started_and_signalled(many_files(tmp_path, 4000), text, number)
    assert ("Interrupted.\n" if number == signal.SIGINT else "", code) == (stderr, ended)
    assert alive(children) == []


def many_files(folder: Path, count: int) -> Path:
    """Return the folder with so many files that there is a moment in which to press Ctrl-C."""
    for index in range(count):
        (folder / str(index)).touch()
    return folder


def started_and_signalled(folder: Path, text: str | None, number: int, *args: str) -> tuple[int, str, set[int]]:
    """Run a demo, send a signal once a line begins with a text; return exit code, stderr, and what it had started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kq", "demo", str(folder), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children: set[int] = set()
    try:
        if text:
            assert process.stdout is not None
            assert any(line.startswith(text) for line in process.stdout)
            children = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
            process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)
        return process.returncode, stderr, children
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_on_a_terminal_there_is_a_bar(hosts, folder):
    """With a terminal the progress is a bar that is drawn again and again."""
    code, output = in_a_terminal([sys.executable, "-m", "kq", "demo", str(folder), "--hosts", hosts])
    assert code == 0
    assert ESCAPE in output
    assert "━" in output
    assert "12/12" in output


def in_a_terminal(command: list[str]) -> tuple[int, str]:
    """Run a command on a pseudo-terminal and return its exit code and all that it showed."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True)
    os.close(theirs)
    shown = b""
    try:
        while chunk := read(ours):
            shown += chunk
        return process.wait(PATIENCE), shown.decode("utf-8")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: the other side was closed
        return b""
