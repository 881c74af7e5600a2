"""The inside of a value: what it holds as text, without making anything of it.

1. JSON is shown as it stands.
2. Of a pickle its instructions are listed, by ``pickletools``, which carries none of them out.
3. All else is shown as bytes. Whatever it is, only its beginning is looked at.
"""

from __future__ import annotations

import json
import pickletools
from collections.abc import Iterable
from typing import NamedTuple

from kq.message import HEADER_CONTENT_TYPE

__all__ = ["Inside", "look_inside"]

#: Bytes of a value that are looked at, instructions that are listed, and characters of what one of them holds.
_MOST_BYTES, _MOST_LINES, _LONGEST = 65_536, 300, 200
#: The first instruction of a pickle.
_PROTO = b"\x80"
#: Instructions that only arrange what others have made.
_DULL = frozenset(
    ("MEMOIZE", "FRAME", "PROTO", "MARK", "STOP", "BINPUT", "LONG_BINPUT", "PUT", "EMPTY_TUPLE", "EMPTY_DICT")
)


class Inside(NamedTuple):
    """What a value holds.

    :param kind: ``"JSON"``, ``"pickle"``, ``"bytes"``, or ``"nothing"``.
    :param lines: As text.
    :param is_whole: Whether that is all of it.
    """

    kind: str
    lines: list[str]
    is_whole: bool


def look_inside(value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Inside:
    """Return what a value holds; nothing is unpickled."""
    if not value:
        return Inside("nothing", [], True)
    head = value[:_MOST_BYTES]
    if dict(headers).get(HEADER_CONTENT_TYPE) is not None and (text := _json(head)) is not None:
        lines = text.splitlines()
        return Inside("JSON", lines[:_MOST_LINES], len(lines) <= _MOST_LINES)
    if head.startswith(_PROTO):
        return _pickle(head, len(head) == len(value))
    lines = [repr(head[place : place + 64])[2:-1] for place in range(0, min(len(head), 64 * _MOST_LINES), 64)]
    return Inside("bytes", lines, len(value) <= 64 * _MOST_LINES)


def _json(head: bytes) -> str | None:
    try:
        return json.dumps(json.loads(head), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _pickle(head: bytes, is_whole: bool) -> Inside:
    lines: list[str] = []
    try:
        for instruction, argument, _ in pickletools.genops(head):
            if len(lines) >= _MOST_LINES:
                return Inside("pickle", lines, False)
            if instruction.name not in _DULL:
                text = "" if argument is None else f" {argument!r}"
                lines.append(f"{instruction.name}{text if len(text) <= _LONGEST else text[:_LONGEST] + '…'}")
    except Exception:  # noqa: BLE001 - another program's bytes: what could be read is shown
        return Inside("pickle", lines, False)
    return Inside("pickle", lines, is_whole)
