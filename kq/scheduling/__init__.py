"""Scheduling: what is due later, and its owner, who fires it."""

from kq.scheduling.owner import Owner

__all__ = ["Owner"]
