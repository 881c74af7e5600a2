"""What each role may do at least, where Kafka has access control lists.

A right on a topic to read, write or change it brings the right to describe it. Rights to make topics are in none of the
roles but ``topics``: topics are made by who may, before the others come.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kq.errors import ArgumentError

__all__ = ["ROLES", "Right", "commands", "rights_of"]


class Right(NamedTuple):
    """A right on a topic or a group.

    :ivar operation: Kafka's word for what may be done: ``"Read"``, ``"Write"``, ``"DescribeConfigs"`` …
    :ivar kind: ``"topic"`` or ``"group"``.
    :ivar name: Its name; ``{topic}`` and ``{group}`` stand for those of the jobs.
    :ivar purpose: What it is for.
    """

    operation: str
    kind: str
    name: str
    purpose: str


def _topic(name: str, purpose: str, *operations: str) -> list[Right]:
    return [Right(operation, "topic", name, purpose) for operation in operations]


def _group(name: str, purpose: str, *operations: str) -> list[Right]:
    return [Right(operation, "group", name, purpose) for operation in operations]


_FIRING = [
    *_topic("{topic}", "to fire what is due, and to run attempts again", "Write"),
    *_topic("{topic}.later", "delayed jobs and schedules", "Read", "Write"),
    *_group("{topic}.later", "to share them with other workers and schedulers", "Read"),
]
#: Role -> its rights.
ROLES: Mapping[str, Sequence[Right]] = {
    "producer": [
        *_topic("{topic}", "to enqueue", "Write"),
        *_topic("{topic}.later", "to enqueue with a delay, and schedules: to list them is to read", "Read", "Write"),
    ],
    "worker": [
        *_topic("{topic}", "the jobs", "Read"),
        *_group("{group}", "to share them with other workers", "Read"),
        *_FIRING,
        *_topic("{topic}.dead", "dead_letters=True", "Write"),
        *_topic("{topic}.results", "results=True", "Write"),
        *_topic("{topic}.control", "control", "Read", "Write"),
    ],
    "scheduler": [*_FIRING, *_topic("{topic}.control", "which delayed jobs are cancelled", "Read")],
    "results": _topic("{topic}.results", "kq.Results, kq.ResultConsumer, kq result", "Read"),
    "control": [
        *_topic("{topic}.control", "kq.Control, kq ps, kq cancel and the like", "Read", "Write"),
        *_topic("{topic}", "how far groups are", "Read"),
        *_group("{group}", "how far it is", "Describe"),
    ],
    "dead-letters": [
        *_topic("{topic}.dead", "to list, and to mark or remove letters", "Read", "Write"),
        *_topic("{topic}", "to replay", "Write"),
    ],
    "cli": [
        *_topic("{topic}", "kq info, kq worker --check", "Read"),
        *_topic("{topic}.later", "kq info: what waits", "Read"),
        *_group("{group}", "kq info, kq group reset, kq skip", "Read"),
    ],
    "topics": [
        *_topic("{topic}", "kq topic create, kq topic delete", "Create", "Describe", "Delete"),
    ],
}


def rights_of(role: str, topic: str, group: str | None = None) -> list[Right]:
    """Return the rights of a role on a topic.

    :param group: The group of the workers; named like the topic if left out.
    :raises kq.ArgumentError: There is no such role.
    """
    if role not in ROLES:
        raise ArgumentError(f"role must be one of {', '.join(ROLES)}, not {role!r}")
    names = {"topic": topic, "group": group or topic}
    return [right._replace(name=right.name.format(**names)) for right in ROLES[role]]


def commands(
    rights: Sequence[Right], principal: str, hosts: str, command_config: str | None = None, *, remove: bool = False
) -> list[str]:
    """Return the commands that give these rights: one for each topic and group.

    :param principal: To whom, in Kafka's words: ``"User:bob"``.
    :param command_config: File of settings for the command itself.
    :param remove: Whether they take the rights away.
    """
    verb = ["--remove", "--force"] if remove else ["--add"]
    base = ["kafka-acls.sh", "--bootstrap-server", hosts]
    base += ["--command-config", command_config] if command_config else []
    found: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        found.setdefault((right.kind, right.name), []).append(right.operation)
    return [
        shlex.join(
            [
                *(*base, *verb, "--allow-principal", principal),
                *(word for operation in operations for word in ("--operation", operation)),
                *(f"--{kind}", name),
            ]
        )
        for (kind, name), operations in found.items()
    ]
