"""``kq acls``: the commands that give a role its rights."""

from __future__ import annotations

import click

from kq import clients
from kq.cli.options import group_option, hosts_option
from kq.rights import ROLES, commands, rights_of

__all__ = ["acls"]


@click.command()
@hosts_option
@group_option
@click.option("--principal", required=True, help="To whom, such as User:reports.")
@click.option("--command-config", metavar="FILE", help="Settings of kafka-acls.sh itself, as it is to be told.")
@click.option("--remove", is_flag=True, help="The commands that take the rights away.")
@click.argument("role", type=click.Choice(list(ROLES)))
@click.argument("topic")
def acls(
    hosts: str, group: str | None, principal: str, command_config: str | None, remove: bool, role: str, topic: str
) -> None:
    """Print what gives a ROLE on TOPIC the rights that it needs, and no others."""
    if ":" not in principal:
        raise click.BadParameter(f"{principal!r} is not such as User:reports", param_hint="--principal")
    rights = rights_of(role, clients.check_topic(topic), group)
    for line in commands(rights, principal, clients.check_hosts(hosts), command_config, remove=remove):
        click.echo(line)
