"""The server: the site on a socket, until it is told to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from kq.errors import KQError
from kq.web.settings import Settings, check_address
from kq.web.site import Site

__all__ = ["serve"]

#: Seconds that pages have to end.
_CLOSING = 3


def serve(settings: Settings, on_ready: Callable[[str], object] = lambda address: None) -> None:
    """Serve the dashboard until Ctrl-C or SIGTERM.

    :param on_ready: Called with the address when it can be opened.
    :raises kq.ArgumentError: Others could get there, and nobody would ask who they are.
    :raises kq.KQError: The address cannot be had.
    """
    check_address(settings)
    listening = _listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    servers: list[uvicorn.Server] = []
    site = Site(settings._replace(port=port), lambda: servers[0].should_exit)
    config = uvicorn.Config(
        site.app,
        log_config=None,
        log_level="warning",
        access_log=False,  # addresses may hold what somebody looks for
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=_CLOSING,
    )
    servers.append(uvicorn.Server(config))
    on_ready(f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}/")
    with listening, suppress(KeyboardInterrupt):
        servers[0].run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=100)
    except OSError as error:
        is_known = error.errno is not None and not isinstance(error, socket.gaierror)
        # the socket's own words say the address twice
        words = os.strerror(error.errno or 0) if is_known else error.strerror
        raise KQError(f"{host}:{port} cannot be had: {words}; --host and --port name another one") from error
