"""The dashboard's pages and actions, against a real Kafka with a real worker, without a browser."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import at_work, wait_until
from starlette.testclient import TestClient
from web_scene import Scene, scene_at

import kq
from kq.web import Settings, Site

ORIGIN = "http://127.0.0.1:8817"


@pytest.fixture(scope="module")
def scene(
    make_topic: Callable[..., str], hosts: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:  # fmt: skip
    with scene_at(hosts, make_topic(2), tmp_path_factory.mktemp("scene")) as made:
        yield made


def visitor(scene: Scene, **settings: Any) -> TestClient:
    """Return a browser, as it were, and the dashboard that it looks at."""
    with_store = {"store": scene.log, "topics": (scene.topic,), **settings}
    site = Site(Settings(scene.hosts, **with_store))
    return TestClient(site.app, base_url=ORIGIN, headers={"origin": ORIGIN})


@pytest.fixture(scope="module")
def web(scene: Scene) -> Iterator[TestClient]:
    """Return a visitor who may do anything."""
    with visitor(scene) as made:
        wait_until(lambda: "3" in tiles(made.get("/").text)["Dead letters"], timeout=30)
        wait_until(lambda: scene.running.id in made.get("/workers").text, timeout=30)
        wait_until(lambda: scene.delayed[0].id in made.get(f"/topics/{scene.topic}").text, timeout=30)
        yield made


@pytest.fixture(scope="module")
def guest(scene: Scene) -> Iterator[TestClient]:
    """Return a visitor who may change nothing, and sees no arguments."""
    with visitor(scene, read_only=True, hides_arguments=True) as made:
        wait_until(lambda: scene.running.id in made.get("/workers").text, timeout=30)
        wait_until(lambda: "nightly" in made.get(f"/topics/{scene.topic}").text, timeout=30)
        yield made


def tiles(page: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page))


def token_in(page: str) -> str:
    return re.findall(r'name="token" value="(\w+)"', page)[0]


def do(web: TestClient, action: str, scene: Scene, **fields: Any) -> str:
    """Send a form as the page of workers has it, also the second one, and return what the page says then."""
    given = {"token": token_in(web.get("/workers").text), "topic": scene.topic, "back": "/workers", **fields}
    page = web.post(f"/actions/{action}", data=given)
    if "?</h1>" in page.text:
        again = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text)
        fields = {name: [html.unescape(value) for key, value in again if key == name] for name, _ in again}
        page = web.post(f"/actions/{action}", data=fields)
    assert page.status_code == 200, page.text
    return html.unescape(re.findall(r'<p class="notice \w+" role="status">(.*?)</p>', page.text)[0])


def pages(scene: Scene) -> dict[str, str]:
    """Return the address of each page, and what must stand there."""
    letter = f"{scene.topic}-{scene.letters()[0].partition}-{scene.letters()[0].offset}"
    return {
        "/": scene.topic,
        f"/topics/{scene.topic}": scene.delayed[0].id,
        "/workers": scene.running.id,
        "/jobs": scene.failed[0].id,
        f"/jobs/{scene.failed[0].id}": "Traceback (most recent call last)",
        f"/letters?topic={scene.topic}": letter,
        f"/letters/{scene.topic}/{letter}": "Traceback (most recent call last)",
    }  # type: ignore[dict-item]


# -- pages ------------------------------------------------------------------------------------------------------------


def test_each_page_is_there(web: TestClient, scene: Scene) -> None:
    """With what it is for; nothing that a job brought is markup."""
    for address, words in pages(scene).items():
        page = web.get(address)
        assert (page.status_code, words in page.text) == (200, True), address
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "<script>document" not in page.text
    for address in list(pages(scene))[4:]:
        assert "&lt;script&gt;document" in web.get(address).text, address


def test_the_figures_are_true(web: TestClient, scene: Scene) -> None:
    """Of letters, delayed jobs and workers."""
    shown = tiles(web.get("/").text)
    assert (shown["Topics"], shown["Workers"], shown["Delayed"], shown["Dead letters"]) == ("1", "1", "2", "3")
    page = web.get(f"/topics/{scene.topic}").text
    assert page.index(scene.delayed[0].id) < page.index(scene.delayed[1].id)  # by due time
    assert "nightly" in page and f"Group <strong>{scene.topic}</strong>" in page


@pytest.mark.parametrize(
    ("query", "count"),
    [("", 3), ("reason=failure", 3), ("reason=timeout", 0), ("text=OWNED", 3), ("text=none", 0), ("begin=2", 1)],
)
def test_letters_are_found(web: TestClient, scene: Scene, query: str, count: int) -> None:
    """By reason and by text, the newest first."""
    page = web.get(f"/letters?topic={scene.topic}&{query}").text
    assert page.count('aria-label="Choose letter') == count
    if not query:
        found = re.findall(r"owned=1&lt;/script&gt;-(\d)", page)
        at = {letter.error[-1]: letter.at for letter in scene.letters()}
        assert found == sorted(found, key=lambda number: at[number], reverse=True)


@pytest.mark.parametrize(
    ("query", "has"),
    [("status=DEAD", True), ("status=COMPLETED", False), ("text=owned", True), ("function=jobs.add", False)],
)
def test_jobs_are_found(web: TestClient, scene: Scene, query: str, has: bool) -> None:
    """By status, text and function; and one by its ID."""
    page = web.get(f"/jobs?topic={scene.topic}&{query}").text
    assert (scene.failed[0].id in page) == has
    assert web.get("/jobs", params={"id": scene.failed[0].id}).url.path == f"/jobs/{scene.failed[0].id}"


@pytest.mark.parametrize("path", ["/nothing", "/topics/nothing", "/jobs/nothing", "/letters/nothing/x", "/static/x"])
def test_what_is_not_there_is_said(web: TestClient, path: str) -> None:
    """As a page, with the same headers."""
    page = web.get(path)
    assert page.status_code == 404
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_arguments_are_nowhere_when_they_are_switched_off(guest: TestClient, scene: Scene) -> None:
    """Not of schedules, nor of jobs, nor inside letters."""
    for address in pages(scene):
        assert "secret-7" not in guest.get(address).text
    job = guest.get(f"/jobs/{scene.well.id}").text
    assert "***" in job and "owned" not in job
    assert "Arguments are not shown here" in guest.get(list(pages(scene))[-1]).text


def test_the_log_is_turned_over_up_to_a_row(web: TestClient, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind it, a database would pass over all the rows before, one by one."""
    monkeypatch.setattr("kq.web.pages._ROWS", 1)
    monkeypatch.setattr("kq.web.pages._FURTHEST_ENTRY", 2)
    first, last, beyond = (web.get(f"/jobs?begin={begin}").text for begin in (0, 2, 999))
    assert ">Older<" in first and "There are older ones" not in first
    assert ">Older<" not in last and "There are older ones" in last and "Jobs 3 to 3" in last
    assert "Jobs 3 to 3" in beyond


# -- actions ----------------------------------------------------------------------------------------------------------


def test_a_read_only_dashboard_changes_nothing(guest: TestClient, scene: Scene) -> None:
    """There is no form, and whoever sends one is refused."""
    for address in pages(scene):
        assert 'method="post"' not in guest.get(address).text
    page = guest.post("/actions/pause", data={"topic": scene.topic})
    assert (page.status_code, "read-only" in page.text) == (403, True)
    with scene.control() as control:
        assert control.pauses() == []


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "terminate", "stop", "replay", "purge"])
def test_a_form_without_the_token_is_refused(web: TestClient, scene: Scene, action: str) -> None:
    """And one of another origin, and a GET."""
    fields = {"topic": scene.topic, "name": scene.running.id, "all": "yes", "sure": "yes"}
    assert web.post(f"/actions/{action}", data=fields).status_code == 403
    fields["token"] = token_in(web.get("/workers").text)
    evil = {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    assert web.post(f"/actions/{action}", data=fields, headers=evil).status_code == 403
    assert web.get(f"/actions/{action}").status_code == 405
    assert len(scene.letters()) == 3


@pytest.mark.parametrize(
    ("action", "fields", "words"),
    [
        ("dance", {}, "no such action"),
        ("pause", {"topic": "another"}, "not among those that are shown"),
        ("pause", {"topic": "a b"}, "topic must be"),
        ("cancel", {}, "name a job"),
        ("cancel", {"name": "x" * 501}, "too much"),
        ("stop", {}, "name a worker"),
        ("replay", {}, "choose letters first"),
        ("purge", {"all": "yes", "until": "soon", "sure": "yes"}, "could not convert"),
    ],
)
def test_a_form_that_makes_no_sense_is_said(
    web: TestClient, scene: Scene, action: str, fields: dict[str, str], words: str
) -> None:  # fmt: skip
    """And does nothing."""
    given = {"token": token_in(web.get("/workers").text), "topic": scene.topic, **fields}
    page = web.post(f"/actions/{action}", data=given)
    assert (page.status_code, words in page.text) == (400, True), page.text


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "/a\nb"])
def test_nobody_is_sent_to_another_site(web: TestClient, scene: Scene, back: str) -> None:
    """After an action the browser goes to a page of this one."""
    fields = {"token": token_in(web.get("/workers").text), "topic": scene.topic, "back": back}
    answer = web.post("/actions/resume", data=fields, follow_redirects=False)
    assert answer.headers["location"].startswith("/?said=")


def test_a_form_that_is_too_large_is_refused(web: TestClient) -> None:
    """It is not even kept."""
    assert web.post("/actions/pause", content=b"a=" + b"b" * 300_000).status_code == 403


def test_a_topic_and_a_group_are_paused_and_resumed(web: TestClient, scene: Scene) -> None:
    """The page says so soon."""
    with scene.control() as control:
        assert do(web, "pause", scene, group=scene.topic) == f"Group {scene.topic} of topic {scene.topic} is paused"
        assert control.pauses() == [scene.topic]
        assert do(web, "pause", scene) == f"Topic {scene.topic} is paused"
        wait_until(lambda: "paused for all groups" in web.get(f"/topics/{scene.topic}").text, timeout=20)
        assert do(web, "resume", scene) == f"Topic {scene.topic} is resumed"
        assert control.pauses() == []


def test_workers_that_sign_hear_of_what_is_wished(topic: str, hosts: str) -> None:
    """What the dashboard wishes is signed with its keys, and what they say is verified."""
    signer = kq.Signer({"a": b"k" * 32})
    calls: list[Any] = []
    worker = kq.Worker(topic, hosts=hosts, callback=lambda *told: calls.append(told[0]), control=True, signer=signer)
    site = Site(Settings(hosts, topics=(topic,), signer=signer))
    with at_work(worker), TestClient(site.app, base_url=ORIGIN, headers={"origin": ORIGIN}) as web:
        wait_until(lambda: tiles(web.get("/").text)["Workers"] == "1", timeout=30)
        fields = {"token": token_in(web.get("/workers").text), "topic": topic, "back": "/"}
        assert web.post("/actions/pause", data=fields).status_code == 200
        wait_until(lambda: site.watcher.snapshot.topics[topic].workers[0].state == "paused", timeout=30)
        with kq.Queue(topic, hosts=hosts, signer=signer) as queue:
            queue.enqueue(abs, -1)
        wait_until(lambda: worker.stats().backlog == 1, timeout=30)
        assert web.post("/actions/resume", data=fields).status_code == 200
        wait_until(lambda: calls == ["success"], timeout=30)


def test_jobs_are_cancelled_and_terminated(web: TestClient, scene: Scene) -> None:
    """One that waits never runs; one that runs ends, after a question."""
    assert "is cancelled" in do(web, "cancel", scene, name=scene.delayed[0].id)
    wait_until(lambda: status_of(scene, scene.delayed[0]) == "CANCELLED", timeout=30)
    job = scene.run()
    wait_until(lambda: job.id in web.get("/workers").text, timeout=30)
    assert do(web, "terminate", scene, name=job.id) == f"Job {job.id} is terminated"
    wait_until(lambda: status_of(scene, job) == "CANCELLED", timeout=30)


def status_of(scene: Scene, job: kq.Job) -> str | None:
    entry = scene.log.get(str(job.id))
    return None if entry is None else entry.status


def test_letters_are_replayed_and_purged(web: TestClient, scene: Scene) -> None:
    """Those that are chosen, and all of a reason; others stay."""
    first, second, third = sorted(letter.id for letter in scene.letters())
    assert do(web, "replay", scene, name=first) == "1 letter replayed"
    wait_until(lambda: len(scene.letters()) == 4, timeout=30)  # it fails again
    assert do(web, "purge", scene, name=[second, third]) == "2 letters purged"
    left = {letter.id for letter in scene.letters()}
    assert first in left and not {second, third} & left
    assert "no letter" in do(web, "purge", scene, name=second)
    wait_until(lambda: web.get(f"/letters?topic={scene.topic}").text.count("Choose letter") == 1, timeout=20)
    assert do(web, "replay", scene, all="yes", reason="timeout") == "0 letters replayed"
    assert do(web, "purge", scene, all="yes", reason="failure") == "2 letters purged"
    wait_until(lambda: tiles(web.get("/").text)["Dead letters"] == "0", timeout=20)
