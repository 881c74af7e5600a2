"""Scheduling: what is due later, and its owner, who fires it."""

from kq.scheduling.entries import due_of
from kq.scheduling.owner import Owner
from kq.scheduling.part import Part
from kq.scheduling.reading import Waiting, waiting
from kq.scheduling.schedule import Plan, Schedule, plan_of
from kq.scheduling.schedules import Schedules, check_schedule
from kq.scheduling.when import Cron, Every

__all__ = [
    "Cron",
    "Every",
    "Owner",
    "Part",
    "Plan",
    "Schedule",
    "Schedules",
    "Waiting",
    "check_schedule",
    "due_of",
    "plan_of",
    "waiting",
]
