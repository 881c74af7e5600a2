"""The settings of a Django project, and what is made of them.

``KQ = {"default": {"HOSTS": "127.0.0.1:9092", "TOPIC": "jobs"}}``; all else may be left out.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections, connections

import kq
from kq.executors import Executor

__all__ = ["alias_of", "fresh_connections", "options", "queue", "set_up", "store", "store_url", "worker"]

#: What may stand in the settings of a queue.
_KNOWN = {
    *("HOSTS", "TOPIC", "GROUP", "CONFIG", "TIMEOUT", "RETRY", "DEAD_LETTERS"),
    *("STORE", "MASK_ARGUMENTS", "DATABASE", "SIGNER", "LOG_ARGUMENTS"),
}
_lock = threading.Lock()
#: What was made, by the process that made it.
_queues: dict[tuple[int, str], kq.Queue] = {}
_stores: dict[tuple[int, str], kq.MessageStore] = {}


def options(alias: str = "default") -> Mapping[str, Any]:
    """Return the settings of a queue.

    :raises ImproperlyConfigured: They are not there, or wrong.
    """
    given = getattr(settings, "KQ", {}).get(alias)
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f'KQ[{alias!r}] is not set, such as {{"HOSTS": "127.0.0.1:9092", "TOPIC": "jobs"}}')
    if unknown := sorted(set(given) - _KNOWN):
        raise ImproperlyConfigured(f"KQ[{alias!r}] has no {', '.join(unknown)}; it has {', '.join(sorted(_KNOWN))}")
    if missing := sorted({"HOSTS", "TOPIC"} - set(given)):
        raise ImproperlyConfigured(f"KQ[{alias!r}] needs {' and '.join(missing)}")
    return given


def alias_of(topic: str) -> str:
    """Return which queue has a topic; ``"default"`` if none has."""
    names = [alias for alias in getattr(settings, "KQ", {}) if options(alias)["TOPIC"] == topic]
    return names[0] if names else "default"


def store_url(alias: str = "default") -> str | None:
    """Return where the message log of a queue is; None if there is none.

    That is ``STORE``: an address, or None for no log. If it is left out, the log is in the project's own database.
    """
    given = options(alias)
    if "STORE" in given:
        return given["STORE"]  # type: ignore[no-any-return]
    database = connections[given.get("DATABASE", "default")]
    told = database.settings_dict
    if database.vendor == "sqlite":
        return None if database.is_in_memory_db() else f"sqlite:///{told['NAME']}"
    if database.vendor != "postgresql":
        return None
    url = _sqlalchemy().URL.create(
        "postgresql+psycopg", told["USER"] or None, told["PASSWORD"] or None, told["HOST"] or None,
        int(told["PORT"]) if told["PORT"] else None, told["NAME"],
    )  # fmt: skip
    return str(url.render_as_string(hide_password=False))


def store(alias: str = "default") -> kq.MessageStore | None:
    """Return the message log of a queue, the same each time; None if there is none."""
    url, name = store_url(alias), (os.getpid(), alias)
    with _lock:
        if url is not None and name not in _stores:
            _stores[name] = kq.MessageStore(url, mask_arguments=options(alias).get("MASK_ARGUMENTS", False))
        return _stores.get(name)


def queue(alias: str = "default") -> kq.Queue:
    """Return a queue of the settings, the same each time. It connects at its first job."""
    given, name, log = options(alias), (os.getpid(), alias), store(alias)
    with _lock:
        if name not in _queues:
            _queues[name] = kq.Queue(
                given["TOPIC"], hosts=given["HOSTS"], config=given.get("CONFIG"), timeout=given.get("TIMEOUT", 0),
                retry=given.get("RETRY"), message_log=log, **_secrets(given),
            )  # fmt: skip
        return _queues[name]


def worker(alias: str = "default", executor: Executor | None = None, concurrency: int = 1) -> kq.Worker:
    """Return a new worker of the settings.

    :param executor: Where jobs run; in processes if left out. One of your own gets ``around=fresh_connections``, and
        processes ``on_start=set_up``.
    """
    given = options(alias)
    if executor is None:
        executor = kq.ProcessExecutor(on_start=set_up, around=fresh_connections)
    return kq.Worker(
        given["TOPIC"], hosts=given["HOSTS"], group=given.get("GROUP"), config=given.get("CONFIG"), executor=executor,
        concurrency=concurrency, dead_letters=given.get("DEAD_LETTERS", False), message_log=store(alias),
        **_secrets(given),
    )  # fmt: skip


def _secrets(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"signer": given.get("SIGNER"), "log_arguments": given.get("LOG_ARGUMENTS")}


def set_up() -> None:
    """Load settings and models: once in each child, before its first job."""
    django.setup()


@contextmanager
def fresh_connections() -> Iterator[None]:
    """Drop old and broken connections to databases around a job, as Django does around a request."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


def _sqlalchemy() -> Any:
    from sqlalchemy import engine

    return engine
