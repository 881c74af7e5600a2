"""A PostgreSQL for the tests: made from Debian's packages, on a free port of loopback, and thrown away afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["PASSWORD", "USER", "Postgres", "find_programs"]

USER, PASSWORD = "kq", "s3cret-word"
#: Seconds for a server to start, and to stop.
PATIENCE = 60


def find_programs() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Postgres:
    """A server with a database of its own. It refuses to run as root, so another user runs it then."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="kq-postgres-"))
        self._user = self._unprivileged()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self._folder / "password").write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(self._folder, *self._user)
            shutil.chown(self._folder / "password", *self._user)
        options = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={self._folder / 'password'}", "-E", "UTF8"]
        self._run("initdb", "-D", self._folder / "data", *options)
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """Return the address of a database, as SQLAlchemy has them."""
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> str:
        """Make a database, and return its address."""
        import psycopg

        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def start(self) -> None:
        """Have the server run, and return when it takes connections."""
        arguments = ["-D", str(self._folder / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        command = [str(self._programs / "postgres"), *arguments, "-c", "fsync=off"]
        self._server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder, **self._as_user()
        )
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready():
            assert time.monotonic() < deadline and self._server.poll() is None, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server, and every connection with it."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)  # fast: it waits for nobody
            self._server.wait(PATIENCE)
            self._server = None

    def close(self) -> None:
        """End the server, and remove what it has kept."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        command = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._as_user())

    def _as_user(self) -> dict[str, Any]:
        return {} if self._user is None else {"user": self._user[0], "group": self._user[1], "extra_groups": []}

    @staticmethod
    def _unprivileged() -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        try:
            found = pwd.getpwnam("postgres")
        except KeyError:
            found = pwd.getpwnam("nobody")
        return found.pw_uid, found.pw_gid
