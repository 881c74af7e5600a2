"""The tracker: which messages of each assigned partition are done, and what may be committed of that.

1. A partition is assigned: an epoch begins, from what the last commit says (``Progress``).
2. Its messages are polled, started and done, in any order; only the incomplete ones are remembered.
3. ``view`` tells at any moment what may be committed: the watermark (lowest offset not yet done) and, for the
   commit's metadata, what is done beyond it, what is running and what was counted against messages.
4. The partition is revoked: its epoch is over. What was running, and what was done lately, is remembered, so that the
   same record coming back adopts the run, or what came of it, instead of repeating it.

Tracking the incomplete offsets is how Confluent's Parallel Consumer does it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from kq.consuming.metadata import Progress, View
from kq.message import Message

__all__ = ["Tracker", "reopen"]

#: How many messages done in an epoch are known again after its end: as many as may be done and not committed, that is
#: what a partition has in hand (``assignment.PARTITION_COUNT``) while the broker is away, and as many again between two
#: commits. What is committed as done needs no memory here.
REMEMBERED = 2000


def reopen(progress: Progress) -> View:
    """Return the first view of an epoch: what was committed, with the counts of an unclean end."""
    return _Partition(0, None, progress).view()


class _Partition:
    """One partition in one epoch."""

    __slots__ = (
        *("careful", "changed", "deliveries", "ended", "epoch", "incomplete", "lately", "position", "restored"),
        *("running", "top", "topic_id"),
    )

    def __init__(self, epoch: int, topic_id: UUID | None, progress: Progress) -> None:
        self.epoch = epoch
        self.topic_id = topic_id
        #: Polled and not done, ascending. Ordered by linked list: the first of a plain dict is slow to find after
        #: many deletions at its front.
        self.incomplete: OrderedDict[int, Message] = OrderedDict()
        self.running: dict[int, Message] = {}
        #: Of these, the offsets whose jobs have ended, and whose records are not acknowledged yet.
        self.ended: set[int] = set()
        #: Offsets and fingerprints of what was done last.
        self.lately: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)
        #: One beyond the highest offset that was polled.
        self.position = progress.watermark
        #: One beyond the highest offset that is done.
        self.top = max(progress.top, progress.watermark)
        self.restored = progress
        self.deliveries = dict(progress.deliveries)
        self.careful = progress.careful
        self.changed = False

    @property
    def watermark(self) -> int:
        return next(iter(self.incomplete), self.position)

    def is_restored_done(self, offset: int) -> bool:
        return offset < self.restored.top and offset not in self.restored.incomplete

    def has_done(self, message: Message) -> None:
        offset = message.offset
        self.lately.append((offset, _fingerprint(message)))
        if self.deliveries:
            self.deliveries.pop(offset, None)
        if offset >= self.top:
            self.top = offset + 1
        self.changed = True

    def view(self) -> View:
        watermark = self.watermark
        top = max(self.top, watermark)
        incomplete = self._incomplete_below(top) if top > watermark else ()
        deliveries: tuple[tuple[int, int], ...] = ()
        if self.deliveries:  # a message that was counted may be gone from the log: it is never done
            deliveries = tuple(sorted(item for item in self.deliveries.items() if item[0] >= watermark))
        running = tuple(self.running)
        if self.ended:  # only where companions publish; a view may be made for every job
            running = tuple(offset for offset in running if offset not in self.ended)
        return View(watermark, top, incomplete, running, deliveries, self.careful)

    def _incomplete_below(self, top: int) -> tuple[int, ...]:
        offsets: list[int] = []
        for offset in self.incomplete:
            if offset >= top:
                return tuple(offsets)
            offsets.append(offset)
        # of what is not polled again yet, the last commit knows what is incomplete
        if self.restored.top > self.position:
            offsets += sorted(o for o in self.restored.incomplete if o >= self.position)
        return tuple(offsets)

    def close(self, before: _Closed | None) -> _Closed:
        """Return what is known at the end: of older runs, only of those whose messages did not come back."""
        done = dict(self.lately)
        running = {offset: (run, self.deliveries.get(offset, 0)) for offset, run in self.running.items()}
        if before is not None:
            done = dict([*before.done.items(), *done.items()][-REMEMBERED:])
            running |= {offset: run for offset, run in before.running.items() if offset >= self.position}
        return _Closed(self.topic_id, self.restored.watermark, done, running)


class _Closed(NamedTuple):
    """A partition whose epoch is over: what is known of its messages, should they come back."""

    topic_id: UUID | None
    #: Where its last epoch began: never was less committed, unless somebody set the offset back.
    begin: int
    #: Offset -> fingerprint of what was done lately.
    done: dict[int, int]
    #: Offset -> what runs, and what was counted against it before.
    running: dict[int, tuple[Message, int]]


def _fingerprint(message: Message) -> int:
    """Return a number that another record at the same offset does not have; good within one process."""
    return hash(message[3:6])  # key, value, timestamp


class Tracker:
    """All assigned partitions of one topic, within one ``Worker.start()``.

    Partitions and offsets are ints, as Kafka numbers them. Not for use by more than one thread.
    """

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}
        self._closed: dict[int, _Closed] = {}

    def assign(self, partition: int, epoch: int, topic_id: UUID | None, progress: Progress) -> None:
        """Begin an epoch of a partition where the last commit says."""
        self.revoke(partition)
        self._partitions[partition] = _Partition(epoch, topic_id, progress)
        closed = self._closed.get(partition)
        if closed and (closed.topic_id != topic_id or progress.watermark < closed.begin):
            # another topic of this name, or somebody set the offset back on purpose: nothing old holds
            del self._closed[partition]

    def revoke(self, partition: int) -> list[Message]:
        """End the epoch of a partition and return what was running; later completions of it commit nothing."""
        ended = self._partitions.pop(partition, None)
        if ended is None:
            return []
        self._closed[partition] = ended.close(self._closed.get(partition))
        return list(ended.running.values())

    def is_open(self, partition: int, epoch: int) -> bool:
        """Return whether an epoch is the partition's present one."""
        current = self._partitions.get(partition)
        return current is not None and current.epoch == epoch

    def polled_all(self, partition: int, messages: list[Message]) -> list[Message]:
        """Note messages of a partition that were polled, ascending; return those that are to be run."""
        current = self._partitions[partition]
        known = max(current.position, current.restored.top)
        if not messages or messages[0].offset < known or partition in self._closed:
            return [message for message in messages if self.polled(message)]
        current.incomplete.update([(message.offset, message) for message in messages])
        current.position = messages[-1].offset + 1
        current.changed = True
        return messages

    def polled(self, message: Message) -> bool:
        """Note a message that was polled; return whether it is to be run.

        It is not if the last commit says that it is done, if this worker ran it in an earlier epoch, or if it is
        still running here: then that run is adopted.
        """
        partition = self._partitions[message.partition]
        offset = message.offset
        if offset < partition.position:
            return False
        partition.position = offset + 1
        partition.changed = True
        if partition.is_restored_done(offset) or self._adopt(partition, message):
            return False
        partition.incomplete[offset] = message
        return True

    def _adopt(self, partition: _Partition, message: Message) -> bool:
        closed = self._closed.get(message.partition)
        if closed is None:
            return False
        offset = message.offset
        run, count = closed.running.get(offset, (None, 0))
        if run is not None and run[3:6] == message[3:6]:  # the same key, value and timestamp
            del closed.running[offset]
            self._adopt_run(partition, run, count)
            return True
        if closed.done.get(offset) == _fingerprint(message):
            partition.has_done(message)
            return True
        return False

    def _adopt_run(self, partition: _Partition, run: Message, count: int) -> None:
        partition.incomplete[run.offset] = run
        partition.running[run.offset] = run
        # its worker is alive, it is this one: no death has been added to what was counted before
        partition.deliveries.pop(run.offset, None)
        if count:
            partition.deliveries[run.offset] = count

    def skipped_to(self, partition: int, epoch: int, position: int) -> None:
        """Note that the log holds no message below a position any more (transaction markers, compaction)."""
        if self.is_open(partition, epoch) and position > self._partitions[partition].position:
            self._partitions[partition].position = position
            self._partitions[partition].changed = True

    def is_at_ease(self) -> bool:
        """Return whether nothing is counted against any message, and no start is to be made with care."""
        return not any(partition.deliveries or partition.careful for partition in self._partitions.values())

    def started_all(self, number: int, messages: Sequence[Message]) -> None:
        """Note that jobs of messages of one partition start, while ``is_at_ease``."""
        partition = self._partitions.get(number)
        if partition is None:
            return
        incomplete = partition.incomplete
        partition.running.update(
            [(message[2], message) for message in messages if incomplete.get(message[2]) is message]
        )
        partition.changed = True

    def started(self, message: Message) -> tuple[int, bool]:
        """Note that the job of a message starts.

        :returns: How many of its runs ended with the death of the whole worker, and whether this start is to be
            committed before it happens.
        """
        partition = self._partitions.get(message.partition)
        if partition is None:
            return 0, False
        deaths = partition.deliveries.get(message.offset, 0)
        is_careful = partition.careful > 0 or deaths > 0
        if partition.incomplete.get(message.offset) is message:
            partition.running[message.offset] = message
            partition.changed = True
            if partition.careful:
                partition.careful -= 1
        return deaths, is_careful

    def ended(self, message: Message) -> None:
        """Note that the job of a message has ended, and the message is not done: no death is its doing from now on."""
        partition = self._partitions.get(message.partition)
        if partition is not None and partition.running.get(message.offset) is message:
            partition.ended.add(message.offset)
            partition.changed = True

    def again(self, message: Message, other: Message) -> bool:
        """Note that a message whose run has ended is to run again here; return whether its partition is here still.

        :param other: What stands for it from now on: the same message with other headers.
        """
        partition = self._partitions.get(message.partition)
        if partition is None or partition.running.get(message.offset) is not message:
            self._end_old_run(message)
            return False
        del partition.running[message.offset]
        partition.ended.discard(message.offset)
        partition.incomplete[message.offset] = other
        partition.changed = True
        return True

    def done_all(self, number: int, messages: Iterable[Message]) -> None:
        """Note that messages of one partition are done."""
        partition = self._partitions.get(number)
        is_plain = partition is not None and not (partition.deliveries or partition.ended)
        for message in messages:
            offset = message[2]
            # as ``done``, which has a call for each step: this happens to nearly every message
            if partition is None or not is_plain or partition.running.get(offset) is not message:
                self.done(message)
                continue
            del partition.running[offset], partition.incomplete[offset]
            partition.lately.append((offset, _fingerprint(message)))
            if offset >= partition.top:
                partition.top = offset + 1
            partition.changed = True

    def done(self, message: Message) -> bool:
        """Note that a message is done; return whether that counts in the present epoch."""
        partition = self._partitions.get(message.partition)
        offset = message.offset
        if partition is None or partition.running.get(offset) is not message:
            if self._end_old_run(message):
                self._closed[message.partition].done[offset] = _fingerprint(message)
            return False
        del partition.running[offset]
        partition.ended.discard(offset)
        del partition.incomplete[offset]
        partition.has_done(message)
        return True

    def _end_old_run(self, message: Message) -> bool:
        closed = self._closed.get(message.partition)
        if closed is None or closed.running.get(message.offset, (None, 0))[0] is not message:
            return False
        del closed.running[message.offset]
        return True

    def given_up(self, message: Message) -> None:
        """Note that the run of a message ended without an outcome: it is incomplete and may run again."""
        partition = self._partitions.get(message.partition)
        if partition is not None and partition.running.get(message.offset) is message:
            del partition.running[message.offset]
            partition.ended.discard(message.offset)
            partition.changed = True
        else:
            self._end_old_run(message)

    def deliveries(self, message: Message) -> int:
        """Return how many runs of a message ended with the death of the whole worker."""
        partition = self._partitions.get(message.partition)
        return partition.deliveries.get(message.offset, 0) if partition else 0

    def changes(self) -> dict[int, View]:
        """Return the view of each partition that changed since the last call."""
        views = {}
        for number, partition in self._partitions.items():
            if partition.changed:
                partition.changed = False
                views[number] = partition.view()
        return views

    def view(self, partition: int) -> View:
        """Return what may be committed of an assigned partition now."""
        return self._partitions[partition].view()
