"""The table of pending entries: like a dict and a sorted list, in a fraction of the memory."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from kq.scheduling.table import Pending, Table

#: Hashes that collide in a small index, and that are negative.
HASHES = st.integers(-3, 3).map(lambda number: number * 16) | st.integers(-(2**63), 2**63 - 1)
STEPS = st.lists(
    st.tuples(st.just("put"), HASHES, st.integers(0, 5)) | st.tuples(st.sampled_from(["remove", "pop"]), HASHES),
    max_size=200,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_a_table_does_what_a_dict_does(steps):
    """Whatever comes and goes, in whatever order; of one due time the lowest offset is first."""
    table, model = Table(), {}
    for offset, (word, hash_, *due) in enumerate(steps):
        if word == "put":
            table.put(due[0], offset, hash_)
            model[hash_] = Pending(due[0], offset, hash_)
        elif word == "remove":
            assert table.remove(hash_) == (model.pop(hash_, None) is not None)
        elif model:
            first = min(model.values())
            assert table.pop() == first
            del model[first.hash]
        assert len(table) == len(model)
        assert table.first() == min((pending.due for pending in model.values()), default=None)
    assert [table.pop() for _ in range(len(table))] == sorted(model.values())


def test_an_entry_has_about_forty_bytes():
    """A hundred thousand of them: 36 bytes each in arrays, and an index that is a quarter to half full."""
    numbers = random.Random(1)
    tracemalloc.start()
    table = Table()
    for offset in range(100_000):
        table.put(numbers.randrange(10**12), offset, numbers.randrange(-(2**63), 2**63))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / 100_000 < 60


def test_what_has_come_and_gone_leaves_nothing():
    """The table is as large as it ever had to be at once."""
    table = Table()
    for number in range(100_000):
        table.put(number, number, number * 7919)
        if number >= 10:
            assert table.pop().offset == number - 10
    assert len(table._due) == 11
    assert len(table._index) <= 32
