"""The Compose file is valid, pinned, and open to this machine only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "tests" / "data" / "compose-spec" / "compose-spec.json"


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


@pytest.fixture
def validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_the_compose_file_follows_the_compose_schema(compose, validator):
    """Every key and value is one that the Compose Specification knows."""
    assert [error.message for error in validator.iter_errors(compose)] == []


def test_the_schema_refuses_a_misspelt_key(compose, validator):
    """The check above can fail."""
    compose["services"]["kafka"]["helthcheck"] = compose["services"]["kafka"].pop("healthcheck")
    assert not validator.is_valid(compose)


def test_the_image_is_the_official_one_at_a_fixed_version(compose):
    """The file starts the same Kafka today and next year."""
    name, _, tag = compose["services"]["kafka"]["image"].partition(":")
    assert name == "apache/kafka"
    assert len([int(number) for number in tag.split(".")]) == 3


def test_the_broker_is_published_on_loopback_only(compose):
    """Nobody else on the network reaches a broker without a password."""
    assert compose["services"]["kafka"]["ports"] == ["127.0.0.1:9092:9092"]


def test_the_health_check_asks_the_broker_itself(compose):
    """A container is healthy when its broker answers at the address that clients use."""
    kafka = compose["services"]["kafka"]
    assert kafka["healthcheck"]["test"][-2:] == ["--bootstrap-server", "127.0.0.1:9092"]
    assert kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://127.0.0.1:9092"
