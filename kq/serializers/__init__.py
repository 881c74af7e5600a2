"""Serializers: jobs to bytes and back."""

from kq.serializers.byvalue import ByValue
from kq.serializers.content import DILL, JSON, by_content_type, content_type_of, is_json, serializer_of, writer_of
from kq.serializers.default import dumps, is_unimportable, loads
from kq.serializers.handles import safe_loads
from kq.serializers.plain import JSONSerializer

__all__ = [
    "DILL",
    "JSON",
    "ByValue",
    "JSONSerializer",
    "by_content_type",
    "content_type_of",
    "dumps",
    "is_json",
    "is_unimportable",
    "loads",
    "safe_loads",
    "serializer_of",
    "writer_of",
]
