"""The encoding of commit metadata: what a commit says of a partition besides the offset.

1. A ``View`` is what may be committed; ``encode`` makes text of it, which the broker stores beside the offset.
2. The next owner of the partition ``decode``s that to ``Progress``: where its epoch begins.

Carrying what is done above the lowest incomplete offset in the commit's metadata is how Confluent's Parallel Consumer
does it; the encoding here is KQ's own.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import sub
from typing import NamedTuple
from uuid import UUID

__all__ = ["CAREFUL_STARTS", "METADATA_LIMIT", "Progress", "View", "decode", "encode"]

#: What a Kafka broker stores with an offset by default (``offset.metadata.max.bytes``), in UTF-16 units.
METADATA_LIMIT = 4096
#: How many messages of a partition are started with care after an unclean end: at least what a worker may have had in
#: hand of it (``assignment.PARTITION_COUNT``), and as many again that it may have finished after its last commit.
CAREFUL_STARTS = 2000

_MAGIC = "kq1."
_NO_TOPIC = UUID(int=0)


class View(NamedTuple):
    """What may be committed of one partition: immutable, so that another thread may read it."""

    #: Lowest offset that is not done: the offset to commit.
    watermark: int
    #: One beyond the highest offset that is done; equal to the watermark if nothing beyond it is.
    top: int = 0
    #: Offsets between watermark and top that are not done, ascending.
    incomplete: tuple[int, ...] = ()
    #: Offsets whose jobs are running, in the order in which they were started.
    running: tuple[int, ...] = ()
    #: (offset, how many of its runs ended with the death of the whole worker), ascending.
    deliveries: tuple[tuple[int, int], ...] = ()
    #: How many starts are still to be made with care.
    careful: int = 0


class Progress(NamedTuple):
    """What the last commit of a partition says: where an epoch begins."""

    watermark: int
    top: int = 0
    incomplete: frozenset[int] = frozenset()
    deliveries: tuple[tuple[int, int], ...] = ()
    #: The worker before did not end by a stop or a rebalance, so some of its running jobs may have killed it.
    unclean: bool = False
    #: The commit belongs to another topic of the same name: its offset means nothing here.
    foreign_topic: bool = False
    #: How many starts are to be made with care: all of them after an unclean end, else what the worker before left.
    careful: int = 0

    def beyond(self, offset: int) -> Progress:
        """Return what holds where nothing below an offset is to be run any more."""
        return self._replace(
            watermark=offset,
            top=max(self.top, offset),
            incomplete=frozenset(undone for undone in self.incomplete if undone >= offset),
            deliveries=tuple(counted for counted in self.deliveries if counted[0] >= offset),
        )


def encode(view: View, topic_id: UUID | None, *, alive: bool, limit: int = METADATA_LIMIT) -> str:
    """Return the commit metadata for a view.

    ``kq1.`` and URL-safe base64 of: CRC-32 over the committed offset and all that follows, topic id (16 bytes), then
    varints: 1 if a worker is at work (else 0); careful starts left; counted messages and for each the gap to the one
    before and its count; running messages and their gaps; top minus watermark; the gaps between the incomplete offsets
    below it.

    :param alive: A worker goes on working after this commit; if no later commit takes it back, the worker died.
    :param limit: How many characters there may be. What is done beyond the watermark is cut from above until it fits;
        where that is not enough, what is running and then the counts are left out.
    """
    room = (limit - len(_MAGIC)) * 3 // 4 - 4
    running = sorted(view.running) if alive else []
    for counted, started in ((view.deliveries, running), (view.deliveries, []), ((), [])):
        body = _head(view, topic_id, alive, counted, started)
        if len(body) < room:
            return _seal(body + _done_map(view, room - len(body)), view.watermark)
    return ""


def decode(text: str | None, watermark: int, topic_id: UUID | None) -> Progress:
    """Return where an epoch begins, from a committed offset and its metadata.

    Metadata that is absent, foreign or damaged, or that was written for another offset, tells nothing.
    """
    body = _unseal(text or "", watermark)
    if body is None:
        return Progress(watermark)
    if topic_id is not None and body[:16] not in (topic_id.bytes, _NO_TOPIC.bytes):
        return Progress(watermark, foreign_topic=True)
    try:
        return _read(_numbers(body[16:]), watermark)
    except StopIteration:
        return Progress(watermark)


def _head(
    view: View, topic_id: UUID | None, alive: bool, counted: Sequence[tuple[int, int]], running: Sequence[int]
) -> bytearray:
    head = bytearray((topic_id or _NO_TOPIC).bytes)
    gaps = _gaps([offset for offset, _ in counted], view.watermark)
    _put(head, int(alive), view.careful, len(counted))
    for gap, (_, count) in zip(gaps, counted, strict=True):
        _put(head, gap, count)
    _put(head, len(running), *_gaps(running, view.watermark))
    return head


def _done_map(view: View, room: int) -> bytearray:
    """Return what is done beyond the watermark, in at most ``room`` bytes (one or more), cut from above."""
    top = max(view.top, view.watermark)
    room -= _size(top - view.watermark)
    if room < 0:
        return bytearray(1)
    gaps, out = bytearray(), bytearray()
    for offset, gap in zip(view.incomplete, _gaps(view.incomplete, view.watermark), strict=True):
        if len(gaps) + _size(gap) > room:
            top = offset
            break
        _put(gaps, gap)
    _put(out, top - view.watermark)
    return out + gaps


def _read(numbers: Iterator[int], watermark: int) -> Progress:
    alive, careful = bool(next(numbers)), next(numbers)
    counts: dict[int, int] = {}
    offset = watermark
    for _ in range(next(numbers)):
        offset += next(numbers)
        counts[offset] = next(numbers)
    offset = watermark
    for _ in range(next(numbers)):
        offset += next(numbers)
        counts[offset] = counts.get(offset, 0) + 1
    top = watermark + next(numbers)
    _, *incomplete = accumulate(numbers, initial=watermark)
    deliveries = tuple(sorted(counts.items()))
    careful = CAREFUL_STARTS if alive else careful
    return Progress(watermark, top, frozenset(incomplete), deliveries, unclean=alive, careful=careful)


def _seal(body: bytearray, watermark: int) -> str:
    crc = zlib.crc32(body, zlib.crc32(struct.pack(">q", watermark)))
    return _MAGIC + base64.urlsafe_b64encode(struct.pack(">I", crc) + body).rstrip(b"=").decode()


def _unseal(text: str, watermark: int) -> bytes | None:
    if not text.startswith(_MAGIC):
        return None
    packed = text[len(_MAGIC) :]
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    crc = zlib.crc32(raw[4:], zlib.crc32(struct.pack(">q", watermark)))
    return raw[4:] if len(raw) >= 20 and raw[:4] == struct.pack(">I", crc) else None


def _gaps(offsets: Sequence[int], base: int) -> Iterator[int]:
    return map(sub, offsets, [base, *offsets])


def _put(out: bytearray, *numbers: int) -> None:
    for number in numbers:
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)


def _size(number: int) -> int:
    return (max(number.bit_length(), 1) + 6) // 7


def _numbers(body: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in body:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield number
            number = shift = 0
