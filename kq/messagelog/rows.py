"""Rows: what queue and workers have to say of messages, on its way to the table.

1. A row is a plain tuple, ``FIELDS`` in this order: there are many, and each costs the process of the worker time.
2. Two rows of one job are merged by the rules of the upsert, before they are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

from kq.utils import safe_repr

__all__ = ["FIELDS", "FILLED", "LATEST", "MORE", "Row", "brief", "call_text", "cleaned", "merged", "size_of"]

#: Characters of arguments, or of what a job returned.
LONGEST = 2_000

#: Of most rows: the columns that each has.
FIELDS = (
    *("job_id", "position", "status", "attempt", "topic", "partition", "offset", "key", "task_type", "function"),
    *("published", "started", "ended", "worker"),
)
#: Columns behind them that only some rows have.
MORE = ("arguments", "result", "exception", "traceback", "logs")
#: Columns whose first value stays: it is the same in all rows of a job that have one.
FILLED = ("topic", "key", "task_type", "function", "arguments")
#: Columns that are about the latest status.
LATEST = (
    *("position", "status", "attempt", "partition", "offset", "ended", "worker"),
    *("result", "exception", "traceback", "logs"),
)
#: ``FIELDS``, or ``FIELDS`` and ``MORE``.
Row = tuple[Any, ...]

_AT = {name: number for number, name in enumerate((*FIELDS, *MORE))}
_POSITION, _PUBLISHED, _STARTED, _ENDED = (_AT[name] for name in ("position", "published", "started", "ended"))
_FILLED = [_AT[name] for name in FILLED]
_PLAIN, _FULL = len(FIELDS), len(FIELDS) + len(MORE)


def merged(one: Row, other: Row) -> Row:
    """Return one row that says what two of the same job say, in whichever order they came."""
    older, newer = (one, other) if _time_of(one) <= _time_of(other) else (other, one)
    old, new = _full(older), list(_full(newer))
    for number in _FILLED:
        if new[number] is None:
            new[number] = old[number]
    if new[_STARTED] is None:
        new[_STARTED] = old[_STARTED]
    known = [each for each in (old[_PUBLISHED], new[_PUBLISHED]) if each is not None]
    new[_PUBLISHED] = min(known, default=None)
    return tuple(new[: len(FIELDS)]) if all(each is None for each in new[len(FIELDS) :]) else tuple(new)


def cleaned(text: str | None, longest: int, *, end: bool = False) -> str | None:
    """Return a text that any database takes, and no longer than so many characters: its beginning, or its end."""
    if text is None:
        return None
    text = _cut(text, longest, end)
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return _cut(text.replace("\0", "\\x00"), longest, end)  # which made it longer


def _cut(text: str, longest: int, end: bool) -> str:
    if len(text) <= longest:
        return text
    return f"…{text[1 - longest :]}" if end else f"{text[: longest - 1]}…"


class _Brief(Repr):
    """Makes a text of a thing in a time that does not grow with the thing."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = self.maxdeque = 50
        self.maxstring = self.maxother = self.maxlong = 500

    def repr_instance(self, x: Any, level: int) -> str:
        text = safe_repr(x)
        return text if len(text) <= self.maxother else f"{text[: self.maxother]}…"


_brief = _Brief().repr
#: Types whose repr is short, and safe.
_SHORT = frozenset((int, float, bool, type(None)))


def brief(thing: Any) -> str:
    """Return a thing as a short text, whatever its ``repr`` does."""
    if type(thing) in _SHORT:
        return repr(thing) if type(thing) is not int or -(1 << 63) < thing < 1 << 63 else f"{thing:#x}"[:LONGEST]
    try:
        text = _brief(thing)
    except Exception:  # noqa: BLE001 - the door of user code: a container of the user's own raises
        text = safe_repr(thing)
    return cleaned(text, LONGEST) or ""


def call_text(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return the arguments of a call as text: ``1, 2, a=3``."""
    if not kwargs and all(type(each) in _SHORT for each in args):
        text = ", ".join(map(brief, args))
    else:
        text = ", ".join([*map(brief, args), *(f"{name}={brief(kwargs[name])}" for name in sorted(kwargs))])
    return cleaned(text, LONGEST) or ""


def size_of(row: Row) -> int:
    """Return how many characters the long texts of a row have."""
    return sum(len(text) for text in row[_PLAIN:] if text) if len(row) > _PLAIN else 0


def _time_of(row: Row) -> tuple[int, int]:
    return row[_POSITION], row[_ENDED] or row[_STARTED] or 0


def _full(row: Row) -> Row:
    return row + (None,) * (_FULL - len(row))
