"""The page of the admin: entries, filters, search, and an action that enqueues messages again."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q
from django.utils import timezone

import kq
from kq.django.conf import alias_of, options, store
from kq.django.models import MessageLog

__all__ = ["ChangedFilter", "MessageLogAdmin"]

#: Choices of the filter by time, in hours.
_SINCE = {"1": "the last hour", "24": "the last day", "168": "the last week"}


class ChangedFilter(admin.SimpleListFilter):
    """Entries that changed within a time."""

    title = "changed"
    parameter_name = "hours"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return list(_SINCE.items())

    def queryset(self, request: Any, queryset: Any) -> Any:
        if self.value() not in _SINCE:
            return queryset
        return queryset.filter(changed_at__gte=timezone.now() - timedelta(hours=int(self.value())))


@admin.register(MessageLog)
class MessageLogAdmin(admin.ModelAdmin):
    """Shows the message log, and changes nothing of it."""

    list_display = ("job_id", "status", "function", "arguments", "attempt", "topic", "changed_at", "exception")
    list_filter = ("status", ChangedFilter)
    search_fields = ("job_id",)
    search_help_text = "A job, a function, a topic, or a text in an exception or its traceback"
    actions = ("requeue",)
    show_full_result_count = False

    def get_search_results(self, request: Any, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find by what the table has indexes of."""
        term = search_term.strip()
        if not term:
            return queryset, False
        text = Q(exception__icontains=term) | Q(traceback__icontains=term)
        by_name = Q(job_id=term) | Q(function=term) | Q(topic=term)
        return queryset.filter(by_name | (Q(exception__isnull=False) & text)), False

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_requeue_permission(self, request: Any) -> bool:
        return bool(request.user.has_perm("kq.requeue_messagelog"))

    @admin.action(description="Enqueue again", permissions=["requeue"])
    def requeue(self, request: Any, queryset: Any) -> None:
        """Put the messages of the chosen entries onto their topics again."""
        entries: dict[str, list[kq.MessageLog]] = defaultdict(list)
        for one in queryset.order_by("changed_at"):
            entries[alias_of(one.topic)].append(one.as_entry())
        done = 0
        for alias, chosen in entries.items():
            given = options(alias)
            try:
                access = given["HOSTS"], given.get("CONFIG")
                done += kq.requeue(chosen, *access, store=store(alias), signer=given.get("SIGNER"))
            except kq.KQError as error:
                self.message_user(request, str(error), messages.ERROR)
        if done:
            self.message_user(request, f"{done} message{'s' if done > 1 else ''} enqueued again", messages.SUCCESS)
