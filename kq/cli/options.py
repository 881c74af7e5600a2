"""Options that several commands have, and what their values mean."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import kq
from kq import clients
from kq.signing import parse_keys, read_keys

if sys.version_info >= (3, 11):
    import tomllib

__all__ = [
    "DEFAULT_PORT",
    "Ago",
    "Config",
    "Duration",
    "SignerKeys",
    "Size",
    "Time",
    "client_options",
    "config_option",
    "group_option",
    "hosts_option",
    "max_age_option",
    "signer_option",
]

#: Kafka's own port: ``kq broker`` in one terminal and ``kq worker`` in another find each other without options.
DEFAULT_PORT = 9092
_ENVIRONMENT = ParameterSource.ENVIRONMENT
#: Where a context keeps how old signatures may be.
_MAX_AGE = "kq.cli.max_age"
DEFAULT_HOSTS = f"127.0.0.1:{DEFAULT_PORT}"


class Config(click.Path):
    """A file of client settings: Java's ``client.properties``, JSON, or TOML; names are kafka-python's or Java's."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, dict):
            return value
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            return self._read(path)
        except (kq.ArgumentError, ValueError) as error:
            return self.fail(f"{path}: {error}", param, ctx)

    def _read(self, path: Path) -> dict[str, Any]:
        text, suffix = path.read_text(encoding="utf-8"), path.suffix.lower()
        if suffix == ".toml":
            return _usable(_flat(_toml(text)))
        if suffix != ".json" and (suffix == ".properties" or text.lstrip()[:1] not in ("{", "[")):
            return _usable(clients.parse_properties(text), is_text=True)
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError('must hold an object, such as {"client_id": "me"}')
        return _usable(_flat(config))


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        return tomllib.loads(text)
    raise ValueError("TOML needs Python 3.11 or later; use JSON")


def _flat(config: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return settings by their whole names: a dot in a name makes a table in TOML."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat.update(_flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value})
    return flat


def _usable(config: dict[str, Any], *, is_text: bool = False) -> dict[str, Any]:
    """Return settings by kafka-python's names.

    :raises kq.ArgumentError: One is unknown, or has an option of its own.
    """
    settings = clients.translate(config, is_text=is_text)
    for name, option in (("bootstrap_servers", "--hosts"), ("group_id", "--group")):
        if name in settings:
            raise kq.ArgumentError(f"{name.replace('_', '.')} is what {option} is for")
    return settings


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of bytes, with a unit or without."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(?:I?B)?", str(value).strip().upper())
        size = 0 if found is None else int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
        if size < 1:
            self.fail(f"{value!r} is not a size such as 512M or 2G", param, ctx)
        return size


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """So many seconds, with a unit or without."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([smhd]?)", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no time such as 90, 10m, 2h or 1d", param, ctx)
        return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


class Time(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A moment: ISO 8601 with an offset, or Unix seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value).strip()
        try:
            return float(text)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        except ValueError:
            self.fail(f"{text!r} is no time such as 2030-01-31T12:00+01:00, or Unix seconds", param, ctx)
        if moment.utcoffset() is None:
            self.fail(f"{text!r} does not say in which time zone: write {text}Z or {text}+01:00", param, ctx)
        return moment


class Ago(Time):
    """A moment: so long ago, such as 2h, or a time; plain seconds are too."""

    name = "ago"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return time.time() - Duration().convert(value, param, ctx)
        except click.BadParameter:
            return super().convert(value, param, ctx)


class SignerKeys(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A file of keys, which is read again now and then; or, from the environment, the keys themselves."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, kq.Signer):
            return value
        name = param.name if param is not None else None
        is_hidden = ctx is not None and name is not None and ctx.get_parameter_source(name) is _ENVIRONMENT
        try:
            age = None if ctx is None else ctx.meta.get(_MAX_AGE)
            if is_hidden and ":" in value and not {"/", "\\"} & set(value):
                return kq.Signer(parse_keys(value), max_age=age)
            return kq.Signer(lambda: read_keys(value), max_age=age)
        except kq.ArgumentError as error:
            self.fail(str(error), param, ctx)
        except OSError as error:  # from the environment it may be a key that lacks its name: it is not repeated
            self.fail(f"{error.strerror}: neither keys nor a file" if is_hidden else str(error), param, ctx)


hosts_option = click.option(
    "--hosts", default=DEFAULT_HOSTS, show_default=True, envvar="KQ_HOSTS", show_envvar=True, help="Kafka brokers."
)
topic_option = click.option(
    "--topic", default=clients.DEFAULT_TOPIC, show_default=True, help="Name of the Kafka topic."
)
config_option = click.option(
    "--config", type=Config(exists=True, dir_okay=False), default={}, help="More client settings."
)


def _note_age(ctx: click.Context, _: click.Parameter, age: float | None) -> None:
    """Keep the age for the keys, which are read after it."""
    if age is not None:
        ctx.meta[_MAX_AGE] = age


def _check_keys(ctx: click.Context, _: click.Parameter, signer: kq.Signer | None) -> kq.Signer | None:
    if signer is None and _MAX_AGE in ctx.meta:
        raise click.UsageError("--signer-max-age goes with --signer-keys")
    return signer


signer_option = click.option(
    "--signer-keys", "signer", type=SignerKeys(), envvar="KQ_SIGNER_KEYS", show_envvar=True, callback=_check_keys,
    help="Keys that sign and verify, one name:hex a line.",
)  # fmt: skip
max_age_option = click.option(
    "--signer-max-age", type=Duration(), metavar="SECONDS", is_eager=True, expose_value=False, callback=_note_age,
    help="How old a signature may be, such as 3600 or 7d.",
)  # fmt: skip
group_option = click.option("--group", help="Consumer group; by default named like the topic.")


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command that talks to Kafka."""
    return hosts_option(topic_option(config_option(command)))
