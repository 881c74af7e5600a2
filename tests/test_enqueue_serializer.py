"""What goes by name and what by value: whatever is enqueued computes the same in a process that shares nothing."""

from __future__ import annotations

import functools
import io
import itertools
import json
import operator
import os
import pickle
import pickletools
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import dill
import jobs
import pytest
from helpers import placeless
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kq
from kq import Job
from kq.serializers import default as serializer

#: A process whose ``__main__`` gets definitions, and tells of an expression what it gives, and its bytes.
HERE = """
import base64, json, sys
import kq

for line in sys.stdin:
    source, func, args = json.loads(line)
    exec(source, globals())
    try:
        func, args = eval(func), eval(args)
        value = kq.dumps(kq.Job("id", 1, "topic", func, args, {}))
        answer = [repr(func(*args)), base64.b64encode(value).decode()]
    except Exception as error:
        answer = [None, f"{type(error).__name__}: {error}"]
    print(json.dumps(answer), flush=True)
"""

#: A process that knows nothing of the other's ``__main__``: it reads bytes, and tells what the call gives.
THERE = """
import base64, importlib, json, sys, traceback

for line in sys.stdin:
    value, module = json.loads(line)
    try:
        job = importlib.import_module(module).loads(base64.b64decode(value))
        answer = repr(job.func(*job.args, **job.kwargs))
    except Exception:
        answer = traceback.format_exc()
    loaded = [name for name in ("kafka", "kq.queue") if name in sys.modules]
    print(json.dumps([answer, loaded]), flush=True)
"""

#: Definitions for the cases below, as they stand in somebody's script.
SCRIPT = """
import abc, collections, contextlib, dataclasses, enum, functools, logging, math, operator, types, typing

K = 10
count = 0
log = logging.getLogger(__name__)
T = typing.TypeVar("T")
UserId = typing.NewType("UserId", int)

def g(x): return x + K
def f(x): return g(x) * 2
def even(n): return True if n == 0 else odd(n - 1)
def odd(n): return False if n == 0 else even(n - 1)
def fresh():
    global count
    count = 0
def bump():
    global count
    count += 1
    return count
def bumps(n):
    fresh()
    return [bump() for _ in range(n)], count
def identity(x: T) -> T: return x
def apply(func, *args): return func(*args)
def keyword(a, *, b=K): return a + b

class P:
    z = 3
    def __init__(self, a): self.a = a
    def m(self, x): return self.a + x + self.z + K
    @classmethod
    def c(cls, x): return cls(x).m(1)
    @staticmethod
    def s(x): return P(x).m(2)
    @property
    def twice(self): return self.a * 2
    class Nested:
        class Deep:
            def go(self, x): return P(x).twice
    def __call__(self, x): return self.m(x)
    def __eq__(self, other): return type(other) is type(self) and other.a == self.a
    def __hash__(self): return hash(self.a) + K

class Q(P):
    def m(self, x): return super().m(x) * 2

def default(a, b=P(3)): return b.m(a)

class Color(enum.Enum):
    RED = 1
    BLUE = 2
    CRIMSON = 1
    def times(self): return self.value * K
    @classmethod
    def first(cls): return cls.RED

class Planet(enum.Enum):
    EARTH = (1.0, 2.0)
    MARS = (3.0, 4.0)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
    @property
    def ratio(self): return self.mass / self.radius

class Flag(enum.Flag):
    A = enum.auto()
    B = enum.auto()

class Number(enum.IntEnum):
    FIVE = 5

Point = collections.namedtuple("Point", "x y", defaults=[7])

class Typed(typing.NamedTuple):
    a: int
    b: int = 2
    def total(self): return self.a + self.b + K

@dataclasses.dataclass(frozen=True)
class Data:
    a: int
    b: list = dataclasses.field(default_factory=list)
    def size(self): return len(self.b) + self.a

@dataclasses.dataclass(slots=True)
class Slotted:
    a: int

class Private:
    __slots__ = ("x", "__y")
    def __init__(self): self.x, self.__y = 1, 2
    def total(self): return self.x + self.__y

class Box(typing.Generic[T]):
    def __init__(self, value): self.value = value
    def get(self) -> T: return self.value

class Base(abc.ABC):
    @abc.abstractmethod
    def q(self): ...

class Derived(Base):
    def q(self): return 7

class Table(dict):
    def total(self): return sum(self.values())

Base.register(Table)

class Meta(type):
    def hello(cls): return cls.__name__

class Made(metaclass=Meta): pass

class Reduced:
    def __init__(self, a): self.a = a
    def __reduce__(self): return (lambda a: Reduced(a + 0), (self.a,))

class Failure(Exception):
    def __init__(self, a): super().__init__(a); self.a = a

def caught():
    try: raise Failure(3)
    except Failure as error: return error.a

def plus_one(func):
    @functools.wraps(func)
    def wrapper(*args): return func(*args) + 1
    return wrapper

@plus_one
def decorated(x): return x * 3

@functools.lru_cache(None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

def closure(n):
    seen = []
    def factorial(k): return 1 if k == 0 else k * factorial(k - 1)
    def add(k):
        seen.append(k)
        return sum(seen) + n + factorial(3)
    return add

def local_class(n):
    class Local:
        def v(self): return n
        def other(self): return Local().v() + 1
    return Local

def class_in_function(x):
    class Z:
        y = K
        def q(self): return self.y + x
    return Z().q()

@contextlib.contextmanager
def context(): yield K

def in_context():
    with context() as k: return k

def inner_import(x):
    import math as m
    return m.floor(x)

ring = [1]
ring.append(ring)
loop = {}
loop["self"] = loop
Dynamic = type("Dynamic", (), {"v": lambda self: 9})
"""

#: A function, and its arguments.
CASES = {
    "globals": ("f", "(3,)"),
    "mutual recursion": ("even", "(7,)"),
    "a shared global": ("bumps", "(3,)"),
    "method": ("P(1).m", "(2,)"),
    "class method": ("P.c", "(2,)"),
    "class method of a subclass": ("Q.c", "(2,)"),
    "static method": ("P.s", "(2,)"),
    "function of a class": ("P.m", "(P(1), 2)"),
    "nested classes": ("P.Nested.Deep().go", "(4,)"),
    "callable instance": ("P(4)", "(1,)"),
    "super": ("Q(1).m", "(2,)"),
    "lambda": ("lambda x: x + K", "(1,)"),
    "lambda in a partial": ("functools.partial(lambda a, b: a - b, 1)", "(2,)"),
    "partial of a partial": ("functools.partial(functools.partial(keyword, b=2), 1)", "()"),
    "lambdas in a container": ("lambda funcs: [func(2) for func in funcs['a']]", "({'a': [lambda x: x + 1, g]},)"),
    "function as argument": ("apply", "(f, 3)"),
    "keyword default": ("keyword", "(1,)"),
    "instance as default": ("default", "(1,)"),
    "enum": (
        "lambda c: (c.times(), c is Color.RED, Color.first() is c, Color.CRIMSON is c, list(Color))",
        "(Color.RED,)",
    ),
    "enum with fields": ("lambda p: (p.ratio, p.name, p is Planet.MARS)", "(Planet.MARS,)"),
    "flag": ("lambda a: ((a | Flag.B).value, Flag.A in (a | Flag.B))", "(Flag.A,)"),
    "int enum": ("lambda n: n + 1", "(Number.FIVE,)"),
    "namedtuple": ("lambda p: (p.x, p._replace(y=5).y, p._asdict(), p, Point(1))", "(Point(1, 2),)"),
    "typed namedtuple": ("Typed(1).total", "()"),
    "dataclass": ("lambda d: (d == Data(1), d, d.size(), dataclasses.asdict(d))", "(Data(1),)"),
    "dataclass with slots": ("lambda d: (d, d.a)", "(Slotted(2),)"),
    "private slots": ("Private().total", "()"),
    "generic": ("Box[int](4).get", "()"),
    "abstract": ("lambda d: (d.q(), isinstance(Table(), Base))", "(Derived(),)"),
    "subclass of dict": ("lambda t: (t.total(), dict(t))", "(Table(a=1),)"),
    "metaclass": ("lambda: Made.hello()", "()"),
    "type variable": ("identity", "(3,)"),
    "new type": ("lambda x: UserId(x)", "(3,)"),
    "reduced to a lambda": ("lambda r: r.a", "(Reduced(3),)"),
    "exception": ("caught", "()"),
    "exception as argument": ("lambda e: (e.a, str(e))", "(Failure(3),)"),
    "decorated": ("decorated", "(2,)"),
    "__wrapped__": ("decorated.__wrapped__", "(2,)"),
    "cached": ("fib", "(10,)"),
    "closure": ("closure(5)", "(2,)"),
    "local class": ("local_class(3)().other", "()"),
    "class in a function": ("class_in_function", "(3,)"),
    "context manager": ("in_context", "()"),
    "import in a function": ("inner_import", "(3.5,)"),
    "ring": ("lambda r: r[1] is r", "(ring,)"),
    "loop": ("lambda d: d['self'] is d", "(loop,)"),
    "own keys": ("lambda d: (d[P(2)], P(3) in d)", "({P(2): 5},)"),
    "own members": ("lambda s: (len(s), P(1) in s)", "({P(1), P(2)},)"),
    "dynamic class": ("Dynamic().v", "()"),
    "module": ("lambda m: m.sqrt(4)", "(math,)"),
    "builtin": ("len", "('abc',)"),
    "builtin method": ("[3, 4].index", "(4,)"),
    "builtin class method": ("dict.fromkeys", "([1],)"),
    "singletons": ("lambda *a: a", "(type(None), ..., NotImplemented, types.MethodType, types.FunctionType)"),
    "logger": ("lambda: log.name", "()"),
    "own name": ("lambda: __name__", "()"),
}


class Talk:
    """A process that answers each line with a line."""

    def __init__(self, source: str) -> None:
        path = os.pathsep.join([str(Path(__file__).parent), str(jobs.ROOT)])
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-c", source]
        self._process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment)

    def ask(self, *question: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=jobs.PATIENCE)


@pytest.fixture(scope="module")
def here() -> Iterator[Talk]:
    """Return the process of the script."""
    with Talk(HERE) as talk:
        talk.ask(SCRIPT, "f", "(1,)")
        yield talk


@pytest.fixture(scope="module")
def there() -> Iterator[Talk]:
    """Return the process that knows nothing of it."""
    with Talk(THERE) as talk:
        yield talk


@pytest.mark.parametrize("case", CASES)
def test_a_call_computes_the_same_elsewhere(case: str, here: Talk, there: Talk) -> None:
    """By ``kq.loads`` and by plain dill, and neither Kafka nor the queue is loaded there."""
    expected, value = here.ask("", *CASES[case])
    assert expected is not None, value
    for module in ("kq.serializers", "dill"):
        assert there.ask(value, module) == [expected, []]


@pytest.mark.parametrize(
    ("func", "args", "words"),
    [
        ("f", "(1, (x for x in ()))", r"argument 2 of __main__.f cannot be serialized \(generator\)"),
        ("lambda: sys", "()", None),
        ("apply", "(sys.modules['__main__'],)", "module __main__ exists in this process only"),
        ("apply", "(globals(),)", "exists in this process only"),
        ("eval('lambda: stream', {'stream': (x for x in ())})", "()", "uses the global 'stream'"),
    ],
)
def test_what_cannot_go_is_told_here(func: str, args: str, words: str | None, here: Talk) -> None:
    """Not in the worker; and a module goes as its name."""
    result, told = here.ask("import sys", func, args)
    if words is None:
        assert result is not None
    else:
        assert result is None
        assert re.search(words, told), told


#: Definitions, and an expression that uses them: a callable of one int. ``$`` makes names unique.
LEAVES = [
    ("", "lambda x: x * N + 1"),
    ("G$ = N\ndef d$(x): return x + G$\n", "d$"),
    ("def d$(n):\n    def inner(x): return x - n\n    return inner\n", "d$(N)"),
    ("", "functools.partial(operator.sub, N)"),
    ("", "P(N).m"),
    ("", "Q(N)"),
    *(("", name) for name in ("P.c", "Q.c", "P.s", "P.Nested.Deep().go", "f", "decorated", "abs", "operator.neg")),
    (
        "class C$:\n    k = N\n    class In:\n        def go(self, x): return C$.k + x\n"
        "    def __init__(self): self.inner = C$.In()\n    def go(self, x): return self.inner.go(x) * 2\n",
        "C$().go",
    ),
    ("class E$(enum.Enum):\n    ONE = N\n    def go(self, x): return self.value - x\n", "E$.ONE.go"),
    ("def d$(x, depth=3): return x + N if depth == 0 else d$(x + 1, depth - 1)\n", "d$"),
]
#: The same, around another one, which stands for ``A``, or two.
AROUND = [
    ("", "(lambda func: lambda x: func(x) + 1)(A)"),
    ("", "functools.partial(apply, A)"),
    ("held$ = [A]\ndef d$(x): return held$[0](x)\n", "d$"),
    ("held$ = A\n@plus_one\ndef d$(x): return held$(x)\n", "d$"),
    (
        "class H$:\n    def __init__(self, func): self.func = func\n    def go(self, x): return self.func(x) - 2\n",
        "H$(A).go",
    ),
    ("", "(lambda a, b: lambda x: a(b(x)))(A, B)"),
]
numbers = itertools.count()


def filled(template: tuple[str, str], n: int, *inner: tuple[str, str]) -> tuple[str, str]:
    """Return a template with a number, names of its own, and what stands within it."""
    names = dict(zip("AB", (expression for _, expression in inner), strict=False))
    mark = str(next(numbers))
    own = [
        re.sub(r"\b[NAB]\b", lambda found: names.get(found[0], f"({n})"), part).replace("$", mark) for part in template
    ]
    return "".join(source for source, _ in inner) + own[0], own[1]


def expressions() -> st.SearchStrategy[tuple[str, str]]:
    """Return a strategy of such definitions and expressions, one within another."""
    small = st.integers(-9, 9)
    leaves = st.builds(filled, st.sampled_from(LEAVES), small)
    return st.recursive(
        leaves, lambda inner: st.builds(filled, st.sampled_from(AROUND), small, inner, inner), max_leaves=6
    )


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(expressions(), st.integers(-5, 5))
def test_any_callable_computes_the_same_elsewhere(here: Talk, there: Talk, made: tuple[str, str], number: int) -> None:
    """Functions, closures, partials, bound methods and nested classes of ``__main__``, one within another."""
    expected, value = here.ask(*made, f"({number},)")
    assert expected is not None, value
    assert there.ask(value, "kq.serializers") == [expected, []]


# -- what goes by name, and what must not ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "func",
    [
        *(jobs.add, jobs.Account(1).after, jobs.Account(1), jobs.Account, operator.add, "".join, dict.fromkeys, len),
        *(functools.partial(jobs.add, 1), operator.itemgetter(1), json.JSONEncoder().encode, functools.wraps),
    ],
    ids=placeless,
)
def test_what_a_worker_can_import_goes_by_name(func: Any) -> None:
    """Its value holds no code, and is small."""
    value = kq.dumps(Job("id", 1, "topic", func, (1,), {}))
    assert b"_create_function" not in value and b"_create_code" not in value
    assert len(value) < 400


def test_a_function_whose_name_is_somebody_elses_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """``module.f is not f``: the name would run another function."""
    func = jobs.add
    monkeypatch.setattr(jobs, "add", lambda a, b: "another")
    job = kq.loads(kq.dumps(Job("id", 1, "topic", func, (1, 2), {})))
    assert job.func is not None and job.func(1, 2) == 3


def test_a_class_whose_name_is_somebody_elses_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only an instance of it is an argument."""
    account = jobs.Account(10)
    monkeypatch.setattr(jobs, "Account", dict)
    job = kq.loads(kq.dumps(Job("id", 1, "topic", account.after, (5,), {})))
    assert job.func is not None and job.func(5) == 15


def test_a_function_of_a_module_that_nobody_can_import_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that was made up is in this process only."""
    module = types.ModuleType("made_up")
    monkeypatch.setitem(sys.modules, "made_up", module)
    exec("Z = 3\ndef func(x): return x + Z", module.__dict__)
    value = kq.dumps(Job("id", 1, "topic", module.func, (1,), {}))
    monkeypatch.delitem(sys.modules, "made_up")
    job = kq.loads(value)
    assert job.func is not None and job.func(1) == 4


def test_a_method_that_is_bound_under_another_name_stays_what_it_is() -> None:
    """Its object has nothing of that name, or something else."""
    bound = types.MethodType(jobs.add, 5)
    job = kq.loads(kq.dumps(Job("id", 1, "topic", bound, (2,), {})))
    assert job.func is not None and job.func(2) == 7


@pytest.mark.parametrize("args", [(1, "a", b"b", 2.5, None, True), ([1], {"a": (2,)}), (Job("in", func=len),)])
def test_the_short_way_and_the_long_way_agree(args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain arguments take a way of their own; plain pickle and dill read both."""
    job = Job("id", 1, "topic", jobs.add, args, {}, 0, b"k", 2)
    value = kq.dumps(job)
    assert kq.loads(value) == dill.loads(value) == pickle.loads(value) == job
    monkeypatch.setattr(serializer, "_is_plain", lambda _: False)
    assert kq.loads(kq.dumps(job)) == job


def test_a_value_is_one_well_formed_pickle() -> None:
    """Tools that look at pickles find nothing odd in the short way's."""
    value = kq.dumps(Job("id", 1, "topic", jobs.add, (1,), {}))
    pickletools.dis(value, out=io.StringIO())
    assert value[:2] == b"\x80\x04"
