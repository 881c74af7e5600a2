"""The tracker against a naive model of a partition, its owners and their deaths.

The machine plays a log with gaps, a group's last commit, one worker that polls, starts, ends, dies, stops, loses and
gets back the partition, and others that have it meanwhile. What is true, it keeps in plain sets and dicts.
"""

from __future__ import annotations

from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tracking import message

from kq.consuming.metadata import CAREFUL_STARTS, Progress, View, decode, encode
from kq.consuming.tracker import Tracker, reopen
from kq.message import Message

TODO, RUNNING, DONE = "todo", "running", "done"


class Epoch:
    """What is true of the partition in one epoch of one worker."""

    def __init__(self, number: int, begin: int, top: int, gaps: set[int], counts: dict[int, int], careful: int) -> None:
        self.number = number
        self.begin = self.position = begin
        self.restored_top = top
        self.restored_incomplete = gaps
        self.counts = counts
        self.careful = careful
        self.status: dict[int, str] = {}
        self.started: list[Message] = []
        #: What was done, or adopted as done, in this epoch.
        self.done: set[Message] = set()

    def is_restored_done(self, offset: int) -> bool:
        return offset < self.restored_top and offset not in self.restored_incomplete

    def view(self) -> View:
        open_here = {offset for offset, status in self.status.items() if status != DONE}
        watermark = min(open_here, default=self.position)
        done = [one.offset + 1 for one in self.done]
        top = max([self.begin, self.restored_top, watermark, *done])
        open_all = open_here | {offset for offset in self.restored_incomplete if offset >= self.position}
        incomplete = tuple(sorted(offset for offset in open_all if offset < top))
        counts = tuple(sorted(item for item in self.counts.items() if item[0] >= watermark))
        running = tuple(one.offset for one in self.started)
        return View(watermark, top, incomplete, running, counts, self.careful)

    def finish(self, one: Message) -> None:
        self.status[one.offset] = DONE
        self.done.add(one)
        self.counts.pop(one.offset, None)


#: Which of several, as many times as there are numbers: each is an index, modulo how many there are.
PICKS = st.lists(st.integers(0, 9), min_size=1, max_size=6)
#: How a partition is lost: in a rebalance, with a last commit or without; by a stop that kills what runs, which is no
#: death; by kill -9, where nothing is left but the last commit; or the log loses its end.
EVENTS = st.sampled_from(["revoked", "lost", "lost", "stop", "kill", "kill", "cut"])
#: What happens to a partition that nobody has: most often nothing.
MEANWHILE = st.sampled_from(["nothing", "nothing", "nothing", "other owner", "other owner", "set back", "topic anew"])


class Partition(RuleBasedStateMachine):
    """One partition and all that may happen to it. Between two rules the worker always has it."""

    @initialize(first=st.sampled_from([0, 1, 7, 2**40]), count=st.integers(6, 18))
    def begin(self, first: int, count: int) -> None:
        """A topic is made, some messages are sent, and a worker starts."""
        self.topic_id = UUID(int=1)
        self.log: dict[int, Message] = {}
        self.log_begin = self.log_end = first
        self.serial = 0
        #: Values of jobs that ran to their end, wherever that was.
        self.finished: set[bytes | None] = set()
        #: Offset, metadata and topic id, if known, of the last commit; and what it says in the model's words.
        self.last_commit: tuple[int, str, UUID | None] | None = None
        self.last_view, self.last_alive = View(first), False
        self.number = 0
        self.produce([1] * count, 0)
        self._new_process()
        self._assign(commits=True)

    # the log

    @rule(gaps=st.lists(st.sampled_from([1, 1, 1, 2, 300]), max_size=8), trailing=st.integers(0, 2))
    def produce(self, gaps: list[int], trailing: int) -> None:
        """Messages come, with transaction markers between and behind them."""
        for gap in gaps:
            self.serial += 1
            offset = self.log_end + gap - 1
            self.log[offset] = message(offset, b"%d" % self.serial)
            self.log_end = offset + 1
        self.log_end += trailing

    @rule(picks=PICKS)
    def compact(self, picks: list[int]) -> None:
        """Messages go from the log, whatever has become of them, and the consumer's position moves over the gap."""
        for pick in picks[: len(self.log) // 2]:
            del self.log[sorted(self.log)[pick % len(self.log)]]
        ahead = [offset for offset in self.log if offset >= self.epoch.position]
        position = max(self.epoch.position, min(ahead, default=self.log_end))
        self.tracker.skipped_to(0, self.number - 1, position + 5)
        self.tracker.skipped_to(0, self.number, position)
        self.epoch.position = position

    def _cut_log(self, back: int) -> None:
        """The log loses its end, and the same offsets become other messages: an epoch begins before all of that."""
        cut = max(self.log_begin, self.epoch.position - back)
        self.log = {offset: one for offset, one in self.log.items() if offset < cut}
        self.log_end = cut
        begin = min(cut, self.tracker.view(0).watermark)
        self._close()
        self._open(Progress(begin), Epoch(self.number + 1, begin, 0, set(), {}, 0))
        self.commit()

    # the worker

    @rule(count=st.integers(1, 6))
    def poll(self, count: int) -> None:
        """The next messages come; the worker runs those of which nobody knows that they are done or running."""
        ahead = [self.log[offset] for offset in sorted(self.log) if offset >= self.epoch.position]
        if not ahead:
            self.produce([1] * count, 0)
        polled = [one._replace() for one in ahead[:count]]  # never the same object twice, as from a consumer
        to_run = [one for one in polled if self._is_to_run(one)]
        assert list(map(id, self.tracker.polled_all(0, polled))) == list(map(id, to_run))
        assert not any(self.tracker.polled(one) for one in polled)

    def _is_to_run(self, one: Message) -> bool:
        epoch = self.epoch
        epoch.position = one.offset + 1
        if epoch.is_restored_done(one.offset):
            assert one.value in self.finished
            return False
        old, count = self.known_runs.get(one.offset, (None, 0))
        if old == one:
            self._adopt(old, count)
            return False
        if one in self.known_done:
            assert one.value in self.finished
            epoch.finish(one)
            return False
        epoch.status[one.offset] = TODO
        self.waiting.append(one)
        return True

    def _adopt(self, run: Message, count: int) -> None:
        del self.known_runs[run.offset]
        self.epoch.status[run.offset] = RUNNING
        self.epoch.started.append(run)
        self.epoch.counts.pop(run.offset, None)
        if count:
            self.epoch.counts[run.offset] = count

    @rule(picks=PICKS)
    def start(self, picks: list[int]) -> None:
        """Jobs start, with care where it must be."""
        for pick in picks[: len(self.waiting)]:
            one = self.waiting.pop(pick % len(self.waiting))
            count = self.epoch.counts.get(one.offset, 0)
            assert self.tracker.deliveries(one) == count
            assert self.tracker.started(one) == (count, count > 0 or self.epoch.careful > 0)
            self.epoch.careful = max(0, self.epoch.careful - 1)
            self.epoch.status[one.offset] = RUNNING
            self.epoch.started.append(one)
            self.running.append(one)

    @rule(picks=PICKS, well=st.sampled_from([True, True, True, False]))
    def end(self, picks: list[int], well: bool) -> None:
        """Jobs end, in their own epoch or long after it, with an outcome or without."""
        for pick in picks[: len(self.running)]:
            one = self.running.pop(pick % len(self.running))
            self._finish(one) if well else self._give_up(one)

    @rule(count=st.integers(1, 6), starts=PICKS, ends=PICKS)
    def work(self, count: int, starts: list[int], ends: list[int]) -> None:
        """As it goes all day: more begins than ends."""
        self.poll(count)
        self.start(starts)
        self.end(ends, True)

    def _finish(self, one: Message) -> None:
        self.finished.add(one.value)
        assert self.tracker.done(one) == self._is_here(one)
        if self._is_here(one):
            self._remove(one)
            self.epoch.finish(one)
        elif self._is_known_run(one):
            del self.known_runs[one.offset]
            self.known_done.add(one)

    def _give_up(self, one: Message) -> None:
        self.tracker.given_up(one)
        if self._is_here(one):
            self._remove(one)
            self.epoch.status[one.offset] = TODO
        elif self._is_known_run(one):
            del self.known_runs[one.offset]

    def _is_here(self, one: Message) -> bool:
        return self.has_it and any(started is one for started in self.epoch.started)

    def _is_known_run(self, one: Message) -> bool:
        return one.offset in self.known_runs and self.known_runs[one.offset][0] is one

    def _remove(self, one: Message) -> None:
        self.epoch.started = [started for started in self.epoch.started if started is not one]

    @rule(picks=PICKS)
    def meddle(self, picks: list[int]) -> None:
        """What was polled in an epoch that is over is started and ended all the same: it changes nothing."""
        for pick in picks if self.stale else ():
            one = self.stale[pick % len(self.stale)]
            self.tracker.started(one)
            assert not self.tracker.done(one)
            self.tracker.given_up(one)

    @rule()
    def commit(self) -> None:
        """What is published is committed."""
        self._commit(self.tracker.view(0), alive=True)

    def _commit(self, view: View, *, alive: bool) -> None:
        self.last_commit = (view.watermark, encode(view, self.topic_id, alive=alive), self.topic_id)
        self.last_view, self.last_alive = view, alive

    # the ways to lose a partition, and to get it back

    @rule(event=EVENTS, meanwhile=MEANWHILE, picks=PICKS, commits=st.booleans(), again=st.sampled_from([0, 2, 9, 20]))
    def lose(self, event: str, meanwhile: str, picks: list[int], commits: bool, again: int) -> None:
        """The partition goes, sooner or later after a commit, and comes back, and so do its messages."""
        if commits:
            self.commit()
        if event == "cut":
            self._cut_log(len(picks))
            return
        if event in ("revoked", "stop"):
            self._commit(self.tracker.view(0), alive=False)
        if event in ("revoked", "lost"):
            self._close()
            assert self.tracker.revoke(0) == []
            self.end(picks[1:3], well=picks[0] != 9)
        else:
            self._new_process()
        self._pass_time(meanwhile, picks)
        self._assign(commits)
        self.poll(again)

    def _new_process(self) -> None:
        self.tracker = Tracker()
        self.has_it = False
        self.waiting: list[Message] = []
        self.stale: list[Message] = []
        self.running: list[Message] = []
        self._forget()

    def _forget(self) -> None:
        self.known_begin, self.known_topic = 0, self.topic_id
        #: What this process knows of epochs that are over, with the counts from before each run.
        self.known_runs: dict[int, tuple[Message, int]] = {}
        self.known_done: set[Message] = set()

    def _assign(self, commits: bool) -> None:
        """Open an epoch by the last commit; the worker may die before it can say so."""
        self._open(*self._begin(self.number + 1))
        if commits:
            self.commit()

    def _begin(self, number: int) -> tuple[Progress, Epoch]:
        """Return what the next owner reads of the last commit, and what it should."""
        nothing = Progress(self.log_begin), Epoch(number, self.log_begin, 0, set(), {}, 0)
        if self.last_commit is None:
            return nothing
        offset, text, topic_id = self.last_commit
        progress = decode(text, offset, self.topic_id)
        if topic_id not in (self.topic_id, None):
            assert progress == Progress(offset, foreign_topic=True)
            return nothing
        last = self.last_view
        counts = dict(last.deliveries)
        for dead in last.running if self.last_alive else ():
            counts[dead] = counts.get(dead, 0) + 1
        careful = CAREFUL_STARTS if self.last_alive else last.careful
        return progress, Epoch(number, last.watermark, last.top, set(last.incomplete), counts, careful)

    def _open(self, progress: Progress, epoch: Epoch) -> None:
        self.number = epoch.number
        self.tracker.assign(0, epoch.number, self.topic_id, progress)
        self.epoch, self.has_it, self.low = epoch, True, epoch.begin
        self.published = self.tracker.view(0)
        if self.known_topic != self.topic_id or epoch.begin < self.known_begin:
            self._forget()
        assert self.tracker.view(0) == reopen(progress) == epoch.view()

    def _close(self) -> None:
        epoch = self.epoch
        assert self.tracker.revoke(0) == epoch.started
        assert not self.tracker.is_open(0, epoch.number)
        later = {offset: run for offset, run in self.known_runs.items() if offset >= epoch.position}
        self.known_runs = {one.offset: (one, epoch.counts.get(one.offset, 0)) for one in epoch.started} | later
        self.known_done |= epoch.done
        self.known_begin, self.known_topic = epoch.begin, self.topic_id
        self.stale += self.waiting
        self.waiting, self.has_it = [], False

    def _pass_time(self, meanwhile: str, picks: list[int]) -> None:
        if meanwhile == "other owner":
            self._have_other_owner(1 + picks[0], picks[-1], ends_well=len(picks) % 2 == 0)
        elif meanwhile == "set back":
            self._set_back(1 + picks[0], keeps_metadata=len(picks) % 2 == 0)
        elif meanwhile == "topic anew":
            self._make_topic_anew()

    def _have_other_owner(self, count: int, ends: int, *, ends_well: bool) -> None:
        """Another worker has the partition, runs some of it, and goes: well, or by dying while it works."""
        self.number += 1
        progress, epoch = self._begin(self.number)
        other = Tracker()
        other.assign(0, self.number, self.topic_id, progress)
        ahead = [self.log[offset] for offset in sorted(self.log) if offset >= epoch.begin]
        started = [one for one in ahead[:count] if other.polled(one)]
        assert [one for one in started if epoch.is_restored_done(one.offset)] == []
        for one in started:
            other.started(one)
        for one in started[:ends]:
            assert other.done(one)
            self.finished.add(one.value)
        self._commit(other.view(0), alive=not ends_well)

    def _set_back(self, back: int, *, keeps_metadata: bool) -> None:
        """Somebody sets the group's offset back by hand; the metadata is left, or goes."""
        if self.last_commit is None or self.last_commit[2] is None:
            return
        offset, text, topic_id = self.last_commit
        if topic_id != self.topic_id or offset == self.log_begin:
            return
        offset = max(self.log_begin, offset - back)
        self.last_commit = (offset, text if keeps_metadata else "", None)
        self.last_view, self.last_alive = View(offset), False

    def _make_topic_anew(self) -> None:
        """The topic is deleted and made again: the same offsets are other messages."""
        self.topic_id = UUID(int=self.topic_id.int + 1)
        self.log.clear()
        self.log_begin = self.log_end = 0
        if self.last_commit and self.last_commit[2] is None:
            self.last_commit = None  # nothing could tell that this offset is another topic's
        self.produce([1, 1, 2, 1], 0)

    # what is always true

    @invariant()
    def view_is_what_the_model_says(self) -> None:
        """Watermark, done-map, runs and counts, at any moment; and every change of them is told, once."""
        view, changes = self.epoch.view(), self.tracker.changes()
        assert self.tracker.view(0) == view
        assert changes == {0: view} or (changes == {} and view == self.published)
        assert self.tracker.changes() == {}
        self.published = view

    @invariant()
    def nothing_undone_is_declared_done(self) -> None:
        """Each message that is in the log, and done by what would be committed, ran to its end."""
        view = self.tracker.view(0)
        claimed = [o for o in self.log if o < view.watermark or (o < view.top and o not in view.incomplete)]
        assert [offset for offset in claimed if self.log[offset].value not in self.finished] == []

    @invariant()
    def watermark_never_goes_back(self) -> None:
        """Within an epoch it only rises."""
        watermark = self.tracker.view(0).watermark
        assert watermark >= self.low
        self.low = watermark

    @invariant()
    def after_a_kill_what_was_done_is_not_run_again(self) -> None:
        """A commit now, a new process: it runs exactly what is not done."""
        view = self.tracker.view(0)
        new = Tracker()
        new.assign(0, 1, self.topic_id, decode(encode(view, self.topic_id, alive=True), view.watermark, self.topic_id))
        for offset in sorted(offset for offset in self.log if offset >= view.watermark):
            is_done = offset < view.top and offset not in view.incomplete
            one = self.log[offset]
            assert new.polled(one) == (not is_done)
            counted = dict(view.deliveries).get(offset, 0) + (offset in view.running)
            assert new.deliveries(one) == counted


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
