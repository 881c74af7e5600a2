"""A handle on a child of the process executor: how its parent speaks with it, and what it sees of it.

1. Messages are put in a batch and sent: their values over the stream, then a token for each. The tokens can be taken
   back as long as the child has not read them, and with them the jobs.
2. What the child says over the stream is read frame by frame. The executor may pause that.
3. Shared memory shows at any moment what runs, since when, until when, and what ended last.

It decides nothing: that is for the executor.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from kq.context import Report, Said
from kq.executors.process.protocol import LENGTH, NEVER, TOKEN, Shared, pack_jobs, read_said
from kq.executors.running import Run
from kq.logs import Capture
from kq.message import Message

__all__ = ["EXPIRING", "Handle", "Running"]

#: Reasons to kill a child that are about the job which it runs, and no other.
EXPIRING = ("timeout", "cancelled")
#: Bytes to read at once.
_CHUNK = 1 << 18
#: Bytes of values in a frame, if there are several.
_FRAME = 1 << 16
#: Seconds without a byte after which an outcome that is being sent stands still.
_STANDS_STILL = 1.0
#: Bytes that no frame has: it is not one.
_ABSURD = 1 << 40


def _page() -> int:
    """Return the descriptor of a page of memory to share, which is there: to touch one that is not ends the process."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("kq-child")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.write(descriptor, bytes(mmap.PAGESIZE))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Running(NamedTuple):
    """What a child runs: the first of its queue."""

    number: int
    #: When it was started and when its time is up, by the monotonic clock.
    since: float
    deadline: float


class Handle:
    """One child. Whoever made it closes it.

    :raises OSError: There is no room for more open files.
    """

    def __init__(self) -> None:
        self._open()
        Shared.SLOT.pack_into(self._shared, 0, 0, 0.0, NEVER, 0)
        self.pid = 0
        self.is_ready = False
        #: Whether nothing more that it says counts.
        self.is_mute = False
        #: What was sent and has no outcome, by numbers, ascending; the first may be running, the rest waits.
        self.queue: deque[tuple[int, Message]] = deque()
        #: What is to be sent.
        self.batch: list[Message] = []
        self._outbox = bytearray()
        self._inbox = bytearray()
        #: Whether its stream is not read at present, and when something was read last.
        self.is_paused = False
        self._read_at = 0.0
        #: Bytes of the frame that is coming in, if room was made for it.
        self.reserved = 0
        self._next = 1
        #: What waits though nothing runs, and since when that is seen.
        self._waiting = 0, 0.0
        #: Why it is being killed: one of ``EXPIRING``, or something that went wrong.
        self.kill_reason: str | None = None
        #: The job whose time was up, or that was cancelled.
        self.expired: Running | None = None
        #: When it is sent SIGKILL, by the monotonic clock, and whether it was.
        self.kill_at: float | None = None
        self.was_killed = False
        #: ID and text of the job that runs, where jobs are logged.
        self.job_id: str | None = None
        self.text = ""
        #: What a job has logged, and its number, where that is captured.
        self._captured: tuple[int, Capture | None] = 0, None

    def _open(self) -> None:
        with ExitStack() as stack:
            self.stream, theirs = map(stack.enter_context, socket.socketpair())
            self._tokens, self._tokens_back = map(stack.enter_context, socket.socketpair())
            #: What the child inherits: stream, tokens, shared memory. Closed by whoever hands them on.
            self.descriptors = [_page()]
            stack.callback(os.close, self.descriptors[0])
            self._shared = stack.enter_context(mmap.mmap(self.descriptors[0], mmap.PAGESIZE))
            self.descriptors.insert(0, os.dup(self._tokens_back.fileno()))
            self.descriptors.insert(0, theirs.detach())
            stack.pop_all()
        self.stream.setblocking(False)
        for end in (self._tokens, self._tokens_back):  # whatever timeout a script has made the default
            end.setblocking(True)

    # -- what it does --------------------------------------------------------------------------------------------------

    def load(self) -> int:
        """Return how many messages it has, sent or to be sent."""
        return len(self.queue) + len(self.batch)

    def first(self) -> int:
        """Return the number of the first in the queue, 0 if there is none."""
        return self.queue[0][0] if self.queue else 0

    def messages(self) -> list[Message]:
        """Return the messages that it has, in their order."""
        return [*(message for _, message in self.queue), *self.batch]

    def running(self) -> Running | None:
        """Return what runs, if what ended before it is settled."""
        number, since, deadline, ended = self._slot()
        if number not in (0, ended) and number == self.first():
            return Running(number, since, deadline)
        return None

    def said(self, number: int) -> Said | None:
        """Return what a job said last of how far it is."""
        return read_said(self._shared, number)

    def capture(self, number: int, most: int) -> Capture | None:
        """Return where the lines of a job are captured, so many at most; None where none are."""
        if most and self._captured[0] != number:
            self._captured = number, Capture(most)
        return self._captured[1]

    def run(self) -> Run | None:
        """Return what runs, for those who look at it."""
        running = self.running()
        if running is None:
            return None
        report, (of, capture) = Report(), self._captured
        report.said = self.said(running.number)
        return Run(self.queue[0][1], running.since, report, capture if of == running.number else None)

    def has_read(self, number: int) -> bool:
        """Return whether the job that was started last is this one, and its value could be unpickled."""
        return self._slot()[0] == number and bool(self._shared[Shared.IS_READ])

    def is_late(self, running: Running, now: float) -> bool:
        """Return whether the time of what runs is up. An outcome that is being sent has time while we read it."""
        if now <= running.deadline:
            return False
        return not (self._shared[Shared.IS_TELLING] and (self.is_paused or now - self._read_at < _STANDS_STILL))

    def ran_for(self, now: float) -> float:
        """Return the seconds for which the running job has run."""
        number, since, _, ended = self._slot()
        return now - since if self.queue and number > ended and number >= self.first() else 0.0

    def waits_for(self, now: float) -> float:
        """Return the seconds for which the first of its queue was seen to wait, though nothing runs."""
        number, _, _, ended = self._slot()
        first = 0 if number > ended or self.is_paused else self.first()
        if first != self._waiting[0]:
            self._waiting = first, now
        return now - self._waiting[1] if first else 0.0

    def ended(self) -> int:
        """Return the number of the job that ended last. What it and those before it have to tell is on the stream."""
        return self._slot()[3]

    def expire(self, now: float) -> bool:
        """Have the child start nothing after a job whose time is up, and return whether there is such a job.

        SIGTERM ends that then, and the child.
        """
        self._shared[Shared.EXPIRED] = 1
        running = self.running()  # looked at again: from now on nothing starts, so this is what will be ended
        if running is None or not self.is_late(running, now):
            self._shared[Shared.EXPIRED] = 0
            return False
        self.kill_reason, self.expired = "timeout", running
        return True

    def end(self, messages: Sequence[Message], now: float) -> bool:
        """Have the child start nothing after the job that runs, if it is one of these; return whether it is.

        SIGTERM ends that then, and the child.
        """
        self._shared[Shared.EXPIRED] = 1
        running = self.running()
        if running is None or not any(self.queue[0][1] is message for message in messages):
            self._shared[Shared.EXPIRED] = 0
            return False
        self.kill_reason, self.expired = "cancelled", running._replace(deadline=now)
        return True

    def tell_cancelled(self, messages: Sequence[Message]) -> None:
        """Let the job that runs know that it is cancelled, if it is one of these."""
        running = self.running()
        if running is not None and any(self.queue[0][1] is message for message in messages):
            TOKEN.pack_into(self._shared, Shared.CANCELLED, running.number)

    def _slot(self) -> tuple[int, float, float, int]:
        slot = Shared.SLOT.unpack_from(self._shared, 0)
        while slot != (again := Shared.SLOT.unpack_from(self._shared, 0)):  # the child was writing
            slot = again
        return slot

    # -- to the child --------------------------------------------------------------------------------------------------

    def send(self, limit: float | None, given: Callable[[Message], Any] | None = None) -> None:
        """Send the batch.

        :param limit: Seconds for each job until its own limit is known; None to take that from its headers.
        :param given: Returns what goes in place of a message's value; None for nothing.
        """
        batch, self.batch = self.batch, []
        numbers = range(self._next, self._next + len(batch))
        self._next += len(batch)
        self.queue.extend(zip(numbers, batch, strict=True))
        begin = size = 0
        for end, message in enumerate(batch):
            size += len(message.value or b"")
            if size > _FRAME and begin < end:  # a large value travels alone: what it costs is nobody else's doing
                self.write(pack_jobs(numbers[begin], batch[begin:end], limit, given))
                begin, size = end, len(message.value or b"")
        self.write(pack_jobs(numbers[begin], batch[begin:], limit, given))
        try:
            self._tokens.sendall(array("Q", numbers))  # as TOKEN packs them
        except OSError:  # the child is dead; its exit arrives from the fork server
            return

    def write(self, frame: bytes) -> None:
        """Write a frame, as much of it as the stream takes now; the rest goes with ``write_on``."""
        self._outbox += LENGTH.pack(len(frame))
        self._outbox += frame
        self.write_on()

    def write_on(self) -> None:
        """Write what is left of frames."""
        try:
            while self._outbox:
                del self._outbox[: self.stream.send(self._outbox)]
        except BlockingIOError:
            return
        except OSError:  # the child is dead; its exit arrives from the fork server
            self._outbox.clear()

    def has_more_to_write(self) -> bool:
        return bool(self._outbox)

    def take_back(self) -> list[Message]:
        """Take back what was sent and has not started: its tokens are ours as soon as we have read them."""
        try:
            data = self._tokens_back.recv(TOKEN.size * len(self.queue), socket.MSG_DONTWAIT)
        except OSError:  # there are none
            return []
        taken = {number for (number,) in TOKEN.iter_unpack(data)}
        messages = [message for number, message in self.queue if number in taken]
        self.queue = deque(item for item in self.queue if item[0] not in taken)
        return messages

    def pop(self) -> Message:
        """Take out the first of the queue, which has its outcome."""
        return self.queue.popleft()[1]

    def pop_through(self, last: int) -> list[Message]:
        """Take out of the queue what has a number up to the last one, or only what comes before the expired one."""
        if self.expired is not None:
            last = min(last, self.expired.number - 1)
        queue, messages = self.queue, []
        while queue and queue[0][0] <= last:
            messages.append(queue.popleft()[1])
        return messages

    # -- from the child ------------------------------------------------------------------------------------------------

    def read(self) -> bool:
        """Read what there is, not more than a chunk; return False at the end of the stream.

        :raises BlockingIOError: There is nothing.
        """
        try:
            data = self.stream.recv(_CHUNK)
        except BlockingIOError:
            raise
        except OSError:
            return False
        self._read_at = time.monotonic()
        self._inbox += data
        return bool(data)

    def frames(self) -> Iterator[tuple[int, Any]]:
        """Yield what the child has said, and how many bytes that has.

        :raises ValueError: It cannot be understood, nor what follows.
        """
        inbox, view = self._inbox, memoryview(self._inbox)
        begin = 0
        try:
            while len(inbox) - begin >= LENGTH.size:
                (length,) = LENGTH.unpack_from(inbox, begin)
                end = begin + LENGTH.size + length
                if length < _ABSURD and len(inbox) < end:
                    break
                try:
                    frame = pickle.loads(view[begin + LENGTH.size : end])
                except Exception as error:  # a job may have written into the stream: whatever that is for pickle
                    raise ValueError("a child said what cannot be understood") from error
                begin = end
                yield length, frame
        finally:
            view.release()
            del inbox[:begin]

    def incoming(self) -> int:
        """Return the bytes of the frame that is coming in, 0 if that is not known."""
        return LENGTH.unpack_from(self._inbox)[0] if len(self._inbox) >= LENGTH.size else 0

    def resume(self, now: float) -> None:
        """Note that its stream is read again."""
        self.is_paused, self._read_at = False, now

    def close(self) -> None:
        """Let everything go."""
        for thing in (self.stream, self._tokens, self._tokens_back, self._shared):
            thing.close()
