"""Steering: what the buttons of the pages do.

1. A form is an action and its fields. ``action_of`` returns it, with the words for it, or says what is wrong.
2. ``perform`` does it, with ``kq.Control`` and ``kq.DeadLetters``, which are made at first use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import NamedTuple

from kq.clients import check_topic
from kq.control import Control
from kq.deadletters import DeadLetters
from kq.errors import ArgumentError
from kq.web.settings import Settings
from kq.web.tasks import Task

__all__ = ["ACTIONS", "Action", "Steering", "action_of"]

#: Characters of a name in a form.
_LONGEST = 500
#: IDs of letters in a form: a page has fewer.
_MOST = 1_000


class Action(NamedTuple):
    """Something that is asked for.

    :param title: What it is, in words, as a heading.
    :param question: What is asked first; None where it is done at once.
    :param names: IDs of jobs, workers or letters; of letters none stands for all.
    """

    name: str
    topic: str
    title: str
    question: str | None = None
    names: tuple[str, ...] = ()
    group: str | None = None
    reason: str | None = None
    until: float | None = None


def _letters(names: tuple[str, ...], reason: str | None) -> str:
    if len(names) == 1:
        return f"letter {names[0]}"
    return f"{len(names):,} letters" if names else f"all letters{f' with reason {reason}' if reason else ''}"


def _pause(topic: str, group: str | None) -> str:
    return f"group {group} of topic {topic}" if group else f"topic {topic}"


#: What each action is called, and the question before it.
ACTIONS: Mapping[str, tuple[str, str | None]] = {
    "pause": ("Pause", None),
    "resume": ("Resume", None),
    "cancel": ("Cancel", None),
    "terminate": ("Terminate", "The job is ended where it runs, and is a failure. It does not run again."),
    "stop": ("Stop", "The worker finishes what it runs, and ends. Nothing here starts it again."),
    "replay": ("Replay", None),
    "purge": ("Purge", "Purged letters are gone for good."),
}
_REPLAY_ALL = "Their messages go onto the topic again, and workers run them."


def action_of(name: str, fields: Mapping[str, list[str]], now: float) -> Action:
    """Return what a form asks for.

    :param now: Unix seconds: letters that come later are not meant.
    :raises kq.ArgumentError: It asks for nothing that can be done.
    """
    if name not in ACTIONS:
        raise ArgumentError("there is no such action")
    topic = check_topic(_one(fields, "topic"))
    names = tuple(dict.fromkeys(filter(None, map(str.strip, fields.get("name", [])))))
    group, reason = _one(fields, "group") or None, _one(fields, "reason") or None
    if len(names) > _MOST or any(len(one) > _LONGEST for one in (*names, group or "")):
        raise ArgumentError("that is too much for one form")
    verb, question = ACTIONS[name]
    if name in ("pause", "resume"):
        return Action(name, topic, f"{verb} {_pause(topic, group)}", None, (), group)
    if name in ("replay", "purge"):
        if not names and _one(fields, "all") != "yes":
            raise ArgumentError("choose letters first")
        question = _REPLAY_ALL if name == "replay" and len(names) != 1 else question
        until = float(_one(fields, "until") or now) if not names else None
        return Action(name, topic, f"{verb} {_letters(names, reason)}", question, names, None, reason, until)
    if len(names) != 1:
        raise ArgumentError("name a worker" if name == "stop" else "name a job")
    what = "worker" if name == "stop" else "job"
    return Action(name, topic, f"{verb} {what} {names[0]}", question, names)


def _one(fields: Mapping[str, list[str]], name: str) -> str:
    return (fields.get(name) or [""])[0].strip()


class Steering:
    """Does what is asked for, from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._controls: dict[str, Control] = {}

    def close(self) -> None:
        """Let the clients go."""
        with self._lock:
            for control in self._controls.values():
                control.close()

    def perform(self, action: Action, task: Task) -> str:
        """Do what is asked for, and say what was done.

        :raises kq.KQError: It could not be done.
        """
        if action.name in ("replay", "purge"):
            return self._change(action, task)
        control = self._control(action.topic)
        if action.name in ("pause", "resume"):
            (control.pause if action.name == "pause" else control.resume)(action.group)
            return f"{_pause(action.topic, action.group).capitalize()} is {action.name}d"
        (name,) = action.names
        if action.name == "stop":
            control.shutdown(name)
            return f"Worker {name} is asked to stop"
        wish: Callable[[str], None] = control.cancel if action.name == "cancel" else control.terminate
        wish(name)
        return f"Job {name} is {'cancelled' if action.name == 'cancel' else 'terminated'}"

    def _change(self, action: Action, task: Task) -> str:
        settings = self._settings
        found = DeadLetters(action.topic, settings.hosts, settings.config, signer=settings.signer)
        change = found.replay if action.name == "replay" else found.purge
        if action.names:
            count = change(action.names, on_progress=task.progress)
        else:
            until = None if action.until is None else datetime.fromtimestamp(action.until, timezone.utc)
            count = change(reason=action.reason, until=until, on_progress=task.progress)  # type: ignore[arg-type]
        return f"{count:,} letter{'' if count == 1 else 's'} {action.name}{'ed' if action.name == 'replay' else 'd'}"

    def _control(self, topic: str) -> Control:
        with self._lock:
            if topic not in self._controls:
                settings = self._settings
                self._controls[topic] = Control(topic, settings.hosts, settings.config, signer=settings.signer)
            return self._controls[topic]
