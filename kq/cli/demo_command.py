"""``kq demo``: the tour on the screen; the jobs and the figures are in ``demo``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

import kq
from kq.cli import demo
from kq.cli.broker import exit_on_sigterm
from kq.cli.output import make_console, print_table, show_progress

__all__ = ["demo_command"]


@click.command(name="demo")
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--hosts", help="Kafka brokers. Without it, a local Kafka is started for the time of the demo.")
def demo_command(folder: Path | None, hosts: str | None) -> None:
    """Run a job for every file of FOLDER, by default of Python's own standard library."""
    console = make_console()
    skip = demo.NOT_STDLIB if folder is None else ()
    folder = folder or demo.stdlib()
    files = demo.files_of(folder, skip)
    if not files:
        raise click.UsageError(f"there are no files in {folder}")
    ours = hosts is None
    with exit_on_sigterm(), ExitStack() as stack:
        if hosts is None:
            console.print("Starting a local Kafka …")
            hosts = stack.enter_context(kq.LocalKafka(on_progress=console.print)).hosts
        console.print(Text(f"{len(files):,} files of {demo.printable(str(folder))}, one job each, through {hosts}"))
        report = demo.run(files, hosts, lambda what, total: show_progress(console, what, total), keep=ours)
    _show(console, report, folder)


def _show(console: Console, report: demo.Report, folder: Path) -> None:
    print_table(console, ("", ">"), demo.summary(report))
    print_table(console, (">bytes", ">lines", ">words", "SHA-256", "largest files"), demo.largest(report, folder))
    if problems := demo.failures(report, folder):
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
