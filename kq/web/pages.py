"""The pages: what each shows, as a dictionary for its template."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from kq.deadletters import DeadLetters
from kq.errors import KQError, StoreError
from kq.letter import REASONS, DeadLetter, parsed
from kq.message import HEADER_FUNC, HEADER_ID, HEADER_KEY
from kq.messagelog import STATUSES, MessageLog
from kq.web.inside import Inside, look_inside
from kq.web.letters import Filter
from kq.web.settings import Settings
from kq.web.single import SingleReader
from kq.web.watcher import Snapshot, TopicView, Watcher

__all__ = ["Gone", "Pages"]

#: Rows of a page, and delayed jobs that a topic's page lists.
_ROWS, _DELAYED = 50, 10
#: The furthest row that a page may begin with: of letters, and of a log, whose database passes over those before it one
#: by one.
_FURTHEST, _FURTHEST_ENTRY = 10_000_000, 100_000
#: Seconds of each choice of a time.
_SINCE: Mapping[str, int] = {"10m": 600, "1h": 3_600, "1d": 86_400, "7d": 604_800}
#: Statuses of messages that go on.
_GOES_ON = ("PUBLISHED", "IN_PROGRESS", "RETRIED")
#: Characters of a search.
_LONGEST = 200


class Gone(Exception):
    """There is no such page; the text says what is not there."""


class Turn(NamedTuple):
    """Where the pages before and behind this one are; None where there is none."""

    begin: int
    end: int
    before: str | None
    behind: str | None


class Pages:
    """Makes what the pages show. For any thread.

    :param reader: Reads single records.
    """

    def __init__(self, settings: Settings, watcher: Watcher, reader: SingleReader) -> None:
        self._settings = settings
        self._watcher = watcher
        self._reader = reader

    def overview(self, query: QueryParams) -> dict[str, Any]:
        """All topics."""
        look = self._look()
        views = list(look.topics.values())
        known = [view.rate for view in views]
        return {
            "look": look,
            "topics": views,
            "came": sum(one.came or 0 for one in known),
            "done": sum(one.done or 0 for one in known),
        }

    def topic(self, query: QueryParams, name: str) -> dict[str, Any]:
        """One topic."""
        look, view = self._topic(name)
        delays, wrong = self._watcher.delays_of(name), None
        try:
            delayed = [] if delays is None else delays.soonest(_DELAYED, self._reader)
        except KQError as error:
            delayed, wrong = [], str(error)
        return {"look": look, "view": view, "delayed": delayed, "delayed_wrong": wrong, "call": self._settings.call}

    def workers(self, query: QueryParams) -> dict[str, Any]:
        """The workers of all topics."""
        look = self._look()
        views = [view for view in look.topics.values() if view.workers or view.pauses or view.standings]
        groups = {view.name: _groups_of(view) for view in views}
        return {"look": look, "views": views, "groups": groups}

    # -- letters -------------------------------------------------------------------------------------------------------

    def letters(self, query: QueryParams) -> dict[str, Any]:
        """The letters of one topic."""
        look = self._look()
        names = [view.name for view in look.topics.values() if view.letters is not None]
        full = [view.name for view in look.topics.values() if view.letters]
        topic = query.get("topic") or next(iter(full or names), "")
        reason, function, text = (_text(query, name) for name in ("reason", "function", "text"))
        wanted = Filter(reason, function, text, query.get("replayed") == "1")
        shown: dict[str, Any] = {"look": look, "names": names, "topic": topic, "wanted": wanted, "reasons": REASONS}
        index = self._watcher.letters_of(topic) if topic in names else None
        if index is None:
            return {**shown, "found": None, "turn": None}
        begin = _begin(query)
        found = index.page(wanted, _ROWS, begin)
        turn = _turn(query, begin, len(found.letters), found.total > begin + _ROWS)
        return {**shown, "found": found, "turn": turn, "now": int(look.at), "left_out": index.left_out}

    def letter(self, query: QueryParams, topic: str, name: str) -> dict[str, Any]:
        """One letter, and what is inside."""
        look, _ = self._topic(topic)
        index = self._watcher.letters_of(topic)
        listed = None if index is None else index.get(name)
        if index is None or listed is None:
            raise Gone(f"Topic {topic} has no letter {name}: it may have been purged, or was kept long enough.")
        record = self._reader.read(index.name, listed.partition, listed.offset)
        letter = None if record is None else parsed(record)
        if letter is None:
            raise Gone(f"Letter {name} is not at its place any more: load the list again.")
        told = dict(letter.headers)
        return {
            "look": look,
            "letter": letter,
            "job": _decoded(told.get(HEADER_ID)),
            "function": _decoded(told.get(HEADER_FUNC)),
            "headers": [(name, self._header(name, value)) for name, value in letter.headers],
            "key": self._settings.arguments(_decoded(letter.key)),
            **self._inside(letter),
        }

    def _header(self, name: str, value: bytes) -> str | None:
        """Return a header as it may be shown: those of others may hold anything, and one holds a key."""
        is_ours = name.startswith("kq-") and name != HEADER_KEY
        return _decoded(value) if is_ours else self._settings.arguments(_decoded(value))

    def _inside(self, letter: DeadLetter) -> dict[str, Any]:
        if self._settings.hides_arguments:
            return {"inside": None, "size": None if letter.value is None else len(letter.value)}
        settings, value = self._settings, letter.value
        try:
            value = DeadLetters(letter.topic, settings.hosts, settings.config).value_of(letter)
        except KQError:  # too large for a letter, and gone from its place: the page says that it was left out
            return {"inside": Inside("nothing", [], True), "size": None}
        return {"inside": look_inside(value, letter.headers), "size": None if value is None else len(value)}

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def jobs(self, query: QueryParams) -> dict[str, Any]:
        """The entries of the message log."""
        store, look = self._settings.store, self._look()
        status = [name for name in query.getlist("status") if name in STATUSES]
        chosen = {name: _text(query, name) for name in ("topic", "function", "text", "since", "id")}
        begin = _begin(query, _FURTHEST_ENTRY)
        shown = {
            "look": look, "has_store": store is not None, "statuses": STATUSES, "picked": status, "chosen": chosen,
            "since": _SINCE, "wrong": None, "entries": [], "turn": None, "has_older": False,
            "arguments": self._settings.arguments,
        }  # fmt: skip
        if store is None:
            return shown
        since = _SINCE.get(chosen["since"])
        filters: dict[str, Any] = {name: chosen[name] or None for name in ("topic", "function", "text")}
        try:
            found = store.list(
                status or None,
                since=None if since is None else time.time() - since,
                limit=_ROWS + 1,
                offset=begin,
                **filters,
            )
        except StoreError as error:
            return {**shown, "wrong": str(error)}
        entries = found[:_ROWS]
        has_more, is_furthest = len(found) > _ROWS, begin == _FURTHEST_ENTRY
        turn = _turn(query, begin, len(entries), has_more and not is_furthest)
        return {**shown, "entries": entries, "turn": turn, "has_older": has_more and is_furthest}

    def job(self, query: QueryParams, name: str) -> dict[str, Any]:
        """One job's life."""
        store, look = self._settings.store, self._look()
        if store is None:
            raise Gone("There is no message log: start kq web with --store.")
        entry = store.get(name)
        if entry is None:
            raise Gone(f"The message log has no job {name}.")
        letter = f"{entry.topic}-{entry.partition}-{entry.offset}"
        index = self._watcher.letters_of(entry.topic)
        runs = [
            worker.id
            for view in look.topics.values()
            for worker in view.workers
            if any(run.id == name for run in worker.running)
        ]
        return {
            "look": look,
            "entry": entry,
            "key": self._settings.arguments(_decoded(entry.key)),
            "steps": _steps(entry),
            "goes_on": entry.status in _GOES_ON,
            "letter": letter if index is not None and index.get(letter) is not None else None,
            "runs": runs,
            "is_known": entry.topic in look.topics,
            "arguments": self._settings.arguments,
        }

    def _look(self) -> Snapshot:
        self._watcher.wait_first()
        return self._watcher.snapshot

    def _topic(self, name: str) -> tuple[Snapshot, TopicView]:
        look = self._look()
        if name not in look.topics:
            raise Gone(f"There is no topic {name}, or it is not among those that are shown.")
        return look, look.topics[name]


def _steps(entry: MessageLog) -> list[tuple[str, datetime, float | None]]:
    """Return the moments of a job's life: what happened, when, and how many seconds after the one before."""
    attempt = f"attempt {entry.attempt} " if entry.attempt > 1 else ""
    words = entry.status.lower().replace("_", " ")
    moments = [("published", entry.published_at), (f"{attempt}started", entry.started_at), (words, entry.ended_at)]
    known = sorted(((at, what) for what, at in moments if at is not None), key=lambda pair: pair[0])
    return [
        (what, at, None if place == 0 else (at - known[place - 1][0]).total_seconds())
        for place, (at, what) in enumerate(known)
    ]


def _groups_of(view: TopicView) -> list[str]:
    """Return the groups of a topic, also those that have committed nothing yet."""
    return sorted({standing.group for standing in view.standings} | {worker.group for worker in view.workers})


def _text(query: QueryParams, name: str) -> str:
    return query.get(name, "").strip()[:_LONGEST]


def _begin(query: QueryParams, furthest: int = _FURTHEST) -> int:
    told = query.get("begin", "")
    return min(int(told), furthest) if told.isascii() and told.isdigit() and len(told) < 10 else 0


def _turn(query: QueryParams, begin: int, count: int, has_more: bool) -> Turn:
    others = [(name, value) for name, value in query.multi_items() if name not in ("begin", "said") and value]
    link: Callable[[int], str] = partial(_link, others)
    before = link(max(0, begin - _ROWS)) if begin else None
    return Turn(begin + 1, begin + count, before, link(begin + _ROWS) if has_more else None)


def _link(others: list[tuple[str, str]], begin: int) -> str:
    return "?" + urlencode([*others, ("begin", str(begin))])


def _decoded(text: bytes | None) -> str | None:
    return None if text is None else text.decode("utf-8", "backslashreplace")
