"""The command ``kq``: ``main.main`` runs it."""

from kq.cli import main

__all__ = ["main"]
