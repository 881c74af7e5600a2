"""The mutants: edits of the library, each of which breaks one of its promises, and the tests that are to notice."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """One edit: what it breaks, where, and which tests are to notice; these are files or functions, in any file."""

    name: str
    file: str
    before: str
    after: str
    tests: str
    #: Its tests need no Kafka and are done in seconds.
    is_short: bool = False


MUTANTS = [
    # -- never commit past a message that is not done
    Mutant(
        "commit from the highest seen",
        "kq/consuming/tracker.py",
        "return next(iter(self.incomplete), self.position)",
        "return self.position",
        "test_tracker.py",
        is_short=True,
    ),
    Mutant(
        "done-map claims what is not done",
        "kq/consuming/metadata.py",
        "        if len(gaps) + _size(gap) > room:\n            top = offset\n",
        "        if len(gaps) + _size(gap) > room:\n",
        "test_metadata.py",
        is_short=True,
    ),
    Mutant(
        "done-map without topic id",
        "kq/consuming/metadata.py",
        "if topic_id is not None and body[:16] not in (topic_id.bytes, _NO_TOPIC.bytes):",
        "if False:",
        "test_metadata.py",
        is_short=True,
    ),
    Mutant(
        "auto-commit left on",
        "kq/clients/kafka_python.py",
        'consumer.config["enable_auto_commit"] = config["enable_auto_commit"] = False',
        "pass",
        "test_auto_commit_never_commits_a_job_that_runs test_a_consumer_with_auto_commit_commits_no_job_that_runs",
    ),
    # -- a completion of a closed epoch commits nothing; no position is trusted
    Mutant(
        "no epoch check",
        "kq/consuming/tracker.py",
        "return current is not None and current.epoch == epoch",
        "return current is not None",
        "test_tracker.py",
        is_short=True,
    ),
    Mutant(
        "completion without identity check",
        "kq/consuming/tracker.py",
        "        if partition is None or partition.running.get(offset) is not message:\n            if self",
        "        if partition is None or offset not in partition.running:\n            if self",
        "test_tracker.py",
        is_short=True,
    ),
    Mutant(
        "another record at the same offset is adopted",
        "kq/consuming/tracker.py",
        "if run is not None and run[3:6] == message[3:6]:",
        "if run is not None:",
        "test_tracker.py",
        is_short=True,
    ),
    Mutant(
        "no seek on assignment",
        "kq/consuming/feed.py",
        "kafka_python.seek(self.consumer, tp, offset, leader_epoch)",
        "pass",
        "test_pump.py",
        is_short=True,
    ),
    Mutant(
        "records left where the client has parked them",
        "kq/consuming/pump.py",
        "kafka_python.unpark(self._consumer)",
        "pass",
        "test_kafka_python.py",
    ),
    # -- what is done is committed
    Mutant(
        "no commit at revoke",
        "kq/consuming/pump.py",
        "            await self._consumer.commit_async(offsets)\n",
        "            pass\n",
        "test_a_partition_that_goes_is_committed_first",
    ),
    Mutant(
        "a refused commit counts as made",
        "kq/consuming/committer.py",
        "        if not isinstance(answer, BaseException):\n",
        "        if True:\n",
        "test_a_commit_that_was_refused_is_made_again",
    ),
    Mutant(
        "a refused commit is waited for no more",
        "kq/consuming/committer.py",
        "            return\n        self.flushes = commit.flushes + self.flushes\n",
        "            return\n        for flush in commit.flushes:\n            flush.set()\n",
        "test_a_commit_that_was_refused_is_made_again",
    ),
    # -- same key: one at a time, in order; a suspect runs alone
    Mutant(
        "two of one key at a time",
        "kq/working/backlog.py",
        "            if lane in self._lanes:\n",
        "            if False:\n",
        "test_one_key_runs_one_at_a_time_in_order test_a_partition_runs_in_order",
        is_short=True,
    ),
    Mutant(
        "the last of one key overtakes",
        "kq/working/backlog.py",
        "heappush(self._freed, waiting.popleft())",
        "heappush(self._freed, waiting.pop())",
        "test_one_key_runs_one_at_a_time_in_order",
        is_short=True,
    ),
    Mutant(
        "a suspect starts beside others",
        "kq/working/messages.py",
        "            if self.running or not is_first:\n",
        "            if not is_first:\n",
        "test_a_suspect_waits_for_what_runs_and_all_wait_for_it",
        is_short=True,
    ),
    Mutant(
        "others start beside a suspect",
        "kq/working/messages.py",
        "message = self.backlog.take() if self.suspect is None else self.suspect",
        "message = self.backlog.take() if self.suspect is None or self.running else self.suspect",
        "test_a_suspect_waits_for_what_runs_and_all_wait_for_it",
        is_short=True,
    ),
    Mutant(
        "a worker's death is counted against nothing",
        "kq/consuming/tracker.py",
        "        deaths = partition.deliveries.get(message.offset, 0)\n",
        "        deaths = 0\n",
        "test_tracker.py",
        is_short=True,
    ),
    Mutant(
        "the next owner is not told that a worker died",
        "kq/consuming/metadata.py",
        "    _put(head, int(alive), ",
        "    _put(head, 0, ",
        "test_tracker.py test_tracker_model.py",
        is_short=True,
    ),
    # -- many at once are as one after the other
    Mutant(
        "completion of many without identity check",
        "kq/consuming/tracker.py",
        "if partition is None or not is_plain or partition.running.get(offset) is not message:",
        "if partition is None or not is_plain:",
        "test_bulk.py",
        is_short=True,
    ),
    Mutant(
        "many start though something is counted",
        "kq/consuming/tracker.py",
        "return not any(partition.deliveries or partition.careful for partition in self._partitions.values())",
        "return True",
        "test_bulk.py",
        is_short=True,
    ),
    # -- after every wait the news is read before anything starts
    Mutant(
        "a callback's time is forgotten",
        "kq/working/loop.py",
        "        self._take_in()  # callbacks and commits took their time: partitions may have moved meanwhile\n",
        "",
        "test_what_a_callback_waited_through_is_news_before_anything_starts",
        is_short=True,
    ),
    Mutant(
        "a commit's time is forgotten",
        "kq/working/loop.py",
        "        if is_careful or refused or companions.admit_starts:  # also a callback takes its time\n"
        "            self._look_again()\n",
        "",
        "test_what_a_commit_waited_through_is_news_before_anything_starts",
        is_short=True,
    ),
    Mutant(
        "a member that nobody vouches for starts jobs",
        "kq/working/loop.py",
        "while not (self._pump.is_vouched(time.monotonic()) or self._stop.requests):",
        "while False:",
        "test_after_a_commit_that_took_long_the_coordinator_is_asked_for",
        is_short=True,
    ),
    # -- publish, acknowledge, then complete
    Mutant(
        "done before its records are published",
        "kq/working/settle.py",
        "        if records and again is None:\n",
        "        if False:\n",
        "test_a_refused_record_keeps_its_own_message_undone_and_no_other",
    ),
    Mutant(
        "a refused record counts as acknowledged",
        "kq/working/publisher.py",
        "                self._try_again(entry, error, now)\n                continue\n",
        "                pass\n",
        "test_a_refused_record_keeps_its_own_message_undone_and_no_other",
    ),
    Mutant(
        "a refused record is forgotten",
        "kq/working/publisher.py",
        "        heappush(self._refused, (now + wait, self._count, entry))\n",
        "",
        "test_a_refused_record_keeps_its_own_message_undone_and_no_other",
    ),
    Mutant(
        "the failure of a companion is no reason to wait",
        "kq/working/settle.py",
        "            heappush(self._unanswered, (time.monotonic() + wait, id(message), wait, message))\n"
        "            return Settled(message, outcome, waits=True)\n",
        "            return Settled(message, outcome)\n",
        "test_a_companion_that_fails_loses_no_message",
    ),
    # -- retries and letters
    Mutant(
        "an attempt is not counted",
        "kq/working/retrier.py",
        'b"%d" % (attempt_of(message) + 1)',
        'b"%d" % attempt_of(message)',
        "test_attempts_in_place_end",
        is_short=True,
    ),
    Mutant(
        "the lane of a job that waits is open",
        "kq/working/messages.py",
        "        if self.tracker.again(message, again):\n",
        "        self.free(message)\n        if self.tracker.again(message, again):\n",
        "test_the_lane_of_a_failed_job_stays_closed",
        is_short=True,
    ),
    Mutant(
        "a letter for each attempt",
        "kq/working/letters.py",
        " or outcome.retry_in is not None:",
        ":",
        "test_each_reason",
    ),
    Mutant(
        "a replay marks nothing",
        "kq/replaying.py",
        "marked(record.headers, now)",
        "record.headers",
        "test_replay_runs_a_letter_once",
    ),
    # -- what a consumer is asked, and how a set ends
    Mutant(
        "an answer about a message makes no news old",
        "kq/working/loop.py",
        "if is_careful or refused or companions.admit_starts:",
        "if is_careful or refused:",
        "test_admission.py",
        is_short=True,
    ),
    Mutant(
        "what was refused starts",
        "kq/working/loop.py",
        "            starting.remove(end.message)\n",
        "            pass\n",
        "test_admission.py",
        is_short=True,
    ),
    Mutant(
        "what was given up is held for ever",
        "kq/fleet/attendant.py",
        "        self._held.pop(id(message), None)\n\n",
        "        pass\n\n",
        "test_admission.py",
        is_short=True,
    ),
    Mutant(
        "a consumer with tasks unpickles what names none",
        "kq/fleet/attendant.py",
        "        if not hooks.task_types:\n",
        "        if name not in hooks.task_types:\n",
        "test_a_consumer_with_tasks_unpickles_nothing",
    ),
    Mutant(
        "each consumer is waited for before the next one is told",
        "kq/fleet/consumer_set.py",
        "            consumer.stop(now=now)\n",
        "            consumer.stop(now=now)\n            consumer.join()\n",
        "test_nothing_starts_after_stop_consuming",
    ),
    # -- bytes are verified before anything loads them; JSON calls nothing but what its list allows
    Mutant(
        "any signature is good",
        "kq/signing.py",
        "if not compare_digest(",
        "if not (",
        "test_each_bit_counts",
        is_short=True,
    ),
    Mutant(
        "a header may stand twice",
        "kq/signing.py",
        "if layout.doubled is not None:",
        "if False:",
        "test_a_header_that_is_removed_added_or_doubled_is_seen",
        is_short=True,
    ),
    Mutant(
        "messages are not verified",
        "kq/working/verifier.py",
        "            verify(JOB, message, int(time.time() * 1000))\n",
        "            pass\n",
        "test_no_attack_is_unpickled",
    ),
    Mutant(
        "wishes are not verified",
        "kq/controlling/seal.py",
        "            self._signer.verify(CONTROL, record, now)\n",
        "            pass\n",
        "test_a_forged_wish_has_no_effect",
    ),
    Mutant(
        "results are not verified",
        "kq/resulting/consumer.py",
        "            self._signer.verify(RESULT, record, now, since=now)\n",
        "            pass\n",
        "test_a_reader_of_results",
    ),
    Mutant(
        "what an exception says is written",
        "kq/executors/telling.py",
        "return MASKED if hides and",
        "return MASKED if not hides and",
        "test_of_an_exception_places_and_classes_are_told",
        is_short=True,
    ),
    Mutant(
        "a delayed job is signed whoever wrote it",
        "kq/scheduling/stamp.py",
        "            return record\n        return self._signer.sign(JOB, record, now)\n",
        "            pass\n        return self._signer.sign(JOB, record, now)\n",
        "test_a_forged_delayed_job_is_invalid",
    ),
    Mutant(
        "a letter gets anybody a signature",
        "kq/replaying.py",
        "        where.signer.verify(JOB, message, now, since=now)\n",
        "",
        "test_a_letter_of_what_was_never_signed_is_not_replayed",
    ),
    Mutant(
        "names are checked where they are used",
        "kq/serializers/plain.py",
        '        self._allowed.check(payload["func"])\n',
        "",
        "test_nothing_is_imported_before_all_names_have_passed",
        is_short=True,
    ),
    Mutant(
        "a worker believes its children",
        "kq/executors/process/packing.py",
        "    if serializer is not None:\n        error = _told(result)\n    elif",
        "    if",
        "test_a_child_cannot_have_the_worker_unpickle",
        is_short=True,
    ),
    # -- every message that was started ends in exactly one outcome
    Mutant(
        "successes forgotten when their child dies",
        "kq/executors/process/children.py",
        "self._outcomes.succeed_through(child, child.ended())",
        "pass",
        "test_the_death_of_a_child_does_not_take_successes_with_it",
    ),
    Mutant(
        "a result before the successes that came before it",
        "kq/executors/process/outcomes.py",
        "        self.succeed_through(child, result.number - 1)\n",
        "",
        "test_successes_that_are_told_together_are_not_mistaken",
        is_short=True,
    ),
    Mutant(
        "a fork of a job goes on as a second child",
        "kq/executors/process/child.py",
        "        if self._forked and self._has_forked_copy(number):\n",
        "        if False:\n",
        "test_successes_that_are_told_together_are_not_mistaken",
        is_short=True,
    ),
    # -- a stop works whenever it comes
    Mutant(
        "a raising signal handler",
        "kq/working/stop.py",
        "        self.look()\n        if self._arrivals is None or",
        "        raise KeyboardInterrupt\n        if self._arrivals is None or",
        "test_stop.py",
    ),
    # -- what was injected is never closed; every buffer has a bound
    Mutant(
        "the user's consumer is closed",
        "kq/consuming/pump.py",
        "        if self._make is not None:\n            kafka_python.throw_away(",
        "        if True:\n            kafka_python.throw_away(",
        "test_the_consumer_of_the_user_is_never_closed",
    ),
    Mutant(
        "full metadata pauses nothing",
        "kq/consuming/assignment.py",
        "return self.crowded and self.next >= self.view.top",
        "return False",
        "test_nearly_full_metadata_pauses_what_would_add_to_it",
        is_short=True,
    ),
    # -- a fork of the worker's process is not the worker
    Mutant(
        "forks keep the worker's signal handlers",
        "kq/working/stop.py",
        "    while _present:\n        _present.pop().end()\n",
        "",
        "test_a_fork_has_the_handlers_of_before",
    ),
    # A rule that gets a test gets a mutant here, below the line that names its kind.
    # -- a setting of security is never left out, and no password is shown
    Mutant(
        "passwords have a repr",
        "kq/clients/properties.py",
        "Secret(value) if name in SECRETS and isinstance(value, str) else value",
        "value",
        "test_properties.py",
        is_short=True,
    ),
    Mutant(
        "unknown settings of Java's are left out",
        "kq/clients/properties.py",
        '        raise ArgumentError(f"config has settings that kafka-python does not know: {name}")\n',
        "        return {}\n",
        "test_properties.py",
        is_short=True,
    ),
    Mutant(
        "the client logs its login",
        "kq/clients/kafka_python.py",
        "logging.getLogger(name).addFilter(_has_no_login)",
        "pass",
        "test_a_wrong_password",
    ),
    Mutant(
        "a wrong password is sent until the time is up",
        "kq/clients/making.py",
        "if lasting is not None and (",
        "if False and (",
        "test_a_wrong_password",
    ),
    Mutant(
        "one that may not see a topic waits for it",
        "kq/clients/reader.py",
        "if not found and self._is_hidden(consumer):",
        "if False:",
        "test_a_right_that_a_worker_misses_is_in_its_log",
    ),
]
