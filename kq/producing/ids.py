"""IDs of jobs: unlike any other, and in the order of time."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

__all__ = ["made_at", "new_ids"]

#: Nanoseconds of a millisecond, and parts of one that an ID tells apart.
_MILLI, _PARTS = 1_000_000, 4096
#: What such an ID looks like.
_TIMED = re.compile("[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}")


def new_ids(ahead: int = 1) -> Iterator[str]:
    """Yield UUIDs of version 7, as hex digits, made of so much of the system's randomness at once.

    They begin with the time, and those made at once are numbered (RFC 9562, 6.2, methods 3 and 1). In the index of a
    database new ones stand together at its end, which makes writing there several times as fast as with random ones.

    Each system call lets other threads run first: one for every job halves the speed of many.

    :param ahead: 16,384 at most.
    """
    numbers = [f"{0x8000 | number:04x}" for number in range(ahead)]
    while True:
        millis, rest = divmod(time.time_ns(), _MILLI)
        since, text = f"{millis:012x}7{rest * _PARTS // _MILLI:03x}", os.urandom(6 * ahead).hex()
        yield from (f"{since}{number}{text[at * 12 : at * 12 + 12]}" for at, number in enumerate(numbers))


def made_at(job_id: str) -> int | None:
    """Return when an ID was made that ``new_ids`` gave, in Unix milliseconds; None of any other.

    An ID that another program has made in the same way tells the same.
    """
    if not _TIMED.fullmatch(job_id):
        return None
    return int(job_id[:12], 16)
