"""The guides: their applications run, and the commands and settings in them are real."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

import kq
from kq.cli.main import cli
from kq.testing import drain, eager

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.rst"))


@pytest.fixture
def example(hosts: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a function that imports an example, with a topic of this test's own."""
    monkeypatch.setenv("KQ_HOSTS", hosts)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def load(name: str) -> ModuleType:
        fresh = f"{name}_{topic.replace('-', '_')}"
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        (tmp_path / f"{fresh}.py").write_text(re.sub(r'"(texts|orders)"', repr(topic), text), encoding="utf-8")
        names.append(fresh)
        return importlib.import_module(fresh)

    yield load
    for name in [*names, "tasks"]:
        sys.modules.pop(name, None)


def test_the_fastapi_application(example: Any, hosts: str, topic: str) -> None:
    """A request puts a job on the topic, which a worker runs; without a broker it is told to come again."""
    from fastapi.testclient import TestClient

    module = example("web_fastapi")
    with TestClient(module.app) as client:
        answer = client.post("/texts", params={"text": "the cat sat"})
        assert answer.status_code == 202
        with kq.Queue(topic, hosts=hosts) as queue:
            (ran,) = drain(queue)
        assert (ran.job.id, ran.result) == (answer.json()["job"], 3)
    os.environ["KQ_HOSTS"] = "127.0.0.1:1"
    with TestClient(module.app) as client:
        for _ in range(2):
            answer = client.post("/texts", params={"text": "the cat sat"})
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_the_flask_application(example: Any, topic: str) -> None:
    """The same; and its jobs run at once where a test says so."""
    module = example("web_flask")
    client = module.app.test_client()
    answer = client.post("/texts", data={"text": "the cat sat"})
    assert answer.status_code == 202
    (ran,) = drain(module.queue)
    assert (ran.job.id, ran.result) == (answer.json["job"], 3)
    with eager() as at_once:
        client.post("/texts", data={"text": "a b"})
    assert [ran.result for ran in at_once] == [2]
    module.queue.close()
    assert client.post("/texts", data={"text": "a b"}).status_code == 503


def run_there(folder: Path, *command: str) -> tuple[int, str, str]:
    """Run Python in a folder, which has the examples at hand; return its exit code and what it printed."""
    path = os.pathsep.join([str(folder), str(EXAMPLES), str(Path(kq.__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_flask_worker(hosts: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs find the application, in each child."""
    monkeypatch.setenv("KQ_HOSTS", hosts)
    (tmp_path / "about.py").write_text("import flask\n\ndef name():\n    return flask.current_app.name\n")
    (tmp_path / "run.py").write_text(
        textwrap.dedent(f"""
            import about
            from flask_worker import in_app_context

            import kq

            with kq.Queue({topic!r}, hosts={hosts!r}) as queue:
                queue.enqueue(about.name)
            executor = kq.ProcessExecutor(around=in_app_context)
            worker = kq.Worker({topic!r}, hosts={hosts!r}, executor=executor, callback=lambda *told: print(told[3]))
            worker.start(max_messages=1)
        """)
    )
    assert run_there(tmp_path, "run.py")[:2] == (0, "web_flask\n")


@pytest.fixture
def django_project(hosts: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a project with a model, its database, a job, and a queue on a topic of this test's own."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "settings")
    (tmp_path / "shop").mkdir()
    source = (EXAMPLES / "django_queue.py").read_text(encoding="utf-8")
    (tmp_path / "shop" / "queue.py").write_text(source.replace('"orders"', repr(topic)))
    files = {
        "settings.py": f"""
            SECRET_KEY = "x"
            INSTALLED_APPS = ["shop"]
            DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {str(tmp_path / "db")!r}}}}}
            DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
            KQ_HOSTS = {hosts!r}
        """,
        "shop/__init__.py": "",
        "shop/models.py": """
            from django.db import models

            class Order(models.Model):
                is_confirmed = models.BooleanField(default=False)
        """,
        "shop/jobs.py": """
            from shop.models import Order

            def confirm(number):
                return Order.objects.filter(pk=number).update(is_confirmed=True)
        """,
        "place.py": """
            from functools import partial

            import django_setup
            from django.db import connection, transaction
            from shop.jobs import confirm
            from shop.models import Order
            from shop.queue import queue

            with connection.schema_editor() as editor:
                editor.create_model(Order)
            with transaction.atomic():
                order = Order.objects.create()
                transaction.on_commit(partial(queue.enqueue, confirm, order.pk))
        """,
        "look.py": "import django_setup; from shop.models import Order; print(Order.objects.get().is_confirmed)",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    assert run_there(tmp_path, "place.py") == (0, "", "")
    return tmp_path


def test_the_django_worker(django_project: Path, hosts: str, topic: str) -> None:
    """Its jobs find models, and a connection that works, in each child."""
    (django_project / "run.py").write_text(
        textwrap.dedent(f"""
            from django_worker import fresh_connections, set_up

            import kq

            executor = kq.ProcessExecutor(on_start=set_up, around=fresh_connections)
            kq.Worker({topic!r}, hosts={hosts!r}, executor=executor, concurrency=2).start(max_messages=1)
        """)
    )
    assert run_there(django_project, "run.py")[:2] == (0, "")
    assert run_there(django_project, "look.py") == (0, "True\n", "")


def test_django_by_the_command(django_project: Path, hosts: str, topic: str) -> None:
    """The module that --preload names sets Django up for all children."""
    command = ["-m", "kq", "worker", "--hosts", hosts, "--topic", topic, "--burst", "--preload", "django_setup"]
    code, _, told = run_there(django_project, *command)
    assert (code, "1 message processed\n" in told) == (0, True), told
    assert run_there(django_project, "look.py") == (0, "True\n", "")


def test_an_order_stays_when_its_job_cannot_be_enqueued(django_project: Path) -> None:
    """The error comes after the commit, as the guide says."""
    (django_project / "away.py").write_text(
        textwrap.dedent("""
            from functools import partial

            import django_setup
            from django.db import transaction
            from shop.models import Order

            import kq

            queue = kq.Queue("orders", hosts="127.0.0.1:1", enqueue_timeout=0.5)
            try:
                with transaction.atomic():
                    order = Order.objects.create()
                    transaction.on_commit(partial(queue.enqueue, print, order.pk))
            except kq.EnqueueError:
                print(Order.objects.filter(pk=order.pk).exists())
        """)
    )
    assert run_there(django_project, "away.py") == (0, "True\n", "")


def test_the_reporting_callback(example: Any, topic: str, hosts: str) -> None:
    """Each failure is one event, with what helps to find it; a success is none."""
    assert 'ignore_logger("kq.worker")' in (EXAMPLES / "reporting.py").read_text("utf-8")
    import sentry_sdk

    events: list[Any] = []
    module = example("reporting")
    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", before_send=lambda event, hint: events.append(event))
    module.ignore_logger("kq.worker")
    try:
        with kq.Queue(topic, hosts=hosts) as queue:
            queue.enqueue(max, 1, 2)
            failed = queue.enqueue(int, "one")
            queue.using(timeout=0.2).enqueue(__import__("time").sleep, 30)
        worker = kq.Worker(topic, hosts=hosts, callback=module.report, executor="process")
        assert worker.start(max_messages=3) == 3
    finally:
        sentry_sdk.init()
    assert [event["tags"]["kq.status"] for event in events] == ["failure", "timeout"]
    assert events[0]["contexts"]["job"]["id"] == failed.id
    assert events[0]["exception"]["values"][-1]["type"] == "ValueError"
    assert "ValueError: invalid literal" in events[0]["extra"]["stacktrace"]


def test_the_reporting_hook(example: Any, topic: str, hosts: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A failure is reported in the child, with its frames; the callback hears of it as well."""
    module = example("reporting_inside")
    told: list[str] = []
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue(textwrap.dedent, 7)
    executor = kq.ProcessExecutor(around=module.reported)
    worker = kq.Worker(topic, hosts=hosts, executor=executor, callback=lambda status, *_: told.append(status))
    assert (worker.start(max_messages=1), told) == (1, ["failure"])
    assert "in dedent" in capfd.readouterr().err


def command_lines(text: str) -> list[list[str]]:
    """Return the words of each ``kq`` command in a guide."""
    found = [shlex.split(line) for line in re.findall(r"``(kq [a-z][^`]*)``", text)]
    found += [["kq", *shlex.split(line)] for line in re.findall(r"(?:bin/|\$ )kq (.+)$", text, re.MULTILINE)]
    for block in re.findall(r"code-block:: yaml\n\n((?:    .*\n|\n)+)", text):
        manifest = yaml.safe_load(textwrap.dedent(block))
        template = manifest["spec"].get("template")
        found += [one["command"] for one in template["spec"]["containers"]] if template else []
    return found


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_commands_of_the_guides_are_real(guide: Path) -> None:
    """Each is a command of the program, with options that it has."""
    for words in command_lines(guide.read_text(encoding="utf-8")):
        command: click.Command = cli
        rest = words[1:]
        while isinstance(command, click.Group) and rest:
            command = command.commands[rest.pop(0)]
        known = {name for param in command.params for name in param.opts}
        assert [word for word in rest if word.startswith("--") and word not in known] == [], words


def test_there_are_commands_to_look_at() -> None:
    """Or the test before would prove nothing."""
    counts = {path.stem: len(command_lines(path.read_text(encoding="utf-8"))) for path in GUIDES}
    assert counts["deployment"] >= 4
    assert counts["troubleshooting"] >= 3


def strings_of(source: str) -> Iterator[str]:
    """Return the texts in a program, with … for what is put in."""
    for node in ast.walk(ast.parse(source)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [part.value if isinstance(part, ast.Constant) else "…" for part in parts]
        if all(isinstance(text, str) for text in texts) and isinstance(node, ast.JoinedStr | ast.Constant):
            yield re.sub(r"%[-+0-9.]*[a-z]", "…", "".join(texts)).replace("{{", "{").replace("}}", "}")


def test_the_lines_of_the_guide_are_those_of_the_code() -> None:
    """What a user looks for in the guide is what stands in the log: each piece between what differs is KQ's own."""
    code = "\n".join(text for path in (ROOT / "kq").rglob("*.py") for text in strings_of(path.read_text("utf-8")))
    page = (ROOT / "docs" / "guides" / "troubleshooting.rst").read_text("utf-8")
    lines = [line.strip() for line in re.findall(r"^    \S.*", page, re.MULTILINE) if not line.startswith("    :")]
    pieces = [piece for line in lines for piece in re.split("…|No module named", line) if len(piece.strip()) > 5]
    assert len(pieces) > 40
    assert [piece for piece in pieces if piece not in code] == []
