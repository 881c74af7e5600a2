"""What executors have in common: the protocol, and the way one message is run.

1. ``open`` is called by ``Worker.start`` with what every run needs, ``close`` at its end.
2. ``start`` begins a run; ``finished`` gives the runs that ended since it was asked last.
3. ``kill`` ends what runs, without an outcome, because the worker stops. ``close`` and ``release`` follow.

``run_message`` is the way of one message where a job runs in this process: unpickle, call, describe.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import traceback
from collections.abc import Callable
from selectors import BaseSelector
from typing import Any, NamedTuple, ParamSpec, Protocol

from kq.errors import ArgumentError
from kq.executors.calling import Caller
from kq.executors.interrupt import Called, Interrupter
from kq.job import FAILURE, INVALID, SUCCESS, TIMEOUT, Outcome
from kq.message import Message, job_from_headers
from kq.utils import get_call_repr, safe_str

__all__ = [
    "LONGEST",
    "Executor",
    "Finished",
    "Setting",
    "call_of",
    "check_hooks",
    "failed",
    "log_executing",
    "log_invalid",
    "log_outcome",
    "log_own",
    "log_processing",
    "run_message",
    "stacktrace_of",
    "warn_own",
]

_Args = ParamSpec("_Args")

_logger = logging.getLogger("kq.executors")

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
    """Where jobs run. Used by one thread, the one that called ``Worker.start``, but for ``kill`` and ``watch``.

    What has a body here is enough for an executor that runs jobs in this process.
    """

    def open(self, setting: Setting, concurrency: int) -> None:
        """Make ready to run ``concurrency`` jobs at once."""

    def room(self) -> int:
        """Return how many runs may be begun now."""

    def start(self, message: Message) -> None:
        """Begin a run."""

    def flush(self) -> None:
        """Have all runs that were begun go ahead."""
        return

    def finished(self) -> list[Finished]:
        """Return the runs that ended since the last call, without waiting."""

    def patience(self) -> float:
        """Return the seconds after which ``finished`` should be asked again, though nothing woke the worker."""
        return float("inf")

    def kill(self) -> None:
        """End what runs, because of a stop. From any thread, any number of times."""

    def watch(self, now: float) -> None:
        """Look at the clock, from the watchdog's thread: a limit holds also while the loop is busy."""
        return

    def close(self) -> None:
        """End what runs, quickly. What ``finished`` does not give afterwards could not be ended."""

    def release(self) -> None:
        """Let go of what may take its time, after the partitions were given back."""
        return


def check_hooks(on_start: Any, around: Any) -> None:
    """Raise if what is to be called in each thread or child, or around each job, cannot be called."""
    for name, hook in (("on_start", on_start), ("around", around)):
        if not (hook is None or callable(hook)):
            raise ArgumentError(f"{name} must be a callable")


def run_message(message: Message, setting: Setting, interrupter: Interrupter, caller: Caller | None = None) -> Finished:
    """Unpickle the job of a message, call it, and describe what became of it, whatever raises on the way."""
    log, caller = setting.logger, caller or Caller()
    log_processing(log, message)
    try:
        with caller:
            job = setting.deserialize(message.value)  # type: ignore[arg-type]  # None, a tombstone, is invalid too
            func, args, kwargs, timeout = call_of(job, setting.timeout)
            job_id = job.id
    except BaseException as error:  # the door of user code: unpickling imports, and a script may exit  # noqa: BLE001
        log_invalid(log, message, safe_str(error), error)
        return Finished(message, None, Outcome(INVALID))
    try:
        if log.isEnabledFor(logging.INFO):
            log_executing(log, message, job_id, get_call_repr(func, *args, **kwargs))
        outcome = _describe(interrupter.call(caller.call, (job_id, func, args, kwargs), {}, timeout))
    except BaseException as error:  # not the job's, but without an outcome its message is stuck  # noqa: BLE001
        return failed(message, error, setting, job)
    if outcome is not None:
        log_outcome(log, message, job_id, outcome, outcome.result)
    return Finished(message, job, outcome)


def failed(message: Message, error: BaseException, setting: Setting, job: Any = None) -> Finished:
    """Return the end of a run that was ended by an error of its surroundings."""
    outcome = Outcome(FAILURE, None, error, stacktrace_of(error))
    job = job or job_from_headers(message)
    log_outcome(setting.logger, message, job.id, outcome)
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


def _harmless(log_lines: Callable[_Args, None]) -> Callable[_Args, None]:
    """Have a filter or handler of the program that raises cost its line, but neither the run nor its outcome."""

    @functools.wraps(log_lines)
    def try_to_log(*args: _Args.args, **kwargs: _Args.kwargs) -> None:
        try:
            log_lines(*args, **kwargs)
        except BaseException as error:  # the door of the program's logging
            with contextlib.suppress(BaseException):  # it may raise again
                _logger.error("A line could not be logged:", exc_info=error)

    return try_to_log


#: Log an error, or a warning, of KQ's own part.
log_own, warn_own = _harmless(_logger.error), _harmless(_logger.warning)


@_harmless
def log_processing(log: logging.Logger, message: Message) -> None:
    """Log that a message is looked at."""
    if log.isEnabledFor(logging.INFO):
        line = "Processing Message(topic=%s, partition=%s, offset=%s) ..."
        log.info(line, message.topic, message.partition, message.offset, extra=_where(message))


@_harmless
def log_executing(log: logging.Logger, message: Message, job_id: Any, call: str) -> None:
    """Log that a job is called."""
    log.info("Executing job %s: %s", job_id, call, extra=_where(message, job_id))


@_harmless
def log_invalid(log: logging.Logger, message: Message, text: str, error: BaseException | str) -> None:
    """Log that a message holds no job that could be run, with an exception or the text of its traceback."""
    if isinstance(error, BaseException):
        log.error("Job was invalid: %s", text, exc_info=error, extra=_where(message))
    else:
        log.error("Job was invalid: %s\n%s", text, error.rstrip(), extra=_where(message))


@_harmless
def log_outcome(log: logging.Logger, message: Message, job_id: Any, outcome: Outcome, result: Any = None) -> None:
    """Log what became of a job; ``result`` is what it returned, or its text."""
    if outcome.status == SUCCESS:
        if log.isEnabledFor(logging.INFO):
            log.info("Job %s returned: %s", job_id, safe_str(result), extra=_where(message, job_id))
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
