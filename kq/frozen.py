"""Where freezegun stops the time in a test, KQ's clocks and Kafka's client go on: they wait by them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["keep_clocks_going"]


class _Clocks:
    """The module ``time``, with clocks that go on where freezegun has stopped the time: KQ waits by them."""

    def __init__(self, monotonic: Callable[[], float], perf_counter: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self.perf_counter = perf_counter

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["time"], name)


def keep_clocks_going() -> None:
    """Have what is imported by now keep the real clocks, if freezegun is here."""
    try:
        import freezegun
    except ImportError:
        return
    freezegun.configure(extend_ignore_list=["kafka."])
    clocks = _Clocks(freezegun.api.real_monotonic, freezegun.api.real_perf_counter)
    for name, module in list(sys.modules.items()):
        if name.startswith("kq.") and getattr(module, "time", None) is sys.modules["time"]:
            vars(module)["time"] = clocks
