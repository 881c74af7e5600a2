"""Take the pictures of the dashboard that the pages show: a shop with real workers on a real Kafka, and Chromium.

    python docs/screenshots.py [FOLDER]

Needs the extras ``test`` and ``web``, and Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import kq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "examples"))

import shop  # noqa: E402

#: Seconds that jobs come in before the pictures, for the plots to have something.
LEAD = 100.0
PORT = 18817
#: Width and height of the pictures: of a desk and of a phone.
DESK, PHONE = (1200, 800), (390, 844)
#: Height of the pictures, on a desk, of pages that are longer or shorter than that.
HEIGHTS = {"overview": 460, "topic": 1120, "job": 490}
#: What is pictured: a name, and the address.
PAGES = {
    "overview": "/",
    "topic": "/topics/orders",
    "workers": "/workers",
    "jobs": "/jobs",
    "job": "/jobs/order-46",
    "letters": "/letters?topic=orders",
    "letter": "/letters",
    "confirm": "",
}


def main() -> None:
    """Take all pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "images"
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        local = stack.enter_context(kq.LocalKafka())
        store = f"sqlite:///{home / 'kq.db'}"
        for topic in ("orders", "photos"):
            kq.Queue(topic, hosts=local.hosts).ensure_topic(4)
        stack.enter_context(running(["web", "--hosts", local.hosts, "--store", store, "--port", str(PORT)]))
        work = ["--hosts", local.hosts, "--dead-letters", "--store", store, "--capture-logs", "--log-level", "error"]
        for topic, more in (("orders", "6"), ("orders", "6"), ("photos", "4")):
            stack.enter_context(running(["worker", "--topic", topic, "--threads", more, *work]))
        is_over = threading.Event()
        trading = threading.Thread(target=trade, args=(local.hosts, store, is_over))
        trading.start()
        stack.callback(trading.join)
        stack.callback(is_over.set)
        time.sleep(LEAD)
        for name in PAGES:
            for scheme, size in (("light", DESK), ("dark", DESK), ("phone", PHONE)):
                picture(folder, name, scheme, size)
                print(name, scheme)


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Have a command of kq run meanwhile."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE / "examples")])}
    process = subprocess.Popen([sys.executable, "-m", "kq", *command], env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def trade(hosts: str, store: str, is_over: threading.Event) -> None:
    """Have jobs come in, in waves, until that is over."""
    with (
        kq.MessageStore(store) as log,
        kq.Queue("orders", hosts=hosts, message_log=log) as orders,
        kq.Queue("photos", hosts=hosts, message_log=log) as photos,
    ):
        orders.schedule("nightly report", kq.Cron("30 2 * * *"), shop.build_report, "last month")
        orders.schedule("receipts", kq.Every(900), shop.send_receipt, "bookkeeping@shop.example")
        for number in range(30):
            orders.using(delay=600 + 311 * number).enqueue(shop.send_receipt, f"customer{number}@shop.example")
        begun, order = time.monotonic(), 0
        while not is_over.is_set():
            passed = time.monotonic() - begun
            if int(passed) % 20 == 0:
                orders.enqueue(shop.build_report, "October")
            many = 8 + int(30 * random.random() ** 3) + (40 if 40 < passed % 140 < 48 else 0)
            for _ in range(many):
                order += 1
                orders.enqueue(kq.Job(f"order-{order}", func=shop.charge, args=(order, round(9.5 + order % 90, 2))))
            photos.enqueue_many((shop.resize_photo, (f"IMG_{order + place}.jpg", 640)) for place in range(5))
            time.sleep(1.0)


def picture(folder: Path, name: str, scheme: str, size: tuple[int, int]) -> None:
    """Take one picture, from the top of the page down."""
    with browser(*size) as driver:
        media = [{"name": "prefers-color-scheme", "value": "dark" if scheme == "dark" else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        if size == PHONE:
            metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": True}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(f"http://127.0.0.1:{PORT}{PAGES[name] or '/letters?topic=orders'}")
        if name in ("letter", "confirm"):
            driver.execute_script("document.querySelector('td.id a').click()")
            time.sleep(1.0)
        if name == "confirm":
            driver.execute_script("document.querySelector('form[action=\"/actions/purge\"] button').click()")
        time.sleep(3.0)
        if name in HEIGHTS and size == DESK:
            metrics = {"width": size[0], "height": HEIGHTS[name], "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.save_screenshot(str(folder / f"dashboard-{name}-{scheme}.png"))


@contextlib.contextmanager
def browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    """Give a browser of its own."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (
            *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "hide-scrollbars"),
            *("disable-background-networking", "disable-component-update", "disable-sync"),
            *(f"window-size={width},{height}", f"user-data-dir={profile}"),
        ):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))
        try:
            yield driver
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
