"""Calls: from what a user enqueues to a complete job.

1. What was given beside the call, with ``Queue.using`` or ``Queue.job``, is checked and kept as ``Terms``.
2. A call, a ``Job`` or a tuple of function and arguments becomes a ``Job``; what is missing in it comes from the terms.
   A call that does not fit its function is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple

from kq.errors import ArgumentError
from kq.job import EnqueuedJob, Job
from kq.message import HEADER_PREFIX, Headers
from kq.producing.binding import check_binding
from kq.producing.timing import Moment, check_expiry, due_moment
from kq.retry import check_retry

__all__ = [
    "HasTerms",
    "Terms",
    "check_timeout",
    "complete_job",
    "job_of_call",
    "job_of_item",
    "told_retry",
]

#: So much of a key is shown in a hint: enough to know it, and no page of text.
#: Makes a named tuple of all its fields, in half the time of calling its class.
_make_job = tuple.__new__
#: Terms that hold wherever a decorated function is enqueued.
_GIVEN = ("timeout", "key", "partition", "headers", "due", "expires", "retry")


class Told(NamedTuple):
    """A retry policy as it travels, and whether attempts may wait in a topic of their own."""

    header: bytes
    waits: bool


def told_retry(retry: Any) -> Told | None:
    """Return the policy that a user gave, made ready once for all jobs; None for nothing."""
    policy = check_retry(retry)
    return None if policy is None else Told(policy.to_header(), policy.waits)


class Terms(NamedTuple):
    """How to enqueue: what a job gets that says nothing itself."""

    topic: str
    timeout: float | int
    key: bytes | None
    partition: int | None
    headers: Headers
    #: Which of them a user gave, and not the queue.
    given: frozenset[str]
    #: When it is due, and when it expires if it has not started.
    due: Moment | None = None
    expires: Moment | None = None
    #: The retry policy.
    retry: Told | None = None

    def changed(
        self,
        timeout: Any,
        key: Any,
        partition: Any,
        headers: Any,
        delay: Any = None,
        at: Any = None,
        expires: Any = None,
        retry: Any = None,
    ) -> Terms:
        """Return these terms with what a user gave, None being nothing; raise :class:`kq.ArgumentError` of bad ones."""
        due, expiry, policy = due_moment(delay, at), check_expiry(expires), told_retry(retry)
        given = timeout, key, partition, headers, due, expiry, policy
        return Terms(
            self.topic,
            self.timeout if timeout is None else check_timeout(timeout, "timeout"),
            self.key if key is None else _check_key(key, "key"),
            self.partition if partition is None else _check_partition(partition, "partition"),
            self.headers if headers is None else _check_headers(headers),
            self.given | {name for name, value in zip(_GIVEN, given, strict=True) if value is not None},
            self.due if due is None else due,
            self.expires if expiry is None else expiry,
            self.retry if policy is None else policy,
        )

    def with_those_of(self, func: Callable[..., Any]) -> Terms:
        """Return these terms with what a decorated function was given, where nobody gave anything here."""
        own = _terms_of(func)
        if own is None or own.given <= self.given:
            return self
        return self._replace(**{name: getattr(own, name) for name in own.given - self.given})

    def times(self, job: Job) -> tuple[int | None, int | None]:
        """Return when a complete job is due and when it expires, in Unix milliseconds; None for now, and never."""
        terms, now = self.with_those_of(job.func), job.timestamp  # type: ignore[arg-type]  # the job was checked
        if now is None or (terms.due is None and terms.expires is None):
            return None, None
        due = None if terms.due is None else terms.due.millis(now)
        expires = None if terms.expires is None else terms.expires.millis(now)
        return (None if due is None or due <= now else due), expires


class HasTerms:
    """What :meth:`kq.Queue.job` makes of a function knows how to enqueue it."""

    _terms: Terms


def _terms_of(func: Callable[..., Any]) -> Terms | None:
    """Return the terms of a decorated function or method; None of any other callable, of which nothing is asked."""
    owner: Any = func
    if type(func) is FunctionType:
        if "enqueue" not in func.__dict__:
            return None
        owner = getattr(func.__dict__["enqueue"], "__self__", None)  # the decorator has put it there
    return owner._terms if issubclass(type(owner), HasTerms) else None


def job_of_call(
    terms: Terms, now: int, ids: Iterator[str], obj: Callable[..., Any] | Job, args: Sequence[Any], kwargs: Any
) -> EnqueuedJob:
    """Return the complete job of what ``enqueue`` was given; arguments beside a job are ignored.

    :param now: Unix milliseconds.
    :param ids: Gives a job its ID, as ``new_ids`` does.
    """
    if isinstance(obj, Job):
        return complete_job(terms, now, ids, obj)
    if not callable(obj):
        raise ArgumentError("first argument must be a callable")
    if obj is Job:
        raise ArgumentError("first argument is the class Job: pass a function, or a job, such as Job(func=print)")
    check_binding(obj, args, kwargs)
    terms = terms.with_those_of(obj)
    return EnqueuedJob(next(ids), now, terms.topic, obj, args, kwargs, terms.timeout, terms.key, terms.partition)


def job_of_item(terms: Terms, now: int, ids: Iterator[str], item: Any) -> EnqueuedJob:
    """Return the complete job of one item of ``enqueue_many``: a job, a callable, or (function, args, kwargs)."""
    if not isinstance(item, tuple) or isinstance(item, Job):
        return job_of_call(terms, now, ids, item, (), {})
    if not 1 <= len(item) <= 3:
        raise ArgumentError("a tuple must be (function, args, kwargs)")
    func, args, kwargs = item if len(item) == 3 else item + ((), {})[len(item) - 1 :]
    if not (type(args) is tuple and type(kwargs) is dict and callable(func)):
        _check_call(func, args, kwargs)
        args, kwargs = tuple(args or ()), kwargs or {}
    check_binding(func, args, kwargs)
    terms = terms.with_those_of(func)
    return _make_job(EnqueuedJob, (next(ids), now, terms[0], func, args, kwargs, terms[1], terms[2], terms[3]))


def complete_job(terms: Terms, now: int, ids: Iterator[str], job: Job) -> EnqueuedJob:
    """Return the user's job as it goes onto the topic: what it says itself wins over the terms."""
    if not (job.id is None or isinstance(job.id, str)):
        raise ArgumentError("Job.id must be a str")
    _check_call(job.func, job.args, job.kwargs)
    args, kwargs = tuple(job.args or ()), job.kwargs or {}
    check_binding(job.func, args, kwargs)
    terms = terms.with_those_of(job.func)  # type: ignore[arg-type]  # it was checked
    return EnqueuedJob(
        next(ids) if job.id is None else job.id,
        now,
        terms.topic,
        job.func,
        args,
        kwargs,
        terms.timeout if job.timeout is None else check_timeout(job.timeout, "Job.timeout"),
        terms.key if job.key is None else _check_key(job.key, "Job.key"),
        terms.partition if job.partition is None else _check_partition(job.partition, "Job.partition"),
    )


def _check_call(func: Any, args: Any, kwargs: Any) -> None:
    if not (args is None or isinstance(args, (list, tuple))):
        raise ArgumentError("Job.args must be a list or tuple")
    if not callable(func):
        raise ArgumentError("Job.func must be a callable")
    if not (kwargs is None or isinstance(kwargs, dict)):
        raise ArgumentError("Job.kwargs must be a dict")


def check_timeout(timeout: Any, name: str) -> float | int:
    """Return a time limit in seconds; raise :class:`kq.ArgumentError` if it is none."""
    if not isinstance(timeout, (int, float)):
        raise ArgumentError(f"{name} must be an int or float")
    if not timeout >= 0:  # not a number is not 0 or greater either
        raise ArgumentError(f"{name} must be 0 or greater")
    return timeout


def _check_key(key: Any, name: str) -> bytes:
    if isinstance(key, bytes):
        return key
    error = ArgumentError(f"{name} must be a bytes")
    if isinstance(key, str):  # the words are KQ's; a note stands below them in a traceback, from Python 3.11 on
        error.__notes__ = ["hint: encode it, as in key.encode()"]  # type: ignore[attr-defined,unused-ignore]
    raise error


def _check_partition(partition: Any, name: str) -> int:
    if not isinstance(partition, int):
        raise ArgumentError(f"{name} must be an int")
    return partition


def _check_headers(headers: Any) -> Headers:
    pairs = list(headers)
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], bytes)):
            raise ArgumentError("headers must be a list of (str, bytes)")
        if pair[0].startswith(HEADER_PREFIX):
            raise ArgumentError(f"headers must not begin with {HEADER_PREFIX}: {pair[0]}")
    return pairs
