"""Kafkas that take no strangers, and the ways in."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import kq

__all__ = ["LOGINS", "WAYS", "Kafkas"]

#: How to log in.
LOGINS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
#: Each way to connect.
WAYS = ("ssl", "mtls", *LOGINS)


class Kafkas:
    """Two Kafkas, started at first need: one takes logins by TLS and has access control lists, one certificates."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._made: dict[str, kq.LocalKafka] = {}

    @property
    def logins(self) -> kq.LocalKafka:
        """Takes ``bob``, whose password is known, and ``admin``."""
        return self._made.get("logins") or self._start(
            "logins", security="sasl_ssl", users={"bob": "the-hidden-word", "eve": None}, acls=True, mechanisms=LOGINS
        )

    @property
    def certificates(self) -> kq.LocalKafka:
        """Asks for a certificate, and takes also who has none."""
        asked = {"listener.name.clients.ssl.client.auth": "requested"}
        return self._made.get("certificates") or self._start(
            "certificates", security="mtls", users=["bob"], config=asked
        )

    def way(self, name: str) -> tuple[str, dict[str, Any]]:
        """Return hosts and config of a way in, for somebody whom all is allowed."""
        if name in LOGINS:
            return self.logins.hosts, self.logins.config_for("admin", name)
        config = self.certificates.client_config
        if name == "ssl":
            del config["ssl_certfile"], config["ssl_keyfile"]
        return self.certificates.hosts, config

    def _start(self, name: str, **options: Any) -> kq.LocalKafka:
        self._made[name] = self._stack.enter_context(kq.LocalKafka(**options))
        return self._made[name]
