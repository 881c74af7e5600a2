"""Messages are plain records, and their headers tell of a job what may be known without unpickling it."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal import Journal, work
from kafka import KafkaProducer

import kq
from kq.job import Job
from kq.message import HEADER_ID, HEADER_PREFIX, HEADER_TIMEOUT, Message, Record, job_from_headers, job_headers

#: Text that UTF-8 can carry: an ID with half a surrogate pair is not on this wire.
IDS = st.text(st.characters(codec="utf-8"))


def message(*headers: tuple[str, bytes]) -> Message:
    return Message("topic", 3, 42, b"key", b"not to be unpickled", 1_700_000_000_000, headers)


def test_a_message_is_a_namedtuple_with_kq_s_fields_first() -> None:
    """KQ 2.x's five fields by position, then the two that are new, with defaults."""
    assert Message._fields == ("topic", "partition", "offset", "key", "value", "timestamp", "headers")
    short = Message("topic", 3, 42, None, None)
    assert isinstance(short, tuple)
    assert short == ("topic", 3, 42, None, None, None, ())


def test_plain_pickle_carries_messages_and_records() -> None:
    """They cross from process to process as they are."""
    record = Record("topic", b"value", None, [("name", b"value")], None, 5)
    for one in (message(("name", b"value")), record):
        again = pickle.loads(pickle.dumps(one))
        assert type(again) is type(one)
        assert again == one


def test_a_record_has_the_words_of_the_producer() -> None:
    """Its fields can be passed to ``KafkaProducer.send`` as they are named."""
    words = {"topic", "value", "key", "headers", "partition", "timestamp_ms"}
    assert set(Record("topic", b"", None, [], None, 0)._asdict()) == words


def test_headers_are_kq_s_own() -> None:
    """Every name begins with ``kq-``, every value is bytes; without a limit there is no timeout header."""
    assert job_headers(Job(id="a", timeout=1.5)) == [("kq-id", b"a"), ("kq-timeout", b"1.5")]
    assert job_headers(Job(id="a", timeout=0)) == job_headers(Job(id="a")) == [("kq-id", b"a")]
    named = job_headers(Job(id="a", func=len))
    assert named == [("kq-id", b"a"), ("kq-func", b"builtins.len")]
    assert HEADER_ID.startswith(HEADER_PREFIX)
    assert HEADER_TIMEOUT.startswith(HEADER_PREFIX)


@given(IDS, st.none() | st.integers(1, 10**9) | st.floats(0, exclude_min=True, allow_infinity=False))
def test_id_and_timeout_come_back_from_the_headers(job_id: str, timeout: float | None) -> None:
    """What ``job_headers`` wrote, ``job_from_headers`` reads; the rest is the message's own."""
    written = job_headers(Job(id=job_id, timeout=timeout, func=print))
    expected = Job(job_id, 1_700_000_000_000, "topic", None, None, None, timeout, b"key", 3)
    assert job_from_headers(message(*written)) == expected


@given(st.lists(st.tuples(st.sampled_from([HEADER_ID, HEADER_TIMEOUT, "other"]), st.binary())))
def test_no_header_of_anybody_is_an_error(headers: list[tuple[str, bytes]]) -> None:
    """Whatever bytes another program put there, a Job comes out, with text or None, a number or None."""
    job = job_from_headers(message(*headers))
    assert type(job) is Job
    assert job.id is None or type(job.id) is str
    assert job.timeout is None or type(job.timeout) is float


@pytest.mark.parametrize("value", [b"", b"soon", b"\xff", b"1.5s", b"1,5", None])
def test_a_limit_that_is_no_number_is_none(value: bytes) -> None:
    """A timeout header that cannot be read, or has no value at all, tells nothing."""
    assert job_from_headers(message((HEADER_TIMEOUT, value))).timeout is None


def test_an_id_that_is_not_text_is_shown_as_well_as_can_be() -> None:
    """Bytes that are not UTF-8 become replacement characters; no header, or one without a value, None."""
    assert job_from_headers(message((HEADER_ID, b"a\xff"))).id == "a\ufffd"
    assert job_from_headers(message((HEADER_ID, None))).id is None  # type: ignore[arg-type]
    assert job_from_headers(message()).id is None


@pytest.mark.parametrize("by_value", [False, True])
def test_byte_code_names_its_python(topic: str, hosts: str, by_value: bool) -> None:
    """A function that goes by its name needs no word about that."""
    with kq.Queue(topic, hosts=hosts) as queue:
        queue.enqueue((lambda: 1) if by_value else max, *(() if by_value else (1, 2)))
    seen: list[Any] = []
    kq.Worker(topic, hosts=hosts, callback=lambda status, message, *_: seen.append(message)).start(max_messages=1)
    version = ".".join(map(str, sys.version_info[:2])).encode()
    assert dict(seen[0].headers).get("kq-python") == (version if by_value else None)


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
def test_byte_code_of_another_python_is_not_run(
    topic: str, hosts: str, caplog: pytest.LogCaptureFixture, client: KafkaProducer, executor: Any, journal: Journal
) -> None:
    """It might end the process that runs it: it is not even unpickled, and the line says which Python it needs."""
    with kq.Queue(topic, hosts=hosts) as queue:
        value = kq.dumps(kq.Job(id="x", timestamp=1, topic=topic, func=work, args=(journal.path, "x"), kwargs={}))
        own = ".".join(map(str, sys.version_info[:2])).encode()
        for version in (b"3.999", b"nonsense", own):
            client.send(topic, value, headers=[("kq-python", version)]).get(10)
        queue.enqueue(max, 1, 2)
    told: list[str] = []
    kq.Worker(
        topic, hosts=hosts, unimportable="invalid", executor=executor, callback=lambda status, *_: told.append(status)
    ).start(max_messages=4)
    assert sorted(told) == ["invalid", "success", "success", "success"]
    assert journal.count("start") == {"x": 2}
    (line,) = [record.getMessage() for record in caplog.records if "Job was invalid" in record.msg]
    assert f"it holds byte code of Python 3.999, and this is Python {own.decode()} (" in line


def test_a_worker_with_another_python_stops_and_commits_nothing(topic: str, hosts: str, client: KafkaProducer) -> None:
    """As one that can import nothing: the right one has these jobs."""
    for _ in range(10):
        client.send(topic, b"byte code", headers=[("kq-python", b"3.999")]).get(10)
    with pytest.raises(kq.WorkerError, match=r"it holds byte code of Python 3\.999"):
        kq.Worker(topic, hosts=hosts).start()
