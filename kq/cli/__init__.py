"""The command ``kq``."""

from kq.cli.main import main

__all__ = ["main"]
