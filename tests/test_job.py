"""A Job is a plain record: nine fields, nothing that happens."""

from __future__ import annotations

import pickle
from typing import get_args

import pytest

from kq.job import FAILURE, INVALID, SUCCESS, TIMEOUT, Job, Outcome, Status

FIELDS = ("id", "timestamp", "topic", "func", "args", "kwargs", "timeout", "key", "partition")


def test_a_job_is_a_namedtuple_of_nine_fields() -> None:
    """Position and name both lead to a field, in KQ 2.0's order."""
    job = Job(*range(9))
    assert isinstance(job, tuple)
    assert Job._fields == FIELDS
    assert [getattr(job, name) for name in FIELDS] == list(range(9)) == list(job)


def test_every_field_is_none_by_default() -> None:
    """A Job of nothing is allowed; the queue fills it in."""
    assert Job() == (None,) * 9


def test_a_job_cannot_be_changed_but_replaced() -> None:
    """``_replace`` gives another Job and leaves the first as it was."""
    job = Job(id="a", timeout=1.5)
    with pytest.raises(AttributeError):
        job.id = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        job.result = 1  # type: ignore[attr-defined]
    assert job._replace(id="b") == Job(id="b", timeout=1.5)
    assert job == Job(id="a", timeout=1.5)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickle_carries_a_job(protocol: int) -> None:
    """No dill is needed for a Job whose function can be imported."""
    job = Job("id", 1, "topic", print, (1,), {"end": ""}, 0.5, b"key", 3)
    again = pickle.loads(pickle.dumps(job, protocol))
    assert type(again) is Job
    assert again == job


def test_the_statuses_are_plain_text() -> None:
    """A callback compares with text and prints text; the four names are KQ's."""
    statuses = [INVALID, SUCCESS, TIMEOUT, FAILURE]
    assert statuses == ["invalid", "success", "timeout", "failure"] == list(get_args(Status))
    assert {type(status) for status in statuses} == {str}


def test_an_outcome_tells_nothing_but_its_status_by_default() -> None:
    """Result, exception and stacktrace are None unless there is one: the callback's table."""
    assert Outcome(INVALID)[:4] == ("invalid", None, None, None)
    assert pickle.loads(pickle.dumps(Outcome(SUCCESS, 3))) == Outcome(SUCCESS, 3)
