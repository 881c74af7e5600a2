"""What executors have in common: the protocol, and the way one message is run.

1. ``open`` is called by ``Worker.start`` with what every run needs, ``close`` at its end.
2. ``start`` begins a run; ``finished`` gives the runs that ended since it was asked last.
3. ``kill`` ends what runs, without an outcome, because the worker stops. ``close`` and ``release`` follow.

``run_message`` is the way of one message where a job runs in this process: unpickle, call, describe.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from selectors import BaseSelector
from typing import Any, Literal, NamedTuple, Protocol

from kq.context import Report, enter, leave
from kq.errors import ArgumentError, Cancelled, JobTimeout, RetryLater
from kq.executors.calling import Caller
from kq.executors.interrupt import Called, Interrupter
from kq.executors.lines import log_executing, log_invalid, log_outcome, log_processing
from kq.executors.packing import pack, pack_error, why_not
from kq.executors.running import Run, is_asked, with_report
from kq.executors.telling import masked_trace, told
from kq.job import FAILURE, INVALID, SUCCESS, TIMEOUT, Cause, Outcome
from kq.logs import Capture, Router, capturing
from kq.message import Message, job_from_headers, with_id
from kq.serializers import is_unimportable, loads, serializer_of
from kq.utils import call_repr, get_call_repr, safe_str, type_name

__all__ = [
    "LONGEST",
    "Executor",
    "Finished",
    "Setting",
    "call_of",
    "cause_of",
    "check_hooks",
    "explained",
    "failed",
    "job_of",
    "run_message",
    "stacktrace_of",
    "terminated",
    "timed_out",
]

#: Seconds beyond which a time limit is none: 30 years; clocks and timers take no number of any size.
LONGEST = 1e9
#: Characters of an exception's text that are told of why a run failed.
_LONGEST_TEXT = 4000
_UNKNOWN = Cause((), "")


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
    #: Of which jobs results and exceptions are wanted as bytes.
    packs: Literal["none", "asked", "all"] = "none"
    #: Where runs of this process stand while they go on, by the identity of their messages; None where nobody looks.
    runs: dict[int, Run] | None = None
    #: What captures the lines of runs, and how many of each; None where nobody wants them.
    router: Router | None = None
    most_lines: int = 0
    #: Whether exceptions are asked for, though nobody asks for jobs and results.
    wants_errors: bool = False
    #: Returns the job of a message whose value is not a serialized one, as it is or as ``kq.dumps`` writes it, to cross
    #: to a child; None where the value is one. From any thread.
    given: Callable[[Message], Any] | None = None
    #: Whether arguments, results and what exceptions say stay out of all that is written.
    hides: bool = False

    def wants_bytes(self, message: Message) -> bool:
        """Return whether the result of a message's job is wanted as bytes."""
        return self.packs == "all" or (self.packs == "asked" and is_asked(message))


class Finished(NamedTuple):
    """A run that ended. Without an outcome it was ended by a stop, and the message is to run again.

    Without an outcome, the job is None where it had not begun.
    """

    message: Message
    job: Any
    outcome: Outcome | None
    #: Of an invalid message whose job cannot be imported here: the error's text, and the error or its traceback's text.
    #: It is not logged: it may wait for a worker that can.
    unimportable: tuple[str, BaseException | str] | None = None


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

    def start_all(self, messages: Sequence[Message]) -> None:
        """Begin runs, in this order."""
        for message in messages:
            self.start(message)

    def flush(self) -> None:
        """Have all runs that were begun go ahead."""
        return

    def finished(self) -> list[Finished]:
        """Return the runs that ended since the last call, without waiting."""

    def patience(self) -> float:
        """Return the seconds after which ``finished`` should be asked again, though nothing woke the worker."""
        return float("inf")

    def withdraw(self, is_meant: Callable[[Message], bool]) -> list[Message]:
        """Take back those that are meant, of what was begun and waits for its place, and return them."""
        return []

    def terminate(self, messages: Sequence[Message]) -> None:
        """End the runs of messages, where they run: they have failed with ``kq.Cancelled``. From any thread, again
        and again until they have ended.
        """
        return

    def tell_cancelled(self, messages: Sequence[Message]) -> None:
        """Let jobs that run know that they are cancelled, where another process runs them. From any thread."""
        return

    def running(self) -> list[Run]:
        """Return what runs at this moment, as far as is known. From any thread."""
        return []

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
            job = job_of(message, setting)
            func, args, kwargs, timeout = call_of(job, setting.timeout)
            job_id = job.id
    except BaseException as error:  # the door of user code: unpickling imports, and a script may exit  # noqa: BLE001
        invalid = Outcome(INVALID, cause=cause_of(error, stacktrace_of(error, setting.hides), setting.hides))
        if is_unimportable(error):
            return Finished(message, None, invalid, (safe_str(error), error))
        log_invalid(log, message, told(error, setting.hides), error, setting.hides)
        return Finished(message, None, invalid)
    begun = time.monotonic()
    run = None if setting.runs is None else _begin(message, begun, setting)
    try:
        if log.isEnabledFor(logging.INFO):
            log_executing(log, message, job_id, call_repr(func, args, kwargs, setting.hides))
        enter(job_id, timeout, begun, message, run and run.report)
        if run is not None:
            capturing.set(run.capture)
        called = interrupter.call(caller.call, (job_id, func, args, kwargs), {}, timeout, message)
        outcome = _describe(called, timeout, setting.hides)
    except BaseException as error:  # not the job's, but without an outcome its message is stuck  # noqa: BLE001
        return failed(message, error, setting, job)
    finally:
        leave()
        if run is not None:
            _end(run, setting)
    if outcome is not None:
        _log_end(setting, message, job, outcome, time.monotonic() - begun, timeout)
        if run is not None:
            outcome = _told(outcome, run, setting)
    return Finished(message, job, outcome)


def job_of(message: Message, setting: Setting) -> Any:
    """Return the job of a message: what was given for it, or what its value holds."""
    job = None if setting.given is None else setting.given(message)
    if job is None:
        job = setting.deserialize(message.value)  # type: ignore[arg-type]  # None, a tombstone, is invalid too
    elif isinstance(job, bytes):
        job = loads(job)
    return with_id(job, message)


def _begin(message: Message, begun: float, setting: Setting) -> Run:
    """Note that a run begins, for those who look."""
    capture = None
    if setting.router is not None:
        setting.router.attach()
        capture = Capture(setting.most_lines)
    run = Run(message, begun, Report(), capture)
    assert setting.runs is not None
    setting.runs[id(message)] = run
    return run


def _end(run: Run, setting: Setting) -> None:
    capturing.set(None)
    assert setting.runs is not None
    setting.runs.pop(id(run.message), None)


def _told(outcome: Outcome, run: Run, setting: Setting) -> Outcome:
    """Return an outcome with what the run told of itself, and with bytes where these are wanted."""
    outcome = with_report(outcome, run.said, run.capture)
    if not setting.wants_bytes(run.message):
        return outcome
    errors: list[BaseException] = []
    if outcome.status == SUCCESS:
        serializer = serializer_of(setting.deserialize, run.message.value)
        packed = pack(outcome.result, errors, serializer)
        return outcome._replace(packed=packed, unpacked="" if packed is not None else why_not(errors, setting.hides))
    if outcome.exception is None or serializer_of(setting.deserialize, run.message.value) is not None:
        return outcome  # what came as JSON is told in words
    return outcome._replace(packed=pack_error(outcome.exception))


def _log_end(setting: Setting, message: Message, job: Any, outcome: Outcome, seconds: float, timeout: float) -> None:
    log, hides = setting.logger, setting.hides
    if outcome.status != SUCCESS or log.isEnabledFor(logging.INFO):  # the name is not for nothing
        name = get_call_repr(job.func)[:-2]
        more: dict[str, Any] = {"name": name, "seconds": seconds, "limit": timeout, "hides": hides}
        log_outcome(log, message, job.id, outcome, outcome.result, **more)


def failed(message: Message, error: BaseException, setting: Setting, job: Any = None) -> Finished:
    """Return the end of a run that was ended by an error of its surroundings."""
    outcome = _failure(error, setting.hides)
    job = job or job_from_headers(message)
    log_outcome(setting.logger, message, job.id, outcome, hides=setting.hides)
    return Finished(message, job, outcome)


def timed_out(limit: float) -> Outcome:
    """Return the outcome of a job that ran longer than it may, in seconds."""
    return Outcome(TIMEOUT, cause=cause_of(JobTimeout(f"the job ran longer than its limit of {limit:g} s")))


def terminated() -> Outcome:
    """Return the outcome of a job that was cancelled, and ended, while it ran."""
    error = Cancelled("the job was cancelled, and ended, while it ran")
    return Outcome(FAILURE, None, error, stacktrace_of(error))


def _failure(error: BaseException, hides: bool) -> Outcome:
    return Outcome(FAILURE, None, error, stacktrace_of(error, hides), cause_of(error, hides=True) if hides else None)


def cause_of(error: BaseException, trace: str = "", hides: bool = False) -> Cause:
    """Return an exception in words: its classes, its text, and what it asks for.

    :param hides: Whether its text stays out.
    """
    delay = getattr(error, "delay", None) if isinstance(error, RetryLater) else None
    if not (isinstance(delay, (int, float)) and 0 <= delay < LONGEST):  # a subclass may have its own idea
        delay = None
    return Cause(tuple(map(type_name, type(error).__mro__)), told(error, hides)[:_LONGEST_TEXT], trace, delay)


def explained(outcome: Outcome) -> Cause:
    """Return why a run was no success."""
    if outcome.cause is not None:
        return outcome.cause
    return _UNKNOWN if outcome.exception is None else cause_of(outcome.exception)


def _describe(called: Called, limit: float, hides: bool) -> Outcome | None:
    if called.interrupted == "stop":
        return None
    if called.interrupted == "timeout":
        return timed_out(limit)
    if called.interrupted == "cancel":
        return terminated()
    if called.error is not None:
        return _failure(called.error, hides)
    return Outcome(SUCCESS, called.result)


def call_of(job: Any, timeout: float | int | None) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], float]:
    """Return function, arguments and limit of a job; raise if it is not one.

    :param job: An object with the attributes of a :class:`kq.Job`.
    :param timeout: Overrides the job's own limit, in seconds, if not None.
    """
    return job.func, tuple(job.args), _keywords(job.kwargs), _limit(job.timeout if timeout is None else timeout)


def stacktrace_of(error: BaseException, hides: bool = False) -> str:
    """Return the traceback of an exception as text, whatever the exception does about it.

    :param hides: Whether what exceptions say stays out.
    """
    try:
        if hides:
            return masked_trace(error)
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - fields of its own are in the way, as a SyntaxError has: where it was is told
        return "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__}: {safe_str(error)}\n"


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
