"""Telling: what may be said of an exception where arguments are to stay out of all that KQ writes.

The text of an exception often repeats an argument, as that of ``int("secret")`` does. So it is left out, except where
it is KQ's own; the classes, and where it happened, stay.
"""

from __future__ import annotations

import traceback
from typing import Any

from kq.errors import Cancelled, ChildLost, JobExpired, JobTimeout, MessageRefused, PoisonMessage, SignatureError
from kq.utils import MASKED, safe_str, type_name

__all__ = ["masked_trace", "of_exit", "told"]

#: What KQ itself raises of a job: these texts repeat nothing that was given to it, or came from it.
_OWN = (Cancelled, ChildLost, JobExpired, JobTimeout, MessageRefused, PoisonMessage, SignatureError)
#: Exceptions of one chain that are told of.
_MOST = 20


def told(error: BaseException, hides: bool) -> str:
    """Return the text of an exception, or what stands for it."""
    return MASKED if hides and type(error) not in _OWN else safe_str(error)


def of_exit(error: SystemExit, hides: bool) -> str:
    """Return what is said of a job that has left."""
    return f"the job called sys.exit({MASKED if hides and isinstance(error.code, str) else safe_str(error.code)})"


def masked_trace(error: BaseException) -> str:
    """Return the traceback of an exception, and of those that led to it, as text: places and classes alone."""
    parts: list[str] = []
    one: Any = error
    while one is not None and len(parts) < _MOST:
        frames = traceback.format_tb(_of(one, "__traceback__"))
        head = "Traceback (most recent call last):\n" if frames else ""
        parts.append(f"{head}{''.join(frames)}{type_name(type(one))}: {told(one, True)}\n")
        one = _of(one, "__cause__") or (None if _of(one, "__suppress_context__") else _of(one, "__context__"))
    return "\nand then:\n\n".join(reversed(parts))


def _of(error: BaseException, name: str) -> Any:
    """Return an attribute of an exception, past what its class may do about that."""
    return BaseException.__getattribute__(error, name)
