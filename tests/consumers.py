"""Consumers that tests start, and others import by their dotted names."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from helpers import wait_until
from journal import QUICK, note

import kq

LOGGER = logging.getLogger("tests.consumers")
#: Hooks that are told of something, and those that are asked.
TOLD = [
    *("on_queue_declare", "on_connection_open", "on_assigned", "on_revoked", "on_lost", "on_message", "fail"),
    *("on_cancel", "on_consumer_cancelled", "on_connection_closed"),
]
ASKED = ["get_message_log", "get_task_type"]


class Noting(kq.Consumer):
    """Remembers what it was told, in which order, and in which threads."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.told: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self.errors: list[tuple[Any, BaseException]] = []
        self.add_failure_callback(lambda log, err: self.errors.append((log, err)))

    def words(self) -> list[str]:
        return [word for word, *_ in self.told]


def _teller(name: str) -> Callable[..., Any]:
    def tell(self: Noting, *args: Any) -> Any:
        self.told.append((name, *args))
        self.threads.add(threading.get_ident())
        return getattr(kq.Consumer, name)(self, *args)

    return tell


for _name in (*TOLD, *ASKED):
    setattr(Noting, _name, _teller(_name))


class Raising(kq.Consumer):
    """Raises in every hook, and in a failure callback."""

    raised: set[str] = set()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_failure_callback(_raiser("callback").__get__(self))


def _raiser(name: str) -> Callable[..., Any]:
    def hook(self: Raising, *args: Any) -> Any:
        Raising.raised.add(name)
        raise SystemExit(f"{name} raises") if name in ("on_message", "on_assigned") else ValueError(f"{name} raises")

    return hook


for _name in (*TOLD, *ASKED):
    setattr(Raising, _name, _raiser(_name))


class Picky(Noting):
    """Has a log for messages of even offsets only."""

    def get_message_log(self, message: kq.Message) -> Any:
        return {"offset": message.offset} if message.offset % 2 == 0 else None


def resize(path: str, name: str, width: int = 0) -> str:
    """Write down in a file what was asked for."""
    note(path, "resize", f"{name}/{width}")
    return name


class Resizer(Noting):
    """Reads what another program wrote."""

    task_type = "task"
    task_types = {"resize": resize, "fail": lambda path, name, width=0: resize(path, f"bad {name}") and 1 / 0}

    def serializer(self, message: kq.Message) -> tuple[Any, Any]:
        record = json.loads(message.value or b"")
        return [record["path"], record["name"]], {"width": record["px"]}


@contextmanager
def consuming(kind: type[kq.Consumer], hosts: str, topic: str, **options: Any) -> Iterator[Any]:
    """Have a consumer at work meanwhile."""
    config = {**QUICK, **options.pop("config", {})}
    made = kind(hosts, topic, LOGGER, options.pop("name", "tester"), config=config, **options)
    made.start()
    try:
        yield made
    finally:
        made.stop(now=True)
        made.join(30)
        assert not made.is_alive()


def wait_for_end(consumer: kq.Consumer, count: int, timeout: float = 30) -> None:
    """Wait until a consumer has processed so many messages, and stop it."""
    wait_until(lambda: consumer.stats().done >= count, timeout, "not all messages were processed")
    consumer.stop_consuming()
    consumer.join(timeout)
    assert not consumer.is_alive()
