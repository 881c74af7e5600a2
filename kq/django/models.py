"""The table of the message log, as a model that Django reads and never changes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from django.db import models

import kq
from kq.messagelog import STATUSES

__all__ = ["MessageLog", "MillisField"]

#: What an entry has that is a column of the table.
_NAMES = (
    *("job_id", "status", "attempt", "topic", "partition", "offset", "key", "task_type", "function", "arguments"),
    *("published_at", "started_at", "ended_at", "changed_at", "worker", "result", "exception", "traceback", "logs"),
)


class MillisField(models.BigIntegerField):
    """A time that the table has in Unix milliseconds."""

    description = "Unix milliseconds"

    def from_db_value(self, value: int | None, *_: Any) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value / 1000, timezone.utc)

    def get_prep_value(self, value: Any) -> Any:
        return int(value.timestamp() * 1000) if isinstance(value, datetime) else super().get_prep_value(value)


class MessageLog(models.Model):
    """What became of one message; see :class:`kq.MessageLog`."""

    job_id = models.CharField("job", primary_key=True, max_length=255)
    position = models.BigIntegerField(editable=False)
    status = models.CharField(max_length=16, choices=[(status, status) for status in STATUSES])
    attempt = models.IntegerField()
    topic = models.TextField()
    partition = models.IntegerField(null=True)
    offset = models.BigIntegerField(null=True)
    key = models.BinaryField(null=True)
    task_type = models.TextField(null=True)
    function = models.TextField(null=True)
    arguments = models.TextField(null=True)
    published_at = MillisField("published", db_column="published", null=True)
    started_at = MillisField("started", db_column="started", null=True)
    ended_at = MillisField("ended", db_column="ended", null=True)
    changed_at = MillisField("changed", db_column="changed")
    worker = models.TextField(null=True)
    result = models.TextField(null=True)
    exception = models.TextField(null=True)
    traceback = models.TextField(null=True)
    logs = models.TextField(null=True)

    class Meta:
        managed = False
        db_table = "kq_message_log"
        ordering = ("-changed_at",)
        default_permissions = ("view",)
        permissions = (("requeue_messagelog", "Can enqueue messages again"),)
        verbose_name = "message"
        verbose_name_plural = "message log"

    def __str__(self) -> str:
        return f"{self.function or self.topic} {self.job_id}"

    def as_entry(self) -> kq.MessageLog:
        """Return it as ``MessageStore`` does."""
        told = {name: getattr(self, name) for name in _NAMES}
        told["key"] = None if self.key is None else bytes(self.key)
        return kq.MessageLog(**told)
