"""``kq dead``: what failed for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from heapq import nlargest
from operator import attrgetter
from typing import Any

import click
from rich.text import Text

import kq
from kq.cli.options import Ago, config_option, hosts_option, signer_option
from kq.cli.output import confirm, counted, json_option, make_console, print_table, show_progress, yes_option
from kq.letter import REASONS
from kq.message import HEADER_FUNC, HEADER_ID

__all__ = ["dead"]

#: Characters of an error in a table.
_LONGEST_ERROR = 80
#: Stands for what is not there.
_NOTHING = "–"


@click.group(no_args_is_help=False)
def dead() -> None:
    """List what failed for good, look inside, run it again, or remove it."""


def _letters_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what says where the letters are."""
    named = click.option("--letters", metavar="NAME", help="The topic of the letters, if it is not TOPIC.dead.")
    return hosts_option(config_option(named(click.argument("topic")(command))))


def _filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what says which letters."""
    reason = click.option("--reason", type=click.Choice(REASONS), help="Only those.")
    since = click.option("--since", type=Ago(), help="Only those of the last 90, 10m, 2h, 1d, or since a time.")
    until = click.option("--until", type=Ago(), help="Only those that are older.")
    return reason(since(until(command)))


def _selection_options(command: Callable[..., None]) -> Callable[..., None]:
    every = click.option("--all", "every", is_flag=True, help="All of them.")
    return _filter_options(every(yes_option(click.argument("ids", metavar="[ID]...", nargs=-1)(command))))


@dead.command(name="list")
@_letters_options
@signer_option
@_filter_options
@click.option("--replayed", is_flag=True, help="Those that were replayed, too.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="So many, the newest first.")
@click.option("--offset", type=click.IntRange(min=0), default=0, show_default=True, help="Pass over so many.")
@json_option
def dead_list(
    hosts: str, config: dict[str, Any], letters: str | None, topic: str, signer: kq.Signer | None, reason: Any,
    since: Any, until: Any, replayed: bool, limit: int, offset: int, as_json: bool,
) -> None:  # fmt: skip
    """List the letters of TOPIC."""
    total = 0

    def counting() -> Any:
        nonlocal total
        for total, letter in enumerate(found.iterate(reason, since, until, replayed), 1):  # noqa: B007 - it is shown
            yield letter._replace(value=None, traceback="")

    found = kq.DeadLetters(topic, hosts, config, letters=letters, signer=signer)
    page = nlargest(offset + limit, counting(), key=attrgetter("at"))[offset:]
    if as_json:
        click.echo(json.dumps({"letters": [_as_json(letter) for letter in page], "total": total}))
        return
    headers = ("letter", "reason", "function", "error", ">attempts", "at", "replayed")
    print_table(make_console(), headers, [_row(letter) for letter in page])
    if total > len(page):
        click.echo(f"{len(page):,} of {counted(total, 'letter')}; --limit and --offset show others", err=True)


@dead.command(name="show")
@_letters_options
@signer_option
@click.argument("id")
@json_option
def dead_show(
    hosts: str, config: dict[str, Any], letters: str | None, topic: str, signer: kq.Signer | None, id: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Show the letter ID. Nothing is unpickled."""
    found = kq.DeadLetters(topic, hosts, config, letters=letters, signer=signer)
    letter = found.get(id)
    if letter is None:
        raise click.ClickException(f"no letter {id!r} on topic {found.letters}: kq dead list {topic} shows those there")
    if as_json:
        click.echo(json.dumps(_as_json(letter)))
        return
    console = make_console()
    print_table(console, ("", ""), _lines(letter))
    console.print(Text(letter.traceback))


@dead.command(name="replay")
@_letters_options
@signer_option
@_selection_options
def dead_replay(
    hosts: str, config: dict[str, Any], letters: str | None, topic: str, signer: kq.Signer | None, reason: Any,
    since: Any, until: Any, every: bool, yes: bool, ids: tuple[str, ...],
) -> None:  # fmt: skip
    """Run the letters of TOPIC again: their originals go onto it anew. Interrupted, it goes on where it was."""
    found = kq.DeadLetters(topic, hosts, config, letters=letters, signer=signer)
    count = len(ids) or found.count(reason, since, until)
    _change(found.replay, "replayed", count, yes, ids or None, reason=reason, since=since, until=until, all=every)


@dead.command(name="purge")
@_letters_options
@_selection_options
def dead_purge(
    hosts: str, config: dict[str, Any], letters: str | None, topic: str, reason: Any, since: Any, until: Any,
    every: bool, yes: bool, ids: tuple[str, ...],
) -> None:  # fmt: skip
    """Remove letters of TOPIC for good, also those that were replayed."""
    found = kq.DeadLetters(topic, hosts, config, letters=letters)
    count = len(ids) or found.count(reason, since, until, replayed=True)
    _change(found.purge, "purged", count, yes, ids or None, reason=reason, since=since, until=until, all=every)


def _change(change: Callable[..., int], done: str, count: int, yes: bool, ids: Any, **which: Any) -> None:
    """Replay or purge letters, after a question where there are several, and show how far it is."""
    if ids is None and not which["all"] and not any(which[name] for name in ("reason", "since", "until")):
        raise click.UsageError("say which letters: their IDs, --reason, --since, --until, or --all")
    if count > 1 and not yes:
        confirm(f"{counted(count, 'letter')} will be {done}. Go on?")
    if not count:
        click.echo(f"0 letters {done}")
        return
    with show_progress(make_console(stderr=True), "letters", count) as show:
        number = change(ids, **which, on_progress=lambda many, _: show(many))
    click.echo(f"{counted(number, 'letter')} {done}")


def _row(letter: kq.DeadLetter) -> tuple[str, ...]:
    error = " ".join(letter.error.split())
    shown = error if len(error) <= _LONGEST_ERROR else f"{error[:_LONGEST_ERROR]}…"
    where = (letter.id, letter.reason, _header(letter, HEADER_FUNC), shown, str(letter.attempts))
    return (*where, _moment(letter.at), _moment(letter.replayed_at))


def _lines(letter: kq.DeadLetter) -> list[tuple[str, str]]:
    size = "left out: it is at the original's place" if letter.is_left_out else "null"
    own = {
        "letter": letter.id,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": str(letter.attempts),
        "given up": f"{_moment(letter.at)} by worker {letter.worker}",
        "replayed": _moment(letter.replayed_at),
        "from": f"topic {letter.topic}, partition {letter.partition}, offset {letter.offset}",
        "job": _header(letter, HEADER_ID),
        "function": _header(letter, HEADER_FUNC),
        "key": _NOTHING if letter.key is None else letter.key.decode("utf-8", "backslashreplace"),
        "value": size if letter.value is None else counted(len(letter.value), "byte"),
    }
    headers = [(f"header {name}", value.decode("utf-8", "backslashreplace")) for name, value in letter.headers]
    return [*own.items(), *headers]


def _as_json(letter: kq.DeadLetter) -> dict[str, Any]:
    """Return what JSON can hold of a letter: bytes as text, and of the value its size."""
    told = letter._asdict()
    del told["value"]
    told["at"] = letter.at.isoformat()
    told["replayed_at"] = None if letter.replayed_at is None else letter.replayed_at.isoformat()
    told["key"] = None if letter.key is None else letter.key.decode("utf-8", "backslashreplace")
    told["headers"] = [[name, value.decode("utf-8", "backslashreplace")] for name, value in letter.headers]
    return told


def _header(letter: kq.DeadLetter, name: str) -> str:
    return dict(letter.headers).get(name, _NOTHING.encode()).decode("utf-8", "backslashreplace")


def _moment(at: datetime | None) -> str:
    return _NOTHING if at is None else at.astimezone().isoformat(sep=" ", timespec="seconds")
