"""Ports of the loopback interface: which are free, who has one, and whether a broker answers there."""

from __future__ import annotations

import errno
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Iterable

from kq.errors import LocalKafkaError

__all__ = ["API_VERSIONS", "answers", "check_ports", "client_ports", "free_ports", "is_free", "taken"]

#: The smallest request to a broker: length, ApiVersions version 0, correlation ID, no client ID.
API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
#: Seconds until a port that is asked for counts as taken: a Kafka whose owner was killed just now is about to leave it.
PORT_PATIENCE = 2.0
#: Free ports are taken from this range. Systems do not use it for outgoing connections, one of which could take the
#: port of a node between its death and its restart.
PORTS = range(20_000, 32_000)
#: Seconds between two checks of what cannot notify us.
POLL = 0.02


def free_ports(nodes: int, first: int | None) -> list[int]:
    """Return a port for clients for each node, then one for controllers for each."""
    ports = list(client_ports(nodes, first))
    while len(ports) < 2 * nodes:
        port = secrets.choice(PORTS)
        if port not in ports and is_free(port):
            ports.append(port)
    return ports


def client_ports(nodes: int, first: int | None) -> range:
    """Return the ports for clients that were asked for; none where any will do."""
    return range(0) if first is None else range(first, first + nodes)


def check_ports(ports: Iterable[int]) -> None:
    """Raise :class:`kq.LocalKafkaError` if a node could not listen at one of its ports: Java's own words are a page."""
    deadline = time.monotonic() + PORT_PATIENCE
    for port in ports:
        while (error := _why_not(port)) is not None:
            if error.errno != errno.EADDRINUSE:
                raise LocalKafkaError(f"cannot listen at port {port}: {error.strerror}") from error
            if time.monotonic() > deadline:
                raise LocalKafkaError(taken(port)) from error
            time.sleep(POLL)


def taken(port: int) -> str:
    """Return what to say of a port that somebody else listens at."""
    who = "a Kafka that answers: use that" if answers(port) else "another program: end that"
    return f"port {port} of 127.0.0.1 is taken by {who}, or give another port"


def is_free(port: int) -> bool:
    """Return whether nobody listens at a port of the loopback interface."""
    return _why_not(port) is None


def _why_not(port: int) -> OSError | None:
    """Return why nobody can listen at a port of the loopback interface."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        return error
    return None


def answers(port: int, tls: ssl.SSLContext | None = None) -> bool:
    """Return whether a broker answers at this port; a Kafka client that finds none leaks a thread and complains.

    :param tls: How to encrypt what is asked; in the clear if left out.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as plain:
            if tls is None:
                return _is_broker(plain)
            with tls.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
                return _is_broker(encrypted)
    except OSError:
        return False


def _is_broker(probe: socket.socket) -> bool:
    probe.sendall(API_VERSIONS)
    answer = b""
    while len(answer) < 8:
        more = probe.recv(8 - len(answer))
        if not more:
            return False
        answer += more
    return answer[4:] == API_VERSIONS[8:12]  # the correlation ID comes back
