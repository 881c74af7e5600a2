"""The command line.

1. ``main`` is the door: it runs a command, and turns whatever goes wrong into one line and an exit code.
2. A command reads its arguments, calls the library, and prints what came of it. Each group has a module of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click
from kafka.errors import KafkaError

import kq
from kq import clients
from kq.cli.acls import acls
from kq.cli.broker import broker
from kq.cli.control import cancel, pause, ps, resume, stop, terminate, top
from kq.cli.dead import dead
from kq.cli.demo import demo
from kq.cli.enqueue import enqueue
from kq.cli.groups import group
from kq.cli.info import info
from kq.cli.log import log
from kq.cli.output import FAILED, fail
from kq.cli.result import result
from kq.cli.schedule import schedule, scheduler
from kq.cli.skip import skip
from kq.cli.topics import topic
from kq.cli.web import web
from kq.cli.worker import worker

__all__ = ["main"]

#: Exit code after Ctrl-C, as shells know it.
INTERRUPTED = 128 + signal.SIGINT


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    :param args: Arguments without the program's name; those of the process if left out.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file's name need not fit the terminal's encoding
            stream.reconfigure(errors="replace")
    try:
        return cli.main(args, prog_name="kq", standalone_mode=False) or 0
    except click.ClickException as error:
        return fail(error.format_message(), error.exit_code)
    except click.Abort:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the exit is left, and a second Ctrl-C would garble it
        click.echo("\nInterrupted." if sys.stderr.isatty() else "Interrupted.", err=True)  # a terminal shows ^C
        return INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe: drop what is still buffered
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except kq.LocalKafkaError as error:  # many lines: it ends with the log of the Kafka that did not start
        click.echo(f"Error: {error}", err=True)
        return FAILED
    except KafkaError as error:
        return fail(clients.denied(error) or str(error))
    except (kq.KQError, OSError) as error:
        return fail(str(error))
    except Exception as error:  # the door: one line, and a non-zero exit
        if sys.flags.dev_mode:
            raise
        return fail(f"unexpected {type(error).__name__}: {error} (python -X dev -m kq shows where)")


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would print an empty line of its own
            raise click.Abort from None


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(kq.__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """KQ, a job queue for Python on Kafka."""
    logging.basicConfig(format="[%(levelname)s] %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters is raised as an exception
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_STEERING = (cancel, pause, ps, resume, stop, terminate, top)
_OTHERS = (acls, broker, dead, demo, enqueue, group, info, log, result, schedule, scheduler, skip, topic, web, worker)
for command in (*_OTHERS, *_STEERING):
    cli.add_command(command)
