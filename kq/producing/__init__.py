"""Producing: from a call to a record that a broker has acknowledged."""

from kq.producing.aio import Bridge
from kq.producing.calls import Terms, check_timeout, job_of_call, job_of_item, new_ids
from kq.producing.decorator import JobFunction, JobSpec, job_function
from kq.producing.delivery import Delivery, EnqueueError, EnqueueUnknown, Sent, describe
from kq.producing.window import Window

__all__ = [
    "Bridge",
    "Delivery",
    "EnqueueError",
    "EnqueueUnknown",
    "JobFunction",
    "JobSpec",
    "Sent",
    "Terms",
    "Window",
    "check_timeout",
    "describe",
    "job_function",
    "job_of_call",
    "job_of_item",
    "new_ids",
]
