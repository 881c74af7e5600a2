"""``kq demo``, the tour: one job for every file of a real folder, through a real Kafka.

1. ``files_of`` lists the files, and ``run`` makes a fresh topic with several partitions.
2. A queue enqueues ``measure`` once for each file; a worker runs them and ``Report`` collects the outcomes.
3. The topic is deleted, and ``summary``, ``largest`` and ``failures`` turn the report into tables.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sysconfig
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.text import Text

import kq
from kq.cli.broker import exit_on_sigterm
from kq.cli.output import counted, make_console, print_table, show_progress
from kq.cli.topics import open_admin

__all__ = ["Figures", "Report", "demo", "failures", "files_of", "largest", "measure", "stdlib", "summary"]

#: Partitions of the demo's topic: several, and few enough that each gets many of the files.
PARTITIONS = 4
#: How long the job of one file may take, in seconds. Nobody waits longer for one file of a tour.
JOB_TIMEOUT = 30
#: Bytes read at a time: a file of any size is measured in little memory.
CHUNK = 1024 * 1024
#: Rows of the table of largest files, and of the one of failures.
LARGEST = 10
#: Folders of the standard library that are not part of it.
NOT_STDLIB = frozenset({"__pycache__", "dist-packages", "site-packages"})


class Figures(NamedTuple):
    """What the job of one file returns."""

    lines: int
    words: int
    bytes: int
    sha256: str


def measure(path: str) -> Figures:
    """Return lines, words, bytes and SHA-256 of a file. This is the demo's job.

    :param path: Path of a regular file. Anything else is refused before it is opened: a named pipe would never end.
    :raises OSError: The file cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")
    digest = hashlib.sha256()
    lines = words = size = 0
    in_word = False
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            # a word that began in the chunk before is counted there
            words += len(chunk.split()) - (in_word and not chunk[:1].isspace())
            in_word = not chunk[-1:].isspace()
            size += len(chunk)
    return Figures(lines, words, size, digest.hexdigest())


def stdlib() -> Path:
    """Return the folder of the running Python's own standard library."""
    return Path(sysconfig.get_path("stdlib"))


def files_of(folder: Path, skip: Collection[str] = ()) -> list[str]:
    """Return the absolute paths of all files under a folder, sorted; links to folders are not followed.

    A folder that cannot be listed is among them: its job fails, and so it is not silently left out.

    :param skip: Names of folders to leave out.
    """
    unlisted: list[OSError] = []
    found: list[str] = []
    for root, folders, names in os.walk(os.path.abspath(folder), onerror=unlisted.append):
        folders[:] = [name for name in folders if name not in skip]
        found += [os.path.join(root, name) for name in names]
    return sorted(found + [str(error.filename) for error in unlisted])


class Report:
    """What became of the demo's jobs; its ``collect`` is the worker's callback.

    :param total: How many jobs there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        #: Path -> what its job returned, or why it failed; None if it took too long.
        self.outcomes: dict[str, Figures | str | None] = {}
        self._first = self._last = 0.0

    @property
    def done(self) -> int:
        """How many jobs have an outcome. A job that ran twice counts once."""
        return len(self.outcomes)

    @property
    def figures(self) -> dict[str, Figures]:
        """The figures of each file that was measured."""
        return {path: outcome for path, outcome in self.outcomes.items() if isinstance(outcome, Figures)}

    @property
    def rate(self) -> float | None:
        """Jobs a second from the first outcome to the last; None where there are fewer than two."""
        span = self._last - self._first
        return (self.done - 1) / span if self.done > 1 and span > 0 else None

    def collect(self, status: str, job: kq.Job | None, result: Any, exception: BaseException | None) -> None:
        """Record the outcome of one job; ``job`` is None where a message was no job at all."""
        self._last = time.monotonic()
        self._first = self._first or self._last
        path = str(job.args[0]) if job and job.args else "(not a job)"
        if status == "success":
            self.outcomes[path] = result
        elif status == "timeout":
            self.outcomes[path] = None
        else:
            self.outcomes[path] = status if exception is None else _reason(exception)


def _reason(exception: BaseException) -> str:
    # the path stands beside it already
    text = exception.strerror if isinstance(exception, OSError) and exception.strerror else str(exception)
    return f"{type(exception).__name__}: {text}"


def _run(files: list[str], hosts: str, console: Console, *, keep: bool) -> Report:
    """Enqueue one job for each file on a fresh topic, run them all in this thread, and return what became of them.

    :param keep: Leave the topic behind: its Kafka goes away anyway.
    """
    report = Report(len(files))
    with _topic(hosts, keep) as topic:
        queue = kq.Queue(topic, hosts=hosts, timeout=JOB_TIMEOUT)
        with queue, show_progress(console, "Enqueueing", report.total) as show:
            for number, path in enumerate(files, 1):
                queue.enqueue(measure, path)
                show(number)
        with show_progress(console, "Working", report.total) as show:
            _work(topic, hosts, report, show)
    return report


def _work(topic: str, hosts: str, report: Report, show: Callable[[int], None]) -> None:
    def callback(status: str, _message: Any, job: Any, result: Any, exception: Any, _stacktrace: Any) -> None:
        report.collect(status, job, result, exception)
        show(report.done)

    # a file that cannot be read is a row of the table, not a traceback in the log
    silent = logging.Logger("kq.demo", logging.CRITICAL + 1)
    worker = kq.Worker(topic, hosts=hosts, callback=callback, logger=silent)
    left = report.total
    while left:
        # after a stop by a signal, the next start() raises the exception of that signal
        left -= worker.start(max_messages=left)


@contextmanager
def _topic(hosts: str, keep: bool) -> Iterator[str]:
    """Make a topic, give its name, and remove it with the group that has its name."""
    name = f"kq-demo-{uuid.uuid4().hex[:8]}"
    with open_admin(hosts, {}) as admin:
        admin.create_topics({name: {"num_partitions": PARTITIONS}}, wait_for_metadata=True)
        try:
            yield name
        finally:
            if not keep:
                admin.delete_topics([name])
                admin.delete_groups([name])


def summary(report: Report) -> list[tuple[str, str]]:
    """Return the rows of the table of totals: name, value."""
    succeeded, timed_out = len(report.figures), sum(outcome is None for outcome in report.outcomes.values())
    return [
        ("jobs", f"{report.done:,}"),
        ("succeeded", f"{succeeded:,}"),
        ("failed", f"{report.done - succeeded - timed_out:,}"),
        ("timed out", f"{timed_out:,}"),
        ("jobs a second", "–" if report.rate is None else f"{report.rate:,.0f}"),
    ]


def largest(report: Report, folder: Path) -> list[tuple[str, str, str, str, str]]:
    """Return the rows of the table of the largest files: bytes, lines, words, start of the SHA-256, path."""
    order = sorted(report.figures.items(), key=lambda item: (-item[1].bytes, item[0]))
    return [
        (f"{of.bytes:,}", f"{of.lines:,}", f"{of.words:,}", of.sha256[:12], printable(path, folder))
        for path, of in order[:LARGEST]
    ]


def failures(report: Report, folder: Path) -> list[tuple[str, str]]:
    """Return the rows of the table of files without figures, the first few: path, reason."""
    rows = sorted((path, why) for path, why in report.outcomes.items() if not isinstance(why, Figures))
    shown = [(printable(path, folder), why or f"timed out after {JOB_TIMEOUT} s") for path, why in rows[:LARGEST]]
    return shown + ([("…", f"and {len(rows) - LARGEST:,} more")] if len(rows) > LARGEST else [])


def printable(path: str, folder: Path | None = None) -> str:
    """Return a path fit for a screen: the name of a file may hold line breaks and escape codes.

    :param folder: Make the path relative to this one.
    """
    name = path if folder is None else os.path.relpath(path, os.path.abspath(folder))
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


@click.command()
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--hosts", help="Kafka brokers. Without it, a local Kafka is started for the time of the demo.")
def demo(folder: Path | None, hosts: str | None) -> None:
    """Run a job for every file of FOLDER, by default of Python's own standard library."""
    console = make_console()
    skip = NOT_STDLIB if folder is None else ()
    folder = folder or stdlib()
    files = files_of(folder, skip)
    if not files:
        raise click.UsageError(f"there are no files in {folder}")
    ours = hosts is None
    with exit_on_sigterm(), ExitStack() as stack:
        if hosts is None:
            console.print("Starting a local Kafka …")
            hosts = stack.enter_context(kq.LocalKafka(on_progress=console.print)).hosts
        console.print(Text(f"{counted(len(files), 'file')} of {printable(str(folder))}, one job each, through {hosts}"))
        report = _run(files, hosts, console, keep=ours)
    _show(console, report, folder)


def _show(console: Console, report: Report, folder: Path) -> None:
    print_table(console, ("", ">"), summary(report))
    print_table(console, (">bytes", ">lines", ">words", "SHA-256", "largest files"), largest(report, folder))
    if problems := failures(report, folder):
        print_table(console, ("file without figures", "reason"), problems)
    console.print("What to try next, each in a terminal of its own:")
    print_table(
        console,
        ("", ""),
        [
            ("kq broker", "a Kafka of your own, on this machine"),
            ("kq worker --verbose", "run the jobs of the topic default, and those to come"),
            ("kq enqueue math:factorial 20", "enqueue a job: any function that both sides can import"),
            ("kq --help", "all commands; the documentation begins with docs/tutorial.rst"),
        ],
    )
