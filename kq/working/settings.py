"""The settings of a worker: its arguments, checked once and turned into parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from kafka import KafkaConsumer

from kq.clients import DEFAULT_TOPIC, check_config, check_hosts, check_topic, hosts_of
from kq.errors import ArgumentError
from kq.executors import Executor, InlineExecutor, ProcessExecutor, ThreadExecutor
from kq.messagelog import MessageStore, check_store
from kq.retry import Retry, check_retry
from kq.serializers import loads
from kq.signing import Signer, check_signer
from kq.utils import hides_arguments
from kq.working.backlog import Ordering
from kq.working.brake import Unimportable
from kq.working.callback import takes_message
from kq.working.companions import Companions, Context

__all__ = ["Plan", "Settings"]

_logger = logging.getLogger("kq.worker")

#: Settings of a consumer that have an argument of their own, or that would lose jobs.
_RESERVED = (
    "bootstrap_servers",
    "group_id",
    "enable_auto_commit",
    "key_deserializer",
    "value_deserializer",
    "consumer_timeout_ms",
)
#: What an executor object must have.
_PARTS = (
    "open",
    "room",
    "start",
    "start_all",
    "flush",
    "finished",
    "patience",
    "withdraw",
    "terminate",
    "tell_cancelled",
    "running",
    "watch",
    "kill",
    "close",
    "release",
)


class Settings(NamedTuple):
    """The arguments of ``Worker(…)`` by their names, checked, and what follows from them."""

    topic: str
    #: The user's consumer; None where the worker makes one.
    consumer: KafkaConsumer | None
    callback: Callable[..., Any] | None
    deserializer: Callable[[bytes], Any]
    logger: logging.Logger
    hosts: str
    group: str
    #: More settings for clients that the worker makes.
    config: Mapping[str, Any]
    timeout: float | int | None
    executor: Executor
    concurrency: int
    ordering: Ordering
    commit_interval: float
    shutdown_timeout: float
    max_deliveries: int
    unimportable: Unimportable
    #: The policy of jobs that say nothing themselves.
    retry: Retry | None = None
    #: Whether, or to which topic, what failed for good goes.
    dead_letters: bool | str = False
    #: Whether results are published, or only those that are asked for.
    results: bool | Literal["asked"] = False
    #: Whether what jobs log is captured, and how many lines of each.
    capture_logs: bool = False
    capture_lines: int = 1000
    #: Where to write down what becomes of each message, if anywhere.
    message_log: MessageStore | str | None = None
    #: Whether the callback is KQ 2.x's, with six arguments.
    takes_message: bool = True
    #: Whether the worker takes part in firing delayed jobs; at which brokers, if not its own.
    later: bool | str = True
    #: Verifies what is to run, and signs what is published.
    signer: Signer | None = None
    #: Whether the worker takes part in control; None where it does once there is something to read.
    control: bool | None = None
    #: Whether arguments, results and keys stay out of what is written.
    hides_arguments: bool = False

    @property
    def packs(self) -> Literal["none", "asked", "all"]:
        """Of which jobs results are wanted as bytes."""
        if self.results == "asked":
            return "asked"
        return "all" if self.results else "none"

    @property
    def most_lines(self) -> int:
        """How many lines of a job's log are captured; 0 for none."""
        return self.capture_lines if self.capture_logs else 0

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> Settings:
        """Return the settings; raise :class:`kq.ArgumentError` where an argument is of the wrong type or value."""
        topic, consumer, hosts = given["topic"], given["consumer"], given["hosts"]
        topic = DEFAULT_TOPIC if topic is None and hosts is not None else topic
        check_topic(topic)
        _check_source(consumer, hosts, given["group"], given["config"])
        _check_kinds(given)
        made = {
            "topic": topic,
            "hosts": hosts_of(consumer) if hosts is None else check_hosts(hosts),
            "group": given["group"] or topic if consumer is None else consumer.config["group_id"],
            "config": check_config(given["config"], KafkaConsumer.DEFAULT_CONFIG, _RESERVED),
            "takes_message": given["callback"] is None or takes_message(given["callback"]),
            "deserializer": given["deserializer"] or loads,
            "logger": given["logger"] or _logger,
            "retry": check_retry(given["retry"]),
            "message_log": check_store(given["message_log"]),
            "dead_letters": _dead_letters(given["dead_letters"], topic),
            "signer": check_signer(given["signer"]),
            "hides_arguments": hides_arguments(given["log_arguments"]),
            "executor": _executor(given["executor"], given["concurrency"]),
        }
        told = {name: value for name, value in given.items() if name != "log_arguments"}
        return cls(**{**told, **made})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArgumentError(message)


def _check_source(consumer: Any, hosts: Any, group: Any, config: Any) -> None:
    """Check where messages come from: a consumer, or hosts with what belongs to them."""
    if hosts is None:
        _check_consumer(consumer)
        _require(group is None and config is None, "group and config go with hosts; your own consumer has them already")
    else:
        _require(consumer is None, "pass hosts, or a consumer of your own, not both")
    _require(group is None or (isinstance(group, str) and group != ""), "group must be a str, and not an empty one")


def _check_consumer(consumer: Any) -> None:
    _require(
        isinstance(consumer, KafkaConsumer), 'bad consumer instance; pass a KafkaConsumer, or hosts="127.0.0.1:9092"'
    )
    _require(bool(consumer.config["group_id"]), "consumer must have group_id")
    for name in ("key_deserializer", "value_deserializer"):
        is_free = consumer.config[name] is None
        _require(is_free, f"consumer must not have a {name}; pass deserializer to the worker instead")


def _check_kinds(given: Mapping[str, Any]) -> None:
    for name in ("callback", "deserializer"):
        _require(given[name] is None or callable(given[name]), f"{name} must be a callable")
    _require(given["logger"] is None or isinstance(given["logger"], logging.Logger), "bad logger instance")
    timeout = given["timeout"]
    _require(timeout is None or isinstance(timeout, (int, float)), "timeout must be an int or float")
    _require(timeout is None or timeout >= 0, "timeout must be 0 or greater")
    later = given["later"]
    _require(isinstance(later, bool) or later == check_hosts(later), "later must be True, False or hosts")
    _require(given["control"] in (True, False, None), "control must be True, False or None")
    modes = ("brake", "invalid", "stop")
    _require(given["unimportable"] in modes, 'unimportable must be "brake", "invalid" or "stop"')
    _require(given["ordering"] in ("key", "partition", "none"), 'ordering must be "key", "partition" or "none"')
    _require(given["results"] in (True, False, "asked"), 'results must be True, False or "asked"')
    _require(isinstance(given["capture_logs"], bool), "capture_logs must be True or False")
    for name in ("concurrency", "max_deliveries", "capture_lines"):
        value = given[name]
        _require(isinstance(value, int) and value >= 1, f"{name} must be an int of 1 or greater")
    for name in ("commit_interval", "shutdown_timeout"):
        value = given[name]
        _require(isinstance(value, (int, float)) and value >= 0, f"{name} must be an int or float of 0 or greater")


def _dead_letters(given: Any, topic: str) -> bool | str:
    if isinstance(given, bool):
        return given
    _require(isinstance(given, str), "dead_letters must be True, False or the name of a topic")
    _require(check_topic(given) != topic, f"dead_letters must not be the topic of the jobs: {topic}")
    return str(given)


def _executor(executor: Any, concurrency: int) -> Executor:
    names: dict[Any, Callable[[], Executor]]
    names = {"inline": InlineExecutor, "thread": ThreadExecutor, "process": ProcessExecutor}
    if isinstance(executor, str) and executor in names:
        executor = names[executor]()
    if isinstance(executor, InlineExecutor) and concurrency > 1:
        raise ArgumentError(
            'an inline executor runs one job at a time: pass executor="process" or "thread" with concurrency above 1'
        )
    if isinstance(executor, type):
        raise ArgumentError(f"executor must be an object, not the class: pass {executor.__name__}()")
    has_all = all(callable(getattr(executor, part, None)) for part in _PARTS)
    _require(has_all, 'executor must be "inline", "thread", "process" or an executor object')
    return executor  # type: ignore[no-any-return]


class Plan(NamedTuple):
    """What one ``start`` is to do, beside the settings of the worker."""

    #: Whether each job is committed before the next one starts.
    commits_each: bool
    max_messages: float
    #: Seconds without a message after which the loop ends.
    idle_limit: float
    #: Whether the loop ends when nothing is left.
    is_burst: bool
    companions: Companions
    #: What companions are told.
    context: Context
