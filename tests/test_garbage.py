"""The garbage collector looks less often while a worker runs, and as before afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import kq
from kq.working import rare_collections


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_it_is_so_during_a_start_and_as_before_afterwards(queue: kq.Queue, hosts: str) -> None:
    """Also where a job is what looks."""
    seen: list[object] = []
    queue.enqueue(gc.get_threshold)
    worker = kq.Worker(queue.topic, hosts=hosts, callback=lambda status, message, job, result, *_: seen.append(result))
    worker.start(max_messages=1)
    assert seen == [(10_000, 10, 10)]
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("own", [(0, 10, 10), (50_000, 20, 30)])
def test_a_program_that_looks_rarely_or_never_has_its_way(own: tuple[int, int, int]) -> None:
    """Nothing is changed."""
    gc.set_threshold(*own)
    with rare_collections():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own


def test_what_was_changed_meanwhile_stays() -> None:
    """A job may have had its reasons."""
    with rare_collections():
        gc.set_threshold(5, 5, 5)
    assert gc.get_threshold() == (5, 5, 5)
