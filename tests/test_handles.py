"""Files, sockets, locks and the like never travel: refused where they are enqueued and read."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import handles
import jobs
import pytest

import kq
from kq import ArgumentError, Job, Queue
from kq.serializers import safe_loads


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", handles.KINDS)
def test_what_belongs_to_a_process_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    """Whatever it stands in; the error names the argument."""
    with handles.opened(kind, tmp_path) as thing:
        for wrap in handles.WRAPS.values():
            with pytest.raises(ArgumentError, match=r"^argument 2 of jobs\.echo cannot be serialized \("):
                kq.dumps(Job(func=jobs.echo, args=(1, wrap(thing)), kwargs={}))
            with pytest.raises(ArgumentError, match=r"^argument file of jobs\.echo cannot be serialized \("):
                kq.dumps(Job(func=jobs.echo, args=(), kwargs={"file": wrap(thing)}))


def test_a_function_that_uses_a_file_of_its_script_is_refused(tmp_path: Path) -> None:
    """With the name of the global."""
    with handles.opened("text", tmp_path) as file:
        func = eval("lambda: report.write('x')", {"__name__": "__main__", "report": file})
        with pytest.raises(ArgumentError, match=r"uses the global 'report'.*belongs to this process"):
            kq.dumps(Job(func=func, args=(), kwargs={}))


@pytest.mark.parametrize(
    "kind", ["text to write", "temporary", "raw", "socket", "lock", "recursive lock", "connection"]
)
def test_the_reader_refuses_what_another_dill_wrote(kind: str, tmp_path: Path) -> None:
    """A value of an old queue opens nothing, empties nothing, and its error says what it held."""
    with handles.opened(kind, tmp_path) as thing:
        dumps: Callable[[Any], bytes] = pickle.dumps if kind == "connection" else dill.dumps
        if kind == "socket":
            value = b"\x80\x04cmultiprocessing.reduction\n_rebuild_socket\n(K\x05tR."
        else:
            value = dumps(Job("id", 1, "topic", jobs.echo, (1, [thing]), {}))
        before = open_descriptors()
        for loads in (kq.loads, safe_loads):
            with pytest.raises(pickle.UnpicklingError, match="belongs to another process alone"):
                loads(value)
        assert open_descriptors() == before
    if kind == "text to write":
        assert (tmp_path / "lines").read_bytes() == b"precious lines"


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []


def test_the_reader_refuses_a_file_in_a_dataclass(tmp_path: Path) -> None:
    """The way of KQ 2.2.1's values is watched as well."""
    value = (
        b"\x80\x04\x8c\x06kq.job\x8c\x03Job\x93)\x81}(\x8c\x04args\x8c\x0adill._dill\x8c\x12_create_filehandle\x93ub."
    )
    with pytest.raises(pickle.UnpicklingError, match="belongs to another process alone"):
        kq.loads(value)


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_temporary_files_of_an_old_queue_do_not_harm_a_worker(executor: str, queue: Queue, hosts: str) -> None:
    """dill sends the number of a descriptor, which is one of the worker's own there: the message is invalid."""
    files = [tempfile.TemporaryFile() for _ in range(20)]  # noqa: SIM115
    old = Queue(queue.topic, queue.producer, serializer=dill.dumps)
    for file in files:
        old.enqueue(bool, file)
        file.close()
    queue.enqueue_many([(abs, (-number,)) for number in range(5)])
    calls = jobs.Calls()
    kq.Worker(queue.topic, hosts=hosts, callback=calls, executor=executor).start(max_messages=25)
    assert sorted(calls.statuses) == ["invalid"] * 20 + ["success"] * 5


def test_a_refused_argument_leaves_its_file_alone(queue: Queue, tmp_path: Path) -> None:
    """Nothing is enqueued, and the file is as it was."""
    with handles.opened("text to write", tmp_path) as file, pytest.raises(ArgumentError, match="pass its path"):
        queue.enqueue(print, "from the job", file=file)
    assert (tmp_path / "lines").read_bytes() == b"precious lines"


def test_standard_streams_go_as_their_names() -> None:
    """Each process has its own, and nothing is opened."""
    job = kq.loads(kq.dumps(Job(func=print, args=(), kwargs={"file": sys.stderr})))
    assert (job.kwargs or {})["file"] is sys.stderr


def test_files_in_memory_travel_with_their_content() -> None:
    """They are data."""
    args = kq.loads(kq.dumps(Job(func=jobs.echo, args=(io.BytesIO(b"abc"), io.StringIO("text")), kwargs={}))).args
    assert [one.getvalue() for one in args or ()] == [b"abc", "text"]


# -- what would fail in every worker -----------------------------------------------------------------------------------


class Proxy:
    """Asks what it wraps for all that it does not have itself, as uploaded files of web frameworks do."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Fussy:
    """Does not take its own state."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("no such state")

    def __getstate__(self) -> Any:
        return {"a": 1}


class Strict(Exception):
    """Cannot be made from what it says of itself."""

    def __init__(self, url: str, *, status: int) -> None:
        super().__init__(url)


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        (Proxy(io.BytesIO(b"abc")), "recursion"),
        ([{"upload": Proxy(io.BytesIO(b"abc"))}], "recursion"),
        (Fussy(), "no such state"),
        (Strict("u", status=503), "missing 1 required keyword-only argument: 'status'"),
    ],
    ids=["proxy", "proxy in a list", "state", "exception"],
)
def test_an_argument_that_no_worker_could_read_is_refused(argument: Any, reason: str) -> None:
    """Here, with the reason that the worker would have told."""
    with pytest.raises(ArgumentError, match=rf"^argument 1 of jobs\.echo cannot be serialized .*{reason}"):
        kq.dumps(Job(func=jobs.echo, args=(argument,), kwargs={}))


INIT_SUBCLASS = """
class Base:
    def __init_subclass__(cls, /, arg, **kwargs):
        super().__init_subclass__(**kwargs)
class Child(Base, arg="hello"):
    pass
"""


def test_a_class_of_main_that_cannot_be_made_anew_is_refused() -> None:
    """Its base asks for an argument that nobody has any more."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(INIT_SUBCLASS, names)
    with pytest.raises(
        ArgumentError, match=r"argument 1 of jobs\.echo .*Child.*missing 1 required positional argument"
    ):
        kq.dumps(Job(func=jobs.echo, args=(names["Child"](),), kwargs={}))


class Counted:
    """Counts how often it is read, and what is called."""

    read = 0
    called = 0

    def __setstate__(self, state: Any) -> None:
        Counted.read += 1

    def __getstate__(self) -> Any:
        return {"a": 1}

    def run(self) -> None:
        Counted.called += 1


def test_what_is_read_back_is_read_once_and_not_run() -> None:
    """The job itself runs in a worker."""
    kq.dumps(Job(func=Counted().run, args=(), kwargs={}))
    assert (Counted.read, Counted.called) == (1, 0)


class Removing:
    """Removes its file when it goes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __del__(self) -> None:
        self.path.unlink(missing_ok=True)


def test_a_copy_that_would_do_something_when_it_goes_is_not_made(tmp_path: Path) -> None:
    """Reading back would remove the file before the job runs."""
    path = tmp_path / "file"
    path.touch()
    removing = Removing(path)
    kq.dumps(Job(func=jobs.echo, args=(removing,), kwargs={}))
    assert path.exists()
    del removing


@pytest.mark.parametrize("args", [(1, "a", [2.5], {"a": (b"b",)}), (jobs.add, dict, threading)], ids=["data", "names"])
def test_plain_data_is_not_read_back(args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot fail, and most jobs are that."""

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(pickle, "loads", fail)
    kq.dumps(Job(func=jobs.echo, args=args, kwargs={}))


def test_an_uploaded_file_is_refused() -> None:
    """The one of Flask and Werkzeug, where that is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structures = pytest.importorskip("werkzeug.datastructures")
    upload = structures.FileStorage(io.BytesIO(b"abc"), "a.jpg")
    with pytest.raises(ArgumentError, match=r"argument 1 of jobs\.echo cannot be serialized \(FileStorage\)"):
        kq.dumps(Job(func=jobs.echo, args=(upload,), kwargs={}))
