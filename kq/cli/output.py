"""What a command prints: lines, tables and progress.

What was asked for goes to stdout, everything else to stderr. Without a terminal all of it is plain lines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = ["FAILED", "fail", "make_console", "print_table", "show_progress", "to_stderr"]

#: Exit code of a command that failed, as shells know it.
FAILED = 1
#: Width where there is no terminal: no line is wrapped.
PLAIN_WIDTH = 10_000
#: Lines of progress where there is no terminal.
PLAIN_STEPS = 10


def fail(message: str, code: int = FAILED) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


def make_console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PLAIN_WIDTH)


def to_stderr(line: str) -> None:
    click.echo(line, err=True)


def print_table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. A header that begins with ``>`` makes a column of numbers."""
    titled = any(header.strip(">") for header in headers)
    table = Table(box=box.SIMPLE if console.is_terminal else None, show_header=titled, pad_edge=False)
    for header in headers:
        table.add_column(header.lstrip(">"), justify="right" if header.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    if not console.is_terminal:  # on a terminal the box adds the margin
        console.print()


@contextmanager
def show_progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give what to call with how many are done: it draws a bar, or prints a line now and then without a terminal."""
    if console.is_terminal:
        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    printed = 0

    def print_step(done: int) -> None:
        nonlocal printed
        if (step := done * PLAIN_STEPS // total) > printed:
            printed = step
            console.print(f"{what}: {done:,} of {total:,}")

    yield print_step
