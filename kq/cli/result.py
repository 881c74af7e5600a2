"""``kq result``, and the end of ``kq enqueue --wait``: what becomes of a job, as it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

import kq
from kq.cli.options import Duration, client_options, signer_option
from kq.cli.output import FAILED, make_console, to_stderr

__all__ = ["result", "tell", "wait_option"]

#: Exit codes: of a job that ran longer than it may, and of one that did not end in time.
TIMED_OUT, WAITED_TOO_LONG = 3, 4

wait_option = click.option("--wait-timeout", type=Duration(), help="How long to wait for the result: 90, 10m.")


@click.command()
@client_options
@signer_option
@wait_option
@click.argument("job_id", metavar="ID")
def result(
    hosts: str, topic: str, config: dict[str, Any], signer: kq.Signer | None, wait_timeout: float | None, job_id: str
) -> None:
    """Wait for a job to end, and print what it returned.

    The exit code is 0 for a success, 1 for a failure, 3 where the job ran longer than it may, and 4 where it has not
    ended in time. Workers must publish results: kq worker --results.
    """
    with kq.Results(topic, hosts, config, signer=signer) as results:
        tell(results, job_id, wait_timeout)


def tell(results: kq.Results, job: kq.Job | str, timeout: float | None) -> None:
    """Print what happens to a job until it has ended, and what it returned; exit where that is no success."""
    deadline = None if timeout is None else time.monotonic() + timeout
    event = None
    try:
        with _bar() as bar:
            for event in results.events(job, timeout):
                _show(event, bar)
                if deadline is not None and event.kind != "finished" and time.monotonic() > deadline:
                    raise kq.ResultTimeout(f"job {event.id} has not ended in time")
    except kq.ResultTimeout as error:
        to_stderr(f"Error: {error}")
        raise click.exceptions.Exit(WAITED_TOO_LONG) from error
    assert event is not None
    try:
        value = event.outcome()
    except kq.JobTimeout as error:
        to_stderr(f"Error: {error}")
        raise click.exceptions.Exit(TIMED_OUT) from error
    except (kq.ResultTooLarge, kq.ResultUnreadable) as error:  # it succeeded all the same
        to_stderr(f"The job succeeded. {error}")
        return
    except BaseException as error:  # the job's own
        to_stderr((event.traceback or "").rstrip() or f"Error: {type(error).__name__}: {error}")
        raise click.exceptions.Exit(FAILED) from error
    click.echo(repr(value))


def _show(event: kq.JobEvent, bar: Progress) -> None:
    (task,) = bar.task_ids
    if event.kind == "progress":
        total = None if event.fraction is None else 1.0
        bar.update(task, completed=event.fraction or 0, total=total, description=event.text, visible=True)
    elif event.kind == "retried":
        bar.console.print(f"Attempt {event.attempt} failed: {event.error}: {event.text}", markup=False)
        bar.console.print(f"It runs again in {event.retry_in or 0:g} s")
    for line in event.lines:
        bar.console.print(line, markup=False, soft_wrap=True)


@contextmanager
def _bar() -> Iterator[Progress]:
    """Have a bar on standard error, which is seen once the job says how far it is; lines stand above it."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()
    console = make_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task("", total=1.0, visible=False)
        yield bar
