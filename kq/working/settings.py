"""The settings of a worker: its arguments, checked once and turned into parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kafka import KafkaConsumer

from kq.clients import DEFAULT_TOPIC, check_config, check_hosts, hosts_of
from kq.errors import ArgumentError
from kq.executors import Executor, InlineExecutor, ProcessExecutor, ThreadExecutor
from kq.serializers import loads
from kq.working.backlog import Ordering
from kq.working.callback import takes_message

__all__ = ["Settings"]

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
_EXECUTOR_PARTS = (
    *("open", "room", "start", "flush", "finished", "patience"),
    *("watch", "kill", "close", "release"),
)


class Settings(NamedTuple):
    """What ``Worker(…)`` was given; ``checked`` makes one."""

    topic: str
    #: The user's consumer; None where the worker makes one.
    consumer: KafkaConsumer | None
    hosts: str
    group: str
    #: More settings for clients that the worker makes.
    config: Mapping[str, Any]
    callback: Callable[..., Any] | None
    #: Whether the callback is KQ 2.x's, with six arguments.
    takes_message: bool
    deserialize: Callable[[bytes], Any]
    logger: logging.Logger
    timeout: float | int | None
    executor: Executor
    concurrency: int
    ordering: Ordering
    commit_interval: float
    shutdown_timeout: float
    max_deliveries: int

    @classmethod
    def checked(
        cls,
        *,
        topic: Any,
        consumer: Any,
        hosts: Any,
        group: Any,
        config: Any,
        callback: Any,
        deserializer: Any,
        logger: Any,
        timeout: Any,
        executor: Any,
        concurrency: Any,
        ordering: Any,
        **numbers: Any,
    ) -> Settings:
        """Return the settings; raise :class:`kq.ArgumentError` where an argument is of the wrong type or value."""
        topic = DEFAULT_TOPIC if topic is None and hosts is not None else topic
        _require(isinstance(topic, str), "topic must be a str")
        _check_source(consumer, hosts, group, config)
        for name, value in {"callback": callback, "deserializer": deserializer}.items():
            _require(value is None or callable(value), f"{name} must be a callable")
        _require(logger is None or isinstance(logger, logging.Logger), "bad logger instance")
        _require(timeout is None or isinstance(timeout, (int, float)), "timeout must be an int or float")
        _require(timeout is None or timeout >= 0, "timeout must be 0 or greater")
        _require(ordering in ("key", "partition", "none"), 'ordering must be "key", "partition" or "none"')
        _check_numbers(concurrency=concurrency, **numbers)
        return cls(
            topic=topic,
            consumer=consumer,
            hosts=hosts_of(consumer) if hosts is None else check_hosts(hosts),
            group=consumer.config["group_id"] if consumer is not None else group or topic,
            config=check_config(config, KafkaConsumer.DEFAULT_CONFIG, _RESERVED),
            callback=callback,
            takes_message=callback is None or takes_message(callback),
            deserialize=deserializer or loads,
            logger=logger or _logger,
            timeout=timeout,
            executor=_executor(executor, concurrency),
            concurrency=concurrency,
            ordering=ordering,
            **numbers,
        )


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
    _require(group is None or (isinstance(group, str) and group != ""), "group must be a str")


def _check_consumer(consumer: Any) -> None:
    _require(isinstance(consumer, KafkaConsumer), "bad consumer instance")
    _require(bool(consumer.config["group_id"]), "consumer must have group_id")
    for name in ("key_deserializer", "value_deserializer"):
        is_free = consumer.config[name] is None
        _require(is_free, f"consumer must not have a {name}; pass deserializer to the worker instead")


def _check_numbers(concurrency: Any, commit_interval: Any, shutdown_timeout: Any, max_deliveries: Any) -> None:
    for name, value in (("concurrency", concurrency), ("max_deliveries", max_deliveries)):
        _require(isinstance(value, int) and value >= 1, f"{name} must be an int of 1 or greater")
    for name, value in (("commit_interval", commit_interval), ("shutdown_timeout", shutdown_timeout)):
        _require(isinstance(value, (int, float)) and value >= 0, f"{name} must be an int or float of 0 or greater")


def _executor(executor: Any, concurrency: int) -> Executor:
    names: dict[Any, Callable[[], Executor]]
    names = {"inline": InlineExecutor, "thread": ThreadExecutor, "process": ProcessExecutor}
    if isinstance(executor, str) and executor in names:
        executor = names[executor]()
    if isinstance(executor, InlineExecutor) and concurrency > 1:
        raise ArgumentError(
            'an inline executor runs one job at a time: pass executor="process" or "thread" with concurrency above 1'
        )
    has_all = all(callable(getattr(executor, part, None)) for part in _EXECUTOR_PARTS)
    _require(has_all, 'executor must be "inline", "thread", "process" or an executor object')
    return executor  # type: ignore[no-any-return]
