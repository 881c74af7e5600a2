"""Jobs as JSON: no code travels, and a worker calls nothing but what its list names.

1. ``dumps`` writes ``{"id", "func", "args", "kwargs", "timeout"}``. What JSON has no word for is tagged.
2. ``loads`` bounds size and depth, then parses; checks each name against the list, as text; and only then imports.
3. ``pack`` and ``unpack`` are the same for what such a job returns, between the processes of one worker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from kq.errors import ArgumentError
from kq.job import Job
from kq.serializers.allowed import Allowed
from kq.serializers.tagged import MAX_DEPTH, Tagged, Unfit, depth_of
from kq.utils import get_call_repr

__all__ = ["JSONSerializer"]

#: Bytes of a value: four times what a topic takes by default. What is parsed takes many times as much memory.
MAX_BYTES = 4 << 20
#: Digits of an integer: to read more takes a time that grows with the square of them.
MAX_DIGITS = 4_000
#: What a payload has; all but the first may be left out.
_FIELDS = frozenset({"func", "id", "args", "kwargs", "timeout"})
#: Longest ID, in characters.
_LONGEST_ID = 1_000
#: What stands in a value that holds tagged objects: the tag, or an escape that may hide it.
_SIGNS = (b"$kq", b"\\u")


class JSONSerializer:
    """Writes and reads jobs as JSON.

    Give its ``dumps`` to the queue and its ``loads`` to the worker::

        serializer = kq.JSONSerializer(allow=["app.tasks:*"])
        queue = kq.Queue("topic", hosts=hosts, serializer=serializer.dumps)
        worker = kq.Worker("topic", hosts=hosts, deserializer=serializer.loads)

    :param allow: Names of the functions that may be called, each ``"package.module:function"``; or
        ``"package.module:*"`` for all functions that a module itself defines, without those that begin with an
        underscore. Dataclasses and enums that these modules define may stand among the arguments.
    :raises kq.ArgumentError: An entry is no such name.
    """

    def __init__(self, allow: Iterable[str]) -> None:
        self._allowed = Allowed(allow)
        self._tagged = Tagged(self._allowed)

    def __repr__(self) -> str:
        return f"JSONSerializer(allow={list(self._allowed.entries)})"

    def __reduce__(self) -> Any:
        return JSONSerializer, (self._allowed.entries,)

    def dumps(self, job: Job) -> bytes:
        """Return a job as JSON.

        :raises kq.ArgumentError: The function is not allowed, or an argument has no form in JSON; the message names it.
        """
        try:
            return self._dumps(job)
        except Exception as error:  # the door of the user's objects: told in one clear error
            raise self._blame(job, error) from error

    def loads(self, value: bytes | bytearray | memoryview) -> Job:
        """Return the job that JSON holds.

        :param value: The value of a Kafka record.
        :raises ValueError: It holds none, or a name that is not allowed: then nothing was imported.
        :raises ImportError: The module of an allowed name is not here, or does not have it.
        """
        payload = _parsed(value)
        _check_payload(payload)
        self._allowed.check(payload["func"])
        given = [payload.get("args", []), payload.get("kwargs", {})]
        args, kwargs = self._decoded(given, bytes(value))
        func = self._allowed.function(payload["func"])
        return Job(payload.get("id"), None, None, func, tuple(args), kwargs, payload.get("timeout"))

    def pack(self, thing: Any) -> bytes:
        """Return what a job has returned as JSON.

        :raises ValueError: It has no form there.
        """
        return _text(self._tagged.encode(thing))

    def unpack(self, value: bytes) -> Any:
        """Return what JSON stands for; raises as ``loads`` does."""
        return self._decoded(_parsed(value), value)

    def _dumps(self, job: Job) -> bytes:
        func = self._allowed.name_of_function(job.func)
        args = [self._tagged.encode(arg) for arg in job.args or ()]
        kwargs = {name: self._tagged.encode(arg) for name, arg in (job.kwargs or {}).items()}
        if job.id is not None and len(job.id) > _LONGEST_ID:
            raise Unfit(f"its ID has more than {_LONGEST_ID:,} characters")
        timeout = None if job.timeout is None else job.timeout + 0  # a bool is no number to others
        return _text({"id": job.id, "func": func, "args": args, "kwargs": kwargs, "timeout": timeout})

    def _decoded(self, tree: Any, value: bytes) -> Any:
        if not any(sign in value for sign in _SIGNS):
            return tree
        for name in self._tagged.names(tree):  # all of them, before the first is imported
            self._allowed.check_type(name)
        return self._tagged.decode(tree)

    def _blame(self, job: Job, error: Exception) -> ArgumentError:
        """Return an error that names what of a job cannot travel."""
        call = get_call_repr(job.func or print).removesuffix("()")
        parts: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            f"the function {call}": (job.func, self._allowed.name_of_function),
            **{f"argument {number} of {call}": (arg, self.pack) for number, arg in enumerate(job.args or (), 1)},
            **{f"argument {name} of {call}": (arg, self.pack) for name, arg in (job.kwargs or {}).items()},
        }
        for name, (part, write) in parts.items():
            try:
                write(part)
            except Exception as reason:  # noqa: BLE001 - the same door
                return ArgumentError(f"{name} cannot be serialized as JSON ({type(part).__name__}): {reason}")
        return ArgumentError(f"the job {job.id} cannot be serialized as JSON: {error}")


def _text(tree: Any) -> bytes:
    value = json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(value) > MAX_BYTES:
        raise Unfit(f"it has {len(value):,} bytes, and {MAX_BYTES:,} are the most")
    if depth_of(value) > MAX_DEPTH:
        raise Unfit(f"it has more than {MAX_DEPTH} levels")
    return value


def _parsed(value: bytes | bytearray | memoryview) -> Any:
    """Return what JSON says, without a look at what it means."""
    if value is None:
        raise ValueError("the message has no value")
    value = bytes(value)
    if len(value) > MAX_BYTES:
        raise ValueError(f"the value has {len(value):,} bytes, and {MAX_BYTES:,} are the most")
    if value[:1] == b"\x80":
        raise ValueError("the value is a pickle, and this worker reads JSON alone")
    if depth_of(value) > MAX_DEPTH:
        raise ValueError(f"the value has more than {MAX_DEPTH} levels")
    hooks: dict[str, Any] = {"object_pairs_hook": _object, "parse_constant": _refuse, "parse_int": _integer}
    return json.loads(value.decode("utf-8"), **hooks)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):  # readers differ in which of two they take
        raise ValueError("an object has one name twice")
    return made


def _refuse(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer has more than {MAX_DIGITS:,} digits")
    return int(text)


def _check_payload(payload: Any) -> None:
    if type(payload) is not dict or "func" not in payload or not payload.keys() <= _FIELDS:
        raise ValueError(f"the value must be an object with func, and no more than {', '.join(sorted(_FIELDS))}")
    job_id, timeout = payload.get("id"), payload.get("timeout")
    if not (job_id is None or (type(job_id) is str and len(job_id) <= _LONGEST_ID)):
        raise ValueError(f"id must be a string of at most {_LONGEST_ID:,} characters")
    if type(payload.get("args", [])) is not list or type(payload.get("kwargs", {})) is not dict:
        raise ValueError("args must be an array, and kwargs an object")
    if not (timeout is None or (type(timeout) in (int, float) and timeout >= 0)):
        raise ValueError("timeout must be a number, 0 or greater")
