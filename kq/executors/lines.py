"""Lines of the log: what KQ says of each job, in the words of KQ 2.x, with what helps to find it behind them.

A filter or handler of the program that raises costs its line, but neither the run nor its outcome.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec

from kq.executors.telling import masked_trace
from kq.job import SUCCESS, TIMEOUT, Outcome
from kq.message import Message, job_from_headers, name_of
from kq.utils import MASKED, safe_str

__all__ = [
    "describe",
    "log_executing",
    "log_interrupted",
    "log_invalid",
    "log_outcome",
    "log_own",
    "log_processing",
    "log_unsent",
    "warn_own",
]

_Args = ParamSpec("_Args")

_logger = logging.getLogger("kq.executors")


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
    log.info("Executing job %s: %s (%s)", job_id, call, _place(message), extra=_where(message, job_id))


@_harmless
def log_invalid(
    log: logging.Logger, message: Message, text: str, error: BaseException | str, hides: bool = False
) -> None:
    """Log that a message holds no job that could be run, with an exception or the text of its traceback."""
    if hides and isinstance(error, BaseException):
        error = masked_trace(error)
    job_id, place = job_from_headers(message).id, _place(message, name_of(message))
    where = place if job_id is None else f"job {job_id}, {place}"
    exception, trace = (error, "") if isinstance(error, BaseException) else (None, error)
    args = text, where
    _log_error(log, "Job was invalid: %s (%s)", args, _where(message, job_id), exception, trace)


@_harmless
def log_interrupted(log: logging.Logger, message: Message, job: Any, seconds: float) -> None:
    """Log that a stop has ended a job before it was done."""
    where = _place(message, name_of(message), seconds)
    line = "Job %s was interrupted by the stop, and runs again (%s)"
    log.warning(line, job.id, where, extra=_where(message, job.id))


@_harmless
def log_unsent(message: Message, job_id: Any, why: str) -> None:
    """Log that a result could not come from its child."""
    line = "What job %s returned could not come from its child, and the callback gets None: %s (%s)"
    _logger.warning(line, job_id, why, _place(message, name_of(message)), extra=_where(message, job_id))


@_harmless
def log_outcome(
    log: logging.Logger,
    message: Message,
    job_id: Any,
    outcome: Outcome,
    result: Any = None,
    *,
    name: str | None = None,
    seconds: float | None = None,
    limit: float = 0,
    hides: bool = False,
) -> None:
    """Log what became of a job.

    :param result: What it returned, or the text of that.
    :param name: Of its function; the one in the headers if left out.
    :param seconds: How long it ran, if that is known.
    :param limit: How long it was allowed to run, in seconds.
    :param hides: Whether what it returned, and what its exception says, stays out.
    """
    level = logging.INFO if outcome.status == SUCCESS else logging.ERROR
    if not log.isEnabledFor(level):
        return
    where = _place(message, name or name_of(message), seconds)
    extra = _where(message, job_id)
    if outcome.status == SUCCESS:
        log.info("Job %s returned: %s (%s)", job_id, MASKED if hides else safe_str(result), where, extra=extra)
    elif outcome.status == TIMEOUT:
        told = f"; its limit was {limit:g} s" if limit else ""
        log.error("Job %s timed out or was interrupted (%s%s)", job_id, where, told, extra=extra)
    else:
        line, args = "Job %s raised an exception: %s", (job_id, where)
        _log_error(log, line, args, extra, None if hides else outcome.exception, outcome.stacktrace or "")


def _log_error(
    log: logging.Logger,
    line: str,
    args: tuple[Any, ...],
    extra: dict[str, Any],
    error: BaseException | None,
    trace: str,
) -> None:
    """Log an error so that its traceback stands once: that of the exception, or what a child has sent as text.

    Handlers get the exception in any case, if there is one that can be printed.
    """
    if not log.isEnabledFor(logging.ERROR):
        return
    if error is not None and not _is_printable(error):
        error = None
    place = log.findCaller()[:2]
    info = None if error is None else (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, *place, line, args, info, extra=extra)
    if trace and (error is None or error.__traceback__ is None):
        record.exc_text = trace.rstrip()
    log.handle(record)


def _is_printable(error: BaseException) -> bool:
    """Return whether a log handler can print an exception: fields of its own may be in the way."""
    try:
        traceback.format_exception_only(error)
    except Exception:  # noqa: BLE001 - its text is logged instead
        return False
    return True


def describe(message: Message, seconds: float) -> str:
    """Return a job that runs, as text: its ID, where it stands, and how long it has run."""
    return f"job {job_from_headers(message).id} ({_place(message, name_of(message), seconds)})"


def _place(message: Message, name: str | None = None, seconds: float | None = None) -> str:
    """Return where a job stands, as text: its function, its message, and how long it ran, as far as that is known."""
    place = f"topic {message.topic}, partition {message.partition}, offset {message.offset}"
    before = "" if name is None else f"{name}, "
    return before + place + ("" if seconds is None else f", ran for {max(0.0, seconds):.3f} s")


def _where(message: Message, job_id: Any = None) -> dict[str, Any]:
    where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
    return where if job_id is None else {"job_id": job_id, **where}
