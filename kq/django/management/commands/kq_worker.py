"""``manage.py kq_worker``: runs the jobs of a queue."""

from __future__ import annotations

import os
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from kafka.errors import KafkaError

import kq
from kq.django.conf import fresh_connections, options, worker
from kq.executors import Executor

__all__ = ["Command"]


class Command(BaseCommand):
    """Runs jobs until Ctrl-C, which lets the running ones end first."""

    help = "Run the jobs of a queue of the settings until Ctrl-C, which lets the running jobs end first."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("queue", nargs="?", default="default", help="Its name in the setting KQ.")
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--processes", type=int, help="Run so many jobs at once, by default one a core.")
        where.add_argument("--threads", type=int, help="Run so many jobs at once in threads, not in processes.")
        where.add_argument("--inline", action="store_true", help="Run one job at a time, in this process.")
        parser.add_argument("--max-messages", type=int, help="Stop after so many messages.")
        parser.add_argument("--burst", action="store_true", help="Stop when nothing is left.")

    def handle(self, *args: Any, **given: Any) -> None:
        try:
            topic = options(given["queue"])["TOPIC"]
            executor, concurrency = _executor(given)
            made = worker(given["queue"], executor, concurrency)
            self.stdout.write(f"Running jobs of topic {topic}")
            done = made.start(max_messages=given["max_messages"], burst=given["burst"])
        except (kq.KQError, KafkaError, ImproperlyConfigured) as error:
            raise CommandError(" ".join(str(error).split())) from error
        self.stdout.write(f"{done} message{'' if done == 1 else 's'} processed")


def _executor(given: dict[str, Any]) -> tuple[Executor | None, int]:
    """Return where jobs run, and how many at once."""
    if given["inline"]:
        return kq.InlineExecutor(around=fresh_connections), 1
    if given["threads"]:
        return kq.ThreadExecutor(around=fresh_connections), given["threads"]
    return None, given["processes"] or os.cpu_count() or 1
