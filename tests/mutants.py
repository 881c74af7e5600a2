"""Break the safety of KQ on purpose, one way at a time, and show that the suite notices.

Run it from the root of a checkout, in an environment where the tests pass: ``python tests/mutants.py``. Each mutant is
one edit of a copy of the library; the tests named with it must fail there. It takes some minutes; with ``--short`` a
minute or so, for the mutants whose tests need no Kafka. Words after the options choose mutants by a part of their name.

Before anything runs, each mutant is looked up: its text must be in its file once, and its tests must be there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
#: Mutants that are tried at a time: much of a run is waiting for Kafka and for deadlines.
AT_ONCE = 2
#: Seconds for the tests of one mutant. A mutant that hangs has not been noticed in time.
PATIENCE = 300
#: Exit codes of pytest: a test failed, all passed. Any other says that the tests did not run.
NOTICED, SURVIVED = 1, 0


def ids_of(mutant: Mutant) -> list[str]:
    """Return what pytest is to run. A function is found in whatever file it stands today."""
    found = []
    for name in mutant.tests.split():
        if name.endswith(".py"):
            files = list((ROOT / "tests").glob(name))
            found += [f"tests/{path.name}" for path in files]
        else:
            defined = re.compile(rf"^(?:async )?def {name}\(", re.MULTILINE)
            files = [path for path in (ROOT / "tests").glob("test_*.py") if defined.search(path.read_text("utf-8"))]
            found += [f"tests/{path.name}::{name}" for path in files]
        if len(files) != 1:
            raise LookupError(f"{mutant.name}: {name} is in {len(files)} files of tests")
    return found


def mutated(mutant: Mutant) -> str:
    """Return the text of a mutant's file with its edit."""
    path = ROOT / mutant.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(mutant.before) != 1:
        raise LookupError(f"{mutant.name}: its text is {text.count(mutant.before)} times in {mutant.file}")
    return text.replace(mutant.before, mutant.after)


def lookup_errors(mutants: list[Mutant]) -> list[str]:
    """Return what is wrong with the table itself."""
    errors = []
    for mutant in mutants:
        for look in (mutated, ids_of):
            try:
                look(mutant)
            except LookupError as error:
                errors.append(str(error))
    return errors


def run(mutant: Mutant) -> tuple[str, float, str]:
    """Run the tests of a mutant against a copy of the library with its edit.

    :returns: What came of it, the seconds it took, and what pytest said where its tests did not run.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kq-mutant-") as folder:
        copy = Path(folder)
        for part in ("kq", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / mutant.file).write_text(mutated(mutant), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *ids_of(mutant)]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        options = {"cwd": copy, "env": environment, "capture_output": True, "text": True, "check": False}
        try:
            ended = subprocess.run(command, **options, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return "HUNG", time.monotonic() - begun, ""
    verdict = {NOTICED: "noticed", SURVIVED: "SURVIVED"}.get(ended.returncode, "BROKEN")
    output = ended.stdout[-2000:] + ended.stderr[-2000:] if verdict == "BROKEN" else ""
    return verdict, time.monotonic() - begun, output


def chosen() -> list[Mutant]:
    """Return the mutants that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="only those whose tests need no Kafka")
    parser.add_argument("words", nargs="*", help="a part of a mutant's name")
    options = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if mutant.is_short or not options.short]
    return [mutant for mutant in mutants if all(word in mutant.name for word in options.words)]


def main() -> int:
    if errors := lookup_errors(MUTANTS):
        print("\n".join(errors))
        return 2
    begun, bad, mutants = time.monotonic(), 0, chosen()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(run, mutant): mutant for mutant in mutants}
        for future in as_completed(running):
            verdict, seconds, output = future.result()
            print(f"{verdict:8}  {running[future].name}  ({seconds:.0f} s)\n{output}", end="", flush=True)
            bad += verdict != "noticed"
    print(f"{len(mutants)} mutants, {bad} not noticed, {time.monotonic() - begun:.0f} s")
    return 1 if bad or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
