"""The table of what is pending in one partition: when each entry is due, and where it stands in the log. No values.

1. ``put`` adds an entry or replaces it, ``remove`` ends it; both by the hash of its key.
2. ``hasten`` has those be due that are found by the upper half of their hashes.
3. ``first`` is when the next one is due, ``pop`` takes that out.

An entry has 36 bytes in arrays: due time, offset, hash, and its place in a heap (Williams 1964, by due time and then
offset). An index of open addressing with linear probing, without tombstones (Knuth, TAOCP 3, 6.4, algorithm R), has 4
bytes a cell, and up to four cells an entry. Objects of Python would be 200 bytes and more.
"""

from __future__ import annotations

from array import array
from collections.abc import Container
from heapq import heappop, heappush
from typing import NamedTuple

__all__ = ["Pending", "Table"]

#: Cells of the index at first; always a power of two.
_FEWEST = 16
#: Stands in a cell where there is no entry.
_EMPTY = -1


class Pending(NamedTuple):
    """One entry: when it is due in Unix milliseconds, its offset, and the hash of its key."""

    due: int
    offset: int
    hash: int


class Table:
    """Entries of one partition. The hash of a key has 64 bits: among a million entries two are the same once in 10⁷."""

    def __init__(self) -> None:
        self._due, self._offset, self._hash = array("q"), array("q"), array("q")
        #: The heap of slots, and for each slot its place there.
        self._heap, self._place = array("i"), array("i")
        #: Slots that are free.
        self._free = array("i")
        self._index = array("i", [_EMPTY]) * _FEWEST

    def __len__(self) -> int:
        return len(self._heap)

    def first(self) -> int | None:
        """Return when the next entry is due; None if there is none."""
        return self._due[self._heap[0]] if self._heap else None

    def soonest(self, count: int) -> list[Pending]:
        """Return the entries that are due next, in order, so many at most; in a time that does not grow with all."""
        edge = [(self._due[self._heap[0]], self._offset[self._heap[0]], 0)] if self._heap else []
        found: list[Pending] = []
        while edge and len(found) < count:
            due, offset, place = heappop(edge)
            found.append(Pending(due, offset, self._hash[self._heap[place]]))
            for below in range(2 * place + 1, min(2 * place + 3, len(self._heap))):
                slot = self._heap[below]
                heappush(edge, (self._due[slot], self._offset[slot], below))
        return found

    def put(self, due: int, offset: int, hash_: int) -> None:
        """Add an entry, in place of the one with this hash."""
        cell = self._cell(hash_)
        slot = self._index[cell]
        if slot != _EMPTY:
            self._due[slot], self._offset[slot] = due, offset
            self._up(self._place[slot])
            self._down(self._place[slot])
            return
        slot = self._new_slot(due, offset, hash_)
        self._index[cell] = slot
        self._place[slot] = len(self._heap)
        self._heap.append(slot)
        self._up(self._place[slot])
        if len(self._heap) * 2 > len(self._index):
            self._reindex(len(self._index) * 2)

    def remove(self, hash_: int) -> bool:
        """End an entry; return whether there was one."""
        cell = self._cell(hash_)
        slot = self._index[cell]
        if slot == _EMPTY:
            return False
        self._close_gap(cell)
        place, last = self._place[slot], self._heap.pop()
        if last != slot:
            self._heap[place] = last
            self._place[last] = place
            self._up(place)
            self._down(self._place[last])
        self._free.append(slot)
        return True

    def hasten(self, marks: Container[int], due: int) -> None:
        """Have entries be due at a time at the latest: those whose hash has one of these as its upper half."""
        hashes, times = self._hash, self._due
        found = [slot for slot in self._heap if hashes[slot] >> 32 in marks and times[slot] > due]
        for slot in found:
            self.put(due, self._offset[slot], hashes[slot])

    def pop(self) -> Pending:
        """Take out the entry that is due next; of those of one time the one with the lowest offset."""
        slot = self._heap[0]
        pending = Pending(self._due[slot], self._offset[slot], self._hash[slot])
        self.remove(pending.hash)
        return pending

    def _new_slot(self, due: int, offset: int, hash_: int) -> int:
        if self._free:
            slot = self._free.pop()
            self._due[slot], self._offset[slot], self._hash[slot] = due, offset, hash_
            return slot
        self._due.append(due)
        self._offset.append(offset)
        self._hash.append(hash_)
        self._place.append(0)
        return len(self._due) - 1

    # -- the heap ------------------------------------------------------------------------------------------------------

    def _is_before(self, one: int, other: int) -> bool:
        due, offset = self._due, self._offset
        return due[one] < due[other] or (due[one] == due[other] and offset[one] < offset[other])

    def _up(self, place: int) -> None:
        heap, slot = self._heap, self._heap[place]
        while place and self._is_before(slot, above := heap[(place - 1) // 2]):
            heap[place] = above
            self._place[above] = place
            place = (place - 1) // 2
        heap[place] = slot
        self._place[slot] = place

    def _down(self, place: int) -> None:
        heap, slot, count = self._heap, self._heap[place], len(self._heap)
        while (below := 2 * place + 1) < count:
            if below + 1 < count and self._is_before(heap[below + 1], heap[below]):
                below += 1
            if not self._is_before(heap[below], slot):
                break
            heap[place] = heap[below]
            self._place[heap[place]] = place
            place = below
        heap[place] = slot
        self._place[slot] = place

    # -- the index -----------------------------------------------------------------------------------------------------

    def _cell(self, hash_: int) -> int:
        """Return the cell of the entry with this hash, or the one where it would stand."""
        index, mask, hashes = self._index, len(self._index) - 1, self._hash
        cell = hash_ & mask
        while (slot := index[cell]) != _EMPTY and hashes[slot] != hash_:
            cell = (cell + 1) & mask
        return cell

    def _close_gap(self, gap: int) -> None:
        """Empty a cell, and move into it what would not be found behind an empty one."""
        index, mask = self._index, len(self._index) - 1
        cell = gap
        while (slot := index[cell := (cell + 1) & mask]) != _EMPTY:
            home = self._hash[slot] & mask
            if (cell - home) & mask >= (cell - gap) & mask:
                index[gap] = slot
                gap = cell
        index[gap] = _EMPTY

    def _reindex(self, size: int) -> None:
        self._index = array("i", [_EMPTY]) * size
        for slot in self._heap:
            self._index[self._cell(self._hash[slot])] = slot
