"""Producing: from a call to a record that a broker has acknowledged."""

from kq.producing.binding import check_binding
from kq.producing.calls import Terms, check_timeout
from kq.producing.decorator import JobFunction, JobSpec, job_function
from kq.producing.delivery import Delivery, EnqueueError, EnqueueUnknown, Sent, describe
from kq.producing.spec import EnqueueSpec, Sender
from kq.producing.window import Progress

__all__ = [
    "Delivery",
    "EnqueueError",
    "EnqueueSpec",
    "EnqueueUnknown",
    "JobFunction",
    "JobSpec",
    "Progress",
    "Sender",
    "Sent",
    "Terms",
    "check_binding",
    "check_timeout",
    "describe",
    "job_function",
]
