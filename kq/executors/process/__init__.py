"""The process executor: jobs run in children, which can really be killed."""

from kq.executors.process.executor import ProcessExecutor

__all__ = ["ProcessExecutor"]
