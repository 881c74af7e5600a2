"""Who the dashboard lets in, and what a browser may do with its pages."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

import kq
from kq.web import Password, Settings, check_address, read_password
from kq.web.guard import Guard, token_of, why_refused

ORIGIN = "http://127.0.0.1:8817"


async def room(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a GET with the token, and a POST with why it is refused."""
    request = Request(scope, receive)
    text = token_of(request)
    if request.method == "POST":
        text = str(why_refused(request, {"token": [request.query_params.get("token", "")]}))
    await PlainTextResponse(text)(scope, receive, send)


def client_of(base: str = ORIGIN, **settings: object) -> TestClient:
    """Return a browser, as it were."""
    return TestClient(Guard(room, Settings("h:1", **settings)), base_url=base)  # type: ignore[arg-type]


def post(client: TestClient, token: str, **headers: str) -> str:
    """Send a form; return why it was refused, or ``None``."""
    return client.post(
        "/", params={"token": token}, headers={name.replace("_", "-"): headers[name] for name in headers}
    ).text


@pytest.mark.parametrize("path", ["/", "/nothing", "/static/kq.js"])
def test_every_answer_forbids_all_but_its_own(path: str) -> None:
    """No other origin, no frame, no guess of a type, nothing kept."""
    headers = client_of().get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "script-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("base", [ORIGIN, "http://localhost:8817", "http://[::1]:8817", "http://127.0.0.1"])
def test_it_answers_to_names_of_this_machine(base: str) -> None:
    """However somebody writes it."""
    assert client_of(base).get("/").status_code == 200


@pytest.mark.parametrize("base", ["http://evil.example:8817", "http://10.0.0.1:8817", "http://localhost.evil.example"])
def test_a_name_that_another_site_points_here_is_refused(base: str) -> None:
    """With DNS rebinding a browser takes this dashboard for that site's."""
    answer = client_of(base).get("/")
    assert answer.status_code == 421
    assert "set-cookie" not in answer.headers
    assert client_of(base, behind_proxy=True).get("/").status_code == 200


def test_a_form_needs_the_token_of_its_own_browser() -> None:
    """From a page of this origin; the cookie is kept from scripts and from other sites."""
    client = client_of()
    answer = client.get("/")
    assert "HttpOnly" in answer.headers["set-cookie"] and "SameSite=Strict" in answer.headers["set-cookie"]
    token = answer.text
    assert client.get("/").text == token
    assert post(client, token, origin=ORIGIN) == "None"
    assert post(client, token, sec_fetch_site="same-origin") == "None"
    assert "too old" in post(client, "", origin=ORIGIN)
    assert "too old" in post(client, "é" * 64, origin=ORIGIN)
    assert "too old" in post(client, client_of().get("/").text, origin=ORIGIN)
    without = client_of()
    assert "too old" in post(without, token, origin=ORIGIN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8818"},
        {"origin": "http://["},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": ORIGIN},
        {"sec_fetch_site": "none"},
    ],
)
def test_a_form_of_another_origin_is_refused(headers: dict[str, str]) -> None:
    """Also with a token that is right."""
    client = client_of()
    assert "did not come from a page" in post(client, client.get("/").text, **headers)


def test_a_cookie_that_somebody_made_is_none() -> None:
    """Its seed is not taken: with one that another site has set, that would know the token."""
    client = client_of()
    client.cookies.set("kq_web_8817", "seed.0123", domain="127.0.0.1")
    assert "set-cookie" in client.get("/").headers


@pytest.mark.parametrize("user", ["", "kq", "somebody"])
def test_the_password_is_asked_for(user: str) -> None:
    """Whatever the name is."""
    client = client_of("http://kq.example", host="0.0.0.0", password=Password(b"se cret"))
    answer = client.get("/")
    assert (answer.status_code, answer.headers["www-authenticate"].split()[0]) == (401, "Basic")
    assert client.get("/", auth=(user, "se cret")).status_code == 200
    assert client.get("/", auth=(user, "secret")).status_code == 401
    for given in ("Basic", "Basic ?", "Bearer x", "Basic " + base64.b64encode(b"se cret").decode()):
        assert client.get("/", headers={"authorization": given}).status_code == 401


def test_a_password_file_is_its_owners_alone(tmp_path: Path) -> None:
    """The first line counts; no repr holds it."""
    path = tmp_path / "password"
    path.write_text("one\ntwo\n")
    path.chmod(0o640)
    with pytest.raises(kq.ArgumentError, match="chmod 600"):
        read_password(path)
    path.chmod(0o600)
    password = read_password(path)
    assert (password.is_right(b"one"), password.is_right(b"two"), password.is_right(b"")) == (True, False, False)
    assert repr(Settings("h:1", {"sasl_plain_password": "one"}, password=password)) == "Settings(hosts=h:1)"
    path.write_text("\n")
    with pytest.raises(kq.ArgumentError, match="holds no password"):
        read_password(path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "kq.example"])
def test_others_get_in_only_where_they_are_asked(host: str) -> None:
    """By a password, or by a proxy."""
    with pytest.raises(kq.ArgumentError, match="--password-file"):
        check_address(Settings("h:1", host=host))
    check_address(Settings("h:1", host=host, password=Password(b"x")))
    check_address(Settings("h:1", host=host, behind_proxy=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_alone_needs_no_password(host: str) -> None:
    """Only its own users get to a loopback address."""
    check_address(Settings("h:1", host=host))
