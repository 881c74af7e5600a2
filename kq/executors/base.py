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
from selectors import BaseSelector
from typing import Any, NamedTuple, Protocol

from kq.executors.interrupt import Called, Interrupter
from kq.job import FAILURE, INVALID, SUCCESS, TIMEOUT, Outcome
from kq.message import Message
from kq.utils import get_call_repr, safe_str

__all__ = [
    "LONGEST",
    "Executor",
    "Finished",
    "Setting",
    "call_of",
    "log_executing",
    "log_invalid",
    "log_outcome",
    "log_processing",
    "run_message",
    "stacktrace_of",
]


#: Seconds beyond which a time limit is none: 30 years; clocks and timers take no number of any size.
LONGEST = 1e9


class Setting(NamedTuple):
    """What a run needs to know, the same for all runs of a worker."""

    deserialize: Callable[[bytes], Any]
    #: Overrides each job's own limit, in seconds, if not None.
    timeout: float | int | None
    #: Where KQ's lines about each job go.
    logger: logging.Logger
    #: Whether anybody asks for jobs, results and exceptions: there is a callback.
    wants_outcome: bool
    #: Tells the worker, from any thread, that a run has finished.
    wake: Callable[[], None]
    #: Has the worker wake when one of a selector's files is ready, and no more.
    watch: Callable[[BaseSelector], None]
    unwatch: Callable[[BaseSelector], None]


class Finished(NamedTuple):
    """A run that ended. Without an outcome it was ended by a stop, and the message is to run again."""

    message: Message
    job: Any
    outcome: Outcome | None


class Executor(Protocol):
    """Where jobs run. Used by one thread, the one that called ``Worker.start``, but for ``kill`` and ``watch``."""

    def open(self, setting: Setting, concurrency: int) -> None:
        """Make ready to run ``concurrency`` jobs at once."""

    def room(self) -> int:
        """Return how many runs may be begun now."""

    def start(self, message: Message) -> None:
        """Begin a run."""

    def flush(self) -> None:
        """Have all runs that were begun go ahead."""

    def finished(self) -> list[Finished]:
        """Return the runs that ended since the last call, without waiting."""

    def patience(self) -> float:
        """Return the seconds after which ``finished`` should be asked again, though nothing woke the worker."""

    def watch(self, now: float) -> None:
        """Have time limits hold while the loop is busy. From the watchdog's thread, several times a second."""

    def release(self) -> None:
        """Let go of what may take its time, after the partitions were given back."""

    def kill(self) -> None:
        """End what runs, because of a stop. From any thread, any number of times."""

    def close(self) -> None:
        """Let everything go. What ``finished`` does not give afterwards could not be ended."""


def run_message(message: Message, setting: Setting, interrupter: Interrupter) -> Finished:
    """Unpickle the job of a message, call it, and describe what became of it."""
    log = setting.logger
    log_processing(log, message)
    try:
        job = setting.deserialize(message.value)  # type: ignore[arg-type]  # None, a tombstone, is invalid too
        func, args, kwargs, timeout = call_of(job, setting.timeout)
    except BaseException as error:  # the door of user code: unpickling imports, and a script that is imported may exit
        log.exception("Job was invalid: %s", safe_str(error), extra=_where(message))
        return Finished(message, None, Outcome(INVALID))
    if log.isEnabledFor(logging.INFO):
        log_executing(log, message, job.id, get_call_repr(func, *args, **kwargs))
    outcome = _describe(interrupter.call(func, args, kwargs, timeout))
    if outcome is not None:
        text = safe_str(outcome.result) if log.isEnabledFor(logging.INFO) else ""
        log_outcome(log, message, job.id, outcome, text)
    return Finished(message, job, outcome)


def _describe(called: Called) -> Outcome | None:
    if called.interrupted == "stop":
        return None
    if called.interrupted == "timeout":
        return Outcome(TIMEOUT)
    if called.error is not None:
        return Outcome(FAILURE, None, called.error, stacktrace_of(called.error))
    return Outcome(SUCCESS, called.result)


def call_of(job: Any, timeout: float | int | None) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], float]:
    """Return function, arguments and limit of a job; raise if it is not one.

    :param job: An object with the attributes of a :class:`kq.Job`.
    :param timeout: Overrides the job's own limit, in seconds, if not None.
    """
    return job.func, tuple(job.args), _keywords(job.kwargs), _limit(job.timeout if timeout is None else timeout)


def stacktrace_of(error: BaseException) -> str:
    """Return the traceback of an exception as text, whatever the exception does about it."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - fields of its own are in the way, as a SyntaxError has: where it was is told
        return "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__}: {safe_str(error)}\n"


def log_processing(log: logging.Logger, message: Message) -> None:
    """Log that a message is looked at."""
    if log.isEnabledFor(logging.INFO):
        line = "Processing Message(topic=%s, partition=%s, offset=%s) ..."
        log.info(line, message.topic, message.partition, message.offset, extra=_where(message))


def log_executing(log: logging.Logger, message: Message, job_id: Any, call: str) -> None:
    """Log that a job is called."""
    log.info("Executing job %s: %s", job_id, call, extra=_where(message, job_id))


def log_invalid(log: logging.Logger, message: Message, error: str, stacktrace: str) -> None:
    """Log that a message holds no job that could be run."""
    log.error("Job was invalid: %s\n%s", error, stacktrace.rstrip(), extra=_where(message))


def log_outcome(log: logging.Logger, message: Message, job_id: Any, outcome: Outcome, result: str) -> None:
    """Log what became of a job; ``result`` is the text of what it returned."""
    if outcome.status == SUCCESS:
        if log.isEnabledFor(logging.INFO):
            log.info("Job %s returned: %s", job_id, result, extra=_where(message, job_id))
    elif outcome.status == TIMEOUT:
        log.error("Job %s timed out or was interrupted", job_id, extra=_where(message, job_id))
    elif outcome.exception is not None and _is_printable(outcome.exception):
        line = "Job %s raised an exception:"
        log.error(line, job_id, exc_info=outcome.exception, extra=_where(message, job_id))
    else:
        line = "Job %s raised an exception:\n%s"
        log.error(line, job_id, (outcome.stacktrace or "").rstrip(), extra=_where(message, job_id))


def _is_printable(error: BaseException) -> bool:
    """Return whether a log handler can print an exception: fields of its own may be in the way."""
    try:
        traceback.format_exception_only(error)
    except Exception:  # noqa: BLE001 - its text is logged instead
        return False
    return True


def _where(message: Message, job_id: Any = None) -> dict[str, Any]:
    where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    return where if job_id is None else {"job_id": job_id, **where}


def _keywords(kwargs: Any) -> dict[str, Any]:
    keywords = dict(kwargs)
    if not all(isinstance(name, str) for name in keywords):
        raise TypeError("keywords must be strings")
    return keywords


def _limit(timeout: Any) -> float:
    """Return a job's limit in seconds, 0 for none; raise if it is not one."""
    if timeout is None:
        return 0
    if not (isinstance(timeout, (int, float)) and timeout >= 0):
        raise ValueError(f"timeout must be 0 or greater, not {safe_str(timeout)}")
    return timeout if timeout < LONGEST else LONGEST
