"""Virtual hosts: where brokers are and how to get in, as one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kq.clients import check_hosts
from kq.errors import ArgumentError

__all__ = ["VirtualHost", "access_to"]


@dataclass(frozen=True)
class VirtualHost:
    """Where the brokers are, and how to get in.

    :param host: Name or address of a broker; several, separated by commas, each with a port of its own if it has one.
    :param port: The port of those that are given without one.
    :param username: With ``password``: logs in by SASL.
    :param password: It is not shown by ``repr``.
    :param secure: Whether to connect by TLS.
    :param mechanism: How to log in: ``"PLAIN"``, ``"SCRAM-SHA-256"`` or ``"SCRAM-SHA-512"``.
    :param config: More settings of the client, such as ``ssl_cafile``; they win over what follows from the above.
    :raises kq.ArgumentError: An argument has the wrong type or value.
    """

    host: str = "127.0.0.1"
    port: int = 9092
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    secure: bool = False
    mechanism: str = "PLAIN"
    config: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise ArgumentError("host must be a str, and not an empty one")
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 < self.port < 65536:
            raise ArgumentError("port must be an int of 1 to 65535")
        if (self.username is None) != (self.password is None):
            raise ArgumentError("username and password go together")
        check_hosts(self.hosts)

    @property
    def hosts(self) -> str:
        """The brokers as ``"host:port,host:port"``."""
        parts = [part.strip() for part in self.host.split(",") if part.strip()]
        return ",".join(part if _has_port(part) else f"{part}:{self.port}" for part in parts)

    def settings(self) -> dict[str, Any]:
        """Return what a client of kafka-python must be told to get in."""
        kind = ("SASL_" if self.username is not None else "") + ("SSL" if self.secure else "PLAINTEXT")
        told: dict[str, Any] = {} if kind == "PLAINTEXT" else {"security_protocol": kind}
        if self.username is not None:
            told["sasl_mechanism"] = self.mechanism
            told |= {"sasl_plain_username": self.username, "sasl_plain_password": self.password}
        return {**told, **(self.config or {})}


def access_to(host: object, config: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Return the brokers of a host, and the settings of a client: those of the host, and over these the given ones."""
    if isinstance(host, VirtualHost):
        return host.hosts, {**host.settings(), **(config or {})}
    return check_hosts(host), dict(config or {})


def _has_port(address: str) -> bool:
    host, colon, _ = address.rpartition(":")
    return bool(colon) and (":" not in host or host.endswith("]"))
