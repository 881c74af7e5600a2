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

__all__ = [
    "FAILED",
    "confirm",
    "counted",
    "fail",
    "json_option",
    "make_console",
    "make_table",
    "print_table",
    "show_progress",
    "to_stderr",
    "yes_option",
]

#: Exit code of a command that failed, as shells know it.
FAILED = 1
#: Width where there is no terminal: no line is wrapped.
PLAIN_WIDTH = 10_000
#: Lines of progress where there is no terminal.
PLAIN_STEPS = 10


json_option = click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of tables.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask first.")


def fail(message: str, code: int = FAILED) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


def make_console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PLAIN_WIDTH)


def to_stderr(line: str) -> None:
    click.echo(line, err=True)


def counted(number: int, noun: str) -> str:
    """Return a number and a noun that has a regular plural: ``1 job``, ``2,000 jobs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def confirm(question: str) -> None:
    """Ask whether to go on; raise :class:`click.ClickException` where the answer is no, or nobody answers."""
    try:
        answer = click.confirm(question, err=True)
    except click.Abort:  # Ctrl-C, or the end of a standard input that is no person
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise click.UsageError("nobody has answered: --yes does it without a question") from None
    if not answer:
        raise click.ClickException("nothing is changed")


def print_table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. A header that begins with ``>`` makes a column of numbers."""
    console.print(make_table(console, headers, rows))
    if not console.is_terminal:  # on a terminal the box adds the margin
        console.print()


def make_table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    titled = any(header.strip(">") for header in headers)
    table = Table(box=box.SIMPLE if console.is_terminal else None, show_header=titled, pad_edge=False)
    for header in headers:
        table.add_column(header.lstrip(">"), justify="right" if header.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


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
