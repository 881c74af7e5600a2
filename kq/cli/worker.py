"""``kq worker``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import click
from kafka.errors import KafkaError

import kq
from kq.cli.check import check_next
from kq.cli.logs import FORMATS, LEVELS, log_to_stderr
from kq.cli.options import Size, config_option, group_option, hosts_option, max_age_option, signer_option
from kq.cli.output import FAILED, counted, fail
from kq.cli.reload import Watcher, restart
from kq.cli.targets import check_modules, import_from_here, load_callback
from kq.cli.together import run_set, run_together
from kq.cli.topics import open_admin, partitions_of
from kq.clients import DEFAULT_TOPIC
from kq.executors import Executor
from kq.working import Stats

__all__ = ["worker"]

_logger = logging.getLogger("kq.cli")

#: Options that are arguments of the library, which has their defaults.
_OF_THE_LIBRARY = ("timeout", "unimportable", "ordering", "shutdown_timeout", "retry", "signer")


@click.command()
@hosts_option
@click.option(
    "--topic",
    "topics",
    multiple=True,
    default=[DEFAULT_TOPIC],
    show_default=True,
    help="Kafka topic; several may be given.",
)
@config_option
@group_option
@signer_option
@max_age_option
@click.option(
    "--json-allow",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="Run jobs of JSON alone, and call nothing but this; MODULE:* for all that a module defines.",
)
@click.option("--callback", metavar="FILE.py|MODULE[:NAME]", help="Called with each outcome. NAME: callback.")
@click.option("--timeout", type=float, help="How long a job may take, in seconds, whatever the job says.")
@click.option("--max-messages", type=click.IntRange(min=0), help="Stop after so many messages.")
@click.option("--burst", is_flag=True, help="Stop when nothing is left.")
@click.option("--check", is_flag=True, help="Say whether the next jobs could run here; run and commit none.")
@click.option("--processes", type=click.IntRange(min=1), help="Run so many jobs at once, by default one a core.")
@click.option("--threads", type=click.IntRange(min=1), help="Run so many jobs at once in threads, not in processes.")
@click.option("--inline", is_flag=True, help="Run one job at a time, in the process of the worker.")
@click.option("--kill-grace", type=click.FloatRange(min=0), help="Seconds to clean up for a job whose time is up.")
@click.option("--max-jobs", type=click.IntRange(min=1), help="Replace a process after so many jobs.")
@click.option("--max-memory", type=Size(), help="Replace a process that is larger, between jobs: 512M, 2G.")
@click.option("--preload", multiple=True, metavar="MODULE", help="Import a module once for all processes.")
@click.option(
    "--unimportable",
    type=click.Choice(["brake", "invalid", "stop"]),
    help="What becomes of messages whose jobs cannot be imported here; brake, and stop with --reload.",
)
@click.option("--ordering", type=click.Choice(["key", "partition", "none"]), help="What runs one at a time, in order.")
@click.option("--shutdown-timeout", type=click.FloatRange(min=0), help="Seconds that running jobs have at a stop.")
@click.option(
    "--retry", type=click.IntRange(min=0), metavar="N", help="Run what fails up to N times more, with delays."
)
@click.option("--dead-letters", is_flag=True, help="Keep what failed for good on TOPIC.dead.")
@click.option("--dead-letters-to", metavar="NAME", help="The same, on another topic.")
@click.option("--results", is_flag=True, help="Publish what became of each job: kq result, kq enqueue --wait.")
@click.option("--results-asked", is_flag=True, help="The same, only of jobs whose results somebody asks for.")
@click.option("--capture-logs", is_flag=True, help="Publish what each job logs, too.")
@click.option(
    "--set", "consumers", type=click.IntRange(min=1), metavar="N", help="Run N consumers, each replaced if it dies."
)
@click.option("--consumer-class", metavar="MODULE.CLASS", help="With --set: a subclass of kq.Consumer.")
@click.option("--store", metavar="URL", envvar="KQ_STORE", show_envvar=True, help="Database for a message log.")
@click.option("--no-control", is_flag=True, help="Take no part in what kq ps shows, and kq cancel and others steer.")
@click.option("--reload", is_flag=True, help="Restart when a source file changes: for development.")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    help="What is logged; by default warnings, and what the worker itself does.",
)
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="How it is logged.")
@click.option("--verbose", is_flag=True, help="The same as --log-level info: each job is logged.")
def worker(reload: bool, verbose: bool, check: bool, log_level: str | None, log_format: str, **options: Any) -> None:
    """Run the jobs of a topic until Ctrl-C, which lets the running jobs end first.

    The exit code is 0 after that, and 1 where a stop had to interrupt jobs, which run again.
    """
    log_to_stderr(log_level or ("info" if verbose else None), log_format)
    import_from_here()
    options["topics"] = tuple(dict.fromkeys(options["topics"]))
    if options["max_messages"] is not None and len(options["topics"]) > 1:
        raise click.UsageError("--max-messages is for one --topic")
    run = _check if check else _work_and_reload if reload else _work
    if options["consumers"]:
        _check_set(options, check=check, reload=reload)
        run = _consume
    elif options["consumer_class"]:
        raise click.UsageError("--consumer-class goes with --set")
    try:
        run(options)
    except (kq.KQError, KafkaError) as error:
        if log_format != "json":
            raise
        _logger.error("%s", " ".join(str(error).split()))
        raise click.exceptions.Exit(FAILED) from error


def _check(options: Mapping[str, Any]) -> None:
    """Say of each topic whether the next jobs could run here."""
    workers = _workers(options)[0]
    for module in options["preload"]:  # as the children would have them
        import_module(module)
    for topic, made in workers.items():
        check_next(topic, options["hosts"], made.group, options["config"], options["signer"], _reader(options))


def _work(options: Mapping[str, Any], watcher: Watcher | None = None) -> None:
    """Run workers as the options say, and stop them when a source file changes."""
    made, words = _workers(options)
    for topic, one in made.items():
        line = "%s jobs of topic %s for group %s, from %s"
        _logger.info(line, words, topic, one.group, options["hosts"])
    if watcher is not None:
        watcher.start(lambda: _stop(made.values()))
    limits = {"max_messages": options["max_messages"], "burst": options["burst"]}
    if len(made) == 1:
        (one,) = made.values()
        one.start(**limits)
    else:
        run_together(list(made.values()), lambda one: one.start(**limits))
    for topic, one in made.items():
        _logger.info("Topic %s: %s", topic, _summary(one.stats()))
    _raise_if_interrupted(sum(one.stats().interrupted for one in made.values()))


def _raise_if_interrupted(count: int) -> None:
    if count:
        jobs = "1 job was interrupted, and runs" if count == 1 else f"{count} jobs were interrupted, and run"
        raise kq.WorkerError(f"{jobs} again")


def _check_set(options: Mapping[str, Any], **others: bool) -> None:
    """Raise where options are given that a set has no use for."""
    given = {"max-messages": options["max_messages"] is not None, "burst": options["burst"], **others}
    if len(options["topics"]) > 1:
        raise click.UsageError("--set is for one --topic")
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise click.UsageError(f"--set and --{wrong[0]} exclude each other")


def _consume(options: Mapping[str, Any]) -> None:
    """Run a set of consumers as the options say."""
    (topic,), count = options["topics"], options["consumers"]
    if not (options["processes"] or options["threads"] or options["inline"]):
        options = {**options, "processes": max(1, _cores() // count)}
    _, concurrency, words = _executor(options)
    worker = {**_settings(options), "executor": lambda: _executor(options)[0], "concurrency": concurrency}
    store = worker.pop("message_log")
    hosts, config, name = options["hosts"], options["config"], options["consumer_class"] or "kq.Consumer"
    access = {"group": options["group"], "config": config, "message_log": store, "worker": worker}
    consumers = kq.ConsumerSet(hosts, topic, logging.getLogger("kq.worker"), count, "consumer", name, **access)
    with open_admin(hosts, config) as admin:
        partitions = len(partitions_of(admin, hosts, topic))
    line = "%s: %s jobs of topic %s for group %s each, from %s"
    _logger.info(line, counted(count, "consumer"), words, topic, options["group"] or topic, hosts)
    if partitions < count:
        _logger.warning("Topic %s has %s: more consumers than that are idle", topic, counted(partitions, "partition"))
    run_set(consumers)
    stats = [consumer.stats() for consumer in consumers.consumers]
    figures = {name: sum(getattr(one, name) for one in stats) for name in ("done", "failed", "timed_out", "invalid")}
    _logger.info("Topic %s: %s", topic, _summary(stats[0]._replace(**figures)))
    _raise_if_interrupted(sum(one.interrupted for one in stats))


def _summary(stats: Stats) -> str:
    """Return in words what a worker has done: ``50 messages processed: 48 well, 2 failed``."""
    bad = {"failed": stats.failed, "timed out": stats.timed_out, "invalid": stats.invalid}
    told = [f"{count:,} {what}" for what, count in bad.items() if count]
    if told:
        told.insert(0, f"{stats.done - sum(bad.values()):,} well")
    return f"{counted(stats.done, 'message')} processed" + (f": {', '.join(told)}" if told else "")


def _stop(workers: Iterable[kq.Worker]) -> None:
    for one in workers:
        one.stop()


def _workers(options: Mapping[str, Any]) -> tuple[dict[str, kq.Worker], str]:
    """Return a worker for each topic, and in words where their jobs run."""
    hosts, config, topics = (options[name] for name in ("hosts", "config", "topics"))
    settings = {**_settings(options), "hosts": hosts, "group": options["group"], "config": config}
    made = {}
    for topic in topics:
        executor, concurrency, words = _executor(options)
        made[topic] = kq.Worker(topic, executor=executor, concurrency=concurrency, **settings)
    with open_admin(hosts, config) as admin:
        for topic in topics:
            partitions_of(admin, hosts, topic)
    return made, words


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a worker that are neither where it connects to nor where jobs run."""
    callback = None if options["callback"] is None else load_callback(options["callback"])
    dead_letters = options["dead_letters_to"] or options["dead_letters"]
    chosen = {name: options[name] for name in _OF_THE_LIBRARY if options[name] is not None}
    results = {"results": "asked" if options["results_asked"] else options["results"]}
    return {
        **chosen,
        "deserializer": _reader(options),
        **results,
        "callback": callback,
        "dead_letters": dead_letters,
        "capture_logs": options["capture_logs"],
        "message_log": options["store"],
        "control": not options["no_control"],
    }


def _reader(options: Mapping[str, Any]) -> Callable[[bytes], Any] | None:
    """Return what reads jobs of JSON, if there are to be no others."""
    return kq.JSONSerializer(options["json_allow"]).loads if options["json_allow"] else None


def _work_and_reload(options: Mapping[str, Any]) -> None:
    watcher, options = Watcher(), {**options, "unimportable": options["unimportable"] or "stop"}
    try:
        _work(options, watcher)
    except (click.UsageError, kq.WorkerError) as error:  # source that cannot be imported will be corrected
        fail(error.format_message() if isinstance(error, click.UsageError) else str(error))
        _logger.info("Waiting for a change of the source ...")
        watcher.wait()
    watcher.stop()
    if watcher.changed is not None:
        _logger.info("%s has changed: starting again", watcher.changed)
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
    check_modules(options["preload"])
    count = options["processes"] or _cores()
    return kq.ProcessExecutor(**settings), count, f"{count} processes run" if count > 1 else "1 process runs"


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
