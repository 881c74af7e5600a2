"""Certificates of a local Kafka, and of the users who log in to it by them.

1. ``make_certificates`` makes an authority, a certificate for the nodes, and one for each user.
2. They are PEM, which both Kafka and Python read, in files that only their owner can read.

They are made anew for each start, and hold for a month: a local Kafka is for development and tests.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from kq.errors import MissingExtra

__all__ = ["NODE", "issue", "make_certificates", "node_context", "write_secret"]

#: Whose name the nodes' own certificate has.
NODE = "kq-node"
#: What clients may call a node.
_HOSTS = ("127.0.0.1", "localhost")
#: How long a certificate holds. A Kafka that runs for longer is no longer one for tests.
_LIFETIME = timedelta(days=30)
#: How much earlier it begins to hold: clocks of containers and virtual machines differ.
_EARLIER = timedelta(days=1)


def make_certificates(folder: Path, users: Iterable[str]) -> Any:
    """Write ``ca.pem``, ``node.pem`` and a file for each user into a folder; return the authority.

    :raises kq.MissingExtra: ``kq[broker]`` is not installed.
    """
    authority = _trustme().CA(organization_name="KQ for development and tests")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(folder / "ca.pem", authority.cert_pem.bytes())
    issue(authority, folder / f"{NODE}.pem", NODE, *_HOSTS)
    for user in users:
        issue(authority, folder / f"{user}.pem", user)
    return authority


def issue(authority: Any, path: Path, name: str, *hosts: str, ends: datetime | None = None) -> None:
    """Write a certificate and its key into one file.

    :param name: Of whom it is for.
    :param hosts: Names and addresses at which it is valid as a server's.
    :param ends: Until when it holds.
    """
    now = datetime.now(timezone.utc)
    ends = now + _LIFETIME if ends is None else ends
    begins = min(now, ends) - _EARLIER
    names = hosts or (f"{name}@kq.invalid",)  # Java refuses a certificate whose list of names is empty
    made = authority.issue_cert(*names, common_name=name, not_before=begins, not_after=ends)
    chain = b"".join(part.bytes() for part in made.cert_chain_pems)
    write_secret(path, _pkcs8(made.private_key_pem.bytes()) + chain)


def node_context(folder: Path) -> ssl.SSLContext:
    """Return what gets a connection to a node, as a node."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / f"{NODE}.pem")
    return context


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _pkcs8(key: bytes) -> bytes:
    """Return a private key in the one form that Kafka reads."""
    from cryptography.hazmat.primitives import serialization  # trustme brings it

    private = serialization.load_pem_private_key(key, None)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _trustme() -> Any:
    try:
        import trustme
    except ImportError as error:
        raise MissingExtra('certificates need an extra: pip install "kq[broker]"') from error
    return trustme
