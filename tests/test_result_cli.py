"""``kq enqueue --wait`` and ``kq result``: the result on standard output, all else on standard error, an exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_results import working

import kq

Told = tuple[int, str, str]


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_the_ends_of_a_job(topic: str, hosts: str, tell: Callable[..., Told], executor: str) -> None:
    way = ["--hosts", hosts, "--topic", topic, "--wait", "--wait-timeout", "60"]
    with working(topic, hosts, executor, capture_logs=True, results="asked", retry=0):
        code, out, err = tell("enqueue", *way, "jobs:add", "1", "2")
        assert (code, out) == (0, "3\n")
        job_id = err.split()[1]
        assert tell("result", job_id, "--hosts", hosts, "--topic", topic)[:2] == (0, "3\n")
        code, out, err = tell("enqueue", *way, "result_jobs:steps", "3", "0.3")
        assert (code, out) == (0, "'done'\n")
        assert all(f"app.jobs: step {number}" in err for number in (1, 2, 3))
        code, out, err = tell("enqueue", *way, "result_jobs:known", "7")
        assert (code, out) == (1, "")
        assert "result_jobs.Known: 7" in err
        assert "Traceback" in err
        code, out, err = tell("enqueue", *way, "--timeout", "0.2", "result_jobs:talk_and_hang", "x")
        assert (code, out) == (3, "")
        assert "limit of 0.2 s" in err
        code, out, err = tell("enqueue", *way, "result_jobs:unpicklable")
        assert (code, out) == (0, "")
        assert "The job succeeded. The result of job" in err.replace("the result", "The result")
    code, out, err = tell("enqueue", *way[:-1], "0.3", "jobs:add")
    assert (code, out) == (4, "")
    assert "nothing is known of job" in err


def test_what_is_wrong_is_one_line(topic: str, hosts: str, tell: Callable[..., Told]) -> None:
    code, _, err = tell("result", "never", "--hosts", hosts, "--topic", topic, "--wait-timeout", "0.3")
    assert (code, err.count("\n")) == (4, 1)
    assert f"there is no topic {topic}.results" in err
    code, _, err = tell("enqueue", "--wait", "--from-file", "-")
    assert code == 2
    assert "--wait is for one job" in err
    code, _, err = tell("enqueue", "--wait-timeout", "5", "jobs:add")
    assert code == 2
    assert "--wait-timeout is for --wait" in err


def test_retries_are_told_as_they_come(topic: str, hosts: str, tell: Callable[..., Told]) -> None:
    with working(topic, hosts, retry=kq.Retry(1, delay=0)):
        way: list[Any] = ["--hosts", hosts, "--topic", topic, "--wait", "--wait-timeout", "60"]
        code, out, err = tell("enqueue", *way, "retry_jobs:flaky")
    assert (code, out) == (1, "")
    assert "Attempt 1 failed: retry_jobs.Flaky: the other side was away" in err
    assert "It runs again in 0 s" in err
