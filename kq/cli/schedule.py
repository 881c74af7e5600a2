"""``kq schedule`` and ``kq scheduler``: what runs again and again, and who fires it."""

from __future__ import annotations

import json
import signal
import threading
import time
from datetime import datetime
from typing import Any

import click
from kafka import KafkaConsumer, KafkaProducer

import kq
from kq import clients
from kq.cli.enqueue import LITERAL, enqueue
from kq.cli.logs import FORMATS, LEVELS, log_to_stderr
from kq.cli.options import Duration, Time, client_options, config_option, hosts_option, max_age_option, signer_option
from kq.cli.output import counted, json_option, make_console, print_table, to_stderr
from kq.cli.targets import import_from_here, load_function, parse_arguments
from kq.cli.topics import open_admin
from kq.controlling import Board, Seal
from kq.producing import LATER, SUFFIX
from kq.working import Context, Timekeeper

__all__ = ["schedule", "scheduler"]

#: Seconds between looks at whether a signal has come: a handler runs only while the main thread runs Python code.
_LOOK_EVERY = 0.2
#: Seconds that all may take to end.
_LAST_PATIENCE = 10.0
#: Stands for what is not there.
_NOTHING = "–"


@click.group(no_args_is_help=False)
def schedule() -> None:
    """Make, list and end schedules."""


# an option that is unknown may be a negative number, as for kq enqueue
@schedule.command(name="add", cls=type(enqueue), context_settings={"ignore_unknown_options": True})
@client_options
@signer_option
@click.option("--every", type=Duration(), help="Run so often: 90, 10m, 2h, 1d.")
@click.option("--start", type=Time(), help="With --every: the first run, such as 2030-01-31T12:00+01:00.")
@click.option("--cron", help='Run by a cron line, such as "30 2 * * mon-fri".')
@click.option("--timezone", default="UTC", show_default=True, help="With --cron.")
@click.option(
    "--catch-up", type=click.Choice(["latest", "none", "all"]), default="latest", show_default=True,
    help="Which missed runs are made up for.",
)  # fmt: skip
@click.option("--timeout", type=float, default=0, show_default=True, help="How long each run may take, in seconds.")
@click.option("--key", help="Jobs with one key run one after another.")
@click.option("--expires", type=Duration(), help="A run that has not started so long after its time never does.")
@click.argument("name")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("words", metavar="[VALUE | NAME=VALUE]...", nargs=-1)
@click.pass_context
def schedule_add(
    context: click.Context, hosts: str, topic: str, config: dict[str, Any], signer: kq.Signer | None,
    every: float | None, start: datetime | float | None, cron: str | None, timezone: str, catch_up: Any,
    timeout: float, key: str | None, expires: float | None, name: str, function: str, words: tuple[str, ...],
) -> None:  # fmt: skip
    """Have a call run again and again, under a NAME. Values are as for kq enqueue."""
    if (every is None) is (cron is None):
        raise click.UsageError("give either --every or --cron")
    if cron is not None and start is not None:
        raise click.UsageError("--start is for --every")
    when = kq.Every(every, start, catch_up) if every is not None else kq.Cron(cron or "", timezone, catch_up)
    import_from_here()
    called = load_function(function)
    args, kwargs = parse_arguments(called, words, context.meta[LITERAL])
    with kq.Queue(topic, hosts=hosts, config=config, signer=signer) as queue:
        spec = queue.using(timeout=timeout, key=None if key is None else key.encode(), expires=expires)
        made = spec.schedule(name, when, called, *args, **kwargs)
    click.echo(f"schedule {name}: {made.when}, next {_text(made.next_due)}")


@schedule.command(name="list")
@client_options
@json_option
def schedule_list(hosts: str, topic: str, config: dict[str, Any], as_json: bool) -> None:
    """List the schedules of a topic."""
    with kq.Queue(topic, hosts=hosts, config=config) as queue:
        found = queue.schedules()
    if as_json:
        click.echo(json.dumps([_as_json(one) for one in found]))
        return
    rows = [(one.name, str(one.when), one.call, _text(one.next_due), _text(one.last_fired)) for one in found]
    print_table(make_console(), ("schedule", "when", "call", "next due", "last fired"), rows)


@schedule.command(name="remove")
@client_options
@click.argument("name")
def schedule_remove(hosts: str, topic: str, config: dict[str, Any], name: str) -> None:
    """End the schedule NAME."""
    with kq.Queue(topic, hosts=hosts, config=config) as queue:
        if not queue.unschedule(name):
            raise click.ClickException(f"no schedule {name!r} on topic {topic}: kq schedule list shows those that are")
    click.echo(f"schedule {name} is ended")


@click.command()
@hosts_option
@config_option
@signer_option
@max_age_option
@click.option("--log-level", type=click.Choice(LEVELS), help="What is logged; by default warnings.")
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="How it is logged.")
@click.argument("topics", metavar="TOPIC...", nargs=-1, required=True)
def scheduler(
    hosts: str, config: dict[str, Any], signer: kq.Signer | None, log_level: str | None, log_format: str,
    topics: tuple[str, ...],
) -> None:  # fmt: skip
    """Fire the delayed jobs and schedules of topics until Ctrl-C, and run none."""
    log_to_stderr(log_level, log_format)
    known = {**KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG}
    clients.check_config(config, known, {"bootstrap_servers"})
    topics = tuple(dict.fromkeys(topics))
    with open_admin(hosts, config) as admin:
        for topic in topics:
            clients.topics.companion(admin, clients.check_topic(topic), SUFFIX, LATER)
    ended = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: ended.set())
    boards = [Board(topic, hosts, config, seal=Seal(topic, signer)) for topic in topics]
    keepers = [Timekeeper(cancels=board.cancels) for board in boards]
    for board, keeper, topic in zip(boards, keepers, topics, strict=True):
        board.start()
        keeper.open(Context(topic, topic, hosts, config, signer=signer))
        keeper.begin()
    to_stderr(f"Firing what is due for {counted(len(topics), 'topic')} at {hosts}: {', '.join(topics)}")
    while not ended.wait(_LOOK_EVERY):
        pass
    deadline = time.monotonic() + _LAST_PATIENCE
    for board, keeper in zip(boards, keepers, strict=True):
        keeper.stop(deadline)
        board.close()


def _text(at: datetime | None) -> str:
    return _NOTHING if at is None else at.isoformat(sep=" ", timespec="seconds")


def _as_json(one: kq.Schedule) -> dict[str, Any]:
    times = {"next_due": one.next_due, "last_fired": one.last_fired}
    texts = {name: None if at is None else at.isoformat() for name, at in times.items()}
    return {"name": one.name, "when": one.when.spec(), "call": one.call, **texts}
