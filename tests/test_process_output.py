"""What jobs print arrives: whole lines, all of them, and in time."""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
from pathlib import Path

import jobs
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

_BENCH = """
import logging, sys
logging.disable(logging.CRITICAL)
import kq, odd_jobs
from process_bench import Bench, statuses
"""


def run(source: str, *args: str, unbuffered: str = "", closing: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script with its output in pipes, as a service has it."""
    path = os.pathsep.join([str(Path(__file__).parent), str(jobs.ROOT)])
    command = [sys.executable, "-c", _BENCH + source, *args]
    if closing:
        command = ["sh", "-c", f'"$@" {closing}', "sh", *command]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lines_of_children_on_one_pipe_are_whole(unbuffered: str) -> None:
    """However they are printed, and whatever buffering the worker was started with."""
    source = """
with Bench(kq.ProcessExecutor(), 4) as bench:
    bench.run(*[bench.message(odd_jobs.say_lines, number) for number in range(40)])
"""
    done = run(source, unbuffered=unbuffered)
    lines = done.stdout.splitlines()
    torn = [line for line in lines if not re.fullmatch(r"job \d+ line \d+ x{60} end", line)]
    assert (len(lines), torn[:3]) == (40 * 150, [])
    assert len(done.stderr.splitlines()) == 40


def test_lines_of_threads_and_forks_are_whole() -> None:
    """Each is there once."""
    source = """
with Bench(kq.ProcessExecutor(), 2) as bench:
    print(set(statuses(bench.run(*[bench.message(odd_jobs.say_from_threads, number) for number in range(6)]))))
"""
    lines = run(source).stdout.splitlines()
    counts = collections.Counter(re.sub(r"^job \d+ line (\d+) .*", r"\1", line) for line in lines[:-1])
    assert lines[-1] == "{'success'}"
    assert set(counts) == set(map(str, range(150)))
    assert set(counts.values()) == {6 * 5}


@pytest.mark.parametrize("way", ["success", "failure", "timeout"])
def test_what_a_job_printed_arrives_before_its_outcome(way: str) -> None:
    """Also the part of a line, on both streams."""
    source = """
with Bench(kq.ProcessExecutor()) as bench:
    ended = bench.run(bench.message(odd_jobs.say_partly, sys.argv[1], timeout=1))
    print(",", statuses(ended), flush=True)
    print(",", statuses(ended), file=sys.stderr, flush=True)
"""
    done = run(source, way)
    assert done.stdout == f"said by the job, ['{way}']\n"
    assert done.stderr == f"complained by the job, ['{way}']\n"


def test_what_jobs_printed_is_not_lost_at_a_stop() -> None:
    """Children are killed there; each line had left before."""
    source = """
with Bench(kq.ProcessExecutor(), 2) as bench:
    bench.run(*[bench.message(print, number) for number in range(10)])
"""
    assert sorted(run(source).stdout.split()) == sorted(map(str, range(10)))


def test_a_job_that_closes_the_output_closes_it_for_itself_alone() -> None:
    """The next one prints."""
    source = """
with Bench(kq.ProcessExecutor()) as bench:
    print(statuses(bench.run(bench.message(odd_jobs.close_output), bench.message(print, "printed"))))
"""
    assert run(source).stdout == "printed\n['success', 'success']\n"


def test_a_job_that_replaces_the_output_loses_nothing() -> None:
    """What it had printed before goes out."""
    source = """
with Bench(kq.ProcessExecutor()) as bench:
    print(",", statuses(bench.run(bench.message(odd_jobs.replace_output))))
"""
    assert run(source).stdout == "said before, ['success']\n"


@pytest.mark.parametrize("closing", ["<&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_worker_without_standard_streams_runs_jobs_that_print(closing: str, tmp_path: Path) -> None:
    """Neither jobs nor programs that they run print into what has taken the numbers of these streams."""
    source = """
with Bench(kq.ProcessExecutor()) as bench:
    messages = [bench.message(print, "said"), bench.message(odd_jobs.echo), bench.message(print, "said")]
    open(sys.argv[1], "w").write(str(statuses(bench.run(*messages))))
"""
    report = tmp_path / "report"
    run(source, str(report), closing=closing)
    assert report.read_text() == "['success', 'success', 'success']"
