"""Settings of Kafka clients: what is wrong with them is said at once, and not by a client that finds no broker.

1. ``check_config`` looks at names and values when a queue or a worker is made.
2. ``check_files`` looks for the files that are named when a client is made.

Values are told only of settings that cannot hold a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kafka import codec
from kafka.net.sasl import SASL_MECHANISMS

from kq.clients.properties import translate
from kq.errors import ArgumentError

__all__ = ["check_config", "check_files"]

#: What the client's documentation allows. Itself it does not look: with "SLL" it would send in the clear.
_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "sasl_mechanism": (None, *SASL_MECHANISMS),
    "acks": (0, 1, -1, "all"),
    "compression_type": (None, "gzip", "snappy", "lz4", "zstd"),
    "auto_offset_reset": ("earliest", "latest", "none"),
    "isolation_level": ("read_committed", "read_uncommitted"),
}
#: Whether what compresses is installed, by the word for it.
_HAS_LIBRARY = {"snappy": codec.has_snappy, "lz4": codec.has_lz4, "zstd": codec.has_zstd}
_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")


def check_config(
    config: Mapping[str, Any] | None, known: Mapping[str, Any], reserved: Collection[str]
) -> dict[str, Any]:
    """Return a copy of the settings; raise :class:`kq.ArgumentError` where they do not fit.

    Names may be kafka-python's or Java's. Passwords are such that no repr shows them.

    :param known: The client's own settings, with the values that it takes if nothing is said.
    """
    settings = translate(config or {})
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ArgumentError(f"config has settings that kafka-python does not know: {', '.join(map(str, unknown))}")
    taken = sorted(set(settings) & set(reserved))
    if taken:
        raise ArgumentError(f"config must not set what KQ sets itself: {', '.join(taken)}")
    for name, value in settings.items():
        _check_value(name, value, known[name])
    if str(settings.get("security_protocol")).startswith("SASL_") and not settings.get("sasl_mechanism"):
        raise ArgumentError('config has a security_protocol with SASL: it needs a sasl_mechanism too, such as "PLAIN"')
    return settings


def check_files(settings: Mapping[str, Any]) -> None:
    """Raise :class:`kq.ArgumentError` where a setting names a file that is not there."""
    for name in _FILES:
        path = settings.get(name)
        if path is not None and not Path(path).is_file():
            raise ArgumentError(f"config has a {name} that is no file: {path}")


def _check_value(name: str, value: Any, default: Any) -> None:
    allowed = _ALLOWED.get(name)
    if allowed is not None and value not in allowed:
        words = ", ".join(map(repr, allowed))
        raise ArgumentError(f"config has a {name} that Kafka does not know: {value!r}; it is one of {words}")
    is_number = isinstance(default, (int, float)) and not isinstance(default, bool) and allowed is None
    if is_number and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ArgumentError(f"config has a {name} that is no number: {value!r}")
    if name == "compression_type" and value in _HAS_LIBRARY and not _HAS_LIBRARY[value]():
        raise ArgumentError(f"compression_type {value!r} needs a library: pip install 'kafka-python[{value}]'")
