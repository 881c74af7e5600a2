"""Values as JSON: what JSON has no word for is an object with a tag, ``{"$kq": "date", "value": "2030-01-31"}``.

1. ``encode`` makes plain JSON of a value, or says what cannot travel, and where in the value it stands.
2. ``names`` yields the names of classes that such JSON holds, before any is looked up.
3. ``decode`` makes the value again. Dataclasses and enums are made by their own classes, which the list must allow.

A dict that happens to hold the tag itself travels as an object with a tag, too.
"""

from __future__ import annotations

import base64
import math
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo

from kq.serializers.allowed import Allowed
from kq.utils import type_name

__all__ = ["MAX_DEPTH", "TAG", "Tagged", "Unfit", "depth_of"]

#: The key that makes an object a tagged one.
TAG = "$kq"
#: Levels of arrays and objects within one another: Python's own parser calls itself for each, and may overflow.
MAX_DEPTH = 100

_SECOND = timedelta(seconds=1)
_ATOMS = frozenset({bool, int, str, type(None)})
_ESCAPED, _STRING, _NO_BRACKET = re.compile(rb"\\.", re.DOTALL), re.compile(rb'"[^"]*"'), re.compile(rb"[^][{}]+")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class Unfit(ValueError):
    """What cannot travel as JSON. ``path`` leads to it, as in ``[3]['name']``."""

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text, path)
        self.text, self.path = text, path

    def __str__(self) -> str:
        return f"{self.text}, at {self.path}" if self.path else self.text

    def below(self, step: object) -> Unfit:
        """Return the same of what holds the value, at an index or key."""
        return Unfit(self.text, f"[{ascii(step)[:40]}]{self.path}"[:200])


def depth_of(value: bytes) -> int:
    """Return how many arrays and objects stand within one another in JSON, or at least as many."""
    most = value.count(b"[") + value.count(b"{")
    if most <= MAX_DEPTH:
        return most
    brackets = _NO_BRACKET.sub(b"", _STRING.sub(b"", _ESCAPED.sub(b"", value)))
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


class Tagged:
    """Makes JSON of values, and values of JSON.

    :param allowed: The classes that values may have.
    """

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed

    # -- to JSON -------------------------------------------------------------------------------------------------------

    def encode(self, obj: Any, level: int = 0) -> Any:
        """Return a value as JSON has it.

        :raises Unfit: It cannot travel.
        """
        kind: Any = type(obj)
        if kind in _ATOMS:
            return obj
        if kind is float:
            return _finite(obj)
        if level > MAX_DEPTH:
            raise Unfit(f"it has more than {MAX_DEPTH} levels, or contains itself")
        if kind is list:
            return self._encode_all(obj, level)
        if kind is dict:
            return self._encode_dict(obj, level)
        if kind in (tuple, set):
            return {TAG: kind.__name__, "value": self._encode_all(obj, level)}
        if kind in _WRITERS:
            return {TAG: kind.__name__, **_WRITERS[kind](obj)}
        if issubclass(kind, Enum):
            return {TAG: "enum", "type": self._name(kind), "value": _member(kind, obj)}
        if hasattr(kind, "__dataclass_fields__"):
            return {TAG: "dataclass", "type": self._name(kind), "value": self._encode_fields(kind, obj, level)}
        raise Unfit(f"{type_name(kind)} has no form in JSON")

    def _encode_all(self, items: Any, level: int) -> list[Any]:
        made = []
        for number, item in enumerate(items):
            try:
                made.append(self.encode(item, level + 1))
            except Unfit as error:
                raise error.below(number) from None
        return made

    def _encode_dict(self, items: dict[Any, Any], level: int) -> Any:
        made = {}
        for key, item in items.items():
            if type(key) is not str:
                raise Unfit(f"keys must be str, not {type_name(type(key))}")
            try:
                made[key] = self.encode(item, level + 1)
            except Unfit as error:
                raise error.below(key) from None
        return {TAG: "dict", "value": [*map(list, made.items())]} if TAG in made else made

    def _encode_fields(self, kind: Any, obj: Any, level: int) -> Any:
        own = {field.name: getattr(obj, field.name) for field in fields(kind) if field.init}
        if len(own) < len(kind.__dataclass_fields__):  # some are computed, or given to be forgotten
            _check_made_again(kind, obj, own)
        return self._encode_dict(own, level)

    def _name(self, kind: type) -> str:
        try:
            return self._allowed.name_of_class(kind)
        except ValueError as error:
            raise Unfit(str(error)) from None

    # -- from JSON -----------------------------------------------------------------------------------------------------

    def names(self, tree: Any) -> Iterator[Any]:
        """Yield the names of all classes that JSON asks for."""
        if type(tree) is list:
            for item in tree:
                yield from self.names(item)
        elif type(tree) is dict:
            if TAG in tree and "type" in tree:
                yield tree["type"]
            for item in tree.values():
                yield from self.names(item)

    def decode(self, tree: Any) -> Any:
        """Return the value that JSON stands for. It is not nested more deeply than ``MAX_DEPTH``.

        :raises Exception: It stands for none.
        """
        if type(tree) is list:
            return [self.decode(item) for item in tree]
        if type(tree) is not dict:
            return tree
        return self._decode_tagged(tree) if TAG in tree else {name: self.decode(item) for name, item in tree.items()}

    def _decode_tagged(self, tree: dict[str, Any]) -> Any:
        tag, value = tree[TAG], tree.get("value")
        if type(tag) is not str or tag not in _KEYS or not {TAG, "value"} <= tree.keys() <= _KEYS[tag]:
            raise ValueError(f"an object has the tag {ascii(tag)[:40]}, and is no such thing")
        if tag in _READERS:
            return _READERS[tag](value, tree)
        if tag == "enum":
            return _enum_of(self._allowed.cls(_of(str, tree.get("type"))), value)
        if tag == "dataclass":
            own = {name: self.decode(item) for name, item in _of(dict, value).items()}
            return _dataclass_of(self._allowed.cls(_of(str, tree.get("type"))), own)
        items = [self.decode(item) for item in _of(list, value)]
        return _dict_of(items) if tag == "dict" else tuple(items) if tag == "tuple" else set(items)


# -- plain types -------------------------------------------------------------------------------------------------------


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise Unfit(f"JSON has no {number}")
    return number


def _write_time(moment: datetime | time) -> dict[str, Any]:
    """Return date and time with what ISO 8601 does not tell: the zone by its name, and which of two equal hours."""
    zone, made = moment.tzinfo, dict[str, Any]()
    if type(zone) is ZoneInfo and zone.key is not None:
        made["zone"] = zone.key
    elif not (zone is None or type(zone) is timezone):
        raise Unfit(f"a time zone must be of zoneinfo, or a fixed offset, not of {type_name(type(zone))}")
    elif zone is not None and (zone.utcoffset(None) or timedelta()) % _SECOND:  # which Python does not read again
        raise Unfit(f"an offset must be whole seconds, not {zone.utcoffset(None)}")
    made["value"] = moment.isoformat()
    if moment.fold:
        made["fold"] = 1
    return made


def _read_time(kind: Any, value: Any, tree: dict[str, Any]) -> Any:
    text, zone, fold = _of(str, value), tree.get("zone"), tree.get("fold", 0)
    if not (type(fold) is int and fold in (0, 1)):
        raise ValueError("fold must be 0 or 1")
    if text[-1:] in ("Z", "z"):  # which Python knows from 3.11 on
        text = f"{text[:-1]}+00:00"
    moment = kind.fromisoformat(text).replace(fold=fold)
    return moment if zone is None else moment.replace(tzinfo=ZoneInfo(_of(str, zone)))


def _of(kind: Any, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {kind.__name__} should stand where a {type(value).__name__} does")
    return value


def _dict_of(pairs: list[Any]) -> dict[str, Any]:
    made = {}
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or _of(str, pair[0]) in made:
            raise ValueError("a dict must be pairs of different keys and values")
        made[pair[0]] = pair[1]
    return made


_WRITERS: dict[Any, Callable[[Any], dict[str, Any]]] = {
    datetime: _write_time,
    time: _write_time,
    date: lambda day: {"value": day.isoformat()},
    timedelta: lambda span: {"value": span // timedelta(microseconds=1)},
    bytes: lambda data: {"value": base64.b64encode(data).decode()},
    Decimal: lambda number: {"value": str(number)},
    uuid.UUID: lambda one: {"value": str(one)},
}
_READERS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "datetime": lambda value, tree: _read_time(datetime, value, tree),
    "time": lambda value, tree: _read_time(time, value, tree),
    "date": lambda value, _: date.fromisoformat(_of(str, value)),
    "timedelta": lambda value, _: timedelta(microseconds=_of(int, value)),
    "bytes": lambda value, _: base64.b64decode(_of(str, value), validate=True),
    "Decimal": lambda value, _: Decimal(_of(str, value)),
    "UUID": lambda value, _: uuid.UUID(_of(str, value)),
}
#: The keys that an object of each tag may have.
_KEYS: dict[str, frozenset[str]] = {
    **dict.fromkeys((*_READERS, "dict", "tuple", "set"), frozenset({TAG, "value"})),
    **dict.fromkeys(("datetime", "time"), frozenset({TAG, "value", "zone", "fold"})),
    **dict.fromkeys(("enum", "dataclass"), frozenset({TAG, "value", "type"})),
}


# -- enums and dataclasses ---------------------------------------------------------------------------------------------


def _member(kind: type[Enum], member: Enum) -> str | int:
    """Return the name of a member; of flags that have none together, their number."""
    if kind.__members__.get(str(member.name)) is member:
        return str(member.name)
    if issubclass(kind, Flag) and type(member.value) is int:
        return member.value
    raise Unfit(f"{type_name(kind)} has no member like it")


def _enum_of(kind: Any, value: Any) -> Any:
    if not issubclass(kind, Enum):
        raise ValueError(f"{type_name(kind)} is no enum")
    if type(value) is int and issubclass(kind, Flag):
        return kind(value)
    member = kind.__members__.get(_of(str, value))
    if member is None:
        raise ValueError(f"{type_name(kind)} has no member {ascii(value)[:40]}")
    return member


def _dataclass_of(kind: Any, own: dict[str, Any]) -> Any:
    """Make an object by its class, which may check what it gets."""
    if not hasattr(kind, "__dataclass_fields__"):
        raise ValueError(f"{type_name(kind)} is no dataclass")
    unknown = own.keys() - {field.name for field in fields(kind) if field.init}
    if unknown:
        raise ValueError(f"{type_name(kind)} has no field {ascii(min(unknown))[:40]}")
    return kind(**own)


def _check_made_again(kind: Any, obj: Any, own: dict[str, Any]) -> None:
    """Raise where the class would make another object of the fields that travel."""
    try:
        again = kind(**own)
        is_same = all(getattr(again, field.name) == getattr(obj, field.name) for field in fields(kind))
    except Exception as error:  # noqa: BLE001 - the door of the user's class: told in one clear error
        raise Unfit(f"{type_name(kind)} cannot be made of its fields: {error}") from None
    if not is_same:
        raise Unfit(f"{type_name(kind)} has fields that are not made of the others, and would be lost")
