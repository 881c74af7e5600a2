"""Signatures: who may write to a topic is one thing, whose messages are run is another.

1. ``sign`` returns a record with two more headers: when it was signed, and a MAC of purpose, topic, key, value and all
   headers of KQ.
2. ``verify`` raises unless a message is what was signed, by one of the keys, for this purpose and topic, and young
   enough. It looks at bytes alone: nothing is unpickled before.
3. Keys are read again now and then, and when a message names one that is not known.

What the MAC is made of is written down in the documentation ("Wire format"), so that other programs can make it.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import struct
import time
from binascii import b2a_base64
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn, Protocol

from kq.errors import ArgumentError, SignatureError
from kq.message import HEADER_PREFIX, Record, millis_in
from kq.utils import safe_str

__all__ = [
    "CONTROL",
    "DEAD",
    "HEADER_SIGNATURE",
    "HEADER_SIGNED_AT",
    "JOB",
    "LATER",
    "RESULT",
    "Signer",
    "check_signer",
    "parse_keys",
    "read_keys",
]

_logger = logging.getLogger("kq.signing")

#: What a signature is for: that of one is none of another.
JOB, LATER, RESULT, DEAD, CONTROL = "job", "later", "result", "dead", "control"
#: The key's name and the MAC; and when that was made, in Unix milliseconds, as decimal text.
HEADER_SIGNATURE, HEADER_SIGNED_AT = "kq-signature", "kq-signed-at"
_NAMES = HEADER_SIGNATURE, HEADER_SIGNED_AT
#: Names of these headers where they are others: a dead letter keeps those of the message that it was.
_OTHER_NAMES = {DEAD: ("kq-dead-signature", "kq-dead-signed-at")}
#: What the MAC is made of begins so; another way to make it would begin otherwise.
_VERSION = b"kq1"
#: Layouts that are kept: so many, of so many bytes and letters.
_MOST_BEGINS, _LONGEST_BEGIN = 256, 1_000
#: Stands for the length of what is not there.
_ABSENT = (1 << 64) - 1
#: Bytes of a key: as many as the hash has.
_SHORTEST = 32
_BLOCK = 64
_KEY_ID = re.compile("[A-Za-z0-9._-]{1,64}")
_HEX = re.compile("(?:[0-9A-Fa-f]{2})+")
_new = tuple.__new__
#: Seconds after which keys that a function returns are read again.
READ_EVERY = 30.0
#: Readings for keys that are not known, and within how many seconds so many at most: whoever may write to the topic can
#: name such keys. One may have come at this moment, so it takes more than one.
MOST_READINGS, READINGS_WITHIN = 5, 5.0

Keys = Mapping[str, bytes] | Sequence[tuple[str, bytes]]


class _Message(Protocol):
    """What ``verify`` needs: a ``kq.Message``, or a ``ConsumerRecord`` of kafka-python."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...


class _Layout:
    """Where what is signed stands in messages that have the same headers, and what their MACs begin with.

    Most messages of a topic share one, so what follows from the names is worked out once.

    :param names: Of all headers, as they stand in the message.
    """

    __slots__ = ("begin", "begun", "doubled", "pack", "pick", "signature", "signed_at")

    def __init__(self, purpose: str, topic: str, names: tuple[str, ...]) -> None:
        signature, signed_at = _OTHER_NAMES.get(purpose, _NAMES)
        own = sorted((name, place) for place, name in enumerate(names) if name[:3] == HEADER_PREFIX)
        covered = [(name, place) for name, place in own if name != signature]
        #: Places of the signature, and of the time when it was made; None where there is none.
        self.signature, self.signed_at = (dict(own).get(name) for name in (signature, signed_at))
        #: The first name that stands twice. Those of the message that a letter was may: that is why it is one.
        twice = [name for (name, _), (after, _) in pairwise(own) if name == after]
        self.doubled = next((name for name in twice if purpose != DEAD or name.startswith("kq-dead-")), None)
        #: Returns what is covered, of what all headers hold.
        self.pick = _picker([place for _, place in covered])
        first = [_VERSION, purpose.encode(), topic.encode(), *(name.encode() for name, _ in covered)]
        self.begin = struct.pack(">Q", len(first)) + _encoded(first)
        self.pack = struct.Struct(f">{len(covered) + 2}Q").pack
        #: By keys: the hash, when it has that.
        self.begun: dict[_Key, Any] = {}


def _picker(places: list[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    return itemgetter(*places) if len(places) > 1 else lambda texts: [texts[place] for place in places]


class _Key:
    """A key, which nothing shows.

    It makes HMAC-SHA256 as RFC 2104 has it. What is the same in most messages is hashed once: the key's own two blocks,
    and what messages of one layout begin with.
    """

    __slots__ = ("_inner", "_outer", "prefix")

    def __init__(self, name: bytes, key: bytes) -> None:
        #: What a signature begins with.
        self.prefix = name + b":"
        block = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner, self._outer = (sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))

    def __repr__(self) -> str:
        return "<a key>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be serialized")

    def mac(self, layout: _Layout, key: bytes | None, value: bytes | None, texts: Sequence[bytes]) -> bytes:
        """Return the MAC of a message, as base64.

        :param texts: What the headers that are covered hold.
        """
        begun = layout.begun.get(self)
        if begun is None:
            begun = self._inner.copy()
            begun.update(layout.begin)
            layout.begun[self] = begun
        inner = begun.copy()
        try:
            if key is None:  # as most jobs have it
                inner.update(b"".join((layout.pack(_ABSENT, len(value), *map(len, texts)), value, *texts)))  # type: ignore[arg-type]
            else:
                inner.update(b"".join((layout.pack(len(key), len(value), *map(len, texts)), key, value, *texts)))  # type: ignore[arg-type]
        except TypeError:  # None elsewhere, as other programs may write
            inner.update(_encoded([key, value, *texts]))
        outer = self._outer.copy()
        outer.update(inner.digest())
        return b2a_base64(outer.digest(), newline=False)


class Signer:
    """Signs what goes onto topics, and verifies what comes from there.

    Give the same to all queues and workers of a topic::

        signer = kq.Signer({"2030-01": secrets.token_bytes(32)})

    The first key signs; all verify. To change keys without a message refused, add the new one behind the old one
    everywhere; then put it in front everywhere; and when no message of the old one is left, remove that.

    :param keys: A dict of names and keys, each of 32 bytes or more; a list of such pairs; or a function that returns
        one of these, which is called again every 30 s and when a message names a key that is not known.
    :param max_age: Seconds after which a signature holds no more, so that nobody can send an old message again; None
        for no limit. Of a delayed job they are counted from when it is due.
    :param clock_skew: Seconds by which clocks may differ: beyond ``max_age``, and into the future.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self, keys: Keys | Callable[[], Keys], *, max_age: float | None = None, clock_skew: float = 60.0
    ) -> None:
        for name, seconds in (("max_age", 0 if max_age is None else max_age), ("clock_skew", clock_skew)):
            if type(seconds) not in (int, float) or not seconds >= 0:
                raise ArgumentError(f"{name} must be an int or float of 0 or greater")
        self._read = keys if callable(keys) else None
        self._max_age = max_age
        self._clock_skew = clock_skew
        self._keys = _checked(keys() if callable(keys) else keys)
        #: By purpose, topic, and names of headers: of what is signed, and of what is verified.
        self._to_sign: dict[tuple[str, str, tuple[str, ...]], _Layout] = {}
        self._to_verify: dict[tuple[str, str, tuple[str, ...]], _Layout] = {}
        self._read_at = time.monotonic()
        #: When they were read for a key that was not known, by the monotonic clock.
        self._asked: deque[float] = deque([-READINGS_WITHIN] * MOST_READINGS, MOST_READINGS)

    def __repr__(self) -> str:
        names = [name.decode() for name in self._keys]
        return f"Signer(keys={names}, max_age={self._max_age}, clock_skew={self._clock_skew})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Signer holds keys and cannot be serialized; a job that needs one makes its own")

    def sign(self, purpose: str, record: Record, now: int) -> Record:
        """Return a record with a signature, in place of the one that it may have.

        :param purpose: What it is for, such as ``"job"``.
        :param now: Unix milliseconds.
        """
        topic, value, key, headers, partition, timestamp = record
        names, texts = zip(*headers) if headers else ((), ())  # noqa: B905 - they are pairs
        layout = self._to_sign.get((purpose, topic, names))
        signature, signed_at = _OTHER_NAMES.get(purpose, _NAMES)
        if layout is None:
            if signature in names or signed_at in names:
                kept = [header for header in headers if header[0] not in (signature, signed_at)]
                return self.sign(purpose, record._replace(headers=kept), now)
            layout = _kept(self._to_sign, (purpose, topic, names), (*names, signed_at))
        if self._read is not None and time.monotonic() - self._read_at > READ_EVERY:
            self._read_again()
        secret, at = next(iter(self._keys.values())), b"%d" % now
        mac = secret.mac(layout, key, value, layout.pick((*texts, at)))
        signed = [*headers, (signed_at, at), (signature, secret.prefix + mac)]
        return _new(Record, (topic, value, key, signed, partition, timestamp))

    def verify(self, purpose: str, message: _Message, now: int, since: int | None = None) -> None:
        """Raise unless a message is signed for a purpose.

        :param now: Unix milliseconds.
        :param since: Unix milliseconds from which its age counts, where that is later than its signature.
        :raises kq.SignatureError: It is not; the text is the reason.
        """
        names, texts = zip(*message.headers) if message.headers else ((), ())  # noqa: B905 - they are pairs
        topic = message.topic
        layout = self._to_verify.get((purpose, topic, names))
        if layout is None:
            layout = _kept(self._to_verify, (purpose, topic, names), names)
        given = b"" if layout.signature is None else texts[layout.signature]
        if not given:
            raise SignatureError("the message is not signed")
        if layout.doubled is not None:
            raise SignatureError(f"header {layout.doubled[:64]!a} stands twice in it")
        name, _, mac = given.partition(b":")
        made = self._key(name).mac(layout, message.key, message.value, layout.pick(texts))
        if not compare_digest(made, mac):
            raise SignatureError("the signature is not that of this message: it was altered, or made for another place")
        if self._max_age is not None:
            at = None if layout.signed_at is None else texts[layout.signed_at]
            self._check_age(millis_in(at), now, since)

    def _key(self, name: bytes) -> _Key:
        found, now = self._keys.get(name), 0.0 if self._read is None else time.monotonic()
        if found is not None and now - self._read_at <= READ_EVERY:
            return found
        if self._read is not None and (found is not None or now - self._asked[0] >= READINGS_WITHIN):
            if found is None:
                self._asked.append(now)
            self._read_again()
            found = self._keys.get(name)
        if found is None:
            raise SignatureError(f"the message is signed with key {ascii(name[:64])[1:]}, which is not known here")
        return found

    def _check_age(self, signed_at: int | None, now: int, since: int | None) -> None:
        assert self._max_age is not None
        if signed_at is None:
            raise SignatureError("the message does not tell when it was signed")
        ahead = (signed_at - now) / 1000
        if ahead > self._clock_skew:
            raise SignatureError(f"the message was signed {ahead:.0f} s in the future, by this machine's clock")
        age = (now - max(signed_at, since or 0)) / 1000
        if age > self._max_age + self._clock_skew:
            raise SignatureError(f"the signature is {age:.0f} s old, and may be {self._max_age:g} s")

    def _read_again(self) -> None:
        """Read keys again; where that fails, those of before stay."""
        assert self._read is not None
        self._read_at = time.monotonic()
        try:
            self._keys = _checked(self._read())
            self._to_sign, self._to_verify = {}, {}  # which know those of before
        except Exception as error:  # noqa: BLE001 - the door of the user's hook: said, but for what it may quote
            text = f": {safe_str(error)}" if isinstance(error, (ArgumentError, OSError)) else ""
            _logger.error("Keys could not be read again, those of before hold: %s%s", type(error).__name__, text)


def check_signer(signer: Any) -> Signer | None:
    """Return a signer, or None; raise :class:`kq.ArgumentError` of anything else."""
    if not (signer is None or isinstance(signer, Signer)):
        raise ArgumentError("signer must be a kq.Signer")
    return signer


# -- what is signed ----------------------------------------------------------------------------------------------------


def _kept(
    layouts: dict[tuple[str, str, tuple[str, ...]], _Layout], place: tuple[str, str, tuple[str, ...]], names: Any
) -> _Layout:
    """Return a new layout. It is kept, up to a bound: others may name headers as they like."""
    layout = _Layout(*place[:2], names)
    if len(layout.begin) <= _LONGEST_BEGIN and sum(map(len, names)) <= _LONGEST_BEGIN:
        if len(layouts) >= _MOST_BEGINS:
            layouts.clear()
        layouts[place] = layout
    return layout


def _encoded(parts: Sequence[bytes | None]) -> bytes:
    """Return parts behind the length of each: no others of the same number make the same."""
    lengths = [_ABSENT if part is None else len(part) for part in parts]
    return struct.pack(f">{len(parts)}Q", *lengths) + b"".join([part or b"" for part in parts])


# -- keys --------------------------------------------------------------------------------------------------------------


def _checked(keys: Any) -> dict[bytes, _Key]:
    """Return keys by their names, the one that signs first. An error tells none of them."""
    pairs = list(keys.items()) if isinstance(keys, Mapping) else keys
    if not (isinstance(pairs, (list, tuple)) and pairs and all(_is_pair(pair) for pair in pairs)):
        raise ArgumentError("keys must be a dict of str and bytes, or a list of such pairs, and not an empty one")
    made: dict[bytes, _Key] = {}
    for name, key in pairs:
        if not _KEY_ID.fullmatch(name):
            raise ArgumentError("the name of a key must be 1 to 64 letters, digits, dots, dashes and underscores")
        if len(key) < _SHORTEST:
            raise ArgumentError(f"key {name} must have {_SHORTEST} bytes or more, not {len(key)}")
        if name.encode() in made:
            raise ArgumentError(f"there are two keys {name}")
        made[name.encode()] = _Key(name.encode(), bytes(key))
    return made


def _is_pair(pair: Any) -> bool:
    is_two = isinstance(pair, (tuple, list)) and len(pair) == 2
    return is_two and isinstance(pair[0], str) and isinstance(pair[1], (bytes, bytearray))


def parse_keys(text: str) -> list[tuple[str, bytes]]:
    """Return the keys of a text: ``name:hex``, separated by white space or commas; a line may be a comment after ``#``.

    :raises kq.ArgumentError: It holds none, or something else, which is not told.
    """
    words = [word for line in text.splitlines() for word in re.split(r"[\s,]+", line.partition("#")[0]) if word]
    keys = []
    for number, word in enumerate(words, 1):
        name, _, digits = word.partition(":")
        if not (_KEY_ID.fullmatch(name) and _HEX.fullmatch(digits)):  # not repeated: it may be the key alone
            raise ArgumentError(f"key {number} must be a name, a colon and hexadecimal digits")
        keys.append((name, bytes.fromhex(digits)))
    _checked(keys)
    return keys


def read_keys(path: str | os.PathLike[str]) -> list[tuple[str, bytes]]:
    """Return the keys of a file, as ``parse_keys`` reads them.

    :raises kq.ArgumentError: The file can be read or written by others than its owner, or holds something else.
    :raises OSError: It cannot be read.
    """
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        if os.name == "posix" and os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ArgumentError(f"{path} can be read or written by others: chmod 600 {path}")
        try:
            return parse_keys(file.read())
        except ArgumentError as error:
            raise ArgumentError(f"{path}: {error}") from None
