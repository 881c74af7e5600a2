"""Settings of clients in Java's words, as in ``client.properties``, and what they are for kafka-python.

1. ``parse_properties`` reads a file as Java does; all values are text then.
2. ``translate`` gives each setting kafka-python's name, and its value the right type. Names that are kafka-python's own
   stay. What has no counterpart is refused by its name: to leave out a setting of security would be to lower it.

No error has a value of a setting in it, except of those that cannot be secrets. Passwords become ``Secret``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from kq.clients.tokens import TokenProvider, token_from_file, unsecured_token
from kq.errors import ArgumentError

__all__ = ["SECRETS", "Secret", "hide_secrets", "parse_properties", "translate"]

#: Settings that nobody is to read, by kafka-python's names.
SECRETS = frozenset({"sasl_plain_password", "ssl_password"})
#: All settings that some client has -> the value if nothing is said.
KNOWN: Mapping[str, Any] = {
    **KafkaAdminClient.DEFAULT_CONFIG,
    **KafkaProducer.DEFAULT_CONFIG,
    **KafkaConsumer.DEFAULT_CONFIG,
}
#: Settings whose values are objects of Python's, or of Java's: no word in a file is one.
_OBJECTS = frozenset(
    {
        *("api_version", "default_offset_commit_callback", "kafka_client", "key_deserializer", "key_serializer"),
        *("metric_reporters", "partition_assignment_strategy", "partitioner", "sasl_oauth_token_provider", "selector"),
        *("socket_options", "ssl_context", "value_deserializer", "value_serializer"),
    }
)
#: What to do about settings that many have and kafka-python has not.
_HINTS: Mapping[str, str] = {
    "ssl.truststore.certificates": "write them into a file, and name it with ssl.truststore.location",
    "ssl.keystore.certificate.chain": "write it into a file with its key, and name it with ssl.keystore.location",
    "ssl.keystore.key": "write it into a file with its certificate, and name it with ssl.keystore.location",
    "ssl.truststore.password": "a truststore of PEM has none",
    "ssl.keystore.password": "a keystore of PEM has none; that of the key is ssl.key.password",
    "ssl.cipher.suites": "kafka-python takes an ssl_context in Python",
}
#: Types of stores that are no PEM, by the ends of their files' names: Java's type, if nothing is said, is JKS.
_STORES = {".jks": "JKS", ".p12": "PKCS12", ".pfx": "PKCS12", ".keystore": "JKS", ".truststore": "JKS"}
#: One character, or more, of a name or a value, with Java's escapes.
_NAME = re.compile(r"((?:\\.|[^\\=:\s])*)\s*[=:]?\s*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_LETTERS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_OPTION = re.compile(r"""([\w.-]+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|([^\s;"']+))""")


class Secret(str):
    """A text that its repr does not show: settings are printed by many, the client's own debugging among them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def hide_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of settings whose passwords no repr shows."""
    return {
        name: Secret(value) if name in SECRETS and isinstance(value, str) else value for name, value in settings.items()
    }


def parse_properties(text: str) -> dict[str, str]:
    """Return what a file of Java's properties says: comments, continued lines and escapes as there."""
    found = {}
    for line in _lines(text):
        matched = _NAME.fullmatch(line)
        assert matched is not None  # each line has a name, if only an empty one
        found[_plain(matched[1])] = _plain(matched[2])
    return found


def _lines(text: str) -> Iterator[str]:
    """Yield lines with something in them, after joining those that end with one backslash."""
    joined = ""
    for line in text.splitlines():
        stripped = line.lstrip()
        if not joined and (not stripped or stripped[0] in "#!"):
            continue
        joined += stripped
        if (len(joined) - len(joined.rstrip("\\"))) % 2:
            joined = joined[:-1]
            continue
        yield joined
        joined = ""
    if joined:
        yield joined


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _LETTERS.get(found[2], found[2]), text)


def translate(settings: Mapping[str, Any], *, is_text: bool = False) -> dict[str, Any]:
    """Return settings by kafka-python's names. Where they have those already, they stay as they are.

    :param is_text: All values are text, from a file that knows no other: they are to be made numbers and truths.
    :raises kq.ArgumentError: A setting is unknown, or not for Python; it is named.
    """
    given = {str(name): value for name, value in settings.items()}
    java = {name: value for name, value in given.items() if "." in name}
    own = {name: value for name, value in given.items() if "." not in name}
    if is_text:
        own = {name: _typed(name, value) for name, value in own.items()}
    made: dict[str, Any] = {}
    for name, value in java.items():
        made.update(_from_java(name, value, java))
    if twice := sorted(set(made) & set(own)):
        raise ArgumentError(f"config has {', '.join(twice)} twice: in kafka-python's words and in Java's")
    return hide_secrets({**own, **made})


def _from_java(name: str, value: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one of Java's settings is for kafka-python."""
    if name in _SPECIAL:
        return _SPECIAL[name](str(value), given)
    own = name.replace(".", "_")
    if name in _HINTS:
        raise ArgumentError(f"config has {name}, which kafka-python does not know: {_HINTS[name]}")
    if own not in KNOWN or own in _OBJECTS:
        raise ArgumentError(f"config has settings that kafka-python does not know: {name}")
    return {own: _typed(own, value)}


def _typed(name: str, value: Any) -> Any:
    """Return a text as what a setting is: a number, a truth, or the text."""
    default = KNOWN.get(name)
    if not isinstance(value, str):
        return value
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    is_number = isinstance(default, (int, float)) or name.endswith(("_ms", "_bytes")) or name == "acks"
    if is_number and re.fullmatch(r"-?\d+(\.\d+)?", value.strip()):
        return float(value) if "." in value else int(value)
    return value


# -- settings that are not just named otherwise ------------------------------------------------------------------------


def _truststore(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    _check_pem("truststore", path, given)
    return {"ssl_cafile": path}


def _keystore(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    _check_pem("keystore", path, given)
    return {"ssl_certfile": path, "ssl_keyfile": path}


def _check_pem(store: str, path: str, given: Mapping[str, Any]) -> None:
    kind = str(given.get(f"ssl.{store}.type") or _STORES.get(Path(path).suffix.lower(), "PEM")).upper()
    if kind != "PEM":
        raise ArgumentError(
            f"config has an ssl.{store}.location of type {kind}, and Python reads PEM: "
            f"keytool -importkeystore makes it PKCS12, openssl pkcs12 makes that PEM; then ssl.{store}.type=PEM"
        )


def _nothing(value: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {}  # it is looked at by another one


def _algorithm(value: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if value.strip().lower() not in ("", "none", "https"):
        raise ArgumentError("config has an ssl.endpoint.identification.algorithm that is neither https nor empty")
    return {"ssl_check_hostname": value.strip().lower() == "https"}


def _protocols(value: str, given: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {word.strip() for word in value.split(",")}
    if not wanted <= {"TLS", "TLSv1.2", "TLSv1.3"}:
        raise ArgumentError("config has a version of TLS that kafka-python does not speak: it has TLSv1.2 and TLSv1.3")
    return {}


def _login(value: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the login of ``sasl.jaas.config``."""
    module = value.split(maxsplit=1)[0].rpartition(".")[2] if value.strip() else ""
    options = {found[1]: _plain(found[2] or found[3] or found[4] or "") for found in _OPTION.finditer(value)}
    if module in ("PlainLoginModule", "ScramLoginModule"):
        if missing := {"username", "password"} - set(options):
            raise ArgumentError(f"config has a sasl.jaas.config without {' and '.join(sorted(missing))}")
        return {"sasl_plain_username": options["username"], "sasl_plain_password": options["password"]}
    if module != "OAuthBearerLoginModule":
        raise ArgumentError("config has a sasl.jaas.config of a module that is none of Plain, Scram and OAuthBearer")
    if "unsecuredLoginStringClaim_sub" in options:
        return {"sasl_oauth_token_provider": unsecured_token(options["unsecuredLoginStringClaim_sub"])}
    return {"sasl_oauth_token_provider": _token(str(given.get("sasl.oauthbearer.token.endpoint.url", "")))}


def _token(url: str) -> TokenProvider:
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise ArgumentError(
            "config has OAUTHBEARER, and no token: name its file by sasl.oauthbearer.token.endpoint.url=file:///…, or "
            "pass a sasl_oauth_token_provider in Python"
        )
    return token_from_file(unquote(parts.path))


#: Settings of Java's that are more than another name.
_SPECIAL = {
    "ssl.truststore.location": _truststore,
    "ssl.truststore.type": _nothing,
    "ssl.keystore.location": _keystore,
    "ssl.keystore.type": _nothing,
    "ssl.key.password": lambda value, given: {"ssl_password": value},
    "ssl.endpoint.identification.algorithm": _algorithm,
    "ssl.protocol": _protocols,
    "ssl.enabled.protocols": _protocols,
    "sasl.jaas.config": _login,
    "sasl.oauthbearer.token.endpoint.url": _nothing,
}
