"""The errors of KQ.

::

    KQError
    ├── ArgumentError       (also TypeError and AssertionError)  a call was made wrongly
    ├── BrokerUnreachable   (also ConnectionError)               no broker answered at these hosts
    ├── LocalKafkaError     the Kafka for development did not start or went away
    ├── MissingExtra        (also ImportError)                   an optional dependency is not installed
    ├── PoisonMessage       a message whose runs kept killing the worker
    ├── WorkerError         a worker had to stop: its consumer failed, or was fenced
    └── EnqueueError        (also kafka.errors.KafkaError)       a job is not on the topic
        └── EnqueueUnknown  it may be there: the answer never came

``EnqueueError`` and ``EnqueueUnknown`` live in :mod:`kq.queue`, because they are Kafka errors too and
this module knows no Kafka.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BrokerUnreachable",
    "KQError",
    "LocalKafkaError",
    "MissingExtra",
    "PoisonMessage",
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
    """No Kafka broker answered within the time allowed; the message names the hosts."""


class LocalKafkaError(KQError):
    """The Kafka for development and tests failed to start; the message ends with its log."""


class MissingExtra(KQError, ImportError):
    """An optional dependency is missing; the message is the command that installs it."""


class PoisonMessage(KQError):
    """A message was not run again, because its runs ended with the death of the whole worker too often."""


class WorkerError(KQError):
    """A worker stopped because its consumer failed in a way that it cannot mend; the cause is attached."""
