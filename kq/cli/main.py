"""The command line.

1. ``main`` is the door: it runs a command, and turns whatever goes wrong into one line and an exit code.
2. A command reads its arguments, calls the library, and prints what came of it.
3. What was asked for goes to stdout, everything else to stderr. Without a terminal all of it is plain lines.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import click
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError, NoError, UnknownTopicOrPartitionError, for_code
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import kq
from kq import clients
from kq.cli import demo, skip
from kq.cli.reload import Watcher, restart
from kq.cli.targets import import_from_here, jobs_of, load_callback, load_function, parse_arguments
from kq.executors import Executor

if sys.version_info >= (3, 11):
    import tomllib

__all__ = ["main"]

DEFAULT_HOSTS = "127.0.0.1:9092"
#: Kafka's own port: ``kq broker`` in one terminal and ``kq worker`` in another find each other without options.
DEFAULT_PORT = 9092
#: Exit codes as shells know them.
FAILED, INTERRUPTED, TERMINATED = 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
#: Without a terminal nothing but its reader wraps a long line.
PLAIN_WIDTH = 10_000
#: Without a terminal, progress is told so many times.
PLAIN_STEPS = 10
#: So many numbers of lines stand in an error.
MAX_LINES = 10
#: How often the broker in the foreground looks after its Kafka, in seconds.
WATCH_INTERVAL = 0.5
#: How long a broker that has just started may look for a group's coordinator, in seconds.
COORDINATOR_TIMEOUT = 5.0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    :param args: Arguments without the program's name; those of the process if left out.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file's name need not fit the terminal's encoding
            stream.reconfigure(errors="replace")
    try:
        return cli.main(args, prog_name="kq", standalone_mode=False) or 0
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except click.Abort:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the exit is left, and a second Ctrl-C would garble it
        click.echo("\nInterrupted." if sys.stderr.isatty() else "Interrupted.", err=True)  # a terminal shows ^C
        return INTERRUPTED
    except BrokenPipeError:  # the reader has had enough, also of what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except kq.LocalKafkaError as error:  # many lines: it ends with the log of the Kafka that did not start
        click.echo(f"Error: {error}", err=True)
        return FAILED
    except (kq.KQError, KafkaError, OSError) as error:
        return _fail(str(error))
    except Exception as error:  # the door: one line, and a non-zero exit
        if sys.flags.dev_mode:
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (python -X dev -m kq shows where)")


def _fail(message: str, code: int = FAILED) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


class _Config(click.Path):
    """A file of settings for kafka-python: TOML or, whatever its name, JSON."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, dict):
            return value
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            config = self._read(path)
        except ValueError as error:
            self.fail(f"{path}: {error}", param, ctx)
        if not isinstance(config, dict):
            self.fail(f'{path}: must hold an object, such as {{"client_id": "me"}}', param, ctx)
        return config

    def _read(self, path: Path) -> Any:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() != ".toml":
            return json.loads(text)
        if sys.version_info >= (3, 11):
            return tomllib.loads(text)
        raise ValueError("TOML needs Python 3.11 or later; use JSON")


class _Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of bytes, with a unit or without."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(?:I?B)?", str(value).strip().upper())
        size = 0 if found is None else int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
        if size < 1:
            self.fail(f"{value!r} is not a size such as 512M or 2G", param, ctx)
        return size


def _client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command that talks to Kafka."""
    for option in (
        click.option("--config", type=_Config(exists=True, dir_okay=False), default={}, help="More client settings."),
        click.option("--topic", default=clients.DEFAULT_TOPIC, show_default=True, help="Name of the Kafka topic."),
        click.option("--hosts", default=DEFAULT_HOSTS, show_default=True, envvar="KQ_HOSTS", help="Kafka brokers."),
    ):
        command = option(command)
    return command


_group_option = click.option("--group", help="Consumer group; by default named like the topic.")


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would print an empty line of its own
            raise click.Abort from None


@click.group(cls=_Commands, invoke_without_command=True)
@click.version_option(kq.__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """KQ, a job queue for Python on Kafka."""
    logging.basicConfig(format="[%(levelname)s] %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters of it comes as an exception
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.add_command(skip.command(_Config(exists=True, dir_okay=False), DEFAULT_HOSTS))


@cli.command(name="demo")
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--hosts", help="Kafka brokers. Without it, a local Kafka is started for the time of the demo.")
def demo_command(folder: Path | None, hosts: str | None) -> None:
    """Run a job for every file of FOLDER, by default of Python's own standard library."""
    console = _console()
    left_out = demo.NOT_STDLIB if folder is None else ()
    folder = folder or demo.stdlib()
    files = demo.files_of(folder, left_out)
    if not files:
        raise click.UsageError(f"there are no files in {folder}")
    ours = hosts is None
    with _exit_on_sigterm(), ExitStack() as stack:
        if hosts is None:
            console.print("Starting a local Kafka …")
            hosts = stack.enter_context(kq.LocalKafka(on_progress=console.print)).hosts
        console.print(Text(f"{len(files):,} files of {demo.printable(str(folder))}, one job each, through {hosts}"))
        report = demo.run(files, hosts, lambda what, total: _progress(console, what, total), keep=ours)
    _show(console, report, folder)


def _show(console: Console, report: demo.Report, folder: Path) -> None:
    _table(console, ("", ">"), demo.summary(report))
    _table(console, (">bytes", ">lines", ">words", "SHA-256", "largest files"), demo.largest(report, folder))
    if problems := demo.failures(report, folder):
        _table(console, ("file without figures", "reason"), problems)
    console.print("What to try next, each in a terminal of its own:")
    _table(
        console,
        ("", ""),
        [
            ("kq broker", "a Kafka of your own, on this machine"),
            ("kq worker --verbose", "run the jobs of the topic default, and those to come"),
            ("kq enqueue math:factorial 20", "enqueue a job: any function that both sides can import"),
            ("kq --help", "all commands; the documentation begins with docs/tutorial.rst"),
        ],
    )


@cli.command()
@_client_options
@_group_option
@click.option("--callback", metavar="FILE.py|MODULE[:NAME]", help="Is told each outcome; NAME is by default callback.")
@click.option("--timeout", type=float, help="How long a job may take, in seconds, whatever the job says.")
@click.option("--max-messages", type=click.IntRange(min=0), help="Stop after so many messages.")
@click.option("--processes", type=click.IntRange(min=1), help="Run so many jobs at once, by default one a core.")
@click.option("--threads", type=click.IntRange(min=1), help="Run so many jobs at once in threads, not in processes.")
@click.option("--inline", is_flag=True, help="Run one job at a time, in the process of the worker.")
@click.option("--kill-grace", type=click.FloatRange(min=0), help="Seconds to clean up for a job whose time is up.")
@click.option("--max-jobs", type=click.IntRange(min=1), help="Replace a process after so many jobs.")
@click.option("--max-memory", type=_Size(), help="Replace a process that is larger, between jobs: 512M, 2G.")
@click.option("--preload", multiple=True, metavar="MODULE", help="Import a module once for all processes.")
@click.option("--reload", is_flag=True, help="Restart when a source file changes: for development.")
@click.option("--verbose", is_flag=True, help="Log what the worker does.")
def worker(reload: bool, verbose: bool, **options: Any) -> None:
    """Run the jobs of a topic until Ctrl-C, which lets the running jobs end first."""
    if verbose:
        logging.getLogger("kq").setLevel(logging.INFO)
        logging.getLogger("kafka").setLevel(logging.WARNING)
    import_from_here()
    if reload:
        _work_and_reload(options)
    else:
        _work(options)


def _work(options: Mapping[str, Any], watcher: Watcher | None = None) -> None:
    """Run a worker as the options say, and stop it when a source file changes."""
    hosts, topic, config = (options[name] for name in ("hosts", "topic", "config"))
    executor, concurrency, words = _executor(options)
    callback = None if options["callback"] is None else load_callback(options["callback"])
    made = kq.Worker(
        topic, hosts=hosts, group=options["group"], config=config, callback=callback, timeout=options["timeout"],
        executor=executor, concurrency=concurrency,
    )  # fmt: skip
    with _admin(hosts, config) as admin:
        _partitions(admin, hosts, topic)
    _to_stderr(f"{words} jobs of topic {topic} for group {made.group}, from {hosts}")
    if watcher is not None:
        watcher.start(made.stop)
    made.start(max_messages=options["max_messages"])


def _work_and_reload(options: Mapping[str, Any]) -> None:
    watcher = Watcher()
    try:
        _work(options, watcher)
    except click.UsageError as error:  # source that cannot be imported is about to be mended
        _fail(error.format_message())
        watcher.wait()
    watcher.stop()
    if watcher.changed is not None:
        _to_stderr(f"{watcher.changed} has changed: starting again")
        restart()


def _executor(options: Mapping[str, Any]) -> tuple[Executor, int, str]:
    """Return where jobs run, how many at once, and that in words."""
    chosen = [f"--{name}" for name in ("processes", "threads", "inline") if options[name]]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    names = ("kill_grace", "max_jobs", "max_memory", "preload")
    settings = {name: options[name] for name in names if options[name] not in (None, ())}
    if options["inline"] or options["threads"] or not hasattr(os, "fork"):
        if settings:
            raise click.UsageError(f"--{min(settings).replace('_', '-')} is for jobs in processes")
        if options["inline"]:
            return kq.InlineExecutor(), 1, "This process runs"
        count = options["threads"] or _cores()
        return kq.ThreadExecutor(), count, f"{count} threads run" if count > 1 else "1 thread runs"
    count = options["processes"] or _cores()
    return kq.ProcessExecutor(**settings), count, f"{count} processes run" if count > 1 else "1 process runs"


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cli.command()
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="How many brokers.")
@click.option("--port", type=click.IntRange(1, 65535), help=f"By default {DEFAULT_PORT}, if it is free.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps the data.")
def broker(nodes: int, port: int | None, data: Path | None) -> None:
    """Run a real Kafka for development on this machine until Ctrl-C."""
    if port is None and all(_is_free(DEFAULT_PORT + node) for node in range(nodes)):
        port = DEFAULT_PORT
    with _exit_on_sigterm(), kq.LocalKafka(nodes, data=data, port=port, on_progress=_to_stderr) as local:
        click.echo(f"Kafka {local.version} is ready: --hosts {local.hosts}")
        try:
            while True:
                time.sleep(WATCH_INTERVAL)
                local.check()
        except (KeyboardInterrupt, SystemExit):
            click.echo("Stopping …", err=True)


@cli.command(context_settings={"ignore_unknown_options": True})
@_client_options
@click.option("--timeout", type=float, default=0, show_default=True, help="How long the job may take, in seconds.")
@click.option("--key", help="Jobs with one key run one after another.")
@click.option("--partition", type=int, help="Partition of the topic.")
@click.option("--from-file", type=click.File(encoding="utf-8"), metavar="FILE", help="Many jobs, one a line, as JSON.")
@click.argument("function", metavar="MODULE:FUNCTION", required=False)
@click.argument("arguments", metavar="[VALUE | NAME=VALUE]...", nargs=-1)
def enqueue(
    hosts: str, topic: str, config: dict[str, Any], timeout: float, key: str | None, partition: int | None,
    from_file: TextIO | None, function: str | None, arguments: tuple[str, ...],
) -> None:  # fmt: skip
    """Enqueue a call and print the job's ID. Values are JSON; what is not, is a string.

    With --from-file, enqueue the calls of a file, each a line such as {"func": "tasks:add", "args": [1, 2]}; "kwargs",
    "id", "timeout", "key" and "partition" may be there as well. The file - is standard input.
    """
    if (function is None) is (from_file is None):
        raise click.UsageError("give either MODULE:FUNCTION or --from-file")
    args, kwargs = parse_arguments(arguments)
    import_from_here()
    with kq.Queue(topic, hosts=hosts, config=config) as queue:
        spec = queue.using(timeout=timeout, key=None if key is None else key.encode(), partition=partition)
        if function is not None:
            click.echo(spec.enqueue(load_function(function), *args, **kwargs).id)
        elif from_file is not None:
            click.echo(f"{_enqueue_file(spec, from_file):,} jobs are on topic {topic}")


def _enqueue_file(spec: kq.EnqueueSpec, file: TextIO) -> int:
    """Enqueue the jobs of a file, and return how many they are."""
    name, total = getattr(file, "name", "standard input"), 0
    if file.seekable():
        total = sum(not line.isspace() for line in file)
        file.seek(0)
    places: dict[str, int] = {}
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PLAIN_WIDTH)
    try:
        with _progress(console, "Enqueueing", total) if total else nullcontext(lambda: None) as advance:
            told = itertools.count(1)

            def on_progress(done: int, _total: int | None) -> None:
                for _ in itertools.takewhile(lambda count: count < done, told):
                    advance()
                advance()

            return len(spec.enqueue_many(jobs_of(file, name, places), on_progress=on_progress))
    except kq.EnqueueError as error:
        where = ", ".join(str(places[str(job.id)]) for job in (error.jobs + error.unknown)[:MAX_LINES])
        more = ", …" if len(error.jobs) + len(error.unknown) > MAX_LINES else ""
        raise kq.KQError(f"{error} ({name}, line {where}{more})") from error


@cli.group(no_args_is_help=False)
def topic() -> None:
    """Make topics."""


@topic.command(name="create")
@click.option("--hosts", default=DEFAULT_HOSTS, show_default=True, envvar="KQ_HOSTS", help="Kafka brokers.")
@click.option("--config", type=_Config(exists=True, dir_okay=False), default={}, help="More client settings.")
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="How many it gets.")
@click.option("--replication", type=click.IntRange(min=1), default=1, show_default=True, help="Brokers that keep each.")
@click.argument("name")
def topic_create(hosts: str, config: dict[str, Any], partitions: int, replication: int, name: str) -> None:
    """Make the topic NAME; one that is there is left as it is."""
    queue = kq.Queue(name, hosts=hosts, config=config)
    made = queue.ensure_topic(partitions, replication)
    with _admin(hosts, config) as admin:
        count = len(_partitions(admin, hosts, name))
    click.echo(f"topic {name} {'is made' if made else 'was there'}: partitions {count}")


@cli.command()
@_client_options
@_group_option
def info(hosts: str, topic: str, config: dict[str, Any], group: str | None) -> None:
    """Show the partitions, offsets, lag and members of a topic and a consumer group."""
    group = group or topic
    with _admin(hosts, config) as admin:
        partitions = [TopicPartition(topic, number) for number in _partitions(admin, hosts, topic)]
        begin = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        end = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        committed = _patiently(lambda: admin.list_group_offsets({group: partitions})[group])
        members = _patiently(lambda: admin.describe_groups([group])[group]["members"])
        warning = clients.topics.clock_warning(admin, topic)
    owners = {partition: member["member_id"] for member in members for partition in _assigned(member)}
    rows, total = [], 0
    for partition in partitions:
        done = committed[partition].offset if partition in committed else -1
        lag = max(0, end[partition].offset - max(done, begin[partition].offset))
        total += lag
        numbers = (partition.partition, begin[partition].offset, end[partition].offset, done if done >= 0 else "–", lag)
        rows.append((*map(str, numbers), owners.get(partition, "–")))
    console = _console()
    _table(console, (">partition", ">begin", ">end", ">committed", ">lag", "member"), rows)
    for member in members:
        console.print(Text(f"member {member['member_id']} at {member['client_host'].lstrip('/')}"))
    console.print(Text(f"topic {topic}, group {group}: lag {total}, members {len(members)}"))
    if warning:
        _to_stderr(f"Warning: {warning}")


def _assigned(member: Mapping[str, Any]) -> Iterator[TopicPartition]:
    # a member that is only just joining has none yet
    for entry in (member["member_assignment"] or {}).get("assigned_partitions", ()):
        yield from (TopicPartition(entry["topic"], number) for number in entry["partitions"])


@contextmanager
def _admin(hosts: str, config: Mapping[str, Any]) -> Iterator[KafkaAdminClient]:
    """Give an admin client made with those of the settings that concern it."""
    known = {*KafkaAdminClient.DEFAULT_CONFIG, *KafkaConsumer.DEFAULT_CONFIG, *KafkaProducer.DEFAULT_CONFIG}
    settings = clients.check_config(config, known, {"bootstrap_servers"})
    settings = {name: value for name, value in settings.items() if name in KafkaAdminClient.DEFAULT_CONFIG}
    admin = clients.connect(KafkaAdminClient, clients.check_hosts(hosts), settings)
    try:
        yield admin
    finally:
        admin.close()


def _partitions(admin: KafkaAdminClient, hosts: str, topic: str) -> list[int]:
    """Return the partitions of a topic; raise :class:`kq.KQError` if there is no such topic."""
    (described,) = admin.describe_topics([topic])
    error = for_code(described["error_code"])
    if error is UnknownTopicOrPartitionError:
        raise kq.KQError(f"no topic {topic!r} at {hosts}: enqueue a first job (kq enqueue --topic {topic} …)")
    if error is not NoError and not described["partitions"]:
        raise kq.KQError(f"topic {topic!r} at {hosts}: {error.__name__}")
    return sorted(partition["partition_index"] for partition in described["partitions"])


def _patiently(ask: Callable[[], Any]) -> Any:
    """Return an answer of a group's coordinator, which a broker that has just started must find first."""
    deadline = time.monotonic() + COORDINATOR_TIMEOUT
    while True:
        try:
            return ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
            time.sleep(WATCH_INTERVAL)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Unwind on SIGTERM as on Ctrl-C: what was started must be stopped."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _to_stderr(line: str) -> None:
    click.echo(line, err=True)


def _table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. A header that begins with ``>`` makes a column of numbers."""
    titled = any(header.strip(">") for header in headers)
    table = Table(box=box.SIMPLE if console.is_terminal else None, show_header=titled, pad_edge=False)
    for header in headers:
        table.add_column(header.lstrip(">"), justify="right" if header.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    if not console.is_terminal:  # there the box brings its own margin
        console.print()


@contextmanager
def _progress(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how far a phase is: a bar, or a line now and then where there is no terminal."""
    if not console.is_terminal:
        yield _plain_progress(console, what, total)
        return
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _plain_progress(console: Console, what: str, total: int) -> Callable[[], None]:
    marks = {total * step // PLAIN_STEPS for step in range(1, PLAIN_STEPS + 1)}
    counter = itertools.count(1)

    def advance() -> None:
        if (count := next(counter)) in marks:
            console.print(f"{what}: {count:,} of {total:,}")

    return advance
