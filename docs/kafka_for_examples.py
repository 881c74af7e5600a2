"""One Kafka for the code on all pages: made at first need, stopped when the build is over."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack

import kq

_open = ExitStack()
_hosts: list[str] = []


def hosts() -> str:
    """Return the address of the Kafka, after starting it where it does not run yet."""
    if not _hosts:
        # jobs that fail on purpose are no news
        logging.getLogger("kq").addHandler(logging.NullHandler())
        _hosts.append(_open.enter_context(kq.LocalKafka()).hosts)
        os.environ["KQ_HOSTS"] = _hosts[0]
    return _hosts[0]


def stop() -> None:
    """Stop the Kafka if it runs."""
    _hosts.clear()
    _open.close()
