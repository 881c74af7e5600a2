"""With exactly the rights that ``kq acls`` prints each role works; without one of them it says which, in one line."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jobs
import pytest
import retry_jobs
from access import Access
from helpers import wait_until
from secured import Kafkas

import kq
from kq.controlling import Board
from kq.rights import ROLES, Right, commands, rights_of
from kq.working import Context, Timekeeper

Tell = Callable[..., tuple[int, str, str]]
#: Who is told in a log, by threads that go on, and not by an error.
THREADS = ("worker", "scheduler")


@pytest.fixture(scope="module")
def access(secured: Kafkas) -> Iterator[Access]:
    """Return who gives rights."""
    made = Access(secured)
    yield made
    made.admin.close()


# -- the roles: each does all that it is for ---------------------------------------------------------------------------


def produce(access: Access, topic: str, at: dict[str, Any]) -> None:
    with kq.Queue(topic, **at) as queue:
        queue.enqueue(jobs.add, 1, 2)
        queue.enqueue_many([(jobs.add, (1, 2))])
        queue.using(delay=60).enqueue(jobs.add, 1, 2)
        queue.schedule("hourly", kq.Every(3600), jobs.add, 1, 2)
        assert [one.name for one in queue.schedules()] == ["hourly"]


def read_results(access: Access, topic: str, at: dict[str, Any]) -> None:
    with kq.Queue(topic, **access.all) as queue:
        job = queue.enqueue(jobs.add, 1, 2)
    kq.Worker(topic, **access.all, results=True).start(max_messages=1)
    with kq.Results(topic, **at) as results:
        assert results.get(job, timeout=3) == 3


def steer(access: Access, topic: str, at: dict[str, Any]) -> None:
    with kq.Queue(topic, **access.all) as queue:
        job = queue.enqueue(jobs.add, 1, 2)
    with kq.Control(topic, **at) as control:
        control.cancel(job)
        control.pause()
        assert (control.pauses(), control.workers()) == ([None], [])
        assert control.lag(topic)[0].end == 1


def look_after_letters(access: Access, topic: str, at: dict[str, Any]) -> None:
    with kq.Queue(topic, **access.all) as queue:
        for _ in range(2):
            queue.enqueue(retry_jobs.wrong)
    kq.Worker(topic, **access.all, dead_letters=True).start(max_messages=2)
    letters = kq.DeadLetters(topic, **at)
    first, second = letters.iterate()
    letters.replay(first.id)
    letters.purge(second.id)
    assert list(letters.iterate()) == []


WORK: dict[str, Callable[[Access, str, dict[str, Any]], None]] = {
    "producer": produce,
    "results": read_results,
    "control": steer,
    "dead-letters": look_after_letters,
}


@contextmanager
def at_work(topic: str, at: dict[str, Any]) -> Iterator[list[BaseException]]:
    """Have a worker with everything on at work meanwhile; give the errors that it ends with."""
    worker = kq.Worker(
        topic, **at, results=True, dead_letters=True, control=True, executor="thread", concurrency=2, shutdown_timeout=1
    )
    errors: list[BaseException] = []

    def run() -> None:
        try:
            worker.start()
        except kq.KQError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield errors
    finally:
        worker.stop()
        thread.join()


@contextmanager
def keeping_time(topic: str, at: dict[str, Any]) -> Iterator[list[BaseException]]:
    """Have a scheduler at work meanwhile, as ``kq scheduler`` does."""
    board = Board(topic, at["hosts"], at["config"])
    keeper = Timekeeper(cancels=board.cancels)
    board.start()
    keeper.open(Context(topic, topic, at["hosts"], at["config"]))
    keeper.begin()
    try:
        yield []
    finally:
        keeper.stop(time.monotonic() + 5)
        board.close()


def all_ends(access: Access, topic: str) -> tuple[Any, ...]:
    """Enqueue what ends in each way, and return the jobs: now, later, and after an attempt that fails."""
    with kq.Queue(topic, **access.all) as queue:
        later = queue.using(delay=0.1).enqueue(jobs.add, 3, 4)
        flaky = queue.using(retry=kq.Retry(1, delay=0.1)).enqueue(retry_jobs.flaky)
        return queue.enqueue(jobs.add, 1, 2), later, flaky


# -- with all rights, and without one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", WORK)
def test_a_role_works_with_exactly_its_rights(access: Access, role: str) -> None:
    """And with no others."""
    topic = access.topics()
    WORK[role](access, topic, access.user(rights_of(role, topic)))


def test_a_worker_works_with_exactly_its_rights(access: Access) -> None:
    """Jobs, delays, retries, letters, results, control."""
    topic = access.topics()
    now, later, flaky = all_ends(access, topic)
    with kq.Results(topic, **access.all) as results, kq.Control(topic, **access.all) as control:
        with at_work(topic, access.user(rights_of("worker", topic))) as errors:
            assert (results.get(now, timeout=30), results.get(later, timeout=30)) == (3, 7)
            with pytest.raises(retry_jobs.Flaky):
                results.get(flaky, timeout=30)
            wait_until(control.workers, timeout=30)
        assert errors == []
    assert len(list(kq.DeadLetters(topic, **access.all).iterate())) == 1


def test_a_scheduler_works_with_exactly_its_rights(access: Access) -> None:
    """What is due comes onto the topic, and is buried."""
    topic = access.topics()
    all_ends(access, topic)
    worker = kq.Worker(topic, **access.all, later=False)
    with keeping_time(topic, access.user(rights_of("scheduler", topic))):
        assert worker.start(max_messages=3) == 3


def cases(*roles: str) -> list[Any]:
    """Return each right of these roles, by its number; a name is better than a number in the output."""
    named = [(role, rights_of(role, "T")) for role in roles]
    return [
        pytest.param(
            *(role, number),
            id=f"{role}-{right.operation}-{right.kind}-{right.name}",
            # what a worker cannot publish it tries again until it is stopped
            marks=[pytest.mark.long] if (role, right.operation) == ("worker", "Write") else [],
        )
        for role, rights in named
        for number, right in enumerate(rights)
    ]


def without(access: Access, role: str, number: int) -> tuple[str, Right, dict[str, Any]]:
    """Return a topic, the right that is missing, and a user who has the others."""
    topic = access.topics()
    rights = rights_of(role, topic)
    return topic, rights[number], access.user(rights[:number] + rights[number + 1 :])


def assert_named(text: str, right: Right) -> None:
    """Assert that one line says what is missing, and where to read more."""
    (line,) = text.splitlines()
    assert re.search(rf"{right.name}\b", line), line
    assert re.search(r"AuthorizationFailedError|this user may not see it", line), line
    assert len(line) < 400


@pytest.mark.parametrize(("role", "number"), cases(*WORK))
def test_a_right_that_is_missing_is_named(access: Access, role: str, number: int) -> None:
    """By the error that the caller gets."""
    topic, right, at = without(access, role, number)
    with pytest.raises(Exception, match=right.name) as caught:
        WORK[role](access, topic, at)
    assert_named(str(caught.value), right)


@pytest.mark.parametrize(("role", "number"), cases(*THREADS))
def test_a_right_that_a_worker_misses_is_in_its_log(
    access: Access, role: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Or in the error that it ends with; the other capabilities go on."""
    caplog.set_level(logging.WARNING, "kq")
    topic, right, at = without(access, role, number)
    all_ends(access, topic)
    caplog.clear()

    def said() -> str | None:
        lines = [record.getMessage() for record in caplog.records] + [str(error) for error in errors]
        return next((line for line in lines if "AuthorizationFailed" in line and f"{right.name};" in line), None)

    with (at_work if role == "worker" else keeping_time)(topic, at) as errors:
        line = wait_until(said, timeout=30, message=f"nobody misses {right}")
    assert_named(line, right)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_kafka_is_to_be_told(tell: Tell) -> None:
    """One line a topic or group, for the shell; the reverse too."""
    at = ("--hosts", "h:1", "--principal", "User:the reports")
    code, stdout, _ = tell("acls", "producer", "T", *at)
    base = "kafka-acls.sh --bootstrap-server h:1"
    who = "--allow-principal 'User:the reports'"
    assert (code, stdout.splitlines()) == (
        0,
        [
            f"{base} --add {who} --operation Write --topic T",
            f"{base} --add {who} --operation Read --operation Write --topic T.later",
        ],
    )
    _, stdout, _ = tell("acls", "worker", "T", *at, "--group", "G", "--command-config", "a.properties", "--remove")
    assert f"{base} --command-config a.properties --remove --force {who} --operation Read --group G" in stdout
    code, _, stderr = tell("acls", "worker", "T", "--principal", "reports")
    assert (code, "'reports' is not such as User:reports" in stderr) == (2, True)


def test_each_right_has_its_reason_and_a_command() -> None:
    """Of every role, once."""
    for role in ROLES:
        rights = rights_of(role, "T", "G")
        assert len({right[:3] for right in rights}) == len(rights)
        assert [right for right in rights if not right.purpose] == []
        assert len(commands(rights, "User:x", "h:1")) == len({right[1:3] for right in rights})
    with pytest.raises(kq.ArgumentError, match="role must be one of producer"):
        rights_of("nobody", "T")


def test_the_table_of_the_page_is_the_one_that_is_used() -> None:
    """Role by role, in its order."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "transport.rst").read_text(encoding="utf-8")
    table = page[page.index("The least rights") :]
    for role in ROLES:
        found: dict[tuple[str, str], list[str]] = {}
        for right in rights_of(role, "T", "G"):
            found.setdefault(right[1:3][::-1], []).append(right.operation)
        row = re.search(rf"    \* - ``{role}``\n      - (.*?)\n      - ", table, re.DOTALL)
        assert row is not None, role
        told = [part.partition(": ") for part in " ".join(row[1].split()).split("; ")]
        shown = {tuple(what.replace("`", "").split()[::-1]): words.split(", ") for what, _, words in told}
        assert {key: sorted(words) for key, words in found.items()} == {key: sorted(it) for key, it in shown.items()}


@pytest.mark.parametrize("number", [None, *range(len(ROLES["cli"]))])
def test_the_command_line_with_exactly_its_rights(
    access: Access, tell: Tell, tmp_path: Any, number: int | None
) -> None:
    """It looks and resets; without one of its rights it says which."""
    topic = access.topics()
    all_ends(access, topic)
    rights = rights_of("cli", topic)
    user, at = access.named(rights if number is None else rights[:number] + rights[number + 1 :])
    path = tmp_path / "client.properties"
    path.write_text(
        "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n"
        f"ssl.truststore.location={at['config']['ssl_cafile']}\n"
        f'sasl.jaas.config=a.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="{user}";\n'
    )
    given = ("--hosts", at["hosts"], "--config", path)
    told = [
        tell("info", *given, "--topic", topic),
        tell("worker", *given, "--topic", topic, "--check"),
        tell("group", "reset", *given, "--topic", topic, "--to", "latest", "--yes", topic),
    ]
    failed = [stderr for code, _, stderr in told if code or "AuthorizationFailed" in stderr]
    if number is None:
        assert failed == [], failed
    else:
        assert failed
        for stderr in failed:
            assert_named(stderr.strip(), rights[number])
