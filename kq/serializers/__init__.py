"""Serializers: jobs to bytes and back."""

from kq.serializers.byvalue import ByValue
from kq.serializers.default import dumps, loads
from kq.serializers.handles import safe_loads

__all__ = ["ByValue", "dumps", "loads", "safe_loads"]
