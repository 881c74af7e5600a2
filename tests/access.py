"""Users with exactly some rights, on a Kafka with access control lists."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any

from helpers import wait_until
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from secured import Kafkas

from kq.clients import unsecured_token
from kq.rights import Right

__all__ = ["COMPANIONS", "Access"]

#: The topics beside one of jobs -> their settings.
COMPANIONS: dict[str, dict[str, str]] = {
    "later": {"cleanup.policy": "compact"},
    "dead": {"cleanup.policy": "compact,delete"},
    "results": {"cleanup.policy": "delete"},
    "control": {"cleanup.policy": "compact"},
}


class Access:
    """Gives rights, and makes topics, as somebody whom all is allowed."""

    def __init__(self, secured: Kafkas) -> None:
        self.local = secured.logins
        self.all = {"hosts": self.local.hosts, "config": self.local.config_for("admin", "PLAIN")}
        self.admin = KafkaAdminClient(bootstrap_servers=self.local.hosts, **self.all["config"])

    def topics(self) -> str:
        """Return the name of a new topic with all its companions."""
        topic = f"rights-{uuid.uuid4().hex[:12]}"
        settings = {"num_partitions": 1, "replication_factor": 1}
        made = {f"{topic}.{name}": {**settings, "configs": how} for name, how in COMPANIONS.items()}
        self.admin.create_topics({topic: settings, **made})
        return topic

    def user(self, rights: Iterable[Right]) -> dict[str, Any]:
        """Return hosts and config of a new user, who has these rights and no others."""
        return self.named(rights)[1]

    def named(self, rights: Iterable[Right]) -> tuple[str, dict[str, Any]]:
        """Return the name too."""
        name = f"user-{uuid.uuid4().hex[:12]}"
        wanted = [
            ACL(
                f"User:{name}",
                "*",
                ACLOperation[re.sub(r"(?<!^)(?=[A-Z])", "_", right.operation).upper()],
                ACLPermissionType.ALLOW,
                ResourcePattern(ResourceType[right.kind.upper()], right.name),
            )
            for right in rights
        ]
        if wanted:
            result = self.admin.create_acls(wanted)
            assert not result["failed"], result
            wait_until(lambda: self._count(name) == len(wanted), timeout=30)
        config = self.local.config_for("bob", "OAUTHBEARER")
        config["sasl_oauth_token_provider"] = unsecured_token(name)
        return name, {"hosts": self.local.hosts, "config": config}

    def _count(self, name: str) -> int:
        """Return how many rights of a user the broker knows: it hears of new ones a moment later."""
        any_topic = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
        found, _ = self.admin.describe_acls(
            ACLFilter(f"User:{name}", None, ACLOperation.ANY, ACLPermissionType.ANY, any_topic)
        )
        return len(found)
