"""``kq worker --check``: whether the next jobs could run here, before any does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaConsumer

import kq
from kq import clients
from kq.cli.output import make_console, print_table
from kq.consuming import peek
from kq.executors import unfit
from kq.message import Message, job_from_headers, name_of
from kq.producing import check_binding
from kq.signing import JOB
from kq.utils import safe_str

__all__ = ["check_next"]

_Reader = Callable[[bytes], Any]

#: Messages of each partition that are tried.
MOST = 10


def check_next(
    topic: str, hosts: str, group: str, config: Mapping[str, Any], signer: kq.Signer | None, read: _Reader | None
) -> None:  # fmt: skip
    """Read the next messages of a topic as its worker would, print what came of each, and commit nothing.

    :param read: The deserializer of the worker; its own unless given.
    :raises kq.WorkerError: A job could not run here.
    """
    settings = {**clients.check_config(config, KafkaConsumer.DEFAULT_CONFIG, ()), "group_id": group}
    with clients.connect(
        KafkaConsumer, hosts, {**settings, "enable_auto_commit": False, "isolation_level": "read_committed"}
    ) as consumer:
        messages = peek(consumer, topic, MOST)
    rows, bad = [], 0
    for message in messages:
        fault = _unsigned(message, signer) or _fault(message, read or kq.loads)
        bad += fault is not None
        known = job_from_headers(message).id or "–", name_of(message) or "–"
        rows.append((str(message.partition), str(message.offset), *known, fault or "can run"))
    console = make_console()
    if rows:
        print_table(console, (">partition", ">offset", "job", "function", ""), rows)
    if bad:
        raise kq.WorkerError(f"{bad} of the next {len(rows)} messages of topic {topic} cannot run here")
    told = f"the next {len(rows)} messages can run here" if len(rows) != 1 else "the next message can run here"
    console.print(f"topic {topic}, group {group}: {told if rows else 'no message waits'}", markup=False)


def _unsigned(message: Message, signer: kq.Signer | None) -> str | None:
    """Return why a message is not as it was signed; None where it is, or nobody asks."""
    try:
        if signer is not None:
            signer.verify(JOB, message, int(time.time() * 1000))
    except kq.SignatureError as error:
        return str(error)
    return None


def _fault(message: Message, read: _Reader) -> str | None:
    """Return why a message's job cannot run here, None if it can. The job is read, which imports, and not called."""
    end = unfit(message)
    if end is not None and end.unimportable is not None:
        return end.unimportable[0]
    try:
        job = read(message.value)  # type: ignore[arg-type]  # None, a tombstone, is no job either
        check_binding(job.func, job.args or (), job.kwargs or {})
    except BaseException as error:  # the door of user code: unpickling imports
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {safe_str(error)}"
    return None if callable(job.func) else "no job"
