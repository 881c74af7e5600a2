"""Results: what jobs returned, for any process that knows their IDs."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal, NoReturn, cast

from kq.clients import DEFAULT_TOPIC
from kq.errors import ArgumentError, ResultTimeout
from kq.job import Job
from kq.producing import made_at
from kq.resulting import JobEvent, ResultConsumer, Watch, Watcher
from kq.serializers import JSONSerializer
from kq.signing import Signer

__all__ = ["ResultFuture", "Results"]

_State = Literal["unknown", "started", "retrying", "success", "failure", "timeout", "invalid", "cancelled", "expired"]

#: Milliseconds by which the clock of a producer, or of a worker, may be ahead of the broker's.
_SKEW = 5_000
#: Seconds within which it must be known what the topic holds of a job.
_LOAD_PATIENCE = 60.0
#: Seconds between looks whether this process was forked meanwhile.
_LOOK_EVERY = 1.0


class ResultFuture(futures.Future[Any]):
    """The result of a job. Who asks for it unpickles it, in a thread of their own.

    :ivar id: Job ID.
    """

    def __init__(self, job_id: str, since: float | None, watcher: Watcher, serializer: JSONSerializer | None) -> None:
        super().__init__()
        self._serializer = serializer
        self.id = job_id
        self._since = since
        self._watcher = watcher
        self._outcome: tuple[Any, BaseException | None] | None = None
        self._ask()
        self.add_done_callback(lambda _: watcher.release(job_id, self))

    def result(self, timeout: float | None = None) -> Any:
        """Return what the job returned; raise what it raised.

        :param timeout: How long to wait, in seconds; None for no limit.
        :raises kq.ResultTimeout: It had not ended in time.
        """
        value, error = self._wait(timeout)
        if error is not None:
            raise error
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the job raised; None if it returned.

        :param timeout: How long to wait, in seconds; None for no limit.
        :raises kq.ResultTimeout: It had not ended in time.
        """
        return self._wait(timeout)[1]

    def _ask(self) -> None:
        self._pid = os.getpid()
        self._watcher.complete(self.id, self._since, self)

    def _wait(self, timeout: float | None) -> tuple[Any, BaseException | None]:
        if self._pid != os.getpid() and not self.done():  # its watcher stayed in the parent process
            self._condition = threading.Condition()
            self._ask()
        try:
            error = super().exception(timeout)
        except futures.CancelledError:
            raise
        except futures.TimeoutError:
            raise ResultTimeout(self.why()) from None
        if self._outcome is None:
            self._outcome = (None, error) if error is not None else self._read(super().result())
        return self._outcome

    def _read(self, event: JobEvent) -> tuple[Any, BaseException | None]:
        try:
            return event.outcome(self._serializer), None
        except BaseException as error:  # the job's own, for who asks  # noqa: BLE001
            return None, error

    def why(self) -> str:
        """Return in words why there is no result. May block for some seconds."""
        return self._watcher.why(self.id, None if self._since is None else self._since + _SKEW)


class Results:
    """The results of the jobs of a topic. Safe for many threads; it reads while somebody waits.

    :param topic: The topic of the jobs; ``"default"`` if left out.
    :param hosts: Kafka brokers as ``"host:port,host:port"``.
    :param config: More settings for ``kafka.KafkaConsumer``.
    :param signer: A :class:`kq.Signer`: what it does not verify is passed over, and said in the log.
    :param serializer: Reads the results of jobs as JSON, and nothing is unpickled: exceptions come as
        :class:`kq.RemoteError`.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        topic: str = DEFAULT_TOPIC,
        hosts: str = "127.0.0.1:9092",
        config: Mapping[str, Any] | None = None,
        *,
        signer: Signer | None = None,
        serializer: JSONSerializer | None = None,
    ) -> None:
        if not (serializer is None or isinstance(serializer, JSONSerializer)):
            raise ArgumentError("serializer must be a JSONSerializer")
        self._serializer = serializer
        self._watcher = Watcher(lambda: ResultConsumer(topic, hosts, config, signer=signer))

    def __repr__(self) -> str:
        return f"Results(hosts={self.hosts}, topic={self.topic})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Results cannot be serialized: make them where they are needed")

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def hosts(self) -> str:
        """The Kafka brokers, as ``"host:port,host:port"``."""
        return self._watcher.consumer.hosts

    @property
    def topic(self) -> str:
        """The name of the topic of the jobs."""
        return self._watcher.consumer.topic

    def get(self, job: Job | str, timeout: float | None = None) -> Any:
        """Wait until a job has ended, and return what it returned.

        :param job: The job as ``enqueue`` returned it, or its ID. Nothing is read from before it was enqueued; an ID
            of your own making does not tell when that was, and all is read.
        :param timeout: How long to wait, in seconds; None for no limit.
        :returns: What the job returned.
        :raises Exception: What the job raised; :class:`kq.RemoteError` where that cannot be built again here.
        :raises kq.JobTimeout: It ran longer than it may.
        :raises kq.JobInvalid: Its message held no job that could be run.
        :raises kq.JobExpired: It had not started in time.
        :raises kq.Cancelled: It was cancelled.
        :raises kq.ResultTimeout: It had not ended in time, or nothing is known of it; the message says which.
        :raises kq.ResultTooLarge: Its result is larger than the topic takes.
        :raises kq.ResultUnreadable: Its result cannot be had.
        :raises kq.BrokerUnreachable: No broker answered.
        """
        future = self.future(job)
        try:
            return future.result(timeout)
        finally:
            future.cancel()

    async def aget(self, job: Job | str, timeout: float | None = None) -> Any:
        """Wait as :meth:`get` does, in asyncio code: without blocking the event loop, and without a thread each."""
        future = self.future(job)
        try:
            waiting: asyncio.Future[Any] = asyncio.wrap_future(future)
            done, _ = await asyncio.wait({waiting}, timeout=timeout)
            if not done:
                raise ResultTimeout(await asyncio.to_thread(future.why))
            return waiting.result()
        finally:
            future.cancel()

    def future(self, job: Job | str) -> ResultFuture:
        """Return a future of a job's result, for ``concurrent.futures`` and ``asyncio.wrap_future``."""
        return ResultFuture(*self._told(job), self._watcher, self._serializer)

    def status(self, job: Job | str) -> _State:
        """Return what is known of a job at this moment.

        :returns: ``"unknown"``, ``"started"``, ``"retrying"``, or how it ended: ``"success"``, ``"failure"``,
            ``"timeout"``, ``"invalid"``, ``"cancelled"``, ``"expired"``.
        :raises kq.ResultTimeout: The topic could not be read in time.
        """
        events = self._known(job)
        if not events:
            return "unknown"
        if events[-1].kind == "finished":
            return events[-1].status or "unknown"
        return "retrying" if events[-1].kind == "retried" else "started"

    def logs(self, job: Job | str) -> list[str]:
        """Return the lines that a job has logged so far, where its worker captures them.

        :raises kq.ResultTimeout: The topic could not be read in time.
        """
        return [line for event in self._known(job) for line in event.lines]

    def events(self, job: Job | str, timeout: float | None = None) -> Iterator[JobEvent]:
        """Yield what has happened to a job, and what happens, until it has ended.

        The first event tells that it started, the last one how it ended.

        :param timeout: How long to wait for each, in seconds; None for no limit.
        :raises kq.ResultTimeout: Nothing came in time.
        """
        return self._iterate(*self._told(job), timeout)

    def as_completed(self, jobs: Iterable[Job | str], timeout: float | None = None) -> Iterator[ResultFuture]:
        """Yield a future of each job as it ends.

        :param timeout: How long that may take for all, in seconds; None for no limit.
        :raises kq.ResultTimeout: Not all have ended in time.
        """
        return _completed([self.future(job) for job in jobs], timeout)

    def gather(
        self, jobs: Iterable[Job | str], timeout: float | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """Return what jobs returned, in their order.

        :param timeout: How long that may take for all, in seconds; None for no limit.
        :param return_exceptions: Return exceptions as if they were results; else the first one is raised.
        :raises kq.ResultTimeout: Not all have ended in time.
        """
        waiting = [self.future(job) for job in jobs]
        for future in _completed(waiting, timeout):
            if not return_exceptions:
                future.result()
        return [future.exception() or future.result() for future in waiting]

    def close(self) -> None:
        """Read no more; who still waits gets an error. Used again, it reads again."""
        self._watcher.close()

    def _told(self, job: Job | str) -> tuple[str, float | None]:
        """Return a job's ID, and since when to read; raise where it is none."""
        if isinstance(job, str) and job:
            made = made_at(job)
            return job, None if made is None else made - _SKEW
        if not isinstance(job, Job) or not isinstance(job.id, str):
            raise ArgumentError("job must be a Job, as enqueue returns it, or a job's ID")
        if job.topic not in (None, self.topic):
            raise ArgumentError(f"job {job.id} is of topic {job.topic}, and these are results of topic {self.topic}")
        return job.id, None if job.timestamp is None else job.timestamp - _SKEW

    def _known(self, job: Job | str) -> list[JobEvent]:
        """Return the events that the topic holds of a job by now."""
        job_id, since = self._told(job)
        watch, stream = self._watcher.follow(job_id, since)
        deadline, events = time.monotonic() + _LOAD_PATIENCE, []
        try:
            while (event := _next_of(watch, stream, deadline - time.monotonic())) is not None:
                events.append(event)
                if event.kind == "finished":
                    break
            return events
        except Empty:
            raise ResultTimeout(self._watcher.why(job_id)) from None
        finally:
            self._watcher.release(job_id, stream)

    def _iterate(self, job_id: str, since: float | None, timeout: float | None) -> Iterator[JobEvent]:
        watch, stream = self._watcher.follow(job_id, since)
        pid, count = os.getpid(), 0
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        try:
            while True:
                if pid != os.getpid():  # its watcher stayed in the parent process
                    (watch, stream), pid = self._watcher.follow(job_id, since), os.getpid()
                try:
                    event = _next_of(watch, stream, min(_LOOK_EVERY, deadline - time.monotonic()))
                except Empty:
                    if time.monotonic() >= deadline:
                        raise ResultTimeout(self._watcher.why(job_id)) from None
                    continue
                if event is None:
                    continue
                if not count and event.kind != "started":
                    yield JobEvent(job_id, "started", None, event.attempt, event.timestamp)
                count += 1
                yield event
                if event.kind == "finished":
                    return
                deadline = float("inf") if timeout is None else time.monotonic() + timeout
        finally:
            self._watcher.release(job_id, stream)


def _next_of(watch: Watch, stream: SimpleQueue[JobEvent | None], timeout: float) -> JobEvent | None:
    """Return the next event, None for the end of what was there; raise ``queue.Empty``, or what went wrong."""
    event = stream.get(timeout=max(0.0, timeout))
    if event is None and watch.error is not None:
        raise watch.error
    return event


def _completed(waiting: list[ResultFuture], timeout: float | None) -> Iterator[ResultFuture]:
    """Yield futures as they are done; cancel the rest where that ends before."""
    try:
        for future in futures.as_completed(waiting, timeout):
            yield cast(ResultFuture, future)
    except futures.TimeoutError:
        left = [future for future in waiting if not future.done()]
        raise ResultTimeout(f"{len(left)} of {len(waiting)} jobs have not ended in time; {left[0].why()}") from None
    finally:
        for future in waiting:
            future.cancel()
