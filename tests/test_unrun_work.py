"""A job that has run nothing is a failure that says so; what can be awaited is run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import call_jobs
import pytest
from bench import EXECUTORS, Bench
from journal import Journal


@pytest.fixture(params=[name for name in EXECUTORS if name != "process" or sys.platform != "win32"], scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return each executor in turn."""
    with Bench(EXECUTORS[request.param]()) as bench:
        yield bench


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        (call_jobs.steps, "generator"),
        (call_jobs.async_steps, "async_generator"),
        (call_jobs.lazy_map, "map"),
        (call_jobs.forget_to_await, "coroutine"),
        (call_jobs.give_task, "Task"),
    ],
)
def test_work_that_was_not_run_is_a_failure(
    job: Callable[..., Any], kind: str, bench: Bench, journal: Journal, recwarn: pytest.WarningsRecorder
) -> None:
    """Which names the function and what to do, and nothing complains about a coroutine that was never awaited."""
    outcome = bench.run(job, journal.path)
    assert (outcome.status, type(outcome.exception)) == ("failure", TypeError)
    assert f"call_jobs.{job.__name__} ran nothing: it returned a {kind}" in str(outcome.exception)
    assert "list(…)" in str(outcome.exception)
    assert list(journal.entries()) == []
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("job", [call_jobs.give_coroutine, call_jobs.give_awaitable, call_jobs.note_later])
def test_what_can_be_awaited_is_run(job: Callable[..., Any], bench: Bench, journal: Journal) -> None:
    """Also where a plain function returns it."""
    outcome = bench.run(job, journal.path)
    assert (outcome.status, outcome.result) == ("success", "ran")
    assert journal.count("ran") == {"later": 1}


def test_a_future_of_another_loop_is_a_failure(bench: Bench) -> None:
    """Nobody runs that loop."""
    outcome = bench.run(call_jobs.give_future)
    assert (outcome.status, type(outcome.exception)) == ("failure", TypeError)


def test_a_future_that_is_done_is_a_result() -> None:
    """Its work was run."""
    with Bench(EXECUTORS["inline"]()) as bench:
        assert bench.run(call_jobs.give_done_future).result.result() == 7
