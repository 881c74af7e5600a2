"""The retry policy: what it refuses, what it means, and how it travels."""

from __future__ import annotations

import math
import pickle
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retry_jobs import Flaky

import kq
from kq import Retry
from kq.executors import explained
from kq.job import Cause, Outcome
from kq.message import HEADER_ATTEMPT, Message, attempt_of
from kq.retry import NO_RETRY, check_retry
from kq.working.retrier import Retrier

SECONDS = st.floats(0, 1e6)
NAMES = st.lists(st.sampled_from([ValueError, Flaky, "app.errors.Away", OSError]), max_size=3)


@pytest.mark.parametrize(
    "given",
    [
        {"max": -1}, {"max": True}, {"max": 1.5}, {"max": None}, {"delay": -1}, {"delay": math.nan}, {"delay": "1"},
        {"delay": []}, {"delay": [1, -1]}, {"delay": [1, 2, 3, 4]}, {"delay": math.inf}, {"factor": 0.5},
        {"factor": math.nan}, {"factor": math.inf}, {"max_delay": -1}, {"jitter": -0.1}, {"jitter": 1.1},
        {"jitter": math.nan}, {"on": 3}, {"on": (3,)}, {"on": (int,)}, {"on": "ValueError"}, {"never_on": [None]},
        {"timeouts": 1}, {"lost": None}, {"ordered": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_a_policy_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    """One clear error, that names the argument and says what it must be."""
    with pytest.raises(kq.ArgumentError, match=rf"^{next(iter(given))} (must|has)"):
        Retry(**given)


@pytest.mark.parametrize("retry", [-1, 1.5, "3", True, Retry])
def test_what_is_no_policy_is_refused_wherever_one_is_given(retry: Any) -> None:
    """By the queue, by ``using``, by the decorator and by the worker."""
    with pytest.raises(kq.ArgumentError, match="retry must be"):
        kq.Queue("topic", hosts="127.0.0.1:1", retry=retry)
    with kq.Queue("topic", hosts="127.0.0.1:1") as queue:
        with pytest.raises(kq.ArgumentError, match="retry must be"):
            queue.using(retry=retry)
        with pytest.raises(kq.ArgumentError, match="retry must be"):
            queue.job(retry=retry)
    with pytest.raises(kq.ArgumentError, match="retry must be"):
        kq.Worker("topic", hosts="127.0.0.1:1", retry=retry)


def test_a_number_is_a_policy_and_none_says_nothing() -> None:
    assert (check_retry(2), check_retry(None), check_retry(0)) == (Retry(2), None, NO_RETRY)


def test_delays_grow_up_to_the_longest() -> None:
    """Seconds between the end of an attempt and the next one."""
    retry = Retry(5, delay=timedelta(seconds=2), factor=3, max_delay=20)
    assert [retry.delay_of(attempt) for attempt in range(1, 5)] == [2, 6, 18, 20]
    assert Retry(2000, factor=10).delay_of(2000) == 3600
    assert [Retry(4, delay=[1, 5]).delay_of(attempt) for attempt in range(1, 5)] == [1, 5, 5, 5]
    for attempt in (0, -1, 1.5):
        with pytest.raises(kq.ArgumentError, match="attempt must be"):
            retry.delay_of(attempt)  # type: ignore[arg-type]


def test_a_policy_is_frozen_and_says_what_it_is() -> None:
    """It can be compared, hashed and pickled; its repr is a call that makes it, but for classes' modules."""
    retry = Retry(5, delay=[1, 2.5], on=(ValueError, "app.Away"), ordered=True)
    assert repr(retry) == "Retry(5, delay=(1, 2.5), on=(ValueError, 'app.Away'), ordered=True)"
    assert repr(Retry()) == "Retry(3)"
    assert pickle.loads(pickle.dumps(retry)) == retry
    assert hash(Retry(2)) == hash(Retry(2, delay=1.0))
    with pytest.raises(AttributeError):
        retry.max = 4  # type: ignore[misc]


@given(
    st.builds(
        Retry,
        st.integers(2, 10**6),
        delay=st.one_of(SECONDS, st.lists(SECONDS, min_size=1, max_size=2)),
        factor=st.floats(1, 1e6),
        max_delay=SECONDS,
        jitter=st.floats(0, 1),
        on=NAMES,
        never_on=NAMES,
        timeouts=st.booleans(),
        lost=st.booleans(),
        ordered=st.booleans(),
    )
)
def test_a_policy_means_the_same_after_its_journey(retry: Retry) -> None:
    """All but the classes themselves, which are names then."""
    back = Retry.from_header(retry.to_header())
    assert back is not None
    assert back.to_header() == retry.to_header()
    assert [back.delay_of(attempt) for attempt in (1, 2, 50)] == [retry.delay_of(attempt) for attempt in (1, 2, 50)]
    kinds = Flaky.__mro__
    names = explained(Outcome("failure", None, Flaky())).kinds
    assert back.covers(names) == retry.covers(names)
    assert (f"{Flaky.__module__}.Flaky" in names, "builtins.OSError" in names) == (True, True), kinds


@given(st.one_of(st.binary(max_size=50), st.text().map(str.encode)))
def test_what_another_program_wrote_is_no_policy_or_a_good_one(header: bytes) -> None:
    """Never an error."""
    assert Retry.from_header(header) is None or header.strip()[:1] == b"{"


@pytest.mark.parametrize(
    "header",
    [
        None, b"", b"[]", b"3", b'{"max":-1}', b'{"max":1e9}', b'{"max":NaN}', b'{"delay":Infinity}', b'{"on":["x"]}',
        b"\xff", b"[" * 100_000, b'{"max":' + b"9" * 5000 + b"}", b'{"on":[' + b'"a.b",' * 200 + b'"a.b"]}',
    ],
    ids=lambda header: str(header)[:30],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_none(header: bytes | None) -> None:
    """It is read as any input: bounded and checked."""
    assert Retry.from_header(header) is None


def test_what_a_newer_version_adds_is_passed_over() -> None:
    assert Retry.from_header(b'{"max":2,"novelty":1}') == Retry(2)


# -- what is decided ---------------------------------------------------------------------------------------------------


def message(attempt: bytes | None = None, policy: Retry | None = None, key: bytes | None = None) -> Message:
    headers = [] if attempt is None else [(HEADER_ATTEMPT, attempt)]
    if policy is not None:
        headers.append(("kq-retry", policy.to_header()))
    return Message("topic", 0, 7, key, b"value", 1, tuple(headers))


def judged(outcome: Outcome, told: Message, default: Retry | None = None) -> float | None:
    """Return the seconds until the next attempt."""
    return Retrier(default, "key", lambda: None).judge(told, outcome)[0].retry_in


@pytest.mark.parametrize(
    ("text", "attempt"), [(None, 1), (b"2", 2), (b"0", 1), (b"-3", 1), (b"x", 1), (b"9" * 40, 1), (b"", 1)]
)
def test_the_number_of_an_attempt_is_read_as_any_input(text: bytes | None, attempt: int) -> None:
    assert attempt_of(message(text)) == attempt


def failure(error: BaseException) -> Outcome:
    return Outcome("failure", None, error, "trace")


def test_attempts_end_after_the_last_one() -> None:
    """``max`` attempts follow the first one."""
    policy, outcome = Retry(2, delay=4, jitter=0), failure(ValueError())
    waits = [judged(outcome, message(b"%d" % attempt, policy)) for attempt in (1, 2, 3)]
    assert waits == [4, 8, None]


def test_jitter_stays_within_its_part() -> None:
    """And is not always the same."""
    policy = Retry(2, delay=10, jitter=0.2)
    waits = {judged(failure(ValueError()), message(None, policy)) for _ in range(100)}
    assert all(wait is not None and 8 <= wait <= 12 for wait in waits)
    assert len(waits) > 50


@pytest.mark.parametrize(
    ("policy", "outcome", "runs_again"),
    [
        (Retry(on=(OSError,)), failure(Flaky()), True),
        (Retry(on=("builtins.ConnectionError",)), failure(Flaky()), True),
        (Retry(on=(ValueError,)), failure(Flaky()), False),
        (Retry(never_on=(OSError,)), failure(Flaky()), False),
        (Retry(), failure(KeyboardInterrupt()), False),
        (Retry(on=BaseException), failure(SystemExit()), True),
        (Retry(), Outcome("timeout"), True),
        (Retry(timeouts=False), Outcome("timeout"), False),
        (Retry(on=(OSError,)), failure(kq.ChildLost("gone")), True),
        (Retry(lost=False), failure(kq.ChildLost("gone")), False),
        (Retry(on=(OSError,)), failure(kq.RetryLater()), True),
        (Retry(), failure(kq.GiveUp("never")), False),
        (Retry(), failure(kq.PoisonMessage("it kills")), False),
        (Retry(), failure(kq.JobExpired("late")), False),
        (Retry(), Outcome("invalid"), False),
        (Retry(), Outcome("success", 1), False),
        (Retry(0), failure(ValueError()), False),
        (Retry(on=("app.Away",)), Outcome("failure", cause=Cause(("app.Away", "builtins.object"), "away")), True),
        (Retry(), Outcome("failure"), False),
    ],
)
def test_what_runs_again(policy: Retry, outcome: Outcome, runs_again: bool) -> None:
    """By type and base class, and each kind of end; the job's own policy and the worker's are the same."""
    assert (judged(outcome, message(None, policy)) is not None) is runs_again
    assert (judged(outcome, message(), policy) is not None) is runs_again


def test_a_jobs_own_policy_wins() -> None:
    """Also where it says that there is no other attempt; a header that is not understood says nothing."""
    outcome = failure(ValueError())
    assert judged(outcome, message(None, NO_RETRY), Retry()) is None
    assert judged(outcome, message(None, Retry()), NO_RETRY) is not None
    odd = message()._replace(headers=(("kq-retry", b"?"),))
    assert judged(outcome, odd, Retry()) is not None
    assert judged(outcome, odd) is None


def test_a_job_that_asks_runs_again_when_it_says() -> None:
    """Without a policy, as by ``kq.Retry()``; with one, within its number, and 0 is none."""
    assert judged(failure(kq.RetryLater(2.5)), message()) == 2.5
    wait = judged(failure(kq.RetryLater()), message())
    assert wait is not None
    assert 0.9 <= wait <= 1.1
    assert judged(failure(kq.RetryLater(2.5)), message(b"4")) is None
    assert judged(failure(kq.RetryLater(2.5)), message(), NO_RETRY) is None
    for delay in (-1, "soon", math.nan, 1e10):
        with pytest.raises(kq.ArgumentError, match="delay must be"):
            kq.RetryLater(delay)  # type: ignore[arg-type]
