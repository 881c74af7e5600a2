"""Serializers: jobs to bytes and back."""

from kq.serializers.byvalue import ByValue
from kq.serializers.default import dumps, is_unimportable, loads
from kq.serializers.handles import safe_loads

__all__ = ["ByValue", "dumps", "is_unimportable", "loads", "safe_loads"]
