"""``kq enqueue``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, TextIO

import click

import kq
from kq.cli.options import Duration, Time, client_options
from kq.cli.output import make_console, show_progress
from kq.cli.targets import import_from_here, jobs_of, load_function, parse_arguments

__all__ = ["enqueue"]

#: How many line numbers an error lists.
MAX_LINES = 10
#: Where click keeps the number of words after ``--``.
LITERAL = "kq.literal"


class _Command(click.Command):
    """Remembers how many words come after ``--``, which click removes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[LITERAL] = len(args) - args.index("--") - 1 if "--" in args else 0
        return super().parse_args(ctx, args)


# an option that is unknown may be a negative number: parse_arguments tells them apart
@click.command(cls=_Command, context_settings={"ignore_unknown_options": True})
@client_options
@click.option("--timeout", type=float, default=0, show_default=True, help="How long the job may take, in seconds.")
@click.option("--key", help="Jobs with one key run one after another.")
@click.option("--partition", type=int, help="Partition of the topic.")
@click.option("--delay", type=Duration(), help="How long it waits before it is due: 90, 10m, 2h, 1d.")
@click.option("--at", type=Time(), help="When it is due, such as 2030-01-31T12:00+01:00.")
@click.option("--expires", type=Duration(), help="It never runs if it has not started by then.")
@click.option("--from-file", type=click.File(encoding="utf-8"), metavar="FILE", help="Many jobs, one a line, as JSON.")
@click.argument("function", metavar="MODULE:FUNCTION", required=False)
@click.argument("words", metavar="[VALUE | NAME=VALUE]...", nargs=-1)
@click.pass_context
def enqueue(
    context: click.Context, hosts: str, topic: str, config: dict[str, Any], timeout: float, key: str | None,
    partition: int | None, delay: float | None, at: Any, expires: float | None, from_file: TextIO | None,
    function: str | None, words: tuple[str, ...],
) -> None:  # fmt: skip
    """Enqueue a call and print the job's ID. Values are JSON; what is not, is a string. After -- nothing is an option.

    With --from-file, enqueue the calls of a file, each a line such as {"func": "tasks:add", "args": [1, 2]}; "kwargs",
    "id", "timeout", "key" and "partition" may be there as well. The file - is standard input.
    """
    if (function is None) is (from_file is None):
        raise click.UsageError("give either MODULE:FUNCTION or --from-file")
    import_from_here()
    with kq.Queue(topic, hosts=hosts, config=config) as queue:
        times = {"delay": delay, "at": at, "expires": expires}
        spec = queue.using(timeout=timeout, key=None if key is None else key.encode(), partition=partition, **times)
        if function is not None:
            called = load_function(function)
            args, kwargs = parse_arguments(called, words, context.meta[LITERAL])
            click.echo(spec.enqueue(called, *args, **kwargs).id)
        elif from_file is not None:
            click.echo(f"{_enqueue_file(spec, from_file):,} jobs are on topic {topic}")


def _enqueue_file(spec: kq.EnqueueSpec, file: TextIO) -> int:
    """Enqueue the jobs of a file, and return how many they are."""
    name, total = getattr(file, "name", "standard input"), 0
    if file.seekable():
        total = sum(not line.isspace() for line in file)
        file.seek(0)
    places: dict[str, int] = {}
    console = make_console(stderr=True)
    try:
        with show_progress(console, "Enqueueing", total) if total else nullcontext(lambda _: None) as show:
            jobs = jobs_of(file, name, places)
            return len(spec.enqueue_many(jobs, on_progress=lambda done, _: show(done)))
    except kq.EnqueueError as error:
        where = ", ".join(str(places[str(job.id)]) for job in (error.jobs + error.unknown)[:MAX_LINES])
        more = ", …" if len(error.jobs) + len(error.unknown) > MAX_LINES else ""
        raise kq.KQError(f"{error} ({name}, line {where}{more})") from error
