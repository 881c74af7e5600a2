"""Signatures: what was signed is verified, and nothing else is, whatever differs."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import itertools
import logging
import os
import pickle
import stat
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import pytest
from helpers import placeless
from hypothesis import given, settings
from hypothesis import strategies as st

import kq
from kq import Message, SignatureError, Signer, signing
from kq.message import Record
from kq.signing import CONTROL, DEAD, JOB, LATER, RESULT, parse_keys, read_keys

NOW = 1_900_000_000_000
KEYS = {"new": b"n" * 32, "old": b"o" * 40}
SIGNER = Signer(KEYS)
PURPOSES = [JOB, LATER, RESULT, DEAD, CONTROL, "a later one"]
RECORD = Record(
    "topic", b"value", b"key", [("kq-id", b"1"), ("other", b"x"), ("kq-func", b"a.b"), ("kq-at", b"")], 3, NOW
)


def message(record: Record, **changes: Any) -> Message:
    """Return a record as a worker gets it."""
    made = Message(record.topic, 0, 7, record.key, record.value, record.timestamp_ms, tuple(record.headers))
    return made._replace(**changes)


def signed(signer: Signer = SIGNER, purpose: str = JOB, record: Record = RECORD, now: int = NOW) -> Record:
    return signer.sign(purpose, record, now)


def why_not(made: Message, signer: Signer = SIGNER, purpose: str = JOB, **more: Any) -> str:
    """Return why a message is refused."""
    with pytest.raises(SignatureError) as caught:
        signer.verify(purpose, made, more.pop("now", NOW), **more)
    return str(caught.value)


HEADER = st.tuples(
    st.one_of(st.text(max_size=8), st.text("abc-", max_size=4).map("kq-".__add__)), st.binary(max_size=8)
)
RECORDS = st.builds(
    Record,
    topic=st.text("abc.", min_size=1, max_size=8),
    value=st.binary(max_size=40),
    key=st.none() | st.binary(max_size=8),
    headers=st.lists(HEADER, max_size=6, unique_by=lambda header: header[0]),
    partition=st.none() | st.integers(0, 9),
    timestamp_ms=st.integers(0, NOW),
)


@settings(deadline=None)
@given(record=RECORDS, purpose=st.sampled_from(PURPOSES), now=st.integers(0, NOW))
def test_what_was_signed_is_verified(record: Record, purpose: str, now: int) -> None:
    """And is the same record, but for its two headers at the end; the order of headers does not matter."""
    made = signed(purpose=purpose, record=record, now=now)
    assert made._replace(headers=made.headers[:-2]) == record
    SIGNER.verify(purpose, message(made), now)
    SIGNER.verify(purpose, message(made, headers=tuple(reversed(made.headers)), partition=8, timestamp=1), now)


@settings(deadline=None)
@given(record=RECORDS, purpose=st.sampled_from(PURPOSES))
def test_the_mac_is_what_the_page_says(record: Record, purpose: str) -> None:
    """By the standard library's HMAC, and the description alone."""
    made = signed(purpose=purpose, record=record)
    (name, given) = made.headers[-1]
    covered = sorted(header for header in made.headers[:-1] if header[0].startswith("kq-"))
    first = [b"kq1", purpose.encode(), record.topic.encode(), *(header.encode() for header, _ in covered)]
    data = struct.pack(">Q", len(first))
    for parts in (first, [record.key, record.value, *(text for _, text in covered)]):
        data += b"".join(struct.pack(">Q", 2**64 - 1 if part is None else len(part)) for part in parts)
        data += b"".join(part or b"" for part in parts)
    mac = base64.b64encode(hmac.new(KEYS["new"], data, hashlib.sha256).digest())
    assert (name, given) == ("kq-dead-signature" if purpose == DEAD else "kq-signature", b"new:" + mac)


@pytest.mark.parametrize("length", [32, 63, 64, 65, 200])
def test_keys_of_any_length_make_the_hmac_of_the_standard_library(length: int) -> None:
    """Those that are longer than a block are hashed first."""
    key = os.urandom(length)
    record = Record("t", b"data", None, [], None, 0)
    data = struct.pack(">Q4Q", 4, 3, 1, 1, 12) + b"kq1ptkq-signed-at"
    data += struct.pack(">3Q", 2**64 - 1, 4, 1) + b"data7"
    signer = Signer({"k": key})
    for _ in range(2):  # the second time what it begins with is known
        name, _, mac = dict(signer.sign("p", record, 7).headers)["kq-signature"].partition(b":")
        assert (name, base64.b64decode(mac)) == (b"k", hmac.digest(key, data, "sha256"))


def flips(data: bytes) -> list[bytes]:
    """Return data with each of its bits flipped."""
    return [
        data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
        for place in range(len(data))
        for bit in range(8)
    ]


def test_each_bit_counts() -> None:
    """Of value, key, and every header of KQ with its name, the time and the MAC included."""
    good = message(signed())
    altered = [good._replace(value=value) for value in flips(b"value")]
    altered += [good._replace(key=key) for key in flips(b"key")]
    for place, (name, text) in enumerate(good.headers):
        if not name.startswith("kq-"):
            continue
        others = [(name, other) for other in flips(text)]
        others += [(other.decode("latin-1"), text) for other in flips(name.encode())]
        altered += [
            good._replace(headers=(*good.headers[:place], other, *good.headers[place + 1 :])) for other in others
        ]
    assert len(altered) > 900
    reasons = {why_not(one).partition(":")[0] for one in altered}
    assert {reason.partition(" is signed with key")[0] for reason in reasons} == {
        *("the signature is not that of this message", "the message", "the message is not signed"),
    }


@settings(deadline=None, max_examples=300)
@given(record=RECORDS, data=st.data())
def test_whatever_differs_is_refused(record: Record, data: st.DataObject) -> None:
    """Parts that are moved, cut or joined: no two messages have one MAC."""
    made = message(signed(record=record))
    other = data.draw(RECORDS)
    changed = made._replace(
        **{
            name: data.draw(st.sampled_from([getattr(made, name), getattr(other, name), getattr(made, name) or None]))
            for name in ("topic", "key", "value")
        }
    )
    extra = [header for header in other.headers if data.draw(st.booleans())]
    kept = [header for header in made.headers if data.draw(st.integers(0, 9))]
    changed = changed._replace(headers=(*kept, *extra))

    def read(one: Message) -> Any:
        return one[0], one[3:5], sorted(header for header in one.headers if header[0].startswith("kq-"))

    if read(changed) == read(made):
        SIGNER.verify(JOB, changed, NOW)
    else:
        why_not(changed)


def test_a_header_that_is_removed_added_or_doubled_is_seen() -> None:
    """Also one that this release does not know; those of others may come and go."""
    good = message(signed())
    other = good._replace(headers=(*good.headers, ("x", b"1")))
    SIGNER.verify(JOB, other, NOW)
    for place, (name, _) in enumerate(good.headers):
        if name.startswith("kq-"):
            without = good._replace(headers=good.headers[:place] + good.headers[place + 1 :])
            doubled = good._replace(headers=(*good.headers, good.headers[place]))
            assert "signature" in why_not(without) or "not signed" in why_not(without)
            assert why_not(doubled) == f"header '{name}' stands twice in it"
    assert "is not that of this message" in why_not(good._replace(headers=(*good.headers, ("kq-new", b""))))


def test_a_message_that_is_moved_is_refused() -> None:
    """To another topic, key or purpose."""
    good = message(signed())
    assert "was altered, or made for another place" in why_not(good._replace(topic="topic.later"))
    assert "was altered, or made for another place" in why_not(good._replace(key=None))
    for purpose in PURPOSES[1:]:
        assert "not signed" in why_not(good, purpose=purpose) or "another place" in why_not(good, purpose=purpose)
        assert "not signed" in why_not(message(signed(purpose=purpose))) or "another place" in why_not(
            message(signed(purpose=purpose))
        )


def test_none_is_not_empty() -> None:
    """Of a key and of a value; both come from Kafka as what they are."""
    for name in ("key", "value"):
        empty, none = RECORD._replace(**{name: b""}), RECORD._replace(**{name: None})
        SIGNER.verify(JOB, message(signed(record=none)), NOW)
        why_not(message(signed(record=none), **{name: b""}))
        why_not(message(signed(record=empty), **{name: None}))


def test_what_is_not_signed_says_so() -> None:
    """Never signed, by another program, by a key that is gone, or with half a signature."""
    assert why_not(message(RECORD)) == "the message is not signed"
    assert why_not(message(signed(Signer({"gone": b"g" * 32})))) == (
        "the message is signed with key 'gone', which is not known here"
    )
    assert "is not that of this message" in why_not(message(signed(Signer({"new": b"g" * 32}))))
    headers = signed().headers
    for half in (b"", b":", b"new", b"new:", b"new:x", b"\xff" * 100, b"a" * 10_000):
        text = why_not(message(RECORD._replace(headers=[*headers[:-1], ("kq-signature", half)])))
        assert len(text) < 400


def test_a_signature_that_is_old_or_of_the_future_is_refused() -> None:
    """By the time that was signed, whatever the record's timestamp says; each side may be off by the skew."""
    signer = Signer(KEYS, max_age=100, clock_skew=10)
    made = message(signed(signer))
    signer.verify(JOB, made, NOW + 110_000)
    signer.verify(JOB, made, NOW - 10_000)
    assert why_not(made, signer, now=NOW + 111_000) == "the signature is 111 s old, and may be 100 s"
    assert "signed 11 s in the future" in why_not(made, signer, now=NOW - 11_000)
    signer.verify(JOB, made, NOW + 500_000, since=NOW + 400_000)
    assert "is 111 s old" in why_not(made, signer, now=NOW + 511_000, since=NOW + 400_000)
    Signer(KEYS).verify(JOB, made, NOW + 10**12)


def test_to_sign_again_takes_the_place_of_the_signature() -> None:
    """With another time, and for another purpose; that of a dead letter stands beside it."""
    again = signed(record=signed(purpose=LATER), now=NOW + 5)
    assert again == signed(now=NOW + 5)
    letter = signed(purpose=DEAD, record=signed())
    assert letter.headers[:-2] == signed().headers
    SIGNER.verify(DEAD, message(letter), NOW)
    assert signed(purpose=DEAD, record=letter, now=NOW + 5) == signed(purpose=DEAD, record=signed(), now=NOW + 5)


def test_what_is_kept_has_a_bound() -> None:
    """Whatever names of headers others make up."""
    signer = Signer(KEYS)
    made = message(signed(signer))
    for number in range(1000):
        why_not(made._replace(headers=(*made.headers, (f"kq-{number}", b""))), signer)
    why_not(made._replace(headers=(*made.headers, ("kq-" + "x" * 10_000, b""))), signer)
    names = ["".join(names) for _, _, names in signer._to_verify]
    assert (len(names) <= 256, max(map(len, names)) < 1000) == (True, True)
    signer.verify(JOB, made, NOW)
    why_not(made._replace(headers=(*made.headers, ("x" * 10_000, b""), ("kq-x", b""))), signer)
    assert max(len("".join(names)) for _, _, names in signer._to_verify) < 1000
    for number in range(1000):
        signed(signer, record=RECORD._replace(headers=[(f"kq-{number}", b"")]))
    assert len(signer._to_sign) <= 256


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [KEYS, list(KEYS.items()), tuple(KEYS.items()), lambda: KEYS], ids=placeless)
def test_the_first_signs_and_all_verify(keys: Any) -> None:
    """In each form."""
    signer = Signer(keys)
    assert signed(signer).headers[-1][1].startswith(b"new:")
    signer.verify(JOB, message(signed(Signer({"old": KEYS["old"]}))), NOW)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, "not an empty one"), ([], "not an empty one"), (None, "must be a dict"), (b"k" * 32, "must be a dict"),
        ("k" * 32, "must be a dict"), ({"a": "secret" * 9}, "must be a dict"), ([("a",)], "must be a dict"),
        ({"a": b"secret" * 5}, "key a must have 32 bytes or more, not 30"), ({"": b"secret" * 9}, "name of a key"),
        ({"a b": b"secret" * 9}, "name of a key"), ({"a:b": b"secret" * 9}, "name of a key"),
        ({"a" * 65: b"secret" * 9}, "name of a key"), ({"ä": b"secret" * 9}, "name of a key"),
        ([("a", b"secret" * 9), ("a", b"secret" * 8)], "two keys a"), (dict, "not an empty one"),
        ({1: b"secret" * 9}, "must be a dict"),
    ],
    ids=str,
)  # fmt: skip
def test_keys_that_are_none_are_argument_errors(keys: Any, why: str) -> None:
    """Where the signer is made; and the error tells no key."""
    with pytest.raises(kq.ArgumentError, match=why) as caught:
        Signer(keys)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("seconds", [-1, "1", float("nan"), True])
def test_seconds_that_are_none_are_argument_errors(seconds: Any) -> None:
    """Both of them."""
    with pytest.raises(kq.ArgumentError, match="max_age must be an int or float"):
        Signer(KEYS, max_age=seconds)
    with pytest.raises(kq.ArgumentError, match="clock_skew must be an int or float"):
        Signer(KEYS, clock_skew=seconds)


def test_keys_are_nowhere_to_be_seen() -> None:
    """In no repr, pickle, copy or list of local variables."""
    secret = b"SECRETSECRETSECRETSECRETSECRETSECRET"
    signer = Signer({"a": secret})
    shown = [repr(signer), repr(vars(signer)), str(signer._keys)]
    with pytest.raises(SignatureError) as caught:
        signer.verify(JOB, message(signed(signer), value=b"other"), NOW)
    del secret
    shown += traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    with pytest.raises(kq.ArgumentError) as unread:
        Signer([("a", b"SECRET")])
    shown.append(str(unread.value))
    assert [text for text in shown if "SECRET" in text or b"SECRET".hex() in text] == []
    assert repr(signer) == "Signer(keys=['a'], max_age=None, clock_skew=60.0)"
    dumps: list[Callable[[Any], Any]] = [pickle.dumps, dill.dumps, copy.copy, copy.deepcopy]
    for dump in dumps:
        for holder in (signer, [signer], signer._keys):
            if dump is copy.copy and holder is not signer:
                continue
            with pytest.raises(TypeError, match="cannot be serialized"):
                dump(holder)
    with pytest.raises(kq.ArgumentError, match="holds keys and cannot be serialized"):
        kq.dumps(kq.Job(func=print, args=(signer,)))


def clocked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose one number is the time, by which keys are read again."""
    now = [1000.0]
    monkeypatch.setattr(signing.time, "monotonic", lambda: now[0])
    return now


def test_keys_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a minute, and when a message names one that is not known: but not for each such message."""
    now, keys, reads = clocked(monkeypatch), dict(KEYS), []

    def read() -> dict[str, bytes]:
        reads.append(now[0])
        return dict(keys)

    signer = Signer(read)
    newest = message(signed(Signer({"newest": b"N" * 32})))
    for count in (2, 3, 4, 5, 6, 6, 6):  # five in five seconds
        assert ("not known" in why_not(newest, signer), len(reads)) == (True, count)
    now[0] += 6
    assert ("not known" in why_not(newest, signer), reads[-2:]) == (True, [1000.0, 1006.0])
    keys["newest"] = b"N" * 32
    signer.verify(JOB, newest, NOW)
    signer.verify(JOB, newest, NOW)
    assert (signed(signer).headers[-1][1][:4], len(reads)) == (b"new:", 8)
    keys = {"newest": b"N" * 32}
    now[0] += 31
    assert (signed(signer).headers[-1][1][:7], len(reads)) == (b"newest:", 9)
    now[0] += 31
    assert "'new', which is not known" in why_not(message(signed()), signer)


@pytest.mark.parametrize("error", [OSError("the vault is away"), RuntimeError("SECRET"), None])
def test_keys_stay_where_they_cannot_be_read_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    """That is said aloud, without what the function may have quoted."""
    now, keys = clocked(monkeypatch), dict(KEYS)

    def read() -> dict[str, bytes]:
        if now[0] > 1000 and error is not None:
            raise error
        return keys if now[0] == 1000 else {"a": b"SECRET"}

    signer = Signer(read)
    now[0] += 31
    with caplog.at_level(logging.ERROR, "kq.signing"):
        signer.verify(JOB, message(signed(signer)), NOW)
    (record,) = caplog.records
    assert record.getMessage().startswith("Keys could not be read again, those of before hold: ")
    assert ("vault" in record.getMessage(), "SECRET" in caplog.text) == (isinstance(error, OSError), False)


def test_keys_change_without_a_message_refused() -> None:
    """Behind the old one everywhere, then in front everywhere, then alone; in each step others are a step behind."""
    old, new = ("old", b"o" * 32), ("new", b"n" * 32)
    steps = [Signer([old]), Signer([old, new]), Signer([new, old]), Signer([new])]
    for before, after in itertools.pairwise(steps):
        for writer, reader in ((before, after), (after, before)):
            if (writer, reader) != (steps[2], steps[3]):
                reader.verify(JOB, message(signed(writer)), NOW)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_of_keys_is_read(tmp_path: Path) -> None:
    """One a line, the first signs; with comments."""
    path = tmp_path / "keys"
    path.write_text(f"# ours\nnew:{'6e' * 32}  # since May\n\nold:{b'o'.hex() * 40}\n")
    path.chmod(0o600)
    assert read_keys(path) == list(KEYS.items())
    assert parse_keys(f"new:{'6E' * 32},old:{'6f' * 40}") == list(KEYS.items())


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o610, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Or write; the error says what to do."""
    path = tmp_path / "keys"
    path.write_text(f"a:{'61' * 32}")
    path.chmod(mode)
    with pytest.raises(kq.ArgumentError, match=f"can be read or written by others: chmod 600 {path}"):
        read_keys(path)
    path.chmod(stat.S_IRUSR)
    assert read_keys(path) == [("a", b"a" * 32)]


@pytest.mark.parametrize(
    "text", ["", "# nothing", "secret", "a:secret", "a:73656372", "a secret", "a:" + "g" * 64, "\x00"]
)
def test_a_text_that_holds_no_keys_is_refused(tmp_path: Path, text: str) -> None:
    """And not repeated."""
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(kq.ArgumentError) as caught:
        read_keys(path)
    assert str(caught.value).startswith(f"{path}: key")
    assert ("secret" in str(caught.value), "73656372" in str(caught.value)) == (False, False)
