"""KQ: a job queue for Python that runs on Kafka alone.

Names are imported when they are first used, so that a process that only needs a job does not load a Kafka client.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kq.context import JobContext as JobContext
    from kq.context import current_job as current_job
    from kq.context import progress as progress
    from kq.control import Control as Control
    from kq.control import Lag as Lag
    from kq.controlling import RunningJob as RunningJob
    from kq.controlling import WorkerInfo as WorkerInfo
    from kq.deadletters import DeadLetters as DeadLetters
    from kq.errors import ArgumentError as ArgumentError
    from kq.errors import BrokerUnreachable as BrokerUnreachable
    from kq.errors import Cancelled as Cancelled
    from kq.errors import ChildLost as ChildLost
    from kq.errors import GiveUp as GiveUp
    from kq.errors import JobExpired as JobExpired
    from kq.errors import JobInvalid as JobInvalid
    from kq.errors import JobTimeout as JobTimeout
    from kq.errors import KQError as KQError
    from kq.errors import LocalKafkaError as LocalKafkaError
    from kq.errors import MessageRefused as MessageRefused
    from kq.errors import MissingExtra as MissingExtra
    from kq.errors import PoisonMessage as PoisonMessage
    from kq.errors import RemoteError as RemoteError
    from kq.errors import ResultTimeout as ResultTimeout
    from kq.errors import ResultTooLarge as ResultTooLarge
    from kq.errors import ResultUnreadable as ResultUnreadable
    from kq.errors import RetryLater as RetryLater
    from kq.errors import SignatureError as SignatureError
    from kq.errors import StoreError as StoreError
    from kq.errors import WorkerError as WorkerError
    from kq.executors import InlineExecutor as InlineExecutor
    from kq.executors import ProcessExecutor as ProcessExecutor
    from kq.executors import ThreadExecutor as ThreadExecutor
    from kq.fleet import Consumer as Consumer
    from kq.fleet import ConsumerSet as ConsumerSet
    from kq.fleet import VirtualHost as VirtualHost
    from kq.job import EnqueuedJob as EnqueuedJob
    from kq.job import EnqueueItem as EnqueueItem
    from kq.job import Job as Job
    from kq.job import Status as Status
    from kq.letter import DeadLetter as DeadLetter
    from kq.local import LocalKafka as LocalKafka
    from kq.message import Message as Message
    from kq.messagelog import LogStatus as LogStatus
    from kq.messagelog import MessageLog as MessageLog
    from kq.messagelog import MessageStore as MessageStore
    from kq.producing import JobFunction as JobFunction
    from kq.producing import JobSpec as JobSpec
    from kq.queue import EnqueueError as EnqueueError
    from kq.queue import EnqueueSpec as EnqueueSpec
    from kq.queue import EnqueueUnknown as EnqueueUnknown
    from kq.queue import Queue as Queue
    from kq.requeueing import requeue as requeue
    from kq.resulting import JobEvent as JobEvent
    from kq.resulting import ResultConsumer as ResultConsumer
    from kq.results import Results as Results
    from kq.retry import Retry as Retry
    from kq.scheduling import Cron as Cron
    from kq.scheduling import Every as Every
    from kq.scheduling import Schedule as Schedule
    from kq.serializers import JSONSerializer as JSONSerializer
    from kq.serializers import by_content_type as by_content_type
    from kq.serializers import dumps as dumps
    from kq.serializers import loads as loads
    from kq.signing import Signer as Signer
    from kq.worker import Callback as Callback
    from kq.worker import Worker as Worker

__version__ = "3.0.0"

_HOMES = {
    "ArgumentError": "errors",
    "BrokerUnreachable": "errors",
    "Callback": "worker",
    "Cancelled": "errors",
    "ChildLost": "errors",
    "Consumer": "fleet",
    "ConsumerSet": "fleet",
    "Control": "control",
    "Cron": "scheduling",
    "DeadLetter": "letter",
    "DeadLetters": "deadletters",
    "EnqueueError": "queue",
    "EnqueueItem": "job",
    "EnqueueSpec": "queue",
    "EnqueueUnknown": "queue",
    "EnqueuedJob": "job",
    "Every": "scheduling",
    "GiveUp": "errors",
    "InlineExecutor": "executors",
    "JSONSerializer": "serializers",
    "Job": "job",
    "JobContext": "context",
    "JobEvent": "resulting",
    "JobExpired": "errors",
    "JobFunction": "producing",
    "JobInvalid": "errors",
    "JobSpec": "producing",
    "JobTimeout": "errors",
    "KQError": "errors",
    "Lag": "control",
    "LocalKafka": "local",
    "LocalKafkaError": "errors",
    "LogStatus": "messagelog",
    "Message": "message",
    "MessageLog": "messagelog",
    "MessageRefused": "errors",
    "MessageStore": "messagelog",
    "MissingExtra": "errors",
    "PoisonMessage": "errors",
    "ProcessExecutor": "executors",
    "Queue": "queue",
    "RemoteError": "errors",
    "ResultConsumer": "resulting",
    "ResultTimeout": "errors",
    "ResultTooLarge": "errors",
    "ResultUnreadable": "errors",
    "Results": "results",
    "Retry": "retry",
    "RetryLater": "errors",
    "RunningJob": "controlling",
    "Schedule": "scheduling",
    "SignatureError": "errors",
    "Signer": "signing",
    "Status": "job",
    "StoreError": "errors",
    "ThreadExecutor": "executors",
    "VirtualHost": "fleet",
    "Worker": "worker",
    "WorkerError": "errors",
    "WorkerInfo": "controlling",
    "by_content_type": "serializers",
    "current_job": "context",
    "dumps": "serializers",
    "loads": "serializers",
    "progress": "context",
    "requeue": "requeueing",
}

__all__ = sorted([*_HOMES, "__version__"])

if not __debug__:  # the user's client may be made before anything of KQ is used, and must be mended by then
    import_module("kq.clients")


def _let_kafka_read_itself() -> None:
    """Ignore that Python 3.11 and 3.12 call the way deprecated by which kafka-python reads its own files at its import.

    A program that makes errors of warnings could not import it.
    """
    warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)


_let_kafka_read_itself()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with warnings.catch_warnings():  # whose filters may not be those of the moment when this was imported
        _let_kafka_read_itself()
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
