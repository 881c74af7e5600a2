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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn, Protocol

from kq.errors import ArgumentError, SignatureError
from kq.message import HEADER_PREFIX, Headers, Record, millis_in
from kq.utils import safe_str

__all__ = ["CONTROL", "DEAD", "JOB", "LATER", "RESULT", "Signer", "check_signer", "parse_keys", "read_keys"]

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
#: What messages begin with that is kept hashed: so many, of so many bytes.
_MOST_BEGINS, _LONGEST_BEGIN = 256, 1_000
#: Stands for the length of what is not there.
_ABSENT = (1 << 64) - 1
#: Bytes of a key: as many as the hash has.
_SHORTEST = 32
_BLOCK = 64
_KEY_ID = re.compile("[A-Za-z0-9._-]{1,64}")
_HEX = re.compile("(?:[0-9A-Fa-f]{2})+")
_name_of, _new = itemgetter(0), tuple.__new__
#: Seconds after which keys that a function returns are read again; and the fewest between two readings, for whoever may
#: write to the topic can name keys that are not known.
READ_EVERY, READ_AGAIN_AFTER = 30.0, 1.0

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


class _Key:
    """A key, which nothing shows.

    It makes HMAC-SHA256 as RFC 2104 has it. What is the same in most messages is hashed once: the key's own two blocks,
    and the first part of what is signed.
    """

    __slots__ = ("_begun", "_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner, self._outer = (sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
        #: Hashes of what messages begin with.
        self._begun: dict[tuple[str, str, tuple[str, ...]], Any] = {}

    def __repr__(self) -> str:
        return "<a key>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be serialized")

    def mac(self, purpose: str, topic: str, names: tuple[str, ...], parts: list[bytes | None]) -> bytes:
        """Return the MAC of a message, as base64.

        :param names: Of its headers, sorted.
        :param parts: Its key, its value, and what these headers hold.
        """
        begun = self._begun.get((purpose, topic, names))
        inner = self._begin(purpose, topic, names) if begun is None else begun.copy()
        inner.update(_encoded(parts))
        outer = self._outer.copy()
        outer.update(inner.digest())
        return b2a_base64(outer.digest(), newline=False)

    def _begin(self, purpose: str, topic: str, names: tuple[str, ...]) -> Any:
        parts: list[bytes | None] = [_VERSION, purpose.encode(), topic.encode(), *(name.encode() for name in names)]
        inner, begin = self._inner.copy(), struct.pack(">Q", len(parts)) + _encoded(parts)
        inner.update(begin)
        if len(begin) <= _LONGEST_BEGIN:  # others may name headers as they like: what is kept has a bound
            if len(self._begun) >= _MOST_BEGINS:
                self._begun.clear()
            self._begun[purpose, topic, names] = inner.copy()
        return inner


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
        self._read_at = time.monotonic()

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
        names = signature, signed_at = _OTHER_NAMES.get(purpose, _NAMES)
        signed = [header for header in headers if header[0] not in names]
        signed.append((signed_at, b"%d" % now))
        if self._read is not None and time.monotonic() - self._read_at > READ_EVERY:
            self._read_again()
        name, secret = next(iter(self._keys.items()))
        covered, texts = zip(*_covered(signed), strict=True)
        mac = secret.mac(purpose, topic, covered, [key, value, *texts])
        signed.append((signature, name + b":" + mac))
        return _new(Record, (topic, value, key, signed, partition, timestamp))

    def verify(self, purpose: str, message: _Message, now: int, since: int | None = None) -> None:
        """Raise unless a message is signed for a purpose.

        :param now: Unix milliseconds.
        :param since: Unix milliseconds from which its age counts, where that is later than its signature.
        :raises kq.SignatureError: It is not; the text is the reason.
        """
        signature, signed_at = _OTHER_NAMES.get(purpose, _NAMES)
        covered = _covered(message.headers)
        told = dict(covered)
        given = told.pop(signature, None)
        if not given:
            raise SignatureError("the message is not signed")
        if len(told) + 1 != len(covered):
            raise SignatureError(f"header {_doubled(covered)} stands twice in it")
        name, _, mac = given.partition(b":")
        parts = [message.key, message.value, *told.values()]
        if not compare_digest(self._key(name).mac(purpose, message.topic, tuple(told), parts), mac):
            raise SignatureError("the signature is not that of this message: it was altered, or made for another place")
        if self._max_age is not None:
            self._check_age(millis_in(told.get(signed_at)), now, since)

    def _key(self, name: bytes) -> _Key:
        keys = self._keys
        if self._read is None and name in keys:
            return keys[name]
        age = time.monotonic() - self._read_at if self._read is not None else 0.0
        if age > READ_EVERY or (name not in keys and age > READ_AGAIN_AFTER):
            self._read_again()
            keys = self._keys
        if name not in keys:
            raise SignatureError(f"the message is signed with key {ascii(name[:64])[1:]}, which is not known here")
        return keys[name]

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
        except Exception as error:  # noqa: BLE001 - the door of the user's hook: said, but for what it may quote
            text = f": {safe_str(error)}" if isinstance(error, (ArgumentError, OSError)) else ""
            _logger.error("Keys could not be read again, those of before hold: %s%s", type(error).__name__, text)


def check_signer(signer: Any) -> Signer | None:
    """Return a signer, or None; raise :class:`kq.ArgumentError` of anything else."""
    if not (signer is None or isinstance(signer, Signer)):
        raise ArgumentError("signer must be a kq.Signer")
    return signer


# -- what is signed ----------------------------------------------------------------------------------------------------


def _covered(headers: Iterable[tuple[str, bytes]]) -> Headers:
    """Return the headers of KQ, sorted by their names."""
    covered = [header for header in headers if header[0][:3] == HEADER_PREFIX]
    covered.sort(key=_name_of)
    return covered


def _encoded(parts: list[Any]) -> bytes:
    """Return parts behind the length of each: no others of the same number make the same."""
    try:
        if parts[0] is None:  # a key, as most jobs have none
            rest = parts[1:]
            return _packed(len(parts))(_ABSENT, *map(len, rest)) + b"".join(rest)
        return _packed(len(parts))(*map(len, parts)) + b"".join(parts)
    except TypeError:  # None elsewhere, as other programs may write
        lengths = [_ABSENT if part is None else len(part) for part in parts]
        return _packed(len(parts))(*lengths) + b"".join([part or b"" for part in parts])


@lru_cache(maxsize=64)
def _packed(count: int) -> Callable[..., bytes]:
    """Return what packs so many numbers."""
    return struct.Struct(f">{count}Q").pack


def _doubled(covered: Headers) -> str:
    names = [name for name, _ in covered]
    return ascii(next(name for name in names if names.count(name) > 1)[:64])


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
        made[name.encode()] = _Key(bytes(key))
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
