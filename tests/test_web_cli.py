"""``kq web`` as a command: what it refuses, how it ends, and that it outlives its broker."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import Told
from helpers import wait_until
from web_scene import ADDRESS, serving

import kq

#: Where nobody answers.
NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--host", "0.0.0.0"], 1, "--password-file, or --behind-proxy"),
        (["--port", "70000"], 2, "70000"),
        (["--topic", "a b"], 1, "topic must be"),
        (["--hosts", "nowhere:x"], 1, "is no address"),
        (["--password-file", "/no/such/file"], 2, "does not exist"),
        (["--store", "mysql://x/y"], 1, "SQLite or PostgreSQL"),
        (["--host", "no.such.host.invalid", "--behind-proxy"], 1, "cannot be had"),
    ],
)
def test_a_mistake_is_one_line(tell: Callable[..., Told], options: list[str], code: int, words: str) -> None:
    """Nothing is served."""
    told, out, error = tell("web", *options)
    assert (told, out, error.count("\n")) == (code, "", 1), error
    assert words in error


def test_a_password_that_others_can_read_is_refused(tell: Callable[..., Told], tmp_path: Path) -> None:
    """As keys are."""
    path = tmp_path / "password"
    path.write_text("secret\n")
    path.chmod(0o644)
    code, _, error = tell("web", "--password-file", path)
    assert (code, error) == (1, f"Error: {path} can be read or written by others: chmod 600 {path}\n")


def test_a_port_that_is_taken_is_one_line(tell: Callable[..., Told]) -> None:
    """It says which option helps."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, error = tell("web", "--port", port)
    assert (code, error) == (
        1,
        f"Error: 127.0.0.1:{port} cannot be had: Address already in use; --host and --port name another one\n",
    )


def test_without_the_extra_it_says_what_to_install() -> None:
    """In one line."""
    code = "import sys; sys.modules['uvicorn'] = None; from kq.cli.main import main; sys.exit(main(['web']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == 'Error: kq web needs starlette, uvicorn and jinja2: pip install "kq[web]"\n'


def test_it_starts_without_a_broker_and_sigterm_ends_it_well() -> None:
    """The page says that the brokers do not answer, also while a stream of events is open."""
    command = [sys.executable, "-m", "kq", "web", "--hosts", NOBODY, "--port", "0", "--read-only"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = ADDRESS.search(line)
        assert found is not None and line.endswith("/, read-only\n")
        host = found[1].removeprefix("http://")
        stream = http.client.HTTPConnection(host, timeout=30)
        stream.request("GET", "/events")
        assert stream.getresponse().readline().startswith(b"retry:")
        page = http.client.HTTPConnection(host, timeout=30)
        page.request("GET", "/")
        text = page.getresponse().read().decode()
        assert "The brokers do not answer" in text and "BrokerUnreachable" in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        stream.close()
        page.close()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class Events:
    """A stream of events, as a browser has it."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        self.connection.request("GET", "/events")
        self.answer = self.connection.getresponse()
        self.looks: list[int] = []
        self.has_ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.answer:
            if line.startswith(b"data: "):
                self.looks.append(int(line[6:]))
        self.has_ended = True


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kq.LocalKafka]:
    """Return a broker that may be killed."""
    with kq.LocalKafka() as local:
        yield local


@pytest.mark.long
def test_events_go_on_through_a_restart_of_the_broker(broker: kq.LocalKafka) -> None:
    """One stream all the time: the page says that the broker is away, and then that it is back."""
    with kq.Queue("durable", hosts=broker.hosts) as queue:
        queue.enqueue(abs, 1)
    with serving(broker.hosts) as address:
        events = Events(address)
        wait_until(lambda: "durable" in read(address), 30)
        broker.kill()
        wait_until(lambda: "The brokers do not answer" in read(address), 60)
        assert "durable" in read(address)
        broker.restart()
        wait_until(lambda: "The brokers do not answer" not in read(address), 60)
        seen = len(events.looks)
        wait_until(lambda: len(events.looks) > seen + 1, 30)
        assert not events.has_ended
        assert events.looks == sorted(events.looks)
        with kq.Queue("newer", hosts=broker.hosts) as queue:
            queue.enqueue(abs, 1)
        wait_until(lambda: "newer" in read(address), 30)


def read(address: str) -> str:
    with urlopen(address, timeout=30) as answer:
        return answer.read().decode()


def test_arguments_are_hidden_by_the_variable(hosts: str, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that keeps them out of the log."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.schedule("nightly", kq.Cron("30 2 * * *"), len, "a secret")
    for given, is_hidden in (("0", True), ("1", False)):
        monkeypatch.setitem(os.environ, "KQ_LOG_ARGUMENTS", given)
        with serving(hosts, "--topic", topic) as address:
            page = f"{address}/topics/{topic}"
            wait_until(lambda page=page: "nightly" in read(page), 30)  # type: ignore[misc]
            assert ("a secret" not in read(page)) == is_hidden


def test_what_ships_needs_no_other_origin() -> None:
    """No page, style or script names another one; but for the name space of SVG."""
    folder = Path(kq.__file__).parent / "web"
    texts = {
        path.name: path.read_text(encoding="utf-8")
        for part in ("static", "templates")
        for path in (folder / part).iterdir()
    }
    assert len(texts) > 10
    for name, text in texts.items():
        text = text.replace("http://www.w3.org/2000/svg", "").replace("sqlite:///", "").replace("// ", "")
        assert "//" not in text, name
        assert not {"style=", "onclick=", "<style", "|safe", "| safe", "innerHTML ="} & set(json.dumps(text).split()), (
            name
        )
