"""A real Apache Kafka on loopback, for development and tests.

1. ``start`` finds a Java and Kafka's jars, starts the supervisor, and writes the folder of each node.
2. The supervisor starts the nodes; ``start`` returns when all are registered and a group finds its coordinator.
3. ``kill``, ``pause``, ``restart`` and the like each send requests to the supervisor.
4. ``stop`` closes the supervisor's input. The death of the owner closes it too, however it dies. Then all nodes end.
"""

from __future__ import annotations

import base64
import functools
import logging
import re
import shutil
import signal
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from kq.errors import ArgumentError, LocalKafkaError
from kq.local.install import JVM_FLAGS, VERSION, as_properties, cached, find_java
from kq.local.ports import answers, check_ports, client_ports, free_ports, taken
from kq.local.security import Security, java_names
from kq.local.supervisor import Supervisor, await_frozen
from kq.local.tls import write_secret

__all__ = ["LocalKafka"]

#: Seconds until a start counts as failed. An idle machine takes 3; a busy one, ten times as long.
STARTUP_TIMEOUT = 60.0
#: Enough for thousands of messages a second; Kafka's own default is twice as much.
HEAP = "512m"
#: Seconds between two checks of what cannot notify us.
POLL = 0.02
#: Lines of log in an error: the cause of a failed start, with its Java stack.
TAIL = 30
#: How Kafka says that a port is taken.
BIND_FAILURE = re.compile(rb"failed to bind to \S+:(\d+): Address already in use")

#: The same for every node. Sizes are for little data, and files that Kafka allocates in advance are small.
PROPERTIES: Mapping[str, Any] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "log.dirs": "data",
    # A broker that was killed can register again only when its old session has expired: 9 s by default.
    "broker.session.timeout.ms": 4_000,
    "broker.heartbeat.interval.ms": 500,
    "log.index.size.max.bytes": 1 << 20,
    "log.segment.bytes": 64 << 20,
    "log.cleaner.dedupe.buffer.size": 4 << 20,
    "group.initial.rebalance.delay.ms": 0,
    "offsets.topic.num.partitions": 1,
    "transaction.state.log.num.partitions": 1,
    "share.coordinator.state.topic.num.partitions": 1,
}

_log = logging.getLogger(__name__)


class LocalKafka:
    """Run an Apache Kafka on this machine, as a context manager or between ``start()`` and ``stop()``.

    It listens on ``127.0.0.1`` only, and ends with the process that started it, also if that is killed.

    :param nodes: How many brokers; each is a controller too.
    :param data: Folder that keeps the data, and the log of each node. By default a temporary one, removed at stop.
    :param port: Port of the first broker; the others follow it. By default free ones.
    :param version: Version of Apache Kafka, 4.0 or later.
    :param startup_timeout: How long it may take to start, in seconds; the download of the first time aside.
    :param config: More broker properties, in Kafka's words.
    :param heap: Memory of each node's Java heap, in Java's words.
    :param on_progress: Called with one line of text before each step that takes seconds.
    :param security: How clients connect: ``"ssl"``, ``"mtls"`` (each user has a certificate), ``"sasl_ssl"`` or
        ``"sasl_plaintext"``. By default in the clear, and without a login.
    :param users: Names of those who may log in, or a dict of names and passwords; a password that is left out, or
        None, is made up. There is always one more, ``admin``.
    :param acls: Whether users other than ``admin`` may do only what access control lists allow.
    :param mechanisms: How users may log in by SASL, the preferred way first: of ``"SCRAM-SHA-512"``,
        ``"SCRAM-SHA-256"`` and ``"PLAIN"``, which hold if nothing is said, and ``"OAUTHBEARER"``, with tokens that
        nobody signs: where it is on, anybody can be any user.
    :raises kq.ArgumentError: An argument is of the wrong type or value.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        data: str | Path | None = None,
        port: int | None = None,
        version: str = VERSION,
        startup_timeout: float = STARTUP_TIMEOUT,
        config: Mapping[str, Any] | None = None,
        heap: str = HEAP,
        on_progress: Callable[[str], None] | None = None,
        security: str | None = None,
        users: Mapping[str, str | None] | Collection[str] = (),
        acls: bool = False,
        mechanisms: Collection[str] = (),
    ) -> None:
        _check_arguments(nodes, port, version)
        if security is None and (users or acls or mechanisms):
            raise ArgumentError("users, acls and mechanisms need security")
        self.nodes = nodes
        self.version = version
        self._data = None if data is None else Path(data).absolute()
        self._port = port
        self._timeout = startup_timeout
        self._config = dict(config or {})
        self._heap = heap
        self._on_progress = on_progress
        self._security = None if security is None else Security(security, users, acls, mechanisms)
        self._supervisor: Supervisor | None = None
        self._folder = Path()
        self._cluster = ""
        self._ports: list[int] = []
        self._pids: dict[int, int] = {}
        self._logged: dict[int, int] = {}  # node -> size of its log before its last start
        self._command: list[str] = []

    def __repr__(self) -> str:
        return f"LocalKafka(hosts={self.hosts})" if self._supervisor else f"LocalKafka(nodes={self.nodes}, stopped)"

    def __enter__(self) -> LocalKafka:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def hosts(self) -> str:
        """Addresses of the brokers, as ``"127.0.0.1:port,127.0.0.1:port"``."""
        self._running()
        return ",".join(f"127.0.0.1:{port}" for port in self._ports[: self.nodes])

    @property
    def client_config(self) -> dict[str, Any]:
        """What a client needs beside ``hosts``, as ``config``: that of the first of ``users``. It holds secrets."""
        return self.config_for() if self._security is not None else {}

    def config_for(self, user: str | None = None, mechanism: str | None = None) -> dict[str, Any]:
        """Return what a client of a user needs, as ``config``, in kafka-python's words. It holds secrets.

        :param user: Name of the user; the first of ``users`` if left out.
        :param mechanism: How to log in by SASL; the first of ``mechanisms`` if left out.
        :raises kq.ArgumentError: There is no such user, or no such mechanism.
        :raises kq.LocalKafkaError: It does not run: certificates are made anew for each start.
        """
        self._running()
        if self._security is None:
            raise ArgumentError("LocalKafka without security has no users")
        return self._security.config(user or next(iter(self._security.users)), mechanism)

    def config_file(self, user: str | None = None) -> Path:
        """Write what a client of a user needs into a file that only its owner can read, and return that.

        It is a ``client.properties``, for ``kq … --config`` and for Kafka's own commands. It holds until Kafka stops.

        :raises kq.ArgumentError: There is no such user.
        """
        config = self.config_for(user)
        name = user or next(iter(self._security.users)) if self._security else ""
        path = self._folder / "tls" / f"{name}.properties"
        write_secret(path, as_properties(java_names(config)).encode())
        return path

    @property
    def pids(self) -> list[int]:
        """Process IDs of the nodes that run, in the order of the nodes."""
        return [pid for _, pid in sorted(self._pids.items())]

    @property
    def log(self) -> str:
        """The last lines that Kafka logged; of each node, where there are several."""
        if self._supervisor is None:
            return ""
        files = map(self._log_of, range(self.nodes))
        return "\n".join(filter(None, map(_tail, [self._folder / "supervisor.log", *files])))

    def start(self) -> None:
        """Start, and return when clients can work; where it runs already, do nothing.

        :raises kq.MissingExtra: ``kq[broker]`` is not installed.
        :raises kq.LocalKafkaError: Kafka did not start; the message ends with its log, and nothing is left running.
        """
        if self._supervisor is not None:
            return
        try:
            check_ports(client_ports(self.nodes, self._port))
            java = find_java()
            kafka = cached(self.version, java, self._tell)
            self._tell(f"Starting Apache Kafka {self.version} ...")
            flags = [f"-Xmx{self._heap}", *JVM_FLAGS, "-cp", str(kafka / "jars" / "*")]
            self._command = [java, *flags, "kafka.Kafka", "server.properties"]
            self._lay_out(kafka)
            self._launch(range(self.nodes))
            self._let_users_in()
        except OSError as error:
            self.stop()
            raise LocalKafkaError(f"cannot start a local Kafka: {error}") from error
        except BaseException:  # Ctrl-C during the start must leave no process behind either
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all nodes and remove temporary data; where nothing runs, do nothing.

        Where the data are temporary the nodes are killed: there is nothing to save.
        """
        supervisor, self._supervisor = self._supervisor, None
        self._pids.clear()
        if supervisor is not None:
            supervisor.close()

    def check(self) -> None:
        """Raise :class:`kq.LocalKafkaError` if it is not running, or if a node ended by itself."""
        supervisor = self._running()
        for node in self._pids:
            code = supervisor.ask("poll", node)
            if code is not None:
                if (port := self._failed_to_bind(node)) is not None:  # it was free a moment ago
                    raise LocalKafkaError(taken(port))
                raise self._error(f"node {node} of the local Kafka ended with exit code {code}")

    def kill(self, node: int = 0) -> None:
        """Kill a node as a power cut would, and return when it is gone."""
        self._end(node, "kill")

    def terminate(self, node: int = 0) -> None:
        """Shut a node down cleanly, and return when it is gone."""
        if hasattr(signal, "SIGCONT"):  # a paused process does not act on SIGTERM
            self.resume(node)
        self._end(node, "terminate")

    def pause(self, node: int = 0) -> None:
        """Freeze a node: its connections stay open, and nothing answers. Not on Windows."""
        self._signal(node, "SIGSTOP")
        await_frozen(self._pids[node])

    def resume(self, node: int = 0) -> None:
        """Resume a paused node."""
        self._signal(node, "SIGCONT")

    def restart(self, node: int = 0) -> None:
        """Start a node again, on its port and its data. One that still runs is shut down first.

        Returns when clients can work. While most of the nodes are down, nothing can work, and it returns at once.

        :raises kq.LocalKafkaError: It did not start; the other nodes are as they were.
        """
        self._check_node(node)
        if node in self._pids:
            self.terminate(node)
        self._launch([node])

    # -- steps of a start -------------------------------------------------------------------------------------------

    def _lay_out(self, kafka: Path) -> None:
        """Start the supervisor and write each node's folder."""
        self._folder = self._data or Path(tempfile.mkdtemp(prefix="kq-kafka-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._supervisor = Supervisor(self._folder, temporary=self._data is None)
        known = len(list(self._folder.glob("node-*")))
        if known not in (0, self.nodes):
            nodes = "1 node" if known == 1 else f"{known} nodes"
            raise ArgumentError(f"{self._folder} holds the data of {nodes}, not of {self.nodes}")
        self._cluster = _cluster_of(self._folder) or _new_id()
        self._ports = free_ports(self.nodes, self._port)
        if self._security is not None:
            self._security.prepare(self._folder)
        for node in range(self.nodes):
            self._write_node(node, self._folder / f"node-{node}", kafka)

    def _write_node(self, node: int, folder: Path, kafka: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        # it may hold passwords
        write_secret(folder / "server.properties", as_properties(self._properties(node)).encode())
        meta = folder / "data" / "meta.properties"
        if not meta.exists():
            identity = {"version": 1, "cluster.id": self._cluster, "node.id": node, "directory.id": _new_id()}
            shutil.copy(kafka / "bootstrap.checkpoint", meta.parent)
            meta.write_text(as_properties(identity), encoding="utf-8")

    def _properties(self, node: int) -> dict[str, Any]:
        port, controller = self._ports[node], self._ports[self.nodes + node]
        voters = (f"{voter}@127.0.0.1:{self._ports[self.nodes + voter]}" for voter in range(self.nodes))
        replicas = min(3, self.nodes)
        return {
            **PROPERTIES,
            "node.id": node,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.voters": ",".join(voters),
            "default.replication.factor": replicas,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": min(2, replicas),
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": min(2, replicas),
            **({} if self._security is None else self._security.properties(port, controller)),
            **self._config,
        }

    def _launch(self, nodes: Collection[int]) -> None:
        """Start these nodes, and wait until clients can work."""
        deadline = time.monotonic() + self._timeout
        supervisor = self._running()
        for node in nodes:
            self._logged[node] = _size(self._log_of(node))
            self._pids[node] = supervisor.ask("start", node, self._command, str(self._folder / f"node-{node}"))
        if len(self._pids) <= self.nodes // 2:
            return
        tls = None if self._security is None else self._security.context()
        for node in nodes:
            self._wait(functools.partial(answers, self._ports[node], tls), deadline)
        self._wait(functools.partial(self._is_ready, nodes), deadline)

    def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        self.check()
        while not condition():
            if time.monotonic() > deadline:
                raise self._error(f"the local Kafka was not ready within {self._timeout:g} s")
            time.sleep(POLL)
            self.check()

    def _let_users_in(self) -> None:
        """Have the brokers know the users whose passwords they keep, and return when they do."""
        if self._security is None or not self._security.scram:
            return
        with self._admin(self.hosts.split(",")) as admin:
            self._security.add_users(admin)
            self._wait(functools.partial(self._security.are_known, admin), time.monotonic() + self._timeout)

    def _admin(self, servers: list[str]) -> Any:
        from kafka import KafkaAdminClient

        config = {} if self._security is None else self._security.for_nodes()
        return KafkaAdminClient(bootstrap_servers=servers, **config)

    def _is_ready(self, nodes: Collection[int]) -> bool:
        """Return whether these nodes are brokers of this cluster, and it has a coordinator for groups."""
        from kafka.errors import KafkaError

        servers = [f"127.0.0.1:{self._ports[node]}" for node in nodes]
        try:
            with self._admin(servers) as admin:
                cluster = admin.describe_cluster()
                brokers = {broker["broker_id"] for broker in cluster["brokers"] if not broker.get("is_fenced")}
                if cluster["cluster_id"] != self._cluster or not brokers.issuperset(nodes):
                    return False
                admin.describe_groups(["kq"])
                return True
        except KafkaError:  # not yet
            return False

    # -- the rest ---------------------------------------------------------------------------------------------------

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise LocalKafkaError("the local Kafka is not started")
        return self._supervisor

    def _check_node(self, node: int) -> Supervisor:
        if node not in range(self.nodes):
            raise ArgumentError(f"node must be an int from 0 to {self.nodes - 1}")
        return self._running()

    def _end(self, node: int, how: str) -> None:
        supervisor = self._check_node(node)
        supervisor.ask(how, node)
        deadline = time.monotonic() + self._timeout
        while supervisor.ask("poll", node) is None:
            if time.monotonic() > deadline:
                raise self._error(f"node {node} of the local Kafka did not end within {self._timeout:g} s")
            time.sleep(POLL)
        self._pids.pop(node, None)

    def _signal(self, node: int, name: str) -> None:
        supervisor = self._check_node(node)
        if not hasattr(signal, name):
            raise LocalKafkaError(f"this system has no {name}")
        supervisor.ask("send_signal", node, getattr(signal, name))

    def _log_of(self, node: int) -> Path:
        return self._folder / f"node-{node}" / "kafka.log"

    def _failed_to_bind(self, node: int) -> int | None:
        """Return the port that a node found taken at its last start, by its log; None if that was not so."""
        with self._log_of(node).open("rb") as file:
            file.seek(self._logged.get(node, 0))
            found = BIND_FAILURE.search(file.read())
        return None if found is None else int(found[1])

    def _error(self, problem: str) -> LocalKafkaError:
        return LocalKafkaError(f"{problem}; the end of its log:\n{self.log or '(it logged nothing)'}")

    def _tell(self, line: str) -> None:
        _log.info("%s", line)
        if self._on_progress is not None:
            self._on_progress(line)


# -- small things -----------------------------------------------------------------------------------------------------


def _check_arguments(nodes: object, port: object, version: object) -> None:
    if not isinstance(nodes, int) or isinstance(nodes, bool) or nodes < 1:
        raise ArgumentError("nodes must be an int, 1 or greater")
    if port is not None and (not isinstance(port, int) or not 0 < port < 1 << 16):
        raise ArgumentError("port must be an int from 1 to 65535")
    if port is not None and port + nodes > 1 << 16:
        raise ArgumentError(
            f"port must be {(1 << 16) - nodes} or lower: {nodes} brokers need ports up to {port + nodes - 1}"
        )
    if not isinstance(version, str) or not re.fullmatch(r"[4-9]\.\d+\.\d+", version):
        raise ArgumentError(f'version must be a str such as "{VERSION}"')


def _new_id() -> str:
    """Return an ID as Kafka makes them."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _cluster_of(folder: Path) -> str | None:
    """Return the cluster whose data a folder holds, if any."""
    for meta in folder.glob("node-*/data/meta.properties"):
        found = re.search(r"^cluster\.id=(\S+)", meta.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(path: Path) -> str:
    """Return the last lines of a file."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, TAIL)).rstrip("\n")
    except OSError:
        return ""
