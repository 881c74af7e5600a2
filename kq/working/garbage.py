"""Garbage collection while a worker runs: less often.

Each message is a few objects that the collector counts, and hundreds wait at any moment. At Python's own 700 it looks
through them again and again and finds nothing, for messages form no cycles: 7 % of what a parent of two children does.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["rare_collections"]

#: How many more objects there must be before the collector looks through the young ones.
_YOUNG = 10_000


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Have the collector look less often; a program that has it look rarely, or never, has its way."""
    before = gc.get_threshold()
    if not 0 < before[0] < _YOUNG:
        yield
        return
    gc.set_threshold(_YOUNG, *before[1:])
    try:
        yield
    finally:
        if gc.get_threshold() == (_YOUNG, *before[1:]):  # nobody has changed it meanwhile
            gc.set_threshold(*before)
