"""An owner in a process of its own, which may kill itself at one of its lines."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from kq.scheduling import Owner

#: A dead owner is missed after six seconds, the least that a broker allows by default.
CONFIG = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500}
#: Where it may die: the job is handed to the client; it is acknowledged; the tombstone is handed to the client.
POINTS = ("produced", "acknowledged", "buried")


class Mortal(Owner):
    """Dies at a point, when it has come there so many times."""

    point = ""
    left = 0

    def _produce(self, flight: Any) -> None:
        super()._produce(flight)
        self._reach("produced")

    def _bury(self, flight: Any) -> None:
        self._reach("acknowledged")
        super()._bury(flight)
        self._reach("buried")

    def _reach(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main(topic: str, hosts: str, point: str = "", count: str = "0") -> None:
    owner = Mortal(topic, hosts, CONFIG)
    owner.point, owner.left = point, int(count)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threading.Thread(target=_tell, args=(owner, stopping), daemon=True).start()
    owner.run(stopping)
    owner.close()


def _tell(owner: Owner, stopping: threading.Event) -> None:
    while not owner.is_loaded:
        stopping.wait(0.01)
    print("loaded", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
