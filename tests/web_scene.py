"""What the dashboard is looked at with: a topic with a worker, failures, and jobs that run, wait and are over."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cancel_jobs
import jobs
from helpers import at_work, wait_until

import kq

#: What a page must show as text.
EVIL = "<script>document.title='owned';window.owned=1</script>"
ADDRESS = re.compile(r"is at (http://127\.0\.0\.1:\d+)/")


def fail(text: str) -> None:
    """Fail with a text."""
    raise ValueError(text)


class Scene:
    """A topic of jobs.

    :ivar running: A job that runs until it is terminated.
    :ivar delayed: Jobs that are due in an hour, and later.
    """

    def __init__(self, hosts: str, topic: str, folder: Path) -> None:
        self.hosts = hosts
        self.topic = topic
        self.store = f"sqlite:///{folder / 'kq.db'}"
        self.journal = str(folder / "journal")
        self.log = kq.MessageStore(self.store)
        self.queue = kq.Queue(topic, hosts=hosts, message_log=self.log)
        self.worker = kq.Worker(
            topic,
            hosts=hosts,
            executor="thread",
            concurrency=4,
            dead_letters=True,
            control=True,
            message_log=self.store,
            capture_logs=True,
        )
        failing = self.queue.using(key=b"secret-7", headers=[("mine", b"secret-7")])
        self.failed = [failing.enqueue(fail, f"{EVIL}-{number}") for number in range(3)]
        self.well = self.queue.enqueue(jobs.add, EVIL, EVIL)
        self.delayed = [self.queue.using(delay=delay).enqueue(jobs.add, 1, 2) for delay in (3600, 7200)]
        self.queue.schedule("nightly", kq.Cron("30 2 * * *"), jobs.add, EVIL, "secret-7")
        self.running = self.run()

    def run(self) -> kq.Job:
        """Enqueue a job that runs for ten minutes."""
        return self.queue.enqueue(cancel_jobs.wait, self.journal, 600)

    def letters(self) -> list[kq.DeadLetter]:
        """Return the letters that there are."""
        return list(kq.DeadLetters(self.topic, self.hosts).iterate(replayed=True))

    def worker_id(self) -> str:
        """Return the name of the worker."""
        with self.control() as control:
            return wait_until(control.workers, timeout=20)[0].id

    def control(self) -> kq.Control:
        return kq.Control(self.topic, self.hosts)


@contextmanager
def scene_at(hosts: str, topic: str, folder: Path) -> Iterator[Scene]:
    """Have a topic with all that there is to see, and a worker."""
    scene = Scene(hosts, topic, folder)
    with scene.log, scene.queue, at_work(scene.worker):
        wait_until(lambda: len(scene.letters()) == 3, timeout=30)
        try:
            yield scene
        finally:
            scene.worker.stop(now=True)


@contextmanager
def serving(hosts: str, *options: str) -> Iterator[str]:
    """Run ``kq web`` on a free port, and give its address; Ctrl-C ends it well."""
    command = [sys.executable, "-m", "kq", "web", "--hosts", hosts, "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = ADDRESS.search(line)
        assert found is not None, line + process.stderr.read()
        said: list[str] = []
        reader = threading.Thread(target=said.extend, args=(process.stderr,))
        reader.start()
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        reader.join(10)
        assert [line for line in said if "Traceback" in line] == [], "".join(said)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
