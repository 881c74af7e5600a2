"""The app that a Django project installs."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate

from kq.django.tables import make_tables

__all__ = ["KQConfig"]


class KQConfig(AppConfig):
    """Makes the tables of the message log after ``migrate``."""

    name = "kq.django"
    label = "kq"
    verbose_name = "KQ"

    def ready(self) -> None:
        post_migrate.connect(make_tables, sender=self)
