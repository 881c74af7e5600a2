"""The guard: stands before every page, and lets in only what is meant for it.

1. The host that a browser names must be this one: otherwise another site has pointed its own name here (DNS rebinding).
2. Where there is a password, it is asked for.
3. Whatever changes something is a POST of a page of this very origin, with a token that only its pages have.
4. Every answer forbids the browser to load, run, frame or keep anything.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kq.web.settings import Settings, is_loopback

__all__ = ["TOKEN", "Guard", "token_of", "why_refused"]

#: The field of a form that holds the token.
TOKEN = "token"
#: What the browser may do: what this origin sends, and no more.
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: Where the seed of a browser's token is, in the state of a request.
_SEED = "kq_seed"
#: Bytes of a secret.
_SIZE = 32


class Guard:
    """Stands before an application.

    :param settings: Who may come in.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._cookie = f"kq_web_{settings.port}"
        self._secret = secrets.token_bytes(_SIZE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application do it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        known = self._seed_of(headers.get("cookie", ""))
        seed = known or secrets.token_urlsafe(_SIZE)
        scope.setdefault("state", {})[_SEED] = (seed, self._secret)

        refusal = self._refuse(headers)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer[name] = value
                if known is None and refusal is None and not scope["path"].startswith("/static/"):
                    answer.append("Set-Cookie", self._set_cookie(seed, headers))
            await send(message)

        await (self._app if refusal is None else refusal)(scope, receive, guarded)

    def _refuse(self, headers: Headers) -> Response | None:
        if not self._is_own_host(headers.get("host", "")):
            return PlainTextResponse("This dashboard is not at that address.\n", 421)
        if self._settings.password is not None and not _knows(self._settings, headers.get("authorization", "")):
            challenge = {"WWW-Authenticate": 'Basic realm="KQ", charset="UTF-8"'}
            return PlainTextResponse("A password is needed.\n", 401, challenge)
        return None

    def _is_own_host(self, host: str) -> bool:
        """Return whether a host is one that this dashboard may be called by."""
        if self._settings.behind_proxy or not is_loopback(self._settings.host):
            return True  # by names that nobody here knows: the proxy, or the password, keeps strangers out
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name)

    def _seed_of(self, cookies: str) -> str | None:
        """Return the seed that this process gave the browser; None where it is none of its own."""
        try:
            found = SimpleCookie(cookies).get(self._cookie)
        except CookieError:
            return None
        seed, _, mac = ("" if found is None else found.value).partition(".")
        return seed if seed and hmac.compare_digest(_mac(self._secret, "cookie", seed), mac) else None

    def _set_cookie(self, seed: str, headers: Headers) -> str:
        secure = "; Secure" if headers.get("x-forwarded-proto") == "https" else ""
        mac = _mac(self._secret, "cookie", seed)
        return f"{self._cookie}={seed}.{mac}; Path=/; HttpOnly; SameSite=Strict{secure}"


def token_of(request: Request) -> str:
    """Return what the forms of a page must hold."""
    seed, secret = getattr(request.state, _SEED)
    return _mac(secret, "form", seed)


def why_refused(request: Request, fields: Mapping[str, list[str]]) -> str | None:
    """Return why a form is not to be carried out; None where it may be."""
    if not _is_same_origin(request.headers):
        return "This form did not come from a page of this dashboard."
    given = (fields.get(TOKEN) or [""])[0]
    if not hmac.compare_digest(token_of(request).encode(), given.encode("utf-8", "replace")):
        return "The page was too old. Load it again, and try once more."
    return None


def _is_same_origin(headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site not in (None, "same-origin"):
        return False
    if origin is None:
        return site is not None
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(host) and host in (headers.get("host"), headers.get("x-forwarded-host"))


def _knows(settings: Settings, given: str) -> bool:
    """Return whether a header has the password; with it any name is good."""
    scheme, _, packed = given.partition(" ")
    try:
        _, colon, password = base64.b64decode(packed.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return False
    assert settings.password is not None
    return settings.password.is_right(password) and scheme.lower() == "basic" and colon == b":"


def _mac(secret: bytes, purpose: str, text: Any) -> str:
    return hmac.new(secret, f"{purpose}:{text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()
