"""Producing: from a call to a record that a broker has acknowledged."""

from kq.producing.binding import check_binding
from kq.producing.calls import Terms, check_timeout, job_of_call, told_retry
from kq.producing.decorator import JobFunction, JobSpec, job_function
from kq.producing.delivery import Delivery, EnqueueError, EnqueueUnknown, Sent, describe
from kq.producing.ids import made_at, new_ids
from kq.producing.later import LATER, SUFFIX, Later
from kq.producing.publishing import Publishing
from kq.producing.spec import EnqueueSpec, Sender, now_millis
from kq.producing.timing import LATEST, Moment, check_expiry, moment_in, moment_of
from kq.producing.window import Progress

__all__ = [
    "LATER",
    "LATEST",
    "SUFFIX",
    "Delivery",
    "EnqueueError",
    "EnqueueSpec",
    "EnqueueUnknown",
    "JobFunction",
    "JobSpec",
    "Later",
    "Moment",
    "Progress",
    "Publishing",
    "Sender",
    "Sent",
    "Terms",
    "check_binding",
    "check_expiry",
    "check_timeout",
    "describe",
    "job_function",
    "job_of_call",
    "made_at",
    "moment_in",
    "moment_of",
    "new_ids",
    "now_millis",
    "told_retry",
]
