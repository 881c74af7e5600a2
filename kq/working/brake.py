"""The brake: a worker that can import no job, started in the wrong place, must not empty its topic.

1. A message whose job cannot be imported is held back, while nothing that this worker was given could be imported.
2. When something could, the deploy is not to blame: what was held back is invalid, and so is all that follows.
3. Too many that are held back, or an end of the work without anything else, stop the worker. None of them is done, so
   the right worker will run them.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal

from kq.errors import WorkerError
from kq.executors import Finished
from kq.job import INVALID
from kq.message import name_of

__all__ = ["Brake", "Unimportable"]

Unimportable = Literal["brake", "invalid", "stop"]

#: How many messages in a row stop the worker.
_LIMITS: dict[Unimportable, int] = {"brake": 10, "stop": 1}


class Brake:
    """What one worker holds back. Not for use by more than one thread."""

    def __init__(self, mode: Unimportable, logger: logging.Logger) -> None:
        self._limit = _LIMITS.get(mode, 0)
        self._needs_proof = mode == "brake"
        self._logger = logger
        self.held: list[Finished] = []
        #: Whether runs that ended must come by here at all.
        self.is_on = mode != "invalid"

    def sift(self, one: Finished) -> list[Finished]:
        """Return what of a run that ended, and of those held back, is to be settled now."""
        if one.unimportable is not None:
            self.held.append(one)
            self._logger.warning("Message is held back: %s (%s)", one.unimportable[0], _place(one))
            return []
        assert one.outcome is not None
        if not self._needs_proof or one.outcome.status == INVALID or self.is_pulled():
            return [one]
        self.is_on = False
        released, self.held = self.held, []
        return [*released, one]

    def drop(self, partition: int) -> list[Finished]:
        """Hold back nothing of a partition any more, and return what that was."""
        dropped = [one for one in self.held if one.message.partition == partition]
        self.held = [one for one in self.held if one.message.partition != partition]
        return dropped

    def is_pulled(self) -> bool:
        """Return whether the worker is to stop."""
        return len(self.held) >= self._limit > 0

    def error(self) -> WorkerError:
        """Return the error that stops the worker: what is missing, where it was looked for, and what to do."""
        last = self.held[-1]
        text, why = last.unimportable or ("", "")
        error = WorkerError(
            f"jobs cannot be imported here, {len(self.held)} in a row. The last one: {text} "
            f"({_place(last)}). This worker runs in {os.getcwd()}, and sys.path[0] is {sys.path[0]!r}. Start it where "
            'the jobs can be imported. None of these messages was committed. With unimportable="invalid" they are '
            "invalid, and committed"
        )
        error.__cause__ = why if isinstance(why, BaseException) else None
        return error


def _place(one: Finished) -> str:
    topic, partition, offset = one.message[:3]
    return f"{name_of(one.message) or 'a function'}, topic {topic}, partition {partition}, offset {offset}"
