"""Jobs that write down what they do in a file of their own: the truth with which the message log is compared."""

from __future__ import annotations

import time

from journal import note

__all__ = ["fail", "fail_once", "stay", "succeed"]


def succeed(path: str, name: str) -> str:
    note(path, "start", name)
    note(path, "end", name)
    return name


def fail(path: str, name: str) -> None:
    note(path, "start", name)
    note(path, "end", name)
    raise ValueError(name)


def fail_once(path: str, name: str) -> None:
    """Fail the first time that it is called, which the file tells."""
    note(path, "start", name)
    with open(path) as file:
        runs = sum(line.rstrip().endswith(f" start {name}") for line in file)
    note(path, "end", name)
    if runs == 1:
        raise ConnectionError(name)


def stay(path: str, name: str) -> None:
    note(path, "start", name)
    note(path, "end", name)
    time.sleep(3600)
