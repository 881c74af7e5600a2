"""One Kafka for all tests, and what they make on it.

1. The first test that needs Kafka starts one, for the whole run; ``--hosts`` or ``KQ_TEST_HOSTS`` names another.
2. Topics and groups have names of their own, so no test sees another's messages.
3. What a fixture opens, it closes.
"""

from __future__ import annotations

import logging
import os
import signal
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from browsers import browser_at_work, why_no_browser
from helpers import wait_until as _wait_until
from journal import Journal
from postgres import Postgres, find_programs
from process_bench import quiet, work  # noqa: F401 - fixtures
from secured import Kafkas

import kq
from kq.cli.main import main

with warnings.catch_warnings():
    # Reads its own files by a function that Python 3.11 and 3.12 call deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
    from kafka.admin import NewTopic
    from kafka.errors import NodeNotReadyError

#: Exit code, standard output and standard error of a command.
Told = tuple[int, str, str]
#: Processes that run the whole suite: two cores are busy with three.
PROCESSES = 3
#: Quick to come back after a broker was away, quick to complain when it is not there at all.
CLIENT: dict[str, Any] = {"reconnect_backoff_max_ms": 500, "bootstrap_timeout_ms": 20_000}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hosts",
        default=os.environ.get("KQ_TEST_HOSTS"),
        help="brokers to test against, instead of a Kafka of our own; also KQ_TEST_HOSTS",
    )
    parser.addoption("--long", action="store_true", help="run also what takes minutes")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Have the whole suite run in several processes, each with a Kafka of its own: most tests wait most of the time.

    Whoever names files, or a number (``-n 0`` is one process), gets what was asked for.
    """
    if hasattr(config, "workerinput") or not all(Path(arg).is_dir() for arg in config.args):
        return  # one of these processes, or some files only
    if config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None:
        config.option.numprocesses = PROCESSES
        config.option.dist = "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # started in the background of a script: what the tests start would not hear of Ctrl-C either
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "long: takes minutes; runs with --long only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes: --long"))


@pytest.fixture(scope="session")
def _local(request: pytest.FixtureRequest) -> Iterator[kq.LocalKafka | None]:
    if request.config.getoption("--hosts"):
        yield None
        return
    with kq.LocalKafka() as local:
        yield local


@pytest.fixture(scope="session")
def hosts(request: pytest.FixtureRequest, _local: kq.LocalKafka | None) -> str:
    """Return the addresses of a Kafka that runs."""
    return request.config.getoption("--hosts") if _local is None else _local.hosts


@pytest.fixture(scope="session")
def kafka(_local: kq.LocalKafka | None) -> kq.LocalKafka:
    """Return the Kafka of this run, to be killed and restarted; a test that does so leaves it running."""
    if _local is None:
        pytest.skip("somebody else's Kafka is not ours to kill")
    return _local


@pytest.fixture(scope="session")
def secured() -> Iterator[Kafkas]:
    """Return Kafkas that take no strangers; they are started at first need."""
    with ExitStack() as stack:
        yield Kafkas(stack)


@pytest.fixture(scope="session")
def admin(hosts: str) -> Iterator[KafkaAdminClient]:
    """Return an admin client, the same for all tests."""
    with KafkaAdminClient(bootstrap_servers=hosts, **CLIENT) as client:
        yield client


@pytest.fixture(scope="session")
def make_topic(admin: KafkaAdminClient) -> Callable[..., str]:
    """Return a function that makes a topic with a name of its own, and returns that."""

    def make(partitions: int = 1, replicas: int = 1, **config: Any) -> str:
        name = _name("topic")
        settings = {setting.replace("_", "."): str(value) for setting, value in config.items()}
        _wait_until(lambda: _makes(admin, NewTopic(name, partitions, replicas, topic_configs=settings)))
        _wait_until(lambda: _is_led(admin, name, partitions), message=f"topic {name} has no leader")
        return name

    return make


@pytest.fixture
def topic(make_topic: Callable[..., str]) -> str:
    """Return the name of a new topic with one partition."""
    return make_topic()


@pytest.fixture
def group() -> str:
    """Return the name of a consumer group that was never used."""
    return _name("group")


@pytest.fixture(scope="module")
def client(hosts: str) -> Iterator[KafkaProducer]:
    """Return a producer for all tests of a module."""
    with KafkaProducer(bootstrap_servers=hosts) as producer:
        yield producer


@pytest.fixture
def queue(topic: str, client: KafkaProducer) -> kq.Queue:
    """Return a queue on a new topic."""
    return kq.Queue(topic, client)


@pytest.fixture
def producer(hosts: str) -> Iterator[Callable[..., KafkaProducer]]:
    """Return a function that makes a producer, closed after the test."""
    with ExitStack() as stack:

        def make(**config: Any) -> KafkaProducer:
            client = KafkaProducer(**{"bootstrap_servers": hosts, **CLIENT, **config})
            stack.callback(client.close, timeout=5)
            return client

        yield make


@pytest.fixture
def consumer(hosts: str, group: str) -> Iterator[Callable[..., KafkaConsumer]]:
    """Return a function that makes a consumer: from the earliest message, committing nothing by itself."""
    with ExitStack() as stack:

        def make(*topics: str, **config: Any) -> KafkaConsumer:
            defaults = {"group_id": group, "auto_offset_reset": "earliest", "enable_auto_commit": False}
            client = KafkaConsumer(*topics, **{"bootstrap_servers": hosts, **CLIENT, **defaults, **config})
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return a file in which jobs write down what happens to them."""
    return Journal(tmp_path / "journal")


@pytest.fixture
def tell(
    hosts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Told]]:
    """Return a function that runs a command in this process; it returns the exit code, stdout and stderr."""
    monkeypatch.setenv("KQ_HOSTS", hosts)
    loggers = [logging.getLogger(name) for name in (None, "kq", "kq.worker", "kafka")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]

    def run(*args: object) -> Told:
        code = main(list(map(str, args)))
        return code, *capsys.readouterr()

    yield run
    for logger, level, handlers in before:  # a command may have set up logging for its process, which ends with it
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Return ``helpers.wait_until``."""
    return _wait_until


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return a PostgreSQL that runs; a test that stops it starts it again."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = Postgres(programs)
    yield server
    server.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return what drives a Chromium, the same for all tests."""
    reason = why_no_browser()
    if reason is not None:
        pytest.skip(reason)
    with browser_at_work() as driver:
        yield driver


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a new database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kq.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.make(_name("log"))


def _name(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:12]}"


def _makes(admin: KafkaAdminClient, topic: NewTopic) -> bool:
    try:
        admin.create_topics([topic])
    except NodeNotReadyError:  # the test before has restarted the broker, and this client waits before it connects
        return False
    return True


def _is_led(admin: KafkaAdminClient, topic: str, partitions: int) -> bool:
    (described,) = admin.describe_topics([topic])
    leaders = [partition["leader_id"] for partition in described["partitions"]]
    return len(leaders) == partitions and min(leaders) >= 0
