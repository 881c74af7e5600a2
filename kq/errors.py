"""The errors of KQ.

- ``KQError``

  - ``ArgumentError``, also a ``TypeError`` and an ``AssertionError``: a call was made wrongly
  - ``BrokerUnreachable``, also a ``ConnectionError``: no broker answered at these hosts, or lets this client in
  - ``EnqueueError``, also a ``kafka.errors.KafkaError``: a job is not on the topic

    - ``EnqueueUnknown``: it may be there, the answer never came

  - ``WorkerError``: a worker had to stop: its consumer failed or was fenced, or its jobs cannot be imported
  - ``JobExpired``: a job had not started when it expired
  - ``JobTimeout``, also a ``TimeoutError``: a job ran longer than it may
  - ``RetryLater``: raised by a job, to run again later
  - ``GiveUp``: raised by a job, to end without another attempt
  - ``JobInvalid``: a message held no job that could be run
  - ``Cancelled``: a job was cancelled
  - ``ResultTimeout``, also a ``TimeoutError``: what became of a job was not known in time
  - ``ResultTooLarge``: a job succeeded, and its result is too large for the topic
  - ``ResultUnreadable``: a job succeeded, and its result cannot be pickled, or not be read here
  - ``PoisonMessage``: a message whose runs kept killing the worker
  - ``MessageRefused``: a consumer did not want a message: it had no log for it, or knew no task of its name
  - ``SignatureError``: a message is not signed, or not as it must be
  - ``ChildLost``: a child of the process executor ended while it ran a job
  - ``ChildTraceback``: the traceback of a job's exception, as text, where it crossed from a child
  - ``RemoteError``: an exception of a job that could not cross from its child, or must not, as text
  - ``LocalKafkaError``: the Kafka for development did not start or went away
  - ``StoreError``: the database of a message log refuses
  - ``MissingExtra``, also an ``ImportError``: an optional dependency is not installed

``EnqueueError`` and ``EnqueueUnknown`` live in :mod:`kq.producing.delivery`, because they are Kafka errors too and
this module knows no Kafka.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BrokerUnreachable",
    "Cancelled",
    "ChildLost",
    "ChildTraceback",
    "GiveUp",
    "JobExpired",
    "JobInvalid",
    "JobTimeout",
    "KQError",
    "LocalKafkaError",
    "MessageRefused",
    "MissingExtra",
    "PoisonMessage",
    "RemoteError",
    "ResultTimeout",
    "ResultTooLarge",
    "ResultUnreadable",
    "RetryLater",
    "SignatureError",
    "StoreError",
    "WorkerError",
]


class KQError(Exception):
    """Root of every error that KQ raises by itself."""


class ArgumentError(KQError, TypeError, AssertionError):
    """An argument is of the wrong type or value; the message says which and what to pass instead.

    It is an ``AssertionError`` because KQ 2.x raised that, and a ``TypeError`` because it is one. Unlike an
    assertion it is raised under ``python -O`` as well.
    """


class BrokerUnreachable(KQError, ConnectionError):
    """No Kafka broker answered in the time allowed, or none lets this client in; the message names hosts and reason."""


class LocalKafkaError(KQError):
    """The Kafka for development and tests failed to start; the message ends with its log."""


class MissingExtra(KQError, ImportError):
    """An optional dependency is missing; the message is the command that installs it."""


class StoreError(KQError):
    """The database of a message log refuses, or is not one; the message is one line, without a password.

    Jobs go on without it: only those who read the log get this error.
    """


class PoisonMessage(KQError):
    """A message was not run again, because its runs ended with the death of the whole worker too often."""


class MessageRefused(KQError):
    """A consumer did not want a message: ``get_message_log`` returned None, or the message names no task of its."""


class SignatureError(KQError):
    """A message was not run, because it is not signed, or not by whom or as it must be; the text is the reason."""


class JobExpired(KQError):
    """A job was not run: it had not started by the time that ``expires`` gave it."""


class JobTimeout(KQError, TimeoutError):
    """A job ran longer than it may; the message names the limit."""


class JobInvalid(KQError):
    """A message held no job that could be run; the message says why."""


class Cancelled(KQError):
    """A job was cancelled before it ended."""


class ResultTimeout(KQError, TimeoutError):
    """What became of a job was not known within the time allowed; the message says what is known of it."""


class ResultTooLarge(KQError):
    """A job succeeded, and its result is larger than the topic of results takes; the message has both sizes.

    :ivar size: Bytes of the record that would have been.
    :ivar limit: Bytes that the topic takes; None where that is not known.
    """

    def __init__(self, message: str, size: int | None = None, limit: int | None = None) -> None:
        super().__init__(message, size, limit)
        self.size, self.limit = size, limit

    def __str__(self) -> str:
        return str(self.args[0])


class ResultUnreadable(KQError):
    """A job succeeded, and its result cannot be had: it could not be pickled, or cannot be unpickled here."""


class RetryLater(KQError):
    """Raised by a job: this attempt has failed, and another one is to follow.

    It counts as a retry, whatever exceptions the policy has; without a policy, ``kq.Retry()`` holds.

    :param delay: Seconds until then; what the policy says if left out.
    :param reason: Why, for people.
    :raises kq.ArgumentError: The delay is no number of seconds.
    """

    def __init__(self, delay: float | None = None, reason: str = "") -> None:
        if delay is not None and not (isinstance(delay, (int, float)) and 0 <= delay < 1e9):
            raise ArgumentError("delay must be a number of seconds, 0 or greater")
        super().__init__(delay, reason)
        self.delay = delay
        self.reason = reason

    def __str__(self) -> str:
        return str(self.reason) or "the job asked to run again later"


class GiveUp(KQError):
    """Raised by a job: it has failed, and there is not to be another attempt.

    :param reason: Why, for people.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class WorkerError(KQError):
    """A worker stopped: its consumer failed in a way that it cannot mend, or its jobs cannot be imported.

    The cause is attached.
    """


class ChildLost(KQError):
    """A child of the process executor ended while it ran a job; the message says how, and what was running.

    :ivar exitcode: The exit code of the child, or minus the signal that killed it; None where that is not known.
    """

    def __init__(self, message: str, exitcode: int | None = None) -> None:
        super().__init__(message, exitcode)
        self.exitcode = exitcode

    def __str__(self) -> str:
        return str(self.args[0])


class ChildTraceback(KQError):
    """The traceback of a job's exception as it was in its child, as text; the ``__cause__`` of that exception.

    Frames cannot cross from one process to another. It is never raised.
    """


class RemoteError(KQError):
    """An exception of a job that could not be pickled, or not be built again here.

    :ivar type: The name of its type.
    :ivar text: Its text.
    :ivar traceback: Its traceback where the job ran, as text; empty where it is not known.
    """

    def __init__(self, type: str = "", text: str | None = None, traceback: str = "") -> None:
        super().__init__(*([type] if text is None else [type, text]))
        self.type, self.text, self.traceback = type, text or "", traceback

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))
