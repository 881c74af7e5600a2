"""Executors: where jobs run. Alternatives behind one protocol, ``kq.executors.base.Executor``."""

from kq.executors.base import Executor, Finished, Setting, cause_of, explained, run_message, stacktrace_of
from kq.executors.calling import Caller
from kq.executors.fitness import cancelled, unfit
from kq.executors.inline import InlineExecutor
from kq.executors.interrupt import best_interrupter
from kq.executors.lines import describe, log_interrupted, log_invalid
from kq.executors.packing import pack_error
from kq.executors.process import ProcessExecutor
from kq.executors.running import Run, is_asked
from kq.executors.telling import told
from kq.executors.thread import ThreadExecutor

__all__ = [
    "Caller",
    "Executor",
    "Finished",
    "InlineExecutor",
    "ProcessExecutor",
    "Run",
    "Setting",
    "ThreadExecutor",
    "best_interrupter",
    "cancelled",
    "cause_of",
    "describe",
    "explained",
    "is_asked",
    "log_interrupted",
    "log_invalid",
    "pack_error",
    "run_message",
    "stacktrace_of",
    "told",
    "unfit",
]
