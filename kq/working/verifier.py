"""The verifier: with a signer, what is not signed as it must be is not run. It looks at bytes that nothing has loaded.

There is no other way in: what is polled, what runs again in place and what ran before all come by here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from kq.errors import SignatureError
from kq.executors import Finished, log_invalid, unfit
from kq.job import INVALID, Cause, Outcome
from kq.message import Message
from kq.signing import JOB, Signer
from kq.utils import type_name

__all__ = ["Fault", "fault_finder"]

#: Returns the end of a message that is not to be run; None if it may be.
Fault = Callable[[Message], Finished | None]

_KINDS = (type_name(SignatureError),)


def fault_finder(signer: Signer | None, logger: logging.Logger) -> Fault:
    """Return what looks at each message before it is run."""
    if signer is None:
        return unfit
    verify = signer.verify

    def find(message: Message) -> Finished | None:
        try:
            verify(JOB, message, int(time.time() * 1000))
        except SignatureError as error:
            log_invalid(logger, message, str(error), "")
            return Finished(message, None, Outcome(INVALID, cause=Cause(_KINDS, str(error))))
        return unfit(message)

    return find
