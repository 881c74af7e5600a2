"""``kq web``: the dashboard."""

from __future__ import annotations

import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

import kq
from kq import clients
from kq.cli.options import config_option, hosts_option, signer_option
from kq.cli.output import to_stderr
from kq.utils import hides_arguments

__all__ = ["web"]


@click.command()
@hosts_option
@click.option("--topic", "topics", multiple=True, help="Only this topic; several may be given. By default all.")
@config_option
@signer_option
@click.option("--store", metavar="URL", envvar="KQ_STORE", show_envvar=True, help="Database of a message log.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8817, show_default=True, help="The port there.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Ask for the password in the first line of this file.",
)
@click.option("--behind-proxy", is_flag=True, help="A proxy asks who it is: any address, any name.")
@click.option("--read-only", is_flag=True, help="Show all, and change nothing.")
def web(
    hosts: str, topics: tuple[str, ...], config: dict[str, Any], signer: kq.Signer | None, store: str | None,
    host: str, port: int, password_file: Path | None, behind_proxy: bool, read_only: bool,
) -> None:  # fmt: skip
    """Serve the dashboard until Ctrl-C."""
    clients.check_hosts(hosts)
    known = {**KafkaAdminClient.DEFAULT_CONFIG, **KafkaConsumer.DEFAULT_CONFIG, **KafkaProducer.DEFAULT_CONFIG}
    clients.check_config(config, known, ("bootstrap_servers", "group_id", "transactional_id"))
    dashboard = _dashboard()
    settings = dashboard.Settings(
        hosts=hosts,
        config=config,
        topics=tuple(map(clients.check_topic, topics)),
        store=None if store is None else kq.MessageStore(store),
        signer=signer,
        host=host,
        port=port,
        password=None if password_file is None else dashboard.read_password(password_file),
        behind_proxy=behind_proxy,
        read_only=read_only,
        hides_arguments=hides_arguments(None),
    )
    mode = ", read-only" if read_only else ""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # what ends it well is one thing
    try:
        dashboard.serve(settings, lambda address: to_stderr(f"The dashboard of {hosts} is at {address}{mode}"))
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _dashboard() -> Any:
    """Return the department of the dashboard, which needs more than the other commands do."""
    try:
        return import_module("kq.web")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"jinja2", "markupsafe", "starlette", "uvicorn"}:
            raise
        raise kq.MissingExtra('kq web needs starlette, uvicorn and jinja2: pip install "kq[web]"') from error
