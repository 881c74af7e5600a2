"""Why there is no connection, or something is not allowed, in words that say what to change.

The errors are those of OpenSSL and of Kafka as kafka-python passes them on: mostly as text. None of them has a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kafka.errors import IllegalSaslStateError, SaslAuthenticationFailedError, UnsupportedSaslMechanismError

__all__ = ["REFUSALS", "denied", "explain", "is_lasting"]

#: By which a broker refuses a login.
REFUSALS = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError, IllegalSaslStateError)
#: What OpenSSL says of a broker's certificate -> what that means.
_ITS_CERTIFICATE = (
    (r"certificate has expired", "its certificate has expired"),
    (r"certificate is not yet valid", "its certificate is not valid yet, by the clock of this machine"),
    (
        r"(?:Hostname|IP address) mismatch, certificate is not valid for '([^']*)'",
        r"its certificate is not for \1: connect by a name that it has",
    ),
    (
        r"self.signed certificate|unable to get (?:local )?issuer|unable to verify the first",
        "its certificate is of an authority that is not trusted here: name the file of that as ssl_cafile",
    ),
    (r"certificate verify failed: ([^(]*[^( ])", r"its certificate is not to be trusted: \1"),
)
#: What OpenSSL says of our own certificate -> what that means.
_OUR_CERTIFICATE = (
    (r"KEY_VALUES_MISMATCH", "ssl_keyfile is not the key of ssl_certfile"),
    (r"bad decrypt|BAD_DECRYPT|BAD_PASSWORD", "ssl_password does not open ssl_keyfile"),
    (r"PEM[ _]lib|NO_START_LINE|no start line", "ssl_certfile or ssl_keyfile is no PEM"),
)
#: How a broker's TLS says that it is not content with our certificate.
_ALERT = re.compile(r"ALERT_(CERTIFICATE|BAD_CERTIFICATE|UNKNOWN_CA|UNSUPPORTED_CERTIFICATE|HANDSHAKE_FAILURE)", re.I)
#: How TLS ends where the other side does not speak it.
_NO_TLS = re.compile(r"Handshake failed.*(EOF|WRONG_VERSION_NUMBER|RECORD_LAYER|reset by peer|Errno 104)", re.I)
#: How a connection ends that the broker does not like.
_CLOSED = re.compile(r"socket disconnected|reset by peer", re.I)
#: How Kafka says that a right is missing, and on what, wherever in a text: what the client makes of it differs.
_DENIED = re.compile(r"\b(Topic|Group|Cluster|TransactionalId)AuthorizationFailedError")
#: Stands in what says how a topic is made by somebody who may.
_COMMAND = "kafka-topics.sh"
_NAMES = (
    re.compile(r"name='([\w.-]+)'"),
    re.compile(r"GROUP/([\w.-]+)"),
    re.compile(r"AuthorizationFailedError\W*([\w.-]*[\w-])"),
)


def denied(error: BaseException) -> str | None:
    """Return which right is missing, as a line; None where it is something else, or the text says what to do."""
    if _COMMAND in str(error):
        return None
    text = str(error) if _DENIED.search(str(error)) else f"{type(error).__name__}: {error}"
    found = _DENIED.search(text)
    if found is None:
        return None
    if found[1] == "Cluster":  # so is a producer told that may write to no topic at all
        return f"{found[0]}: this user may not do that, or may write to no topic; see kq acls"
    names = (name[1] for pattern in _NAMES if (name := pattern.search(text)))
    kind = "transactional ID" if found[1] == "TransactionalId" else found[1].lower()
    return f"{found[0]}: this user lacks a right on {kind} {next(names, '')}; see kq acls"


def is_lasting(error: BaseException | None) -> bool:
    """Return whether a connection that was lost by this would be lost again: nobody is to wait for another try."""
    return isinstance(error, REFUSALS) or (error is not None and _of_certificates(str(error), {}) is not None)


def explain(errors: Iterable[BaseException], settings: Mapping[str, Any]) -> str | None:
    """Return why the broker and a client did not come together, by the first error that tells; None if none does.

    :param errors: By which connections were lost, or not made.
    :param settings: Of the client.
    """
    errors = list(errors)
    told = (_of_login(error, settings) or _of_certificates(str(error), settings) for error in errors)
    protocol = str(settings.get("security_protocol", "PLAINTEXT"))
    # how a connection ended tells less, and a broker that is restarted closes some too
    return next(filter(None, told), None) or _of_end(str(errors[0]), protocol)


def _of_login(error: BaseException, settings: Mapping[str, Any]) -> str | None:
    mechanism = settings.get("sasl_mechanism")
    if isinstance(error, SaslAuthenticationFailedError):
        if mechanism == "OAUTHBEARER":
            return "it refuses the token of sasl_oauth_token_provider"
        return f"it refuses the login of {settings.get('sasl_plain_username')} by {mechanism}: wrong name or password"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"it takes no login by {mechanism}: another sasl_mechanism is needed"
    if isinstance(error, IllegalSaslStateError):
        return f"it asks for no login there: security_protocol is to be {_without_login(settings)}"
    return None


def _without_login(settings: Mapping[str, Any]) -> str:
    return "SSL" if settings.get("security_protocol") == "SASL_SSL" else "PLAINTEXT"


def _of_end(text: str, protocol: str) -> str | None:
    if _NO_TLS.search(text):
        return f"it speaks no TLS there, it seems, and security_protocol is {protocol}"
    if _is_tls(text):
        return f"it speaks TLS there, and security_protocol is {protocol}"
    if _CLOSED.search(text):
        return {
            "PLAINTEXT": "it closes the connection: it may want TLS, or a login; security_protocol is PLAINTEXT",
            "SSL": "it closes the connection: it may want a login; security_protocol is SSL",
            "SASL_PLAINTEXT": "it closes the connection: it may want TLS; security_protocol is SASL_PLAINTEXT",
        }.get(protocol)
    return None


def _is_tls(text: str) -> bool:
    """Return whether what was taken for the length of an answer is the head of an alert of TLS: 21, and a version."""
    found = re.search(r"Invalid frame length: (\d+)", text)
    return found is not None and int(found[1]) >> 16 == 0x1503


def _of_certificates(text: str, settings: Mapping[str, Any]) -> str | None:
    for pattern, meaning in (*_ITS_CERTIFICATE, *_OUR_CERTIFICATE):
        if found := re.search(pattern, text):
            return found.expand(meaning)
    if not _ALERT.search(text):
        return None
    if "REQUIRED" in text.upper() or not settings.get("ssl_certfile"):
        return "it asks for a certificate of the client: name its files as ssl_certfile and ssl_keyfile"
    if "EXPIRED" in text.upper():
        return "it refuses the certificate of this client, ssl_certfile, which has expired"
    return "it refuses the certificate of this client, ssl_certfile: it has expired, or its authority is not trusted"
