"""A worker whose failures are reported: ``python reporting.py``."""

import os
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.logging import ignore_logger

import kq


def report(
    status: str, message: kq.Message, job: Any, result: Any, exception: Any, stacktrace: str | None
) -> None:  # fmt: skip
    """Report what went wrong; what went well is no news."""
    if status == "success":
        return
    with sentry_sdk.new_scope() as scope:
        scope.set_tag("kq.status", status)
        scope.set_tag("kq.topic", message.topic)
        place = {"partition": message.partition, "offset": message.offset}
        scope.set_context("job", {"id": job and job.id, **place})
        scope.set_extra("stacktrace", stacktrace)
        if exception is not None:
            scope.capture_exception(exception)
        else:  # a timeout or an invalid message has none
            scope.capture_message(f"job {job and job.id}: {status}", level="error")


if __name__ == "__main__":
    sentry_sdk.init(dsn=os.environ["SENTRY_DSN"])
    ignore_logger("kq.worker")  # which logs the same failures as errors; Sentry would report each twice
    hosts = os.environ["KQ_HOSTS"]
    kq.Worker("orders", hosts=hosts, callback=report, executor="process", concurrency=4).start()
