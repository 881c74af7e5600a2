"""``kq enqueue``."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from types import FrameType
from typing import Any, TextIO

import click

import kq
from kq.cli.options import Duration, Time, client_options, signer_option
from kq.cli.output import counted, make_console, show_progress, to_stderr
from kq.cli.result import tell, wait_option
from kq.cli.targets import at_line, import_from_here, jobs_of, load_function, parse_arguments

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
@signer_option
@click.option("--timeout", type=float, default=0, show_default=True, help="How long the job may take, in seconds.")
@click.option("--key", help="Jobs with one key run one after another.")
@click.option("--partition", type=int, help="Partition of the topic.")
@click.option("--delay", type=Duration(), help="How long it waits before it is due: 90, 10m, 2h, 1d.")
@click.option("--at", type=Time(), help="When it is due, such as 2030-01-31T12:00+01:00.")
@click.option("--expires", type=Duration(), help="It never runs if it has not started by then.")
@click.option("--from-file", type=click.File(encoding="utf-8"), metavar="FILE", help="Many jobs, one a line, as JSON.")
@click.option("--skip", type=click.IntRange(min=0), default=0, help="Leave out so many lines of the file, the first.")
@click.option("--wait", is_flag=True, help="Wait for the job to end, and print what it returned.")
@wait_option
@click.argument("function", metavar="MODULE:FUNCTION", required=False)
@click.argument("words", metavar="[VALUE | NAME=VALUE]...", nargs=-1)
@click.pass_context
def enqueue(
    context: click.Context, hosts: str, topic: str, config: dict[str, Any], signer: kq.Signer | None, timeout: float,
    key: str | None, partition: int | None, delay: float | None, at: Any, expires: float | None,
    from_file: TextIO | None, skip: int, wait: bool, wait_timeout: float | None, function: str | None,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    """Enqueue a call and print the job's ID. Values are JSON; what is not, is a string. After -- nothing is an option.

    With --wait, print instead what the job returned, and until then how far it is and what it logs, where workers tell
    (kq worker --results --capture-logs). The exit code is that of kq result.

    With --from-file, enqueue the calls of a file, each a line such as {"func": "tasks:add", "args": [1, 2]}; "kwargs",
    "id", "timeout", "key" and "partition" may be there as well. The file - is standard input.
    """
    if (function is None) is (from_file is None):
        raise click.UsageError("give either MODULE:FUNCTION or --from-file")
    if skip and from_file is None:
        raise click.UsageError("--skip is for --from-file")
    if wait and from_file is not None:
        raise click.UsageError("--wait is for one job")
    if wait_timeout is not None and not wait:
        raise click.UsageError("--wait-timeout is for --wait")
    import_from_here()
    with kq.Queue(topic, hosts=hosts, config=config, results=wait, signer=signer) as queue:
        times = {"delay": delay, "at": at, "expires": expires}
        spec = queue.using(timeout=timeout, key=None if key is None else key.encode(), partition=partition, **times)
        if function is not None:
            called = load_function(function)
            args, kwargs = parse_arguments(called, words, context.meta[LITERAL])
            job = spec.enqueue(called, *args, **kwargs)
            if not wait:
                click.echo(job.id)
                return
            to_stderr(f"Job {job.id} is on topic {topic}")
            with queue.collect() as results:
                tell(results, job, wait_timeout)
        elif from_file is not None:
            count = _enqueue_file(spec, from_file, skip)
            click.echo(f"{counted(count, 'job')} {'is' if count == 1 else 'are'} on topic {topic}")


def _enqueue_file(spec: kq.EnqueueSpec, file: TextIO, skip: int) -> int:
    """Enqueue the jobs of a file, and return how many they are."""
    name, total = getattr(file, "name", "standard input"), 0
    if file.seekable():
        total = sum(not line.isspace() for line in islice(file, skip, None))
        file.seek(0)
    places: dict[str, int] = {}
    console = make_console(stderr=True)
    with show_progress(console, "Enqueueing", total) if total else nullcontext(lambda _: None) as show:
        lines = Lines(file, skip)
        with lines.interruptible(), _naming_lines(name, places):
            jobs = jobs_of(lines, name, places)
            count = len(spec.enqueue_many(jobs, on_progress=lambda done, _: show(done)))
    if lines.is_interrupted:
        last = lines.number
        to_stderr(f"{counted(count, 'job')} of {name} on the topic, up to line {last}: go on with --skip {last}")
        raise click.Abort
    return count


@contextmanager
def _naming_lines(name: str, places: dict[str, int]) -> Iterator[None]:
    """Name the lines of the jobs of which an error tells."""
    try:
        yield
    except kq.EnqueueError as error:
        where = ", ".join(str(places[str(job.id)]) for job in (error.jobs + error.unknown)[:MAX_LINES])
        more = ", …" if len(error.jobs) + len(error.unknown) > MAX_LINES else ""
        raise kq.KQError(f"{error} ({name}, line {where}{more})") from error
    except kq.ArgumentError as error:  # of the job that was given last
        text = str(error).partition(": ")[2].partition("; what stands before")[0]
        raise click.UsageError(at_line(name, [*places.values()][-1], text)) from error


class Lines:
    """The lines of a file behind their numbers, until they end or Ctrl-C; what was read until then is enqueued."""

    def __init__(self, file: TextIO, skip: int) -> None:
        self._file = file
        self._skip = skip
        self._is_reading = False
        #: The line that was given last, or skipped.
        self.number = 0
        self.is_interrupted = False

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for line in iter(self._read, ""):
            if self.is_interrupted:
                return
            self.number += 1
            if self.number > self._skip:
                yield self.number, line

    def _read(self) -> str:
        self._is_reading = True
        try:
            return self._file.readline()
        except KeyboardInterrupt:
            return ""
        finally:
            self._is_reading = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Have the first Ctrl-C end the lines, where another would end the program in the middle of a job."""
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # it is ignored, or somebody else's
            yield
            return
        signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        if self.is_interrupted or self._is_reading:
            self.is_interrupted = True
            raise KeyboardInterrupt
        self.is_interrupted = True
