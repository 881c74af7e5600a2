"""``kq ps`` and ``kq top``, which show the workers of a topic, and the commands that steer them.

1. A command makes a ``kq.Control``, and prints what that says.
2. Where no worker is there, it says so, and what becomes of the wish. To look, or to stop, fails then: exit code 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.text import Text

import kq
from kq.cli.info import INTERVAL, keep_showing
from kq.cli.options import config_option, hosts_option, signer_option
from kq.cli.output import FAILED, counted, json_option, make_console, make_table, to_stderr

__all__ = ["cancel", "pause", "ps", "resume", "stop", "terminate", "top"]

#: Stands for what is not there.
_NOTHING = "–"


def _topic_options(command: Callable[..., None]) -> Callable[..., None]:
    return hosts_option(config_option(signer_option(click.argument("topic")(command))))


@click.command()
@_topic_options
@json_option
def ps(hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic: str, as_json: bool) -> None:
    """Show the workers of TOPIC, and what they run. The exit code is 1 where none is there."""
    console = make_console()
    with kq.Control(topic, hosts, config, signer=signer) as control:
        workers = control.workers()
        pauses = control.pauses()
    if as_json:
        click.echo(json.dumps({"workers": list(map(_as_json, workers)), "pauses": pauses}))
    elif workers:
        console.print(*_show(console, workers, pauses), sep="\n", soft_wrap=True)
    if not workers:
        if not as_json:
            to_stderr(_nobody(topic, pauses))
        raise click.exceptions.Exit(FAILED)


@click.command()
@_topic_options
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=INTERVAL, show_default=True, help="Seconds between looks."
)
def top(hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic: str, interval: float) -> None:
    """Show the workers of TOPIC, and what they run, again and again until Ctrl-C."""
    console = make_console()
    with kq.Control(topic, hosts, config, signer=signer) as control:

        def look() -> list[RenderableType]:
            workers, pauses = control.workers(), control.pauses()
            return _show(console, workers, pauses) if workers else [Text(_nobody(topic, pauses))]

        keep_showing(console, look, interval, in_place=console.is_terminal)


@click.command()
@_topic_options
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
def cancel(
    hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic: str, ids: tuple[str, ...], as_json: bool
) -> None:
    """Have jobs of TOPIC never run, by their IDs, if they have not started yet."""
    _wish(hosts, config, signer, topic, ids, as_json, "cancelled", lambda control: control.cancel)


@click.command()
@_topic_options
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
def terminate(
    hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic: str, ids: tuple[str, ...], as_json: bool
) -> None:
    """Cancel jobs of TOPIC, by their IDs, and end those that run."""
    _wish(hosts, config, signer, topic, ids, as_json, "terminated", lambda control: control.terminate)


def _wish(
    hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic: str, ids: tuple[str, ...], as_json: bool,
    done: str, wish: Callable[[kq.Control], Callable[[str], None]],
) -> None:  # fmt: skip
    with kq.Control(topic, hosts, config, signer=signer) as control:
        for job_id in ids:
            wish(control)(job_id)
        workers = control.workers()
    if as_json:
        click.echo(json.dumps({done: list(ids), "workers": len(workers)}))
        return
    click.echo(f"{counted(len(ids), 'job')} {done}: {counted(len(workers), 'worker')} of topic {topic} know of it")
    if not workers:
        to_stderr(f"No worker of topic {topic} is there now; those that start will know of it")


@click.command()
@_topic_options
@click.option("--group", help="Only this consumer group; by default all.")
@json_option
def pause(
    hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic: str, group: str | None, as_json: bool
) -> None:
    """Have no worker start a job of TOPIC, until it is resumed; what runs finishes."""
    with kq.Control(topic, hosts, config, signer=signer) as control:
        control.pause(group)
        _tell_pauses(control, as_json)


@click.command()
@_topic_options
@click.option("--group", help="Only this consumer group; by default every pause ends.")
@json_option
def resume(
    hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic: str, group: str | None, as_json: bool
) -> None:
    """End a pause of TOPIC."""
    with kq.Control(topic, hosts, config, signer=signer) as control:
        control.resume(group)
        _tell_pauses(control, as_json)


def _tell_pauses(control: kq.Control, as_json: bool) -> None:
    pauses = control.pauses()
    click.echo(json.dumps({"pauses": pauses}) if as_json else f"topic {control.topic}: {_pauses(pauses)}")


@click.command()
@_topic_options
@click.argument("workers", metavar="[WORKER]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that are there now.")
@json_option
def stop(
    hosts: str, config: dict[str, Any], signer: kq.Signer | None, topic: str, workers: tuple[str, ...], every: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Stop workers of TOPIC, as kq ps names them: what runs may finish. The exit code is 1 where none is there."""
    if bool(workers) == every:
        raise click.UsageError("say which workers: as kq ps names them, or --all")
    with kq.Control(topic, hosts, config, signer=signer) as control:
        asked = control.shutdown() if every else [name for worker in workers for name in control.shutdown(worker)]
    if as_json:
        click.echo(json.dumps({"stopping": asked}))
    elif asked:
        click.echo(f"{counted(len(asked), 'worker')} of topic {topic} will stop: {', '.join(asked)}")
    if not asked:
        if not as_json:
            to_stderr(_nobody(topic, []))
        raise click.exceptions.Exit(FAILED)


# -- what is shown ----------------------------------------------------------------------------------------------------


def _nobody(topic: str, pauses: list[str | None]) -> str:
    paused = f" The topic is {_pauses(pauses)}." if pauses else ""
    return (
        f"No worker of topic {topic} is there, or none takes part in control: kq worker does, and "
        f"kq.Worker(control=True).{paused} kq info --topic {topic} shows the members of its group"
    )


def _pauses(pauses: list[str | None]) -> str:
    if not pauses:
        return "not paused"
    return "paused for " + ", ".join("all groups" if group is None else f"group {group}" for group in pauses)


def _show(console: Console, workers: list[kq.WorkerInfo], pauses: list[str | None]) -> list[RenderableType]:
    headers = ("worker", "group", "state", "executor", ">partitions", ">running", ">backlog", ">done", ">failed", "up")
    shown: list[RenderableType] = [_table(console, headers, list(map(_row, workers)))]
    jobs = [(worker, run) for worker in workers for run in worker.running]
    if jobs:
        rows = [
            (run.id or _NOTHING, run.call or _NOTHING, _since(run.started), str(run.attempt), worker.id)
            for worker, run in jobs
        ]
        shown.append(_table(console, ("job", "function", ">for", ">attempt", "worker"), rows))
    end = f"{counted(len(workers), 'worker')}, {counted(len(jobs), 'job')} running"
    return [*shown, Text(f"{end}; {_pauses(pauses)}")]


def _table(console: Console, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> RenderableType:
    return make_table(console, headers, rows)


def _row(worker: kq.WorkerInfo) -> tuple[str, ...]:
    stats = worker.stats
    bad = sum(stats.get(name, 0) for name in ("failed", "timed_out", "invalid"))
    figures = (len(worker.partitions), len(worker.running), stats.get("backlog", 0), stats.get("done", 0), bad)
    where = f"{worker.executor} × {worker.concurrency}"
    return (worker.id, worker.group, worker.state, where, *(f"{number:,}" for number in figures), _since(worker.since))


def _since(moment: datetime) -> str:
    """Return in words how long ago that was: ``3 s``, ``12 min``, ``5 h``, ``2 d``."""
    seconds = max(0, int((datetime.now(timezone.utc) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _as_json(worker: kq.WorkerInfo) -> dict[str, Any]:
    told = worker._asdict()
    told["since"], told["seen"] = worker.since.isoformat(), worker.seen.isoformat()
    told["running"] = [{**run._asdict(), "started": run.started.isoformat()} for run in worker.running]
    return told
