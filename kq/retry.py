"""The retry policy: which failed attempts run again, and when.

1. A program gives a ``Retry`` to a queue, to one call, or to a worker.
2. It travels in a header, as JSON, with its exceptions by name: a worker imports and unpickles nothing to read it.
3. ``delay_of`` tells when the next attempt begins; ``covers`` tells whether there is one for what was raised.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kq.errors import ArgumentError
from kq.utils import type_name

__all__ = ["NO_RETRY", "Retry", "check_retry"]

_Kind = type[BaseException] | str

#: Bytes of a header that are read at most, and names in it.
_LONGEST, _MOST_NAMES = 8192, 100
#: Seconds of the longest delay: 30 years.
_LONGEST_DELAY = 1e9


@dataclass(frozen=True, init=False, repr=False)
class Retry:
    """Which failed attempts of a job run again, and when.

    Attempt 1 is the first run. With the values below, a job that always fails runs four times, with about 1, 2 and 4
    seconds between.

    :param max: How many attempts follow the first one, at most.
    :param delay: Seconds (or a ``timedelta``) from the end of the first attempt to the next one; or a list of these,
        one a retry, of which the last one holds for the rest.
    :param factor: What each delay is multiplied by for the next one; not for a list.
    :param max_delay: Seconds that no delay is longer than; not for a list.
    :param jitter: Part of a delay, from 0 to 1, by which it is longer or shorter at random: what failed together need
        not run together again.
    :param on: Exceptions after which there is another attempt, with all that derive from them: classes, or dotted
        names such as ``"requests.exceptions.ConnectionError"``.
    :param never_on: Exceptions after which there is none, though ``on`` has them.
    :param timeouts: Whether there is one after a timeout.
    :param lost: Whether there is one after the death of the child in which the job ran.
    :param ordered: The jobs behind it with the same key wait, and the same worker runs it again in place.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    max: int = 3
    delay: float | timedelta | Collection[float | timedelta] = 1.0
    factor: float = 2.0
    max_delay: float | timedelta = 3600.0
    jitter: float = 0.1
    on: Collection[_Kind] = (Exception,)
    never_on: Collection[_Kind] = ()
    timeouts: bool = True
    lost: bool = True
    ordered: bool = False

    def __init__(
        self,
        max: int = 3,
        *,
        delay: float | timedelta | Collection[float | timedelta] = 1.0,
        factor: float = 2.0,
        max_delay: float | timedelta = 3600.0,
        jitter: float = 0.1,
        on: _Kind | Collection[_Kind] = (Exception,),
        never_on: _Kind | Collection[_Kind] = (),
        timeouts: bool = True,
        lost: bool = True,
        ordered: bool = False,
    ) -> None:
        if not isinstance(max, int) or isinstance(max, bool) or max < 0:
            raise ArgumentError("max must be an int of 0 or greater: how many attempts follow the first one")
        given: dict[str, Any] = {"max": max, "delay": _delays(delay, max), "factor": _number(factor, "factor", 1)}
        given |= {"max_delay": _seconds(max_delay, "max_delay"), "jitter": _number(jitter, "jitter", 0, 1)}
        given |= {"on": _kinds(on, "on"), "never_on": _kinds(never_on, "never_on")}
        for name, value in (("timeouts", timeouts), ("lost", lost), ("ordered", ordered)):
            if not isinstance(value, bool):
                raise ArgumentError(f"{name} must be True or False")
            given[name] = value
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        changed = [(name, value) for name, value in vars(self).items() if value != getattr(_USUAL, name)]
        rest = [f"{name}={_as_text(value)}" for name, value in changed if name != "max"]
        return f"Retry({', '.join([str(self.max), *rest])})"

    def delay_of(self, attempt: int) -> float:
        """Return the seconds between the end of an attempt, from 1, and the next one, without jitter."""
        if not isinstance(attempt, int) or attempt < 1:
            raise ArgumentError("attempt must be an int of 1 or greater")
        if isinstance(self.delay, tuple):
            delay: float = self.delay[min(attempt, len(self.delay)) - 1]
            return delay
        assert isinstance(self.delay, float) and isinstance(self.max_delay, float)
        try:
            return min(self.max_delay, self.delay * self.factor ** (attempt - 1))
        except OverflowError:
            return self.max_delay

    @property
    def waits(self) -> bool:
        """Whether attempts wait in a topic of their own: there is a delay, and nobody behind them waits with them."""
        delays = self.delay if isinstance(self.delay, tuple) else (self.delay,)
        return self.max > 0 and not self.ordered and any(delays)

    def covers(self, kinds: Iterable[str]) -> bool:
        """Return whether there may be another attempt after an exception.

        :param kinds: The dotted names of its class and of all that this derives from.
        """
        raised = set(kinds)
        return not raised.isdisjoint(_names(self.on)) and raised.isdisjoint(_names(self.never_on))

    def to_header(self) -> bytes:
        """Return the policy as it travels: JSON, with what differs from the defaults."""
        told = {name: _as_json(name, value) for name, value in vars(self).items()}
        usual = {name: _as_json(name, value) for name, value in vars(_USUAL).items()}
        changed = {name: value for name, value in told.items() if name == "max" or value != usual[name]}
        return json.dumps(changed, separators=(",", ":")).encode()

    @classmethod
    def from_header(cls, header: bytes | None) -> Retry | None:
        """Return the policy of a header; None if there is none in it: another program may have written it."""
        try:
            if header is None or len(header) > _LONGEST:
                return None
            told = json.loads(header)
            if not isinstance(told, dict):
                return None
            return cls(**{name: told[name] for name in vars(_USUAL) if name in told})  # a newer version may have more
        except (ArgumentError, TypeError, ValueError, RecursionError):
            return None


def check_retry(retry: Any) -> Retry | None:
    """Return the policy that a user gave, None being nothing: a :class:`kq.Retry`, or how many attempts may follow."""
    if retry is None or isinstance(retry, Retry):
        return retry
    if isinstance(retry, int) and not isinstance(retry, bool) and retry >= 0:
        return Retry(retry)
    raise ArgumentError("retry must be a kq.Retry, or an int of 0 or greater: how many attempts follow the first one")


def _delays(delay: Any, most: int) -> float | tuple[float, ...]:
    if isinstance(delay, (str, bytes)) or not isinstance(delay, Collection):
        return _seconds(delay, "delay")
    delays = tuple(_seconds(one, "delay") for one in delay)
    if not delays:
        raise ArgumentError("delay must not be an empty list: pass one number of seconds a retry")
    if len(delays) > most > 0:
        raise ArgumentError(f"delay has {len(delays)} entries for {most} retries: pass max={len(delays)}")
    return delays


def _seconds(value: Any, name: str) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    return _number(seconds, name, 0, _LONGEST_DELAY, "seconds or a timedelta, ")


def _number(value: Any, name: str, least: float, most: float = math.inf, what: str = "") -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or math.isinf(value):
        limits = f"of {least:g} or greater" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise ArgumentError(f"{name} must be {what}a number {limits}")
    return float(value)


def _kinds(kinds: Any, name: str) -> tuple[_Kind, ...]:
    several = (kinds,) if isinstance(kinds, (type, str)) else kinds
    if not isinstance(several, Collection) or len(several) > _MOST_NAMES or not all(map(_is_kind, several)):
        raise ArgumentError(
            f"{name} must be a tuple of exception classes, or of their dotted names, as 'builtins.ValueError'"
        )
    return tuple(several)


def _is_kind(kind: Any) -> bool:
    if isinstance(kind, str):
        return "." in kind
    return isinstance(kind, type) and issubclass(kind, BaseException)


def _names(kinds: Iterable[_Kind]) -> tuple[str, ...]:
    return tuple(kind if isinstance(kind, str) else type_name(kind) for kind in kinds)


def _as_json(name: str, value: Any) -> Any:
    return list(_names(value)) if name in ("on", "never_on") else value


def _as_text(value: Any) -> str:
    """Return a field as in a call; classes by their names."""
    if not isinstance(value, tuple):
        return f"{value:g}" if type(value) is float else repr(value)
    parts = [kind.__qualname__ if isinstance(kind, type) else _as_text(kind) for kind in value]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


#: Says that there is no other attempt, whatever the worker has.
NO_RETRY = Retry(0)
_USUAL = Retry()
