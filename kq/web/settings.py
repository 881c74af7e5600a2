"""Settings of the dashboard: where it looks, who may look, and what is kept from them."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kq.errors import ArgumentError
from kq.messagelog import MessageStore
from kq.signing import Signer
from kq.utils import MASKED

__all__ = ["DEFAULT_PORT", "Password", "Settings", "check_address", "is_loopback", "read_password"]

#: Where the dashboard is unless something else is said.
DEFAULT_PORT = 8817
#: Bytes of a file that holds a password, at most.
_LONGEST = 4_096


class Password:
    """A password, of which only a hash is kept."""

    def __init__(self, text: bytes) -> None:
        self._digest = hashlib.sha256(text).digest()

    def is_right(self, given: bytes) -> bool:
        """Return whether this is it, in a time that tells nothing."""
        return hmac.compare_digest(self._digest, hashlib.sha256(given).digest())


class Settings(NamedTuple):
    """What the command was told.

    :param topics: Only these; all where there are none.
    :param store: The message log, where there is one.
    :param signer: Verifies letters and what workers say, and signs what is replayed and what is wished.
    :param behind_proxy: A proxy asks people who they are, and says to which host they came.
    :param hides_arguments: Whether the arguments of calls, keys, and what jobs return, are shown to nobody.
    """

    hosts: str
    config: Mapping[str, Any] = {}
    topics: tuple[str, ...] = ()
    store: MessageStore | None = None
    signer: Signer | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    password: Password | None = None
    behind_proxy: bool = False
    read_only: bool = False
    hides_arguments: bool = False

    def __repr__(self) -> str:
        return f"Settings(hosts={self.hosts})"

    def arguments(self, text: str | None) -> str | None:
        """Return arguments, a key, or what a job returned, as they may be shown: the one place that decides it."""
        return MASKED if self.hides_arguments and text is not None else text

    def call(self, text: str) -> str:
        """Return a call as it may be shown."""
        name, bracket, _ = text.partition("(")
        return f"{name}({MASKED})" if self.hides_arguments and bracket else text


def is_loopback(host: str) -> bool:
    """Return whether only this machine gets to an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(settings: Settings) -> None:
    """Raise :class:`kq.ArgumentError` where others could get to the dashboard, and nobody asks who they are."""
    if settings.password is None and not settings.behind_proxy and not is_loopback(settings.host):
        raise ArgumentError(
            f"other machines can get to {settings.host}: give --password-file, or --behind-proxy where a proxy asks "
            f"who it is"
        )


def read_password(path: str | os.PathLike[str]) -> Password:
    """Return the password that stands in the first line of a file.

    :raises kq.ArgumentError: Others than its owner can read or write the file, or it holds none.
    :raises OSError: It cannot be read.
    """
    with Path(path).open("rb") as file:
        if os.name == "posix" and os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ArgumentError(f"{path} can be read or written by others: chmod 600 {path}")
        line = file.read(_LONGEST).partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise ArgumentError(f"{path} holds no password: it stands in the first line")
    return Password(line)
