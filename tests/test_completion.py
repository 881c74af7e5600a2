"""The shell completes words of the command ``kq``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kq

#: Seconds for one command.
PATIENCE = 60


def run(command: list[str], **env: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=True, env={**os.environ, **env}
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a search path on which ``kq`` is this package's."""
    script = tmp_path / "kq"
    home = Path(kq.__file__).parent.parent
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{home}" exec "{sys.executable}" -m kq "$@"\n')
    script.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(path: str, shell: str) -> None:
    """It is for a command named ``kq``, and asks that in the shell's own way."""
    if shell == "bash" and shutil.which("bash") is None:  # click asks it for its version
        pytest.skip("there is no bash here")
    script = run(["kq"], PATH=path, _KQ_COMPLETE=f"{shell}_source")
    assert f"_KQ_COMPLETE={shell}_complete" in script
    assert "_kq_completion" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("to", ["top", "topic"]),
        ("topic ", ["create", "delete", "list"]),
        ("group reset --dry", ["--dry-run"]),
        ("worker --ordering ", ["key", "none", "partition"]),
        ("nonsense", []),
    ],
)
def test_bash_completes_commands_options_and_choices(path: str, words: str, expected: list[str]) -> None:
    """By the line that the documentation says to put into ``~/.bashrc``."""
    line = 'eval "$(_KQ_COMPLETE=bash_source kq)"'
    assert line in (Path(__file__).parent.parent / "docs" / "command-line.rst").read_text(encoding="utf-8")
    typed = ["kq", *words.split(" ")]
    given = f"COMP_WORDS=({' '.join(word or chr(39) * 2 for word in typed)}); COMP_CWORD={len(typed) - 1}"
    script = f'{line}; {given}; _kq_completion kq; printf "%s\\n" "${{COMPREPLY[@]}}"'
    assert sorted(run(["bash", "--norc", "-c", script], PATH=path).split()) == expected
