"""``kq broker``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import kq
from kq.cli.options import DEFAULT_PORT
from kq.cli.output import to_stderr

__all__ = ["broker", "exit_on_sigterm"]

#: Seconds between two checks that Kafka still runs.
WATCH_INTERVAL = 0.5
#: Exit code after SIGTERM, as shells know it.
TERMINATED = 128 + signal.SIGTERM


@click.command()
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="How many brokers.")
@click.option("--port", type=click.IntRange(1, 65535), help=f"By default {DEFAULT_PORT}, if it is free.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps the data.")
@click.option(
    "--security", type=click.Choice(["ssl", "mtls", "sasl_ssl", "sasl_plaintext"]), help="How clients connect."
)
@click.option("--user", "users", multiple=True, metavar="NAME", help="Who may log in, beside admin; several times.")
@click.option("--acls", is_flag=True, help="Users may do only what access control lists allow.")
def broker(
    nodes: int, port: int | None, data: Path | None, security: str | None, users: tuple[str, ...], acls: bool
) -> None:
    """Run a real Kafka for development on this machine until Ctrl-C."""
    from kq.local import is_free  # no other command needs it, and each would wait for its import

    if port is None and all(is_free(DEFAULT_PORT + node) for node in range(nodes)):
        port = DEFAULT_PORT
    local = kq.LocalKafka(nodes, data=data, port=port, on_progress=to_stderr, security=security, users=users, acls=acls)
    with exit_on_sigterm(), local:
        click.echo(f"Kafka {local.version} is ready: --hosts {local.hosts}")
        for user in dict.fromkeys((*users, "admin")) if security else ():
            click.echo(f"{user}: --config {local.config_file(user)}")
        try:
            while True:
                time.sleep(WATCH_INTERVAL)
                local.check()
        except (KeyboardInterrupt, SystemExit):
            click.echo("Stopping …", err=True)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Unwind on SIGTERM as on Ctrl-C: what was started must be stopped."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
