"""The making of a client of kafka-python, as of 3.0.12: why one that is not made was not, and nothing is left of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from kafka.errors import BrokerResponseError, KafkaConnectionError, KafkaError
from kafka.net.connection import KafkaConnection
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from kq.clients.reasons import is_lasting

__all__ = ["losses"]

#: For each thread, where the client that is being made tells of lost connections, and what waits for it.
_making = threading.local()
_MOST_LOSSES = 10


@contextlib.contextmanager
def losses() -> Iterator[list[BaseException]]:
    """Give a list of why the client that is made meanwhile, in this thread, lost connections; the first ones.

    Where it is not made, what it has opened is closed; the client itself leaves that to the garbage collector.
    """
    found: list[BaseException] = []
    _making.losses, _making.selectors = found, []
    try:
        yield found
    except BaseException:
        for selector in _making.selectors:
            _abandon(selector)
        raise
    finally:
        for selector in _making.selectors:
            selector.kq_losses = selector.kq_lasting = None
        _making.losses, _making.selectors = None, []


def _abandon(selector: Any) -> None:
    with contextlib.suppress(Exception):  # an error is on its way that says more
        selector.stop(timeout_ms=1000)
        files = [key.fileobj for key in selector._selector.get_map().values()]
        selector.close()
        for file in files:
            file.close()


def _tell_losses() -> None:
    """Have each connection that is lost tell why: the client itself only writes it into its log."""
    make, lose = NetworkSelector.__init__, KafkaConnection.connection_lost

    def init(selector: Any, /, **options: Any) -> None:
        make(selector, **options)
        selector.kq_losses = getattr(_making, "losses", None)  # it is the client's own, and its connections know it
        selector.kq_lasting = None
        if selector.kq_losses is not None:
            _making.selectors.append(selector)

    def connection_lost(connection: Any, error: BaseException | None) -> None:
        found = getattr(connection.net, "kq_losses", None)
        if found is not None and error is not None and len(found) < _MOST_LOSSES:
            found.append(error)
        if found is not None and is_lasting(error):
            connection.net.kq_lasting = error
        lose(connection, error)

    NetworkSelector.__init__, KafkaConnection.connection_lost = init, connection_lost


_tell_losses()


def _give_up() -> None:
    """Have a client that is made stop where another try cannot help: it would send a wrong password for 8 seconds.

    Where there are several brokers to ask, the certificate of one may be wrong, and the login is the same for all.
    """
    get_connection = KafkaConnectionManager.get_connection

    def get(manager: Any, *args: Any, **options: Any) -> Any:
        lasting = getattr(manager._net, "kq_lasting", None)
        is_the_only_one = len(manager.cluster.bootstrap_brokers()) == 1
        if lasting is not None and (is_the_only_one or isinstance(lasting, BrokerResponseError)):
            raise lasting if isinstance(lasting, KafkaError) else KafkaConnectionError(lasting)
        return get_connection(manager, *args, **options)

    KafkaConnectionManager.get_connection = get


_give_up()


def _read_to_the_end() -> None:
    """Have what a broker said before it closed the connection be read: else nobody hears that a password is wrong."""
    for transport in (KafkaTCPTransport, KafkaSSLTransport):
        transport._sock_recv = _until_empty(transport._sock_recv)


def _until_empty(receive: Any) -> Any:
    def sock_recv(transport: Any) -> Any:
        data, error = receive(transport)
        return data, None if data else error  # the next call meets the end again

    return sock_recv


_read_to_the_end()


def _close_refused() -> None:
    """Have a socket closed that could not be connected: left to the garbage collector it is a warning."""
    connect = KafkaNetSocket.sock_connect

    async def sock_connect(maker: Any, net: Any, sock: Any, *args: Any, **options: Any) -> Any:
        try:
            return await connect(maker, net, sock, *args, **options)
        except BaseException:
            sock.close()
            raise

    KafkaNetSocket.sock_connect = sock_connect


_close_refused()
