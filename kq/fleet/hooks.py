"""Hooks: what a subclass of a consumer may override, and how it is called.

All are called in the consumer's own thread, one after another, whatever the executor. What one of them raises is
logged, and changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from kq.errors import ArgumentError
from kq.executors import Caller
from kq.fleet.entry import entry_of
from kq.message import Message, name_of
from kq.worker import Worker

__all__ = ["FAILED", "Hooks", "call_hook", "log_error", "tell_failure"]

#: What ``call_hook`` returns where the hook has raised.
FAILED = object()
#: Told of an error: the log of its message, None where it is about none; and the error.
FailureCallback = Callable[[Any, BaseException], Any]


class Hooks:
    """What a consumer calls on its way. A subclass overrides what it needs."""

    #: The header that names the task of a message.
    task_type: str = "kq-task-type"
    #: What the names of tasks stand for. Where there are any, the topic is another program's: nothing is unpickled, and
    #: a message that names none of them is refused.
    task_types: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    #: Where lines about the consumer and its jobs go.
    logger: logging.Logger
    _failure_callbacks: list[FailureCallback]

    # -- the connection ------------------------------------------------------------------------------------------------

    def on_connection_open(self, connection: Worker) -> None:
        """Hear that there is a connection.

        :param connection: The worker that has it.
        """

    def on_connection_closed(self, *args: BaseException | None) -> None:
        """Hear that the connection is closed. Unless ``shutdown_requested``, there will be another one.

        :param args: The error that ended it, or None.
        """

    def on_queue_declare(self, *args: str) -> None:
        """Hear that the topic is there.

        :param args: Its name.
        """

    def on_assigned(self, partitions: Sequence[int]) -> None:
        """Hear of partitions that came. One rebalance may tell of them in several calls."""

    def on_revoked(self, partitions: Sequence[int]) -> None:
        """Hear of partitions that went, to another consumer or by a stop. What was done of them is committed."""

    def on_lost(self, partitions: Sequence[int]) -> None:
        """Hear of partitions that are gone: others may have had them before this consumer knew."""

    def on_cancel(self, *args: object) -> None:
        """Hear that nothing is consumed any more, because that was asked for."""

    def on_consumer_cancelled(self, method_frame: BaseException) -> None:
        """Hear that the consumer was ended, and did not ask for it.

        :param method_frame: The :class:`kq.WorkerError` that says why.
        """

    # -- each message --------------------------------------------------------------------------------------------------

    def get_message_log(self, message: Message) -> Any:
        """Return what keeps the story of a message; called first, so that later errors have a place to be told.

        A :class:`kq.MessageLog` of what its headers tell, unless a subclass has something better, a row of a table say.

        None refuses the message: it is a dead letter where these are on, and in any case invalid.
        """
        return entry_of(message)

    def get_task_type(self, message: Message) -> str:
        """Return the name of a message's task: from the header ``task_type``, else the name of the job's function."""
        told = dict(message.headers).get(self.task_type)
        return (name_of(message) or "") if told is None else told.decode("utf-8", "replace")

    def on_message(self, message: Message) -> None:
        """Hear of a message whose job is about to start."""

    def serializer(self, message: Message) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments of a message's task, where ``task_types`` has some: (args, kwargs).

        This one reads JSON: an object holds keyword arguments, an array positional ones. If it raises, the message is
        refused.
        """
        value = json.loads(message.value or b"")
        if isinstance(value, dict):
            return (), value
        if isinstance(value, list):
            return value, {}
        raise ValueError(f"the value is a {type(value).__name__}, and neither an object nor an array")

    def fail(self, log: Any, err: BaseException | str) -> None:
        """Hear of an attempt that failed, timed out, expired, or was invalid or refused. The worker has logged it.

        :param log: What ``get_message_log`` returned.
        :param err: The exception. Where a child could not send it, a :class:`kq.RemoteError`.
        """

    def add_failure_callback(self, cb: Callable[[Any, BaseException], Any]) -> None:
        """Have ``cb(log, err)`` called after each ``fail``; and with None as ``log`` where the consumer itself failed.

        :raises kq.ArgumentError: It cannot be called.
        """
        if not callable(cb):
            raise ArgumentError("cb must be a callable")
        self._failure_callbacks.append(cb)


def log_error(logger: logging.Logger, line: str, *args: object, error: BaseException | None = None) -> None:
    """Log an error; a filter or handler of the program that raises costs its line only."""
    with contextlib.suppress(Exception):
        logger.error(line, *args, exc_info=error)


def call_hook(hooks: Hooks, name: str, *args: Any) -> Any:
    """Return what a hook returns; ``FAILED`` where it raised."""
    return _guarded(hooks, name, getattr(hooks, name), *args)


def tell_failure(hooks: Hooks, log: Any, err: BaseException, *, is_of_message: bool = True) -> None:
    """Tell of an error: ``fail``, where it is a message's, and all callbacks."""
    if is_of_message:
        call_hook(hooks, "fail", log, err)
    for callback in list(hooks._failure_callbacks):
        _guarded(hooks, "A failure callback", callback, log, err)


def _guarded(hooks: Hooks, name: str, func: Callable[..., Any], *args: Any) -> Any:
    try:
        with Caller():
            return func(*args)
    except BaseException as error:  # the door of the user's hook: it is logged, and changes nothing  # noqa: BLE001
        log_error(hooks.logger, "%s of %s raised an exception:", name, type(hooks).__name__, error=error)
        return FAILED
