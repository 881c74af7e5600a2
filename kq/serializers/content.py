"""Which kind of value a message has: JSON or a pickle.

1. What begins with a brace is JSON: no pickle does, and all JSON of a job does. A header says the same to other
   programs; no header makes a pickle of JSON, or JSON of a pickle.
2. ``by_content_type`` makes one deserializer of two.
3. ``serializer_of`` says by what the results of a job cross between processes: those of JSON do as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kq.errors import ArgumentError
from kq.job import Job
from kq.serializers.plain import JSONSerializer

__all__ = ["DILL", "JSON", "by_content_type", "content_type_of", "is_json", "serializer_of", "writer_of"]

#: What the header says.
JSON, DILL = b"application/json", b"application/x-kq-dill"
#: What JSON may have in front.
_SPACE = b" \t\r\n"

Reader = Callable[[bytes], Any]


def is_json(value: bytes | None) -> bool:
    """Return whether a value is JSON rather than a pickle."""
    if not value:
        return False
    return value[0] == ord("{") or (value[0] in _SPACE and value.lstrip(_SPACE)[:1] == b"{")


def by_content_type(*, json: Callable[[bytes], Any], dill: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer that reads values of two kinds, while a topic moves from one to the other, say.

    The value itself tells which kind it is. Beside a deserializer of pickles, JSON makes nothing safe: who may write
    to the topic chooses.

    :param json: Reads JSON, as the ``loads`` of a :class:`kq.JSONSerializer` does.
    :param dill: Reads pickles, as :func:`kq.loads` does.
    :raises kq.ArgumentError: One of them cannot be called.
    """
    for name, reader in (("json", json), ("dill", dill)):
        if not callable(reader):
            raise ArgumentError(f"{name} must be a callable")
    return _ByContent(json, dill)


class _ByContent:
    def __init__(self, json: Reader, dill: Reader) -> None:
        self._json = json
        self._dill = dill

    def __repr__(self) -> str:
        return f"by_content_type(json={self._json!r}, dill={self._dill!r})"

    def __call__(self, value: bytes) -> Any:
        return self.reader_of(value)(value)

    def reader_of(self, value: bytes | None) -> Reader:
        """Return what reads a value."""
        return self._json if is_json(value) else self._dill


def serializer_of(deserialize: Reader, value: bytes | None) -> JSONSerializer | None:
    """Return the serializer by whose ``loads`` a value is read; None where it is no JSON."""
    reader = deserialize.reader_of(value) if isinstance(deserialize, _ByContent) else deserialize
    return _owner_of(reader, "loads")


def writer_of(serialize: Callable[[Job], bytes]) -> JSONSerializer | None:
    """Return the serializer by whose ``dumps`` a queue writes; None where that is none of JSON."""
    return _owner_of(serialize, "dumps")


def content_type_of(serialize: Callable[[Job], bytes]) -> bytes | None:
    """Return what the header says of the values that a queue writes; None where it has none.

    That is so of pickles: KQ has never said it of them, and it would be one more header in each.
    """
    return None if writer_of(serialize) is None else JSON


def _owner_of(method: Any, name: str) -> JSONSerializer | None:
    owner = getattr(method, "__self__", None)
    return owner if isinstance(owner, JSONSerializer) and getattr(method, "__name__", None) == name else None
