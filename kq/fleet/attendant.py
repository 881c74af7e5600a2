"""The attendant: the companion by which a worker tells a consumer what it does, and asks it about each message.

1. ``admit``, before a message starts: its log is found first, then its task type, then the consumer hears of it. Where
   the consumer has tasks of its own, the message is made a job here, or refused.
2. ``given`` hands that job to the executor: as it is, or as bytes where it crosses to a child.
3. ``on_settled``: an attempt that failed is told to the consumer, with the log of its message.

All but ``given`` is called in the consumer's thread. A consumer that asks for none of this before a message starts gets
a plain ``Attendant``, which costs nothing while nothing fails; one that does gets an ``Asking``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from kq.errors import ChildTraceback, JobTimeout, KQError, MessageRefused, RemoteError
from kq.executors import Caller, Finished, cause_of, explained, log_invalid, stacktrace_of, told
from kq.fleet.entry import entry_of
from kq.fleet.hooks import FAILED, Hooks, call_hook, tell_failure
from kq.job import INVALID, SUCCESS, TIMEOUT, Job, Outcome
from kq.message import Message, Record, job_from_headers
from kq.serializers import dumps
from kq.worker import Worker
from kq.working import Companion, Context, Move

__all__ = ["Asking", "Attendant", "Attended", "attendant_of"]

#: What is called before each message starts.
_BEFORE = ("get_message_log", "get_task_type", "on_message")
#: Stands for the log of a message that need not be found before it fails: it is made of the headers alone.
_UNASKED = object()


class _Held:
    """What is known of a message that was admitted."""

    def __init__(self, message: Message, log: Any) -> None:
        self.message = message  # kept, so that its identity is nobody else's
        self.log = log
        #: The job, or the bytes of one; None where the value is one.
        self.job: Any = None
        self.error: BaseException | None = None


class Attendant(Companion):
    """Calls the hooks of one consumer, for one worker."""

    answers_success = False
    wants_errors = True

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._partitions: set[int] = set()
        #: Whether what exceptions say stays out of lines.
        self._hides = False
        self.worker: Worker | None = None
        #: When the connection was opened, by the monotonic clock; None while there was none.
        self.opened: float | None = None

    def open(self, context: Context) -> None:
        self.opened, self._hides = time.monotonic(), context.hides
        call_hook(self._hooks, "on_connection_open", self.worker)

    def on_moved(self, kind: Move, partitions: Sequence[int]) -> None:
        if kind == "assigned":
            self._partitions.update(partitions)
        else:
            self._partitions.difference_update(partitions)
        call_hook(self._hooks, f"on_{kind}", list(partitions))

    def on_settled(self, message: Message, outcome: Outcome) -> Iterable[Record]:
        if outcome.status != SUCCESS:
            tell_failure(self._hooks, self._log_of(message), _error_of(outcome))
        return ()

    def stop(self, deadline: float) -> None:
        if self._partitions:
            self.on_moved("revoked", sorted(self._partitions))

    def _log_of(self, message: Message) -> Any:
        log = call_hook(self._hooks, "get_message_log", message)
        return entry_of(message) if log is FAILED else log  # None is a decision, an error is none


class Asking(Attendant):
    """Asks the consumer about each message, too.

    :param crosses: Whether jobs go to other processes.
    """

    answers_success = True

    def __init__(self, hooks: Hooks, *, crosses: bool) -> None:
        super().__init__(hooks)
        self._crosses = crosses
        self._asked = _overridden(hooks)
        #: By the identity of their messages; ``given`` looks there from any thread.
        self._held: dict[int, _Held] = {}

    def admit(self, message: Message) -> Finished | None:
        hooks, asked = self._hooks, self._asked
        log = self._log_of(message) if "get_message_log" in asked else _UNASKED
        held = self._held[id(message)] = _Held(message, log)
        if log is None:
            return self._refuse(held, MessageRefused("get_message_log returned None"))
        name = call_hook(hooks, "get_task_type", message) if hooks.task_types or "get_task_type" in asked else ""
        if "on_message" in asked:
            call_hook(hooks, "on_message", message)
        if not hooks.task_types:
            return None
        try:
            with Caller():
                job = self._job_of(message, name)
                held.job = dumps(job) if self._crosses else job
        except BaseException as error:  # the door of the user's serializer: the message is refused  # noqa: BLE001
            return self._refuse(held, error)
        return None

    def given(self, message: Message) -> Any:
        held = self._held.get(id(message))
        return None if held is None else held.job

    def on_given_up(self, message: Message) -> None:
        self._held.pop(id(message), None)

    def on_settled(self, message: Message, outcome: Outcome) -> Iterable[Record]:
        held = self._held.pop(id(message), None)
        if held is None:  # it expired before it was admitted, for instance
            return super().on_settled(message, outcome)
        if outcome.status != SUCCESS:
            log = self._log_of(message) if held.log is _UNASKED else held.log
            tell_failure(self._hooks, log, held.error or _error_of(outcome))
        return ()

    def stop(self, deadline: float) -> None:
        self._held.clear()
        super().stop(deadline)

    def _refuse(self, held: _Held, error: BaseException) -> Finished:
        held.error = error
        is_decision = isinstance(error, MessageRefused)  # whose traceback tells nothing
        text = f"{type(error).__name__}: {told(error, self._hides)}"
        log_invalid(self._hooks.logger, held.message, text, "" if is_decision else error, self._hides)
        cause = cause_of(error, stacktrace_of(error, self._hides), self._hides)
        return Finished(held.message, None, Outcome(INVALID, cause=cause))

    def _job_of(self, message: Message, name: Any) -> Job:
        """Return the job that a record of another program stands for; raise where it stands for none."""
        func = self._hooks.task_types.get(name) if isinstance(name, str) else None
        if func is None:
            what = "get_task_type raised" if name is FAILED else f"there is no task type {name!r}"
            raise MessageRefused(f"{what}; this consumer has: {', '.join(self._hooks.task_types)}")
        args, kwargs = self._hooks.serializer(message)
        told = job_from_headers(message)
        job_id = told.id or f"{message.topic}-{message.partition}-{message.offset}"
        return told._replace(id=job_id, func=func, args=tuple(args), kwargs=dict(kwargs))


def attendant_of(hooks: Hooks, *, crosses: bool) -> Attendant:
    """Return what a consumer needs.

    :param crosses: Whether jobs go to other processes.
    """
    is_asked = bool(hooks.task_types) or bool(_overridden(hooks))
    return Asking(hooks, crosses=crosses) if is_asked else Attendant(hooks)


def _overridden(hooks: Hooks) -> frozenset[str]:
    """Return the names of those that are called before a message starts, and do something."""

    def is_overridden(name: str) -> bool:
        # by an attribute of the object, too, which may be any callable
        return getattr(getattr(hooks, name), "__func__", None) is not vars(Hooks)[name]

    return frozenset(filter(is_overridden, _BEFORE))


def _error_of(outcome: Outcome) -> BaseException:
    """Return the exception of an attempt that failed, or one that says in words what is known of it."""
    if outcome.exception is not None:
        return outcome.exception
    cause = explained(outcome)
    kind = cause.kinds[0] if cause.kinds else outcome.status
    error: KQError = JobTimeout(cause.text) if outcome.status == TIMEOUT else RemoteError(kind, cause.text)
    if trace := outcome.stacktrace or cause.trace:
        error.__cause__ = ChildTraceback(trace)
    return error


class Attended(Worker):
    """A worker with an attendant."""

    def __init__(self, attendant: Attendant, topic: str, **options: Any) -> None:
        super().__init__(topic, **options)
        self._attendant = attendant
        attendant.worker = self

    def _assemble(self) -> list[Companion]:
        return [*super()._assemble(), self._attendant]  # last: what others answer is settled before errors are told
