"""Making the tables of the message log in the project's own database, by Django's connection."""

from __future__ import annotations

from typing import Any

from django.db import connections, transaction

from kq.messagelog import statements_of

__all__ = ["make_tables"]


def make_tables(using: str = "default", **_: Any) -> None:
    """Make the tables unless they are there, after ``migrate``. A database of another kind is left alone."""
    connection = connections[using]
    if connection.vendor not in ("sqlite", "postgresql"):
        return
    with connection.cursor() as cursor:
        names = connection.introspection.table_names(cursor)
    statements = statements_of(connection.vendor)
    if statements.name in names:
        return
    with transaction.atomic(using=using), connection.cursor() as cursor:
        for statement in statements.make:
            cursor.execute(statement)
