"""A client that is refused says why in one line, at once, and without a secret."""

from __future__ import annotations

import gc
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme
from secured import LOGINS, Kafkas

import kq
from kq.clients import TokenProvider
from kq.local.tls import issue, make_certificates

Tell = Callable[..., tuple[int, str, str]]

HIDDEN = "hidden-word"

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that it leaves


@pytest.fixture(autouse=True)
def nothing_hidden_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    """Fail where a line of the log has a password, those of the client's own debugging too."""
    caplog.set_level(logging.DEBUG)
    yield
    lines = [record.getMessage() for record in caplog.get_records("call")]
    assert [line for line in lines if HIDDEN in line] == []  # the right one ends with it too


def refusal(hosts: str, config: dict[str, Any]) -> str:
    """Return why a worker does not start; a queue must say the same."""
    config = {"bootstrap_timeout_ms": 1_000, **config}
    with pytest.raises(kq.BrokerUnreachable) as caught:
        kq.Worker("refused", hosts=hosts, config=config).start()
    with kq.Queue("refused", hosts=hosts, config=config) as queue, pytest.raises(kq.EnqueueError) as of_queue:
        queue.enqueue(abs, -1)
    told = str(caught.value)
    assert told in str(of_queue.value)
    assert "\n" not in told and HIDDEN not in told + str(of_queue.value)
    assert told.startswith(f"cannot connect to Kafka at {hosts}: it")
    del caught, of_queue
    gc.collect()
    return told.partition(f"{hosts}: ")[2]


@pytest.mark.parametrize("mechanism", LOGINS)
def test_a_wrong_password(secured: Kafkas, mechanism: str) -> None:
    """Of a user that is there; it is not sent again and again."""
    hosts, config = secured.logins.hosts, secured.logins.config_for("bob", mechanism)
    wrong: dict[str, Any] = {"sasl_plain_password": HIDDEN}
    says = f"it refuses the login of bob by {mechanism}: wrong name or password"
    if mechanism == "OAUTHBEARER":
        wrong = {"sasl_oauth_token_provider": TokenProvider(lambda: HIDDEN)}
        says = "it refuses the token of sasl_oauth_token_provider"
    begun = time.monotonic()
    assert refusal(hosts, {**config, **wrong, "bootstrap_timeout_ms": 30_000}) == says
    assert time.monotonic() - begun < 25


def test_a_user_that_is_not_there(secured: Kafkas) -> None:
    """It is not told from one whose password is wrong."""
    config = {**secured.logins.config_for("bob", "SCRAM-SHA-512"), "sasl_plain_username": "mallory"}
    says = "it refuses the login of mallory by SCRAM-SHA-512: wrong name or password"
    assert refusal(secured.logins.hosts, config) == says


def test_a_port_in_the_clear_is_spoken_to_with_tls(secured: Kafkas, hosts: str) -> None:
    """Or with a login that it does not ask for."""
    config = secured.logins.config_for("bob", "PLAIN")
    assert refusal(hosts, config) == "it speaks no TLS there, it seems, and security_protocol is SASL_SSL"
    clear = {**config, "security_protocol": "SASL_PLAINTEXT"}
    assert refusal(hosts, clear) == "it asks for no login there: security_protocol is to be PLAINTEXT"


def test_a_port_with_tls_is_spoken_to_in_the_clear(secured: Kafkas) -> None:
    """With a login and without."""
    logins = secured.logins
    assert refusal(logins.hosts, {}) == "it speaks TLS there, and security_protocol is PLAINTEXT"
    clear = {**logins.config_for("bob", "PLAIN"), "security_protocol": "SASL_PLAINTEXT"}
    assert refusal(logins.hosts, clear) == "it speaks TLS there, and security_protocol is SASL_PLAINTEXT"


def test_a_login_is_forgotten(secured: Kafkas) -> None:
    """The broker closes the connection, and does not say why."""
    config = {"security_protocol": "SSL", "ssl_cafile": secured.logins.client_config["ssl_cafile"]}
    assert refusal(secured.logins.hosts, config) == (
        "it closes the connection: it may want a login; security_protocol is SSL"
    )


def test_a_broker_of_another_name(secured: Kafkas) -> None:
    """Its certificate is for 127.0.0.1 and localhost."""
    port = secured.logins.hosts.rpartition(":")[2]
    config = secured.logins.client_config
    told = refusal(f"0.0.0.0:{port}", config)
    assert told == "its certificate is not for 0.0.0.0: connect by a name that it has"


def test_an_authority_that_is_not_known(secured: Kafkas, tmp_path: Path) -> None:
    """Where no file is named, and where it is another's."""
    says = "its certificate is of an authority that is not trusted here: name the file of that as ssl_cafile"
    config = secured.logins.client_config
    make_certificates(tmp_path, ())
    for file in (None, str(tmp_path / "ca.pem")):
        assert refusal(secured.logins.hosts, {**config, "ssl_cafile": file}) == says


def test_a_certificate_of_the_client_that_is_not_taken(secured: Kafkas, tmp_path: Path) -> None:
    """It is of another authority; or its key is of another certificate."""
    hosts, config = secured.way("mtls")
    foreign = tmp_path / "bob.pem"
    issue(trustme.CA(), foreign, "bob")
    own = {"ssl_certfile": str(foreign), "ssl_keyfile": str(foreign)}
    assert refusal(hosts, {**config, **own}) == (
        "it refuses the certificate of this client, ssl_certfile: it has expired, or its authority is not trusted"
    )


def test_a_key_of_another_certificate(secured: Kafkas, tmp_path: Path) -> None:
    """Nobody is asked."""
    hosts, config = secured.way("mtls")
    issue(trustme.CA(), tmp_path / "bob.pem", "bob")
    with pytest.raises(kq.BrokerUnreachable, match="ssl_keyfile is not the key of ssl_certfile"):
        kq.Worker("refused", hosts=hosts, config={**config, "ssl_keyfile": str(tmp_path / "bob.pem")}).start()


def test_a_certificate_of_the_client_that_has_expired(secured: Kafkas, tmp_path: Path) -> None:
    """By an authority that the broker trusts."""
    hosts, config = secured.way("mtls")
    security = secured.certificates._security
    assert security is not None
    old = tmp_path / "old.pem"
    issue(security.authority, old, "bob", ends=datetime.now(timezone.utc) - timedelta(hours=1))
    told = refusal(hosts, {**config, "ssl_certfile": str(old), "ssl_keyfile": str(old)})
    assert told.startswith("it refuses the certificate of this client, ssl_certfile")


def test_a_certificate_of_the_broker_that_has_expired(tmp_path: Path) -> None:
    """A Kafka would not start with it, so this is a server that does no more than TLS."""
    authority, path = trustme.CA(), tmp_path / "node.pem"
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    issue(authority, path, "node", "127.0.0.1", ends=datetime.now(timezone.utc) - timedelta(hours=1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, args=(server, context), daemon=True).start()
        config = {"security_protocol": "SSL", "ssl_cafile": str(tmp_path / "ca.pem")}
        assert refusal(f"127.0.0.1:{server.getsockname()[1]}", config) == "its certificate has expired"


def greet(server: socket.socket, context: ssl.SSLContext) -> None:
    """Begin to speak TLS with whoever connects, until the server is closed."""
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with suppress(OSError), context.wrap_socket(peer, server_side=True):
            pass


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["worker", "info", "enqueue", "ps", "dead list", "topic list"])
def test_each_command_says_it_in_one_line(
    secured: Kafkas, tell: Tell, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends with 1."""
    monkeypatch.setenv("KQ_HOSTS", secured.logins.hosts)
    path = tmp_path / "client.json"
    path.write_text(json.dumps({**secured.logins.config_for("bob", "PLAIN"), "sasl_plain_password": HIDDEN}))
    words = {"enqueue": ["math:sqrt", 4], "ps": ["t"], "dead list": ["t"]}.get(command, [])
    code, stdout, stderr = tell(*command.split(), "--config", path, *words)
    assert (code, stdout) == (1, "")
    assert stderr.startswith("Error: ") and stderr.count("\n") == 1 and HIDDEN not in stderr
    assert "it refuses the login of bob by PLAIN: wrong name or password" in stderr
