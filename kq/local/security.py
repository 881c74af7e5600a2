"""How clients of a local Kafka prove who they are, and how its nodes are told.

1. ``Security`` checks what was asked for, and makes up the passwords that were not given.
2. ``prepare`` writes certificates into the folder of the Kafka, before its nodes start.
3. ``properties`` are the settings of a node. They hold passwords, so the file that they go into is a secret.
4. ``config`` is what a client needs, in kafka-python's words.

Nodes and controllers talk to each other by TLS with certificates of their own: no port takes strangers.
"""

from __future__ import annotations

import re
import secrets
import ssl
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kq.errors import ArgumentError, LocalKafkaError
from kq.local.tls import NODE, make_certificates, node_context

__all__ = ["ADMIN", "MECHANISMS", "PROTOCOLS", "Security", "check_users", "java_names"]

#: Whom all is allowed.
ADMIN = "admin"
#: How clients connect -> Kafka's word for it.
PROTOCOLS: Mapping[str, str] = {
    "ssl": "SSL",
    "mtls": "SSL",
    "sasl_ssl": "SASL_SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
}
#: How clients log in -> the class of Kafka's that it takes. Who takes tokens without a signature takes anybody's word,
#: so OAUTHBEARER has to be asked for.
MECHANISMS: Mapping[str, str] = {
    "SCRAM-SHA-512": "scram.ScramLoginModule",
    "SCRAM-SHA-256": "scram.ScramLoginModule",
    "PLAIN": "plain.PlainLoginModule",
    "OAUTHBEARER": "oauthbearer.OAuthBearerLoginModule",
}
#: Mechanisms unless others are named.
USUAL = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
#: What stands in Kafka's own file without an escape. A user's name is part of a file's name too.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_PASSWORD = re.compile(r"[!#-\[\]-~]+")


class Security:
    """Users, certificates and rights of a local Kafka.

    :param kind: One of ``PROTOCOLS``.
    :param users: Names, with passwords or without; ``admin`` is there in any case.
    :param acls: Whether users may do only what access control lists allow.
    :param mechanisms: How users may log in by SASL, the preferred way first.
    :raises kq.ArgumentError: They do not fit.
    """

    def __init__(
        self, kind: str, users: Mapping[str, str | None] | Collection[str], acls: bool, mechanisms: Collection[str]
    ) -> None:
        if kind not in PROTOCOLS:
            raise ArgumentError(f"security must be one of {', '.join(map(repr, PROTOCOLS))}, not {kind!r}")
        if unknown := set(mechanisms) - set(MECHANISMS):
            raise ArgumentError(f"mechanisms has {unknown.pop()!r}; Kafka has {', '.join(MECHANISMS)}")
        if acls and kind == "ssl":
            raise ArgumentError('acls=True needs to know its clients: security must be "mtls" or one with SASL')
        self.kind, self.acls = kind, acls
        self.mechanisms = tuple(mechanisms or USUAL) if self.is_sasl else ()
        self.users = check_users(users)
        self._folder = Path()
        #: Whose certificates are trusted: an object of trustme's.
        self.authority: Any = None

    def __repr__(self) -> str:
        return f"Security({self.kind!r}, users={list(self.users)})"

    @property
    def is_sasl(self) -> bool:
        """Whether users log in by SASL."""
        return PROTOCOLS[self.kind].startswith("SASL")

    @property
    def is_encrypted(self) -> bool:
        """Whether clients connect by TLS."""
        return PROTOCOLS[self.kind].endswith("SSL")

    @property
    def scram(self) -> list[str]:
        """Mechanisms whose passwords Kafka keeps itself."""
        return [mechanism for mechanism in self.mechanisms if mechanism.startswith("SCRAM")]

    def prepare(self, folder: Path) -> None:
        """Write the certificates."""
        self._folder = folder / "tls"
        self.authority = make_certificates(self._folder, self.users if self.kind == "mtls" else ())

    def context(self) -> ssl.SSLContext | None:
        """Return what a probe of a node's port needs; None where that is in the clear."""
        return node_context(self._folder) if self.is_encrypted else None

    def properties(self, port: int, controller: int) -> dict[str, Any]:
        """Return what a node is told. Paths are relative to its folder.

        :param port: Where it listens to clients.
        :param controller: Where it listens to other nodes, as a controller.
        """
        return {
            "listeners": f"CLIENTS://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "listener.security.protocol.map": f"CLIENTS:{PROTOCOLS[self.kind]},CONTROLLER:SSL",
            "inter.broker.listener.name": "CLIENTS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": f"../tls/{NODE}.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": "../tls/ca.pem",
            "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
            "listener.name.controller.ssl.client.auth": "required",
            **({"listener.name.clients.ssl.client.auth": "required"} if self.kind == "mtls" else {}),
            **(self._sasl() if self.is_sasl else {}),
            **(self._rights() if self.acls else {}),
        }

    def _sasl(self) -> dict[str, Any]:
        used = dict.fromkeys((*self.mechanisms, "PLAIN"))  # by this the nodes log in
        logins = {f"listener.name.clients.{name.lower()}.sasl.jaas.config": self._login(name) for name in used}
        return {
            "sasl.enabled.mechanisms": ",".join(used),
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            **logins,
        }

    def _login(self, mechanism: str) -> str:
        """Return Kafka's word for who may log in by a mechanism; by PLAIN only the nodes, unless it was asked for."""
        words = [f"org.apache.kafka.common.security.{MECHANISMS[mechanism]}", "required"]
        if mechanism == "PLAIN":
            known = self.users if "PLAIN" in self.mechanisms else {ADMIN: self.users[ADMIN]}
            words += [f'username="{ADMIN}"', f'password="{self.users[ADMIN]}"']
            words += [f'user_{name}="{password}"' for name, password in known.items()]
        return " ".join(words) + ";"

    def _rights(self) -> dict[str, Any]:
        return {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:{NODE}",
        }

    def config(self, user: str, mechanism: str | None = None) -> dict[str, Any]:
        """Return the settings of a client of a user.

        :raises kq.ArgumentError: There is no such user, or no such way to log in.
        """
        if user not in self.users:
            raise ArgumentError(f"user {user!r} is not one of users: {', '.join(self.users)}")
        return {**self._connection(user), **(self._by_sasl(user, mechanism) if self.is_sasl else {})}

    def for_nodes(self) -> dict[str, Any]:
        """Return the settings of a client by which the nodes are looked at when they start."""
        login = {"sasl_plain_username": ADMIN, "sasl_plain_password": self.users[ADMIN], "sasl_mechanism": "PLAIN"}
        from kq.clients import hide_secrets, kafka_python

        kafka_python.hush()
        return {**self._connection(ADMIN), **(hide_secrets(login) if self.is_sasl else {})}

    def _connection(self, user: str) -> dict[str, Any]:
        config: dict[str, Any] = {"security_protocol": PROTOCOLS[self.kind]}
        if self.is_encrypted:
            config["ssl_cafile"] = str(self._folder / "ca.pem")
        if self.kind == "mtls":
            config["ssl_certfile"] = config["ssl_keyfile"] = str(self._folder / f"{user}.pem")
        return config

    def _by_sasl(self, user: str, mechanism: str | None) -> dict[str, Any]:
        mechanism = mechanism or self.mechanisms[0]
        if mechanism not in self.mechanisms:
            raise ArgumentError(f"mechanism {mechanism!r} is not one of mechanisms: {', '.join(self.mechanisms)}")
        from kq.clients import hide_secrets, unsecured_token  # the supervisor's Python has no Kafka client

        if mechanism == "OAUTHBEARER":
            return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": unsecured_token(user)}
        known = {"sasl_plain_username": user, "sasl_plain_password": self.users[user]}
        return hide_secrets({"sasl_mechanism": mechanism, **known})

    def add_users(self, admin: Any) -> None:
        """Have Kafka keep the passwords of the users; those that it keeps from a former start are replaced."""
        from kafka.admin import UserScramCredentialUpsertion

        for mechanism in self.scram:  # a request may name each user once
            word = mechanism.replace("-", "_")
            kept = [UserScramCredentialUpsertion(user, word, password) for user, password in self.users.items()]
            problems = [problem for problem in admin.alter_user_scram_credentials(kept).values() if problem]
            if problems:
                raise LocalKafkaError(f"the local Kafka keeps no passwords: {problems[0]}")

    def are_known(self, admin: Any) -> bool:
        """Return whether a broker knows the passwords of all users."""
        found = admin.describe_user_scram_credentials(list(self.users))
        return all(len(found[user]["credential_infos"]) >= len(self.scram) for user in self.users)


def check_users(users: object) -> dict[str, str]:
    """Return all users with their passwords, which no error shows.

    :raises kq.ArgumentError: A name or a password cannot be one.
    """
    if isinstance(users, (str, bytes)) or not isinstance(users, Collection):
        raise ArgumentError("users must be names, or a dict of names and passwords")
    given: Mapping[str, str | None] = users if isinstance(users, Mapping) else dict.fromkeys(users)
    for name, password in given.items():
        if not isinstance(name, str) or not _USER.fullmatch(name) or name in (NODE, "ca"):
            raise ArgumentError(f"users has {name!r}: a name is of letters, digits, '.', '_' and '-', and not taken")
        if password is not None and not (isinstance(password, str) and _PASSWORD.fullmatch(password)):
            raise ArgumentError(f"users has a password of {name!r} that is not of ASCII without blanks, quotes and \\")
    return {name: given.get(name) or secrets.token_urlsafe(18) for name in dict.fromkeys((*given, ADMIN))}


def java_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a client that logs in by a password or a certificate needs, in Java's words."""
    java = {"security.protocol": config["security_protocol"]}
    for name, store in (("ssl_cafile", "truststore"), ("ssl_certfile", "keystore")):
        if name in config:
            java |= {f"ssl.{store}.type": "PEM", f"ssl.{store}.location": config[name]}
    mechanism = config.get("sasl_mechanism")
    if mechanism is None:
        return java
    if mechanism == "OAUTHBEARER":
        raise ArgumentError("a file of settings for OAUTHBEARER is not made: name another of mechanisms first")
    login = f'username="{config["sasl_plain_username"]}" password="{config["sasl_plain_password"]}"'
    module = f"org.apache.kafka.common.security.{MECHANISMS[mechanism]}"
    return {**java, "sasl.mechanism": mechanism, "sasl.jaas.config": f"{module} required {login};"}
