"""``kq.django``: in a project that the tests make, with its ``manage.py`` and Django's own test client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from test_retries import records

import kq

ROOT = Path(__file__).resolve().parent.parent

FILES = {
    "manage.py": """
        import os, sys
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
        from django.core.management import execute_from_command_line
        execute_from_command_line(sys.argv)
    """,
    "site_settings.py": """
        import json, os
        from pathlib import Path
        HERE = Path(__file__).resolve().parent
        SECRET_KEY = "for tests alone"
        DEBUG, USE_TZ, ALLOWED_HOSTS, ROOT_URLCONF = True, True, ["testserver"], "site_urls"
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        INSTALLED_APPS = [f"django.contrib.{name}" for name in
                          ("admin", "auth", "contenttypes", "messages", "sessions")] + ["kq.django", "shop"]
        MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware",
                      "django.contrib.auth.middleware.AuthenticationMiddleware",
                      "django.contrib.messages.middleware.MessageMiddleware"]
        TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {
            "context_processors": ["django.template.context_processors.request",
                                   "django.contrib.auth.context_processors.auth",
                                   "django.contrib.messages.context_processors.messages"]}}]
        DATABASES = json.loads((HERE / "databases.json").read_text())
        KQ = json.loads((HERE / "kq.json").read_text())
        import kq
        for one in KQ.values():
            one["SIGNER"], one["LOG_ARGUMENTS"] = kq.Signer({"site": b"s" * 32}), True
    """,
    "site_urls.py": """
        from django.contrib import admin
        from django.urls import path
        urlpatterns = [path("admin/", admin.site.urls)]
    """,
    "shop/__init__.py": "",
    "shop/models.py": """
        from django.db import models
        class Order(models.Model):
            name = models.CharField(max_length=50)
            state = models.CharField(max_length=50, default="new")
    """,
    "shop/tasks.py": """
        from django.db import connection
        from shop.models import Order
        def ship(pk):
            assert connection.connection is None, "the job before has left its connection"
            Order.objects.filter(pk=pk).update(state="shipped")
            return pk
        def refuse(pk):
            raise ValueError(f"order {pk} <b>refused</b>")
    """,
}


class Site:
    """A Django project in a folder."""

    def __init__(self, folder: Path, topic: str, hosts: str, database: dict[str, Any]) -> None:
        self.folder = folder
        self.topic = topic
        for name, source in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(textwrap.dedent(source))
        (folder / "databases.json").write_text(json.dumps({"default": database}))
        (folder / "kq.json").write_text(json.dumps({"default": {"HOSTS": hosts, "TOPIC": topic}}))

    def manage(self, *arguments: str, code: int = 0) -> str:
        """Run ``manage.py`` and return what it says."""
        command = [sys.executable, "-W", "ignore", "manage.py", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        self.printed = done.stdout
        return done.stdout + done.stderr

    def run(self, source: str) -> Any:
        """Run a script inside of the project, and return what its last line says as JSON."""
        (self.folder / "script.py").write_text(textwrap.dedent(source))
        self.manage("shell", "-c", "exec(open('script.py').read(), {})")
        return json.loads(self.printed.strip().splitlines()[-1])


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def site(request: pytest.FixtureRequest, tmp_path: Path, topic: str, hosts: str) -> Site:
    """Return a project whose tables are made, in each database."""
    if request.param == "sqlite":
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "site.db")}
    else:
        from postgres import PASSWORD, USER

        server = request.getfixturevalue("postgres")
        name = f"site_{topic.replace('-', '_')}"
        server.make(name)
        database = {"ENGINE": "django.db.backends.postgresql", "NAME": name, "HOST": "127.0.0.1"}
        database |= {"PORT": str(server.port), "USER": USER, "PASSWORD": PASSWORD}
    made = Site(tmp_path, topic, hosts, database)
    made.manage("makemigrations", "shop")
    made.manage("migrate")
    return made


ENQUEUE = """
    import json
    from kq.django import queue
    from shop import tasks
    from shop.models import Order
    orders = [Order.objects.create(name=f"order {number}") for number in range(3)]
    jobs = [queue().enqueue(tasks.ship, order.pk) for order in orders] + [queue().enqueue(tasks.refuse, 7)]
    queue().close()
    print(json.dumps([job.id for job in jobs]))
"""

LOOK = """
    import json
    from django.contrib.auth.models import User
    from django.test import Client
    from kq.django.models import MessageLog
    User.objects.create_superuser("boss", password="x")
    User.objects.create_user("clerk", password="x", is_staff=True)
    client, found = Client(), {}
    client.force_login(User.objects.get(username="boss"))
    def page(query=""):
        answer = client.get("/admin/kq/messagelog/" + query)
        assert answer.status_code == 200, answer
        return answer.content.decode()
    everything = page()
    bad = MessageLog.objects.get(status="FAILED")
    found["escaped"] = "<b>refused" not in everything and "&lt;b&gt;refused" in everything
    def names(query):
        return [one.pk for one in MessageLog.objects.all() if one.pk in page(query)]
    found["failed"] = names("?status__exact=FAILED") == [bad.pk]
    found["recent"] = len(names("?hours=1"))
    found["text"] = names("?q=REFUSED") == [bad.pk]
    found["function"] = len(names("?q=shop.tasks.ship"))
    found["nothing"] = names("?q=nothing+like+it")
    one = client.get(f"/admin/kq/messagelog/{bad.pk}/change/")
    shown = one.content.decode()
    found["one"] = one.status_code == 200 and "Traceback" in shown and "_save" not in shown
    found["add"] = client.get("/admin/kq/messagelog/add/").status_code
    found["delete"] = client.post(f"/admin/kq/messagelog/{bad.pk}/delete/", {"post": "yes"}).status_code
    action = {"action": "requeue", "_selected_action": [bad.pk]}
    answer = client.post("/admin/kq/messagelog/", action, follow=True)
    found["said"] = "1 message enqueued again" in answer.content.decode()
    found["status"] = MessageLog.objects.get(pk=bad.pk).status
    client.force_login(User.objects.get(username="clerk"))
    found["clerk"] = client.get("/admin/kq/messagelog/").status_code
    print(json.dumps(found))
"""


def test_a_project_runs_jobs_and_sees_what_became_of_them(site: Site, hosts: str) -> None:
    """Enqueued by the settings, run by ``manage.py``, shown and enqueued again by the admin; all of it signed."""
    names = site.run(ENQUEUE)
    said = site.manage("kq_worker", "--burst", "--processes", "2")
    assert f"Running jobs of topic {site.topic}" in said and "4 messages processed" in said
    state = """
        import json
        from kq.django.models import MessageLog
        from shop.models import Order
        log = {one.pk: [one.status, one.arguments] for one in MessageLog.objects.all()}
        print(json.dumps([[one.state for one in Order.objects.all()], log]))
    """
    states, log = site.run(state)
    assert states == ["shipped"] * 3
    assert [log[name][0] for name in names] == ["COMPLETED"] * 3 + ["FAILED"]
    assert site.run(LOOK) == {
        "escaped": True, "failed": True, "recent": 4, "text": True, "function": 3, "nothing": [], "one": True,
        "add": 403, "delete": 403, "said": True, "status": "PUBLISHED", "clerk": 403,
    }  # fmt: skip
    assert "1 message processed" in site.manage("kq_worker", "--burst", "--inline")
    _, log = site.run(state)
    assert (log[names[3]][0], len(log)) == ("FAILED", 4)
    signatures = [dict(record.headers).get("kq-signature", b"")[:5] for record in records(hosts, site.topic)]
    assert signatures == [b"site:"] * 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "KQ['default'] is not set, such as"),
        ({"default": {"TOPIC": "t"}}, "KQ['default'] needs HOSTS"),
        ({"default": {"HOSTS": "h:1", "TOPIC": "t", "TOPICS": 1}}, "KQ['default'] has no TOPICS; it has "),
        ({"default": {"HOSTS": "h:1", "TOPIC": "t", "STORE": "mongodb://x"}}, "a message log is kept in SQLite or"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    """With what is wrong."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "site.db")}
    site = Site(tmp_path, "t", "127.0.0.1:1", database)
    (tmp_path / "kq.json").write_text(json.dumps(settings))
    told = site.manage("kq_worker", code=1)
    assert said in told
    assert len(told.splitlines()) == 1


def test_tables_that_django_makes_are_those_of_the_store(site: Site) -> None:
    """The same columns and indexes, and the version that a store expects."""
    url = site.run("import json; from kq.django.conf import store_url; print(json.dumps(store_url()))")
    site.manage("migrate")  # again: they are left as they are
    with kq.MessageStore(url) as store:
        assert store.list() == []
        from kq.messagelog import schema

        found = schema.sqlalchemy().inspect(store._engine)
        indexes = {index["name"] for index in found.get_indexes(schema.NAME)}
        assert indexes == {index.name for index in schema.tables().log.indexes}
        columns = [column["name"] for column in found.get_columns(schema.NAME)]
        assert columns == list(schema.tables().log.c.keys())
