"""Tokens by which a client logs in with the mechanism OAUTHBEARER.

A client asks its provider for a token whenever it connects; whoever makes tokens has to keep one until it ends.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kafka.net.sasl.oauth import AbstractTokenProvider

__all__ = ["TokenProvider", "token_from_file", "unsecured_token"]

#: Seconds for which a token without a signature holds.
_LIFETIME = 3600


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc,unused-ignore]
    """Take tokens from a function. No repr shows one.

    :param make: Called for each connection; returns the token, as text.
    """

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def token(self) -> str:
        """Return a token for a connection that is made now."""
        return self._make()


def token_from_file(path: str | Path) -> TokenProvider:
    """Return a provider that reads its token from a file, each time anew: somebody else renews it."""
    return TokenProvider(lambda: Path(path).read_text(encoding="ascii").strip())


def unsecured_token(user: str) -> TokenProvider:
    """Return a provider of tokens that nobody has signed; a broker takes them only for development and tests."""
    return TokenProvider(lambda: _unsigned(user, int(time.time())))


def _unsigned(user: str, now: int) -> str:
    """Return a JSON Web Token (RFC 7519, section 6).

    :param now: In whole seconds: a broker refuses what was made later than its own clock, which has milliseconds.
    """
    return f"{_part({'alg': 'none'})}.{_part({'sub': user, 'iat': now, 'exp': now + _LIFETIME})}."


def _part(content: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
