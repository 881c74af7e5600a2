"""Settings of Kafka clients: a mistake is told by its name, and not as a broker that does not answer."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import pytest
from kafka import codec

import kq

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"security_protocol": "SLL"},
        "security_protocol that Kafka does not know: 'SLL'; it is one of 'PLAINTEXT', 'SSL'",
    ),
    ({"security_protocol": "SASL_PLAINTEXT"}, "needs a sasl_mechanism too"),
    ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLIAN"}, "sasl_mechanism that Kafka does not know: 'PLIAN'"),
    ({"acks": "2"}, "acks that Kafka does not know: '2'"),
    ({"compression_type": "zip"}, "compression_type that Kafka does not know: 'zip'"),
    ({"linger_ms": "5"}, "linger_ms that is no number: '5'"),
    ({"max_block_ms": True}, "max_block_ms that is no number: True"),
]


@pytest.mark.parametrize(("config", "words"), WRONG, ids=[repr(config) for config, _ in WRONG])
def test_a_wrong_value_is_refused_at_once(config: dict[str, Any], words: str) -> None:
    """With the word that is wrong, and the right ones."""
    with pytest.raises(kq.ArgumentError) as caught:
        kq.Queue("t", hosts="127.0.0.1:1", config=config)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"auto_offset_reset": "first"}, "auto_offset_reset that Kafka does not know: 'first'"),
        ({"isolation_level": "committed"}, "isolation_level that Kafka does not know"),
        ({"max_poll_records": "10"}, "max_poll_records that is no number"),
    ],
)
def test_a_wrong_value_of_a_consumer_is_refused(config: dict[str, Any], words: str) -> None:
    """A worker is told as a queue is."""
    with pytest.raises(kq.ArgumentError, match=words):
        kq.Worker("t", hosts="127.0.0.1:1", config=config)


def test_a_password_is_not_told() -> None:
    """Whatever it is."""
    config = {"sasl_plain_password": 5150, "security_protocol": "SLL"}
    with pytest.raises(kq.ArgumentError) as caught:
        kq.Queue("t", hosts="127.0.0.1:1", config=config)
    assert "5150" not in str(caught.value)


def test_a_compression_without_its_library_says_what_to_install() -> None:
    """Not at the first job."""
    if codec.has_snappy():
        pytest.skip("it is installed here")
    with pytest.raises(kq.ArgumentError, match=r"pip install 'kafka-python\[snappy\]'"):
        kq.Queue("t", hosts="127.0.0.1:1", config={"compression_type": "snappy"})


def test_values_that_the_client_takes_are_taken() -> None:
    """Numbers of either kind, infinity, and None."""
    config = {"acks": "all", "linger_ms": 0.5, "retries": float("inf"), "compression_type": None}
    kq.Queue("t", hosts="127.0.0.1:1", config=config)


def test_a_file_that_is_not_there_is_named(hosts: str, tmp_path: Path) -> None:
    """At once: the broker is up, and cannot be what is wrong."""
    missing = str(tmp_path / "ca.pem")
    config = {"security_protocol": "SSL", "ssl_cafile": missing}
    begun = time.monotonic()
    with pytest.raises(kq.KQError, match="ssl_cafile that is no file: " + missing):
        kq.Queue("t", hosts=hosts, config=config).enqueue(abs, 1)
    assert time.monotonic() - begun < 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client leaves sockets open
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"security_protocol": "SSL"}, "it speaks no TLS there, it seems, and security_protocol is SSL"),
        (
            {
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "PLAIN",
                "sasl_plain_username": "user",
                "sasl_plain_password": "hidden-word",
            },
            "it asks for no login there: security_protocol is to be PLAINTEXT",
        ),
    ],
    ids=["TLS to a plain port", "SASL to a plain port"],
)
def test_the_first_reason_is_told(config: dict[str, Any], words: str, hosts: str) -> None:
    """It was "no broker answered", though one did; no password is in it."""
    queue = kq.Queue("t", hosts=hosts, config={**config, "bootstrap_timeout_ms": 1_000})
    with pytest.raises(kq.KQError) as caught:
        queue.enqueue(abs, 1)
    told = str(caught.value)
    del caught
    gc.collect()
    assert words in told and hosts in told and "hidden-word" not in told


def test_where_nothing_listens_the_reason_is_told() -> None:
    """The system's own words."""
    queue = kq.Queue("t", hosts="127.0.0.1:1", config={"bootstrap_timeout_ms": 1_000})
    with pytest.raises(kq.KQError, match=r"(?i)refused"):
        queue.enqueue(abs, 1)
