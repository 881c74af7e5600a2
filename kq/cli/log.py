"""``kq log``: what became of each message."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import click
from rich.text import Text

import kq
from kq.cli.options import Ago, Duration, config_option, hosts_option, signer_option
from kq.cli.output import confirm, counted, json_option, make_console, print_table, show_progress, yes_option
from kq.messagelog import STATUSES

__all__ = ["log", "store_option"]

#: Characters of arguments and errors in a table.
_LONGEST = 60
#: Stands for what is not there.
_NOTHING = "–"
#: What ``kq log retry TOPIC`` runs again where no status is given: what has failed for good, and is no dead letter.
_FAILED = ("FAILED", "TIMED_OUT", "INVALID", "CANCELLED", "EXPIRED")
#: Entries that are read at once.
_PAGE = 1_000

store_option = click.option(
    "--store",
    default="sqlite:///kq.db",
    show_default=True,
    envvar="KQ_STORE",
    show_envvar=True,
    metavar="URL",
    help="Database of the message log.",
)


@click.group(no_args_is_help=False)
def log() -> None:
    """List what became of messages, look inside, follow it, remove what is old, or run jobs again."""


def _filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what says which entries."""
    choice = click.Choice(STATUSES, case_sensitive=False)
    for option in (
        click.option("--until", type=Ago(), help="Only those that changed before."),
        click.option(
            "--since", type=Ago(), help="Only those that changed in the last 90, 10m, 2h, 1d, or since a time."
        ),
        click.option("--text", help="Only those with this text in their exception or its traceback."),
        click.option("--function", metavar="NAME", help="Only those of this function."),
        click.option("--topic", help="Only those of this topic."),
        click.option("--status", type=choice, multiple=True, help="Only those; several may be given."),
    ):
        command = option(command)
    return command


def _filters(status: tuple[Any, ...], **others: Any) -> dict[str, Any]:
    return {"status": list(status) or None, **others}


@log.command(name="list")
@store_option
@_filter_options
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="So many, the newest first.")
@click.option("--offset", type=click.IntRange(min=0), default=0, show_default=True, help="Pass over so many.")
@json_option
def log_list(store: str, limit: int, offset: int, as_json: bool, **filters: Any) -> None:
    """List entries, the one that was changed last first."""
    which = _filters(**filters)
    with kq.MessageStore(store) as found:
        entries = found.list(**which, limit=limit + 1, offset=offset)
        total = found.count(**which) if as_json else 0
    page = entries[:limit]
    if as_json:
        click.echo(json.dumps({"entries": [_as_json(entry) for entry in page], "total": total}))
        return
    headers = ("job", "state", "function", "arguments", ">attempt", "changed", ">seconds", "error")
    print_table(make_console(), headers, [_row(entry) for entry in page])
    if len(entries) > limit:
        click.echo("There are more: --limit and --offset show others", err=True)


@log.command(name="show")
@store_option
@click.argument("id")
@json_option
def log_show(store: str, id: str, as_json: bool) -> None:
    """Show the entry of the job ID."""
    with kq.MessageStore(store) as found:
        entry = _entry(found, id)
    if as_json:
        click.echo(json.dumps(_as_json(entry)))
        return
    console = make_console()
    print_table(console, ("", ""), _lines(entry))
    for text in (entry.traceback, entry.logs):
        if text:
            console.print(Text(text))


@log.command(name="tail")
@store_option
@_filter_options
@click.option("--lines", "count", type=click.IntRange(min=0), default=10, show_default=True, help="Begin with so many.")
@click.option("--no-follow", is_flag=True, help="End then, instead of waiting for more.")
@json_option
def log_tail(store: str, count: int, no_follow: bool, as_json: bool, **filters: Any) -> None:
    """Show the entries that were changed last, and each that changes, until Ctrl-C."""
    with kq.MessageStore(store) as found:
        for entry in found.tail(count, follow=not no_follow, **_filters(**filters)):
            click.echo(json.dumps(_as_json(entry)) if as_json else "  ".join(_row(entry)))


@log.command(name="prune")
@store_option
@click.option("--older-than", type=Duration(), default="30d", show_default=True, help="Since their last change.")
def log_prune(store: str, older_than: float) -> None:
    """Remove entries that have not changed for long."""
    with kq.MessageStore(store) as found:
        removed = found.prune(timedelta(seconds=older_than))
    click.echo(f"{counted(removed, 'entry').replace('entrys', 'entries')} removed")


@log.command(name="retry")
@store_option
@hosts_option
@config_option
@signer_option
@click.argument("topic_or_id")
@_filter_options
@yes_option
def log_retry(
    store: str, hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic_or_id: str, yes: bool,
    topic: str | None, **filters: Any,
) -> None:  # fmt: skip
    """Enqueue the message of a job again; or those of a TOPIC that have failed, or have a --status."""
    if topic is not None:
        raise click.UsageError("the topic is the argument: leave out --topic")
    with kq.MessageStore(store) as found:
        one = found.get(topic_or_id)
        if one is not None:
            click.echo(f"{kq.requeue(one, hosts, config, store=found, signer=signer)} job enqueued")
            return
        filters["status"] = filters["status"] or _FAILED
        which = _filters(**filters, topic=topic_or_id)
        total = found.count(**which)
        if not total and not found.list(topic=topic_or_id, limit=1):
            raise click.ClickException(f"{topic_or_id!r} is no job and no topic of the message log at {found.url}")
        if total > 1 and not yes:
            confirm(f"{counted(total, 'job')} will be enqueued again. Go on?")
        # read before they are enqueued, for that changes them
        pages = [found.list(**which, limit=_PAGE, offset=begin) for begin in range(0, total, _PAGE)]
        entries = [entry for page in pages for entry in page]
        with show_progress(make_console(stderr=True), "jobs", max(1, len(entries))) as show:
            put_back = partial(kq.requeue, store=found, signer=signer, on_progress=show)
            done = put_back(reversed(entries), hosts, config)
    click.echo(f"{counted(done, 'job')} enqueued")


def _entry(store: kq.MessageStore, job_id: str) -> kq.MessageLog:
    found = store.get(job_id)
    if found is None:
        raise click.ClickException(f"no job {job_id!r} in the message log at {store.url}")
    return found


def _row(entry: kq.MessageLog) -> tuple[str, ...]:
    seconds = _NOTHING
    if entry.started_at is not None and entry.ended_at is not None:
        seconds = f"{(entry.ended_at - entry.started_at).total_seconds():.3f}"
    what = (entry.job_id, entry.state, entry.task_type or _NOTHING, _short(entry.arguments), str(entry.attempt))
    return (*what, _moment(entry.changed_at), seconds, _short(entry.exception))


def _short(text: str | None) -> str:
    line = " ".join((text or _NOTHING).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _lines(entry: kq.MessageLog) -> list[tuple[str, str]]:
    told = {
        "job": entry.job_id,
        "state": entry.state,
        "attempt": str(entry.attempt),
        "task type": entry.task_type,
        "function": entry.function,
        "arguments": entry.arguments,
        "result": entry.result,
        "exception": entry.exception,
        "topic": entry.topic,
        "partition": None if entry.partition is None else str(entry.partition),
        "offset": None if entry.offset is None else str(entry.offset),
        "key": None if entry.key is None else entry.key.decode("utf-8", "backslashreplace"),
        "worker": entry.worker,
        "published": _moment(entry.published_at),
        "started": _moment(entry.started_at),
        "ended": _moment(entry.ended_at),
        "changed": _moment(entry.changed_at),
    }
    return [(name, _NOTHING if text is None else text) for name, text in told.items()]


def _as_json(entry: kq.MessageLog) -> dict[str, Any]:
    """Return what JSON can hold of an entry: times and bytes as text."""
    told = entry._asdict()
    for name, value in told.items():
        if isinstance(value, datetime):
            told[name] = value.isoformat()
    told["key"] = None if entry.key is None else entry.key.decode("utf-8", "backslashreplace")
    return told


def _moment(at: datetime | None) -> str:
    return _NOTHING if at is None else at.astimezone().isoformat(sep=" ", timespec="seconds")
