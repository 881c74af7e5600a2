"""A worker whose failures are reported from where they happen: ``python reporting_inside.py``."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import kq


def report(error: Exception) -> None:
    """Report an exception, which has its frames here; ``sentry_sdk.capture_exception(error)`` would send them."""
    traceback.print_exception(error)


@contextmanager
def reported() -> Iterator[None]:
    """Report what a job raises, and let it go on."""
    try:
        yield
    except Exception as error:
        report(error)
        raise


if __name__ == "__main__":
    executor = kq.ProcessExecutor(around=reported)
    kq.Worker("orders", hosts=os.environ["KQ_HOSTS"], executor=executor, concurrency=4).start()
