"""The dashboard in Chromium, against a real Kafka with a real worker: each page and each action, as people use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from helpers import wait_until
from web_scene import EVIL, Scene, fail, scene_at, serving

import kq

pytest.importorskip("selenium")
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

#: Of each text that is seen: its contrast with what is behind it, by the formula of WCAG 2, where it is below 4.5.
FAINT = """
const channel = (one) => (one /= 255) <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const parts = (text) => text.match(/[0-9.]+/g).map(Number);
const behind = (one) => {
  for (; one; one = one.parentElement) {
    const paint = parts(getComputedStyle(one).backgroundColor);
    if (paint.length < 4 || paint[3] === 1) return paint.slice(0, 3);
  }
  return [255, 255, 255];
};
const faint = [];
for (const one of document.querySelectorAll("body *")) {
  const text = [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
  if (!text || !one.checkVisibility() || one.closest(".unseen, option")) continue;
  const pair = [light(parts(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
  const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (contrast < 4.5) faint.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
}
return faint;
"""


@pytest.fixture(scope="module")
def scene(
    make_topic: Callable[..., str], hosts: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:  # fmt: skip
    with scene_at(hosts, make_topic(2), tmp_path_factory.mktemp("scene")) as made:
        yield made


@pytest.fixture(scope="module")
def address(scene: Scene, browser: Any) -> Iterator[str]:
    """Return where the dashboard is."""
    with serving(scene.hosts, "--topic", scene.topic, "--store", scene.store) as found:
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    """Return a page that is as wide as a desk."""
    yield Page(browser, address)
    emulate(browser, width=None)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    browser.get("about:blank")


class Page:
    """What somebody sees, and does."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        self.address = address

    def open(self, path: str, words: str = "") -> None:
        """Open a page, and wait for its words, in which it is live."""
        self.browser.get(self.address + path)
        self.await_text(words)

    def text(self) -> str:
        try:
            return str(self.browser.find_element(By.TAG_NAME, "main").text)
        except StaleElementReferenceException:
            return ""

    def await_text(self, words: str, timeout: float = 30.0) -> None:
        wait_until(lambda: words in self.text(), timeout, f"{words!r} is not seen: {self.text()}")

    def await_gone(self, words: str) -> None:
        wait_until(lambda: words not in self.text(), 30.0, f"{words!r} is seen still")

    def press(self, label: str, within: str = "") -> None:
        """Press a button, wherever it is at that moment, by its whole label."""

        def has_pressed() -> bool:
            for button in self.browser.find_elements(By.CSS_SELECTOR, f"{within} button, {within} a.button"):
                try:
                    if " ".join(button.text.split()) == label:
                        button.click()
                        return True
                except StaleElementReferenceException:  # the page has news at this very moment
                    return False
            return False

        wait_until(has_pressed, 30.0, f"no button {label!r}: {self.text()}")

    def script(self, source: str) -> Any:
        return self.browser.execute_script(source)


def emulate(browser: Any, *, width: int | None = None, scheme: str = "") -> None:
    """Have the browser be a phone, or dark; or as it was."""
    media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # colours do not change by and by
    features = [{"name": name, "value": value} for name, value in media.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    if width is None:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    else:
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture(scope="module")
def pages(scene: Scene) -> dict[str, str]:
    """Return the address of each page, and what is seen there."""
    (letter, *_) = scene.letters()
    return {
        "/": scene.topic,
        f"/topics/{scene.topic}": str(scene.delayed[0].id),
        "/workers": str(scene.running.id),
        "/jobs": "dead",
        f"/jobs/{scene.failed[0].id}": "most recent call last",
        f"/letters?topic={scene.topic}": letter.id,
        f"/letters/{scene.topic}/{letter.id}": "most recent call last",
        "/nothing": "Not here",
    }


def test_each_page_is_whole_on_a_desk_and_on_a_phone(page: Page, pages: dict[str, str]) -> None:
    """What a job brought is text, no request leaves the origin, nothing is wrong in the console, and there is no
    sideways scroll; each text can be read, light and dark.
    """
    page.browser.get_log("browser")
    papers = set()
    for path, words in pages.items():
        emulate(page.browser)
        page.open(path, words)
        wait_until(lambda: page.script("return document.getElementById('live').textContent") == "Live", 20)
        assert page.script("return [window.owned ?? null, document.title.includes('owned')]") == [None, False], path
        asked = page.script("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert {urlsplit(one).netloc for one in asked} == {urlsplit(page.address).netloc}, path
        assert page.script("return [document.querySelectorAll('h1').length, document.querySelectorAll('main').length]")
        for scheme, width in (("light", None), ("dark", 390)):
            emulate(page.browser, width=width, scheme=scheme)
            papers.add(page.script("return getComputedStyle(document.body).backgroundColor"))
            assert page.script(FAINT) == [], (path, scheme)
            wide = page.script("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1] == (width or wide[1]), (path, width)
    assert len(papers) == 2
    log = [line for line in page.browser.get_log("browser") if "404" not in line["message"]]
    assert log == []


def test_what_a_job_brought_is_seen_as_it_is(page: Page, pages: dict[str, str], scene: Scene) -> None:
    """Its error in the list and inside the letter, its arguments in the log."""
    for path in list(pages)[4:7]:
        page.open(path, EVIL)
    page.open(f"/jobs/{scene.well.id}", EVIL[:40])
    page.open(list(pages)[6], "Inside the value")
    assert "nothing is unpickled" in page.text() and "fail" in page.text()


def test_news_come_without_a_reload(page: Page, scene: Scene) -> None:
    """A letter that comes is seen; who chooses letters is not disturbed."""
    page.open(f"/letters?topic={scene.topic}", "Letters 1 to 3 of 3")
    page.script("window.same = true")
    scene.queue.enqueue(fail, "a new one")
    page.await_text("a new one")
    page.browser.find_element(By.CSS_SELECTOR, "input[name=name]").click()
    scene.queue.enqueue(fail, "a newer one")
    wait_until(lambda: len(scene.letters()) == 5, 30)
    before = page.script("return performance.getEntriesByType('resource').length")
    wait_until(lambda: page.script("return performance.getEntriesByType('resource').length") > before + 1, 30)
    assert "a newer one" not in page.text()
    page.browser.find_element(By.CSS_SELECTOR, "input[name=name]").click()
    page.await_text("a newer one")
    assert page.script("return window.same") is True
    assert "Live" in page.browser.find_element(By.ID, "live").text


def test_it_can_be_used_by_keyboard_alone(page: Page, scene: Scene) -> None:
    """The first stop leads past the menu; where the focus is, is seen; Enter presses."""
    page.open(f"/topics/{scene.topic}", "Pause")
    tab(page)
    assert page.browser.switch_to.active_element.text == "Skip to the content"
    assert page.script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.script("return location.hash") == "#main"
    tab(page)
    assert page.browser.switch_to.active_element.text == "Pause"
    before = page.script("return performance.getEntriesByType('resource').length")
    wait_until(lambda: page.script("return performance.getEntriesByType('resource').length") > before, 30)
    assert page.browser.switch_to.active_element.text == "Pause"  # also after news
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.await_text("paused for all groups")
    with scene.control() as control:
        assert control.pauses() == [None]
    page.press("Resume")
    page.await_gone("paused for all groups")


def tab(page: Page) -> None:
    page.browser.switch_to.active_element.send_keys(Keys.TAB)


def test_it_can_be_read_and_used_without_scripts(page: Page, scene: Scene) -> None:
    """A form is a form, and a question a page."""
    page.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.open("/workers", str(scene.running.id))
    page.press("Pause all groups of topic " + scene.topic)
    page.await_text(f"Topic {scene.topic} is paused")
    page.press(f"Stop worker {scene.worker_id()}")
    page.await_text("The worker finishes what it runs")
    page.press("Leave it")
    page.press("Resume all groups of topic " + scene.topic)
    page.await_text(f"Topic {scene.topic} is resumed")


def test_a_group_is_paused_and_resumed(page: Page, scene: Scene) -> None:
    """Its buttons change with it."""
    page.open("/workers", scene.topic)
    page.press(f"Pause group {scene.topic}")
    page.await_text(f"Group {scene.topic} of topic {scene.topic} is paused")
    page.press(f"Resume group {scene.topic}")
    page.await_text(f"Group {scene.topic} of topic {scene.topic} is resumed")


def test_jobs_are_cancelled_and_terminated(page: Page, scene: Scene) -> None:
    """A delayed one on the page of the topic, a running one on that of workers, one by its ID."""
    page.open(f"/topics/{scene.topic}", str(scene.delayed[0].id))
    page.press(f"Cancel job {scene.delayed[0].id}")
    page.await_text(f"Job {scene.delayed[0].id} is cancelled")
    page.open("/workers", str(scene.running.id))
    page.press(f"Terminate job {scene.running.id}")
    page.await_text("The job is ended where it runs")
    page.press("Terminate", within="main")
    page.await_text(f"Job {scene.running.id} is terminated")
    wait_until(lambda: status_of(scene, scene.running) == "CANCELLED", 30)
    page.browser.find_element(By.NAME, "name").send_keys(str(scene.delayed[1].id))
    page.press("Cancel", within="form.filters")
    page.await_text(f"Job {scene.delayed[1].id} is cancelled")
    wait_until(lambda: status_of(scene, scene.delayed[1]) == "CANCELLED", 30)


def status_of(scene: Scene, job: kq.Job) -> str | None:
    entry = scene.log.get(str(job.id))
    return None if entry is None else entry.status


def test_letters_are_replayed_and_purged(page: Page, scene: Scene) -> None:
    """One from its own page, those that are chosen, and all."""
    first, second, *_ = sorted(letter.id for letter in scene.letters())
    page.open(f"/letters/{scene.topic}/{first}", first)
    page.press("Replay")
    page.await_text("1 letter replayed")
    page.open(f"/letters?topic={scene.topic}", second)
    page.browser.find_element(By.CSS_SELECTOR, f"input[value='{second}']").click()
    page.press("Purge chosen")
    page.await_text("Purged letters are gone for good")
    page.press("Purge", within="main")
    page.await_text("1 letter purged")
    page.await_gone(second)
    page.press("Purge all")
    page.press("Purge", within="main")
    page.await_text("letters purged")
    page.await_text("No letter is like that")
    assert [letter for letter in scene.letters() if letter.replayed_at is None] == []


def test_a_worker_is_stopped(page: Page, scene: Scene) -> None:
    """After a question; the page says when it is gone."""
    name = scene.worker_id()
    page.open("/workers", name)
    page.press(f"Stop worker {name}")
    page.press("Stop", within="main")
    page.await_text(f"Worker {name} is asked to stop")
    wait_until(lambda: scene.worker.state.value == "stopped", 30)
    page.await_text("No worker is there")
