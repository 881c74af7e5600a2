"""A worker for the jobs of a Django project; DJANGO_SETTINGS_MODULE names its settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import kq


def set_up() -> None:
    """Load settings and models, once in each child, before its first job."""
    import django

    django.setup()


@contextmanager
def fresh_connections() -> Iterator[None]:
    """Drop old and broken connections, as Django does for each request."""
    from django.db import close_old_connections

    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


if __name__ == "__main__":
    executor = kq.ProcessExecutor(on_start=set_up, around=fresh_connections)
    kq.Worker("orders", hosts=os.environ["KQ_HOSTS"], executor=executor, concurrency=4).start()
