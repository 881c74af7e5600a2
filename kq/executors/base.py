"""What executors have in common: the protocol, and the way one message is run.

1. ``open`` is called by ``Worker.start`` with what every run needs, ``close`` at its end.
2. ``start`` begins a run; ``finished`` gives the runs that ended since it was asked last.
3. ``kill`` ends what runs, without an outcome, because the worker stops.

``run_message`` is the way of one message where a job runs in this process: unpickle, call, describe.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from kq.executors.interrupt import Called, Interrupter
from kq.job import FAILURE, INVALID, SUCCESS, TIMEOUT, Outcome
from kq.message import Message
from kq.utils import get_call_repr, safe_str

__all__ = ["Executor", "Finished", "Setting", "run_message"]


class Setting(NamedTuple):
    """What a run needs to know, the same for all runs of a worker."""

    deserialize: Callable[[bytes], Any]
    #: Overrides each job's own limit, in seconds, if not None.
    timeout: float | int | None
    #: Where KQ's lines about each job go.
    logger: logging.Logger
    #: Tells the worker, from any thread, that a run has finished.
    wake: Callable[[], None]


class Finished(NamedTuple):
    """A run that ended. Without an outcome it was ended by a stop, and the message is to run again."""

    message: Message
    job: Any
    outcome: Outcome | None


class Executor(Protocol):
    """Where jobs run. Used by one thread, the one that called ``Worker.start``, but for ``kill``."""

    def open(self, setting: Setting, concurrency: int) -> None:
        """Make ready to run ``concurrency`` jobs at once."""

    def start(self, message: Message) -> None:
        """Begin a run. Never called while ``concurrency`` runs have not been given by ``finished``."""

    def finished(self) -> list[Finished]:
        """Return the runs that ended since the last call, without waiting."""

    def kill(self) -> None:
        """End what runs, because of a stop. From any thread, any number of times."""

    def close(self) -> None:
        """Let everything go. What ``finished`` does not give afterwards could not be ended."""


def run_message(message: Message, setting: Setting, interrupter: Interrupter) -> Finished:
    """Unpickle the job of a message, call it, and describe what became of it."""
    log = setting.logger
    verbose = log.isEnabledFor(logging.INFO)
    where: dict[str, Any] | None = None
    if verbose:
        where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        line = "Processing Message(topic=%s, partition=%s, offset=%s) ..."
        log.info(line, message.topic, message.partition, message.offset, extra=where)
    try:
        job = setting.deserialize(message.value)  # type: ignore[arg-type]  # None, a tombstone, is invalid too
        func, args, kwargs = job.func, tuple(job.args), _keywords(job.kwargs)
        timeout = _limit(job.timeout if setting.timeout is None else setting.timeout)
    except BaseException as error:  # the door of user code: unpickling imports, and a script that is imported may exit
        log.exception("Job was invalid: %s", safe_str(error), extra=where)
        return Finished(message, None, Outcome(INVALID))
    if verbose:
        where = {"job_id": job.id, **(where or {})}
        log.info("Executing job %s: %s", job.id, get_call_repr(func, *args, **kwargs), extra=where)
    called = interrupter.call(func, args, kwargs, timeout)
    return Finished(message, job, _describe(job, called, log, where))


def _keywords(kwargs: Any) -> dict[str, Any]:
    keywords = dict(kwargs)
    if not all(isinstance(name, str) for name in keywords):
        raise TypeError("keywords must be strings")
    return keywords


def _named(kwargs: Any) -> dict[str, Any]:
    """Return keyword arguments as a dict; raise if they cannot be some."""
    named = dict(kwargs)
    for name in named:
        if not isinstance(name, str):
            raise TypeError(f"names of arguments must be strings, not {safe_str(name)}")
    return named


def _limit(timeout: Any) -> float:
    """Return a job's limit in seconds, 0 for none; raise if it is not one."""
    if timeout is None:
        return 0
    if not (isinstance(timeout, (int, float)) and timeout >= 0):
        raise ValueError(f"timeout must be 0 or greater, not {safe_str(timeout)}")
    return timeout


def _describe(job: Any, called: Called, log: logging.Logger, where: dict[str, Any] | None) -> Outcome | None:
    if called.interrupted == "stop":
        return None
    if called.interrupted == "timeout":
        log.error("Job %s timed out or was interrupted", job.id, extra=where)
        return Outcome(TIMEOUT)
    if called.error is not None:
        error = called.error
        log.error("Job %s raised an exception:", job.id, exc_info=error, extra=where)
        return Outcome(FAILURE, None, error, _stacktrace(error))
    if log.isEnabledFor(logging.INFO):
        log.info("Job %s returned: %s", job.id, safe_str(called.result), extra=where)
    return Outcome(SUCCESS, called.result)


def _stacktrace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - fields of its own are in the way, as a SyntaxError has: where it was is told
        return "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__}: {safe_str(error)}\n"
