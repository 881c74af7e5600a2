"""What ``kq worker`` logs, and how: lines for people, or JSON for what collects logs.

Without a level it says what becomes of the worker itself (stops, partitions, a broker that is away), and of jobs only
what went wrong.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from typing import Any

import click

__all__ = ["FORMATS", "LEVELS", "log_to_stderr"]

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

_COLORS = {"DEBUG": "bright_black", "INFO": "green", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
#: What every record has; what else it has was given with the line.
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def log_to_stderr(level: str | None, form: str) -> None:
    """Log to stderr, in one of the formats, what has a level or a higher one.

    The client's own lines come with ``debug`` only: what matters of them KQ says itself.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text(has_colors=_has_colors()))
    chosen = getattr(logging, (level or "warning").upper())
    logging.basicConfig(handlers=[handler], level=chosen, force=True)
    logging.getLogger("kq").setLevel(logging.INFO if level is None else chosen)
    logging.getLogger("kq.worker").setLevel(chosen)
    logging.getLogger("kafka").setLevel(logging.INFO if level == "debug" else logging.CRITICAL)


def _has_colors() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


class _Text(logging.Formatter):
    """Time, level and line, for people; and who says it, if it is not KQ."""

    def __init__(self, *, has_colors: bool) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(level)s %(who)s%(message)s", "%Y-%m-%d %H:%M:%S")
        self._has_colors = has_colors

    def format(self, record: logging.LogRecord) -> str:
        level = f"[{record.levelname}]"
        shown = click.style(level, fg=_COLORS.get(record.levelname)) if self._has_colors else level
        who = "" if record.name.startswith("kq.") else f"{record.name}: "
        vars(record).update(level=shown, who=who)
        try:
            return super().format(record)
        finally:  # they are for this line alone
            del vars(record)["level"], vars(record)["who"]


class _Json(logging.Formatter):
    """One object a line, with all that the line was given: ``job_id``, ``topic``, ``partition``, ``offset``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info or record.exc_text:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        return json.dumps(line, default=str)
