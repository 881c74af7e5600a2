"""Settings in Java's words: read as Java reads them, given Python's names, and refused by name where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import kq
from kq.cli.main import main
from kq.cli.options import Config
from kq.clients import check_config, parse_properties, translate


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=b", {"a": "b"}),
        ("a:b\n\n# c=d\n ! e=f\ng h", {"a": "b", "g": "h"}),
        ("a = b = c ", {"a": "b = c "}),
        ("a=b\\\n   c\n", {"a": "bc"}),
        ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
        (r"a\ b\=c=\u00e9\tx\q", {"a b=c": "\u00e9\txq"}),
        ("a", {"a": ""}),
        ("a=\\", {"a": ""}),
        ("", {}),
    ],
)
def test_properties_are_read_as_java_does(text: str, found: dict[str, str]) -> None:
    """Comments, separators, continued lines, escapes."""
    assert parse_properties(text) == found


LOGIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="bob" password="{}";'


@pytest.mark.parametrize(
    ("java", "python"),
    [
        ({"security.protocol": "SSL"}, {"security_protocol": "SSL"}),
        ({"linger.ms": "5", "enable.idempotence": "false"}, {"linger_ms": 5, "enable_idempotence": False}),
        ({"acks": "1", "linger.ms": "0.5", "retries": "3"}, {"acks": 1, "linger_ms": 0.5, "retries": 3}),
        ({"acks": "all", "client.id": "7"}, {"acks": "all", "client_id": "7"}),
        ({"ssl.truststore.location": "ca.pem", "ssl.truststore.type": "PEM"}, {"ssl_cafile": "ca.pem"}),
        ({"ssl.keystore.location": "me.pem"}, {"ssl_certfile": "me.pem", "ssl_keyfile": "me.pem"}),
        ({"ssl.endpoint.identification.algorithm": ""}, {"ssl_check_hostname": False}),
        ({"ssl.endpoint.identification.algorithm": "HTTPS"}, {"ssl_check_hostname": True}),
        ({"ssl.enabled.protocols": "TLSv1.2,TLSv1.3", "ssl.protocol": "TLSv1.3"}, {}),
        ({"ssl.key.password": "x"}, {"ssl_password": "x"}),
        ({"sasl.jaas.config": LOGIN.format("a;b=c")}, {"sasl_plain_username": "bob", "sasl_plain_password": "a;b=c"}),
        ({"sasl.jaas.config": LOGIN.format('q\\"')}, {"sasl_plain_username": "bob", "sasl_plain_password": 'q"'}),
        ({"ssl_cafile": "ca.pem", "security.protocol": "SSL"}, {"ssl_cafile": "ca.pem", "security_protocol": "SSL"}),
    ],
)
def test_each_setting_has_pythons_name_and_type(java: dict[str, str], python: dict[str, Any]) -> None:
    """Also where both kinds of names are mixed."""
    assert translate(java, is_text=True) == python


@pytest.mark.parametrize(
    ("java", "words"),
    [
        ({"security.protocl": "SSL"}, "settings that kafka-python does not know: security.protocl"),
        ({"key.serializer": "a.b.C"}, "settings that kafka-python does not know: key.serializer"),
        ({"ssl.truststore.location": "a.jks"}, "an ssl.truststore.location of type JKS, and Python reads PEM"),
        ({"ssl.keystore.location": "a", "ssl.keystore.type": "PKCS12"}, "an ssl.keystore.location of type PKCS12"),
        ({"ssl.truststore.password": "hidden"}, "ssl.truststore.password, which kafka-python does not know"),
        ({"ssl.keystore.key": "hidden"}, "name it with ssl.keystore.location"),
        ({"ssl.endpoint.identification.algorithm": "hidden"}, "that is neither https nor empty"),
        ({"ssl.enabled.protocols": "TLSv1.1"}, "a version of TLS that kafka-python does not speak"),
        ({"sasl.jaas.config": "a.PlainLoginModule required username='hidden';"}, "sasl.jaas.config without password"),
        ({"sasl.jaas.config": "a.Krb5LoginModule required x=hidden;"}, "none of Plain, Scram and OAuthBearer"),
        ({"sasl.jaas.config": ""}, "none of Plain, Scram and OAuthBearer"),
        ({"sasl.jaas.config": "a.OAuthBearerLoginModule required clientSecret=hidden;"}, "OAUTHBEARER, and no token"),
        ({"security.protocol": "SSL", "security_protocol": "SSL"}, "config has security_protocol twice"),
    ],
)
def test_what_has_no_counterpart_is_named(java: dict[str, str], words: str) -> None:
    """Without its value: it may be a secret."""
    with pytest.raises(kq.ArgumentError) as caught:
        translate(java)
    assert words in str(caught.value) and "hidden" not in str(caught.value)


def test_a_token_is_read_from_a_file_each_time(tmp_path: Path) -> None:
    """As Java does with a URL of a file."""
    path = tmp_path / "a token"
    java = {
        "sasl.jaas.config": "x.OAuthBearerLoginModule required;",
        "sasl.oauthbearer.token.endpoint.url": path.as_uri(),
    }
    provider = translate(java)["sasl_oauth_token_provider"]
    for token in ("first", "second"):
        path.write_text(f"{token}\n")
        assert provider.token() == token
    assert "second" not in repr(provider)


def test_no_repr_shows_a_password() -> None:
    """Not of a copy either, nor of what is made of one by the library; its value is the password."""
    config = check_config({"sasl_plain_password": "hidden", "ssl_password": "too"}, dict.fromkeys(
        ("sasl_plain_password", "ssl_password")), ())  # fmt: skip
    assert repr({**config}) == "{'sasl_plain_password': '***', 'ssl_password': '***'}"
    assert "\0".join(config.values()) == "hidden\0too"


def test_config_takes_javas_names_in_python_too() -> None:
    """A queue and a worker."""
    kq.Queue("t", hosts="127.0.0.1:1", config={"security.protocol": "SSL", "linger.ms": 5})
    with pytest.raises(kq.ArgumentError, match="security_protocol that Kafka does not know: 'SLL'"):
        kq.Worker("t", hosts="127.0.0.1:1", config={"security.protocol": "SLL"})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.properties", "bootstrap.servers=x:1", "bootstrap.servers is what --hosts is for"),
        ("a.json", '{"group_id": "x"}', "group.id is what --group is for"),
        pytest.param(
            "a.toml",
            "security.protocl = 'SSL'",
            "does not know: security.protocl",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads no TOML"),
        ),
        ("a.conf", "security.protocl = SSL", "does not know: security.protocl"),
        ("b.conf", '{"security": {"protocl": "SSL"}}', "does not know: security.protocl"),
    ],
)
def test_a_file_of_settings_is_read_by_its_name_or_its_first_letter(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, text: str, words: str
) -> None:
    """As Java's properties, TOML or JSON; the error names the file and the setting."""
    path = tmp_path / name
    path.write_text(text)
    code = main(["worker", "--config", str(path)])
    stderr = capsys.readouterr().err
    assert (code, stderr.count("\n")) == (2, 1)
    assert str(path) in stderr and words in stderr


def test_a_file_of_settings_may_be_anything_that_is_known(tmp_path: Path) -> None:
    """The three kinds mean the same."""
    wanted = {"security_protocol": "SSL", "max_poll_records": 5}
    files = {
        "a.properties": "security.protocol=SSL\nmax_poll_records=5",
        "a.json": json.dumps({"security.protocol": "SSL", "max.poll.records": 5}),
        "a.toml": "max_poll_records = 5\n[security]\nprotocol = 'SSL'",
    }
    if sys.version_info < (3, 11):
        del files["a.toml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert Config(exists=True).convert(str(tmp_path / name), None, None) == wanted
