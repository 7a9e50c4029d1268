"""docker-compose.yml: a Kafka, and a page to look at it, for this machine alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "docker-compose.yml"


@pytest.fixture
def services() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())["services"]


def test_kafka_runs_alone_in_kraft_mode_from_a_pinned_official_image(services):
    kafka = services["kafka"]

    image, _, tag = kafka["image"].partition(":")

    assert image == "apache/kafka"
    assert tag.count(".") == 2 and tag.replace(".", "").isdigit()
    assert kafka["environment"]["KAFKA_PROCESS_ROLES"] == "broker,controller"
    assert "profiles" not in kafka


def test_kafka_is_healthy_when_it_answers(services):
    healthcheck = services["kafka"]["healthcheck"]

    assert "kafka-broker-api-versions.sh" in " ".join(healthcheck["test"])
    assert healthcheck["retries"] > 0


def test_the_page_comes_only_when_it_is_asked_for_and_waits_for_kafka(services):
    page = services["ui"]

    assert page["profiles"] == ["ui"]
    assert page["depends_on"]["kafka"]["condition"] == "service_healthy"
    assert page["environment"]["KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS"] == "kafka:19092"
    assert page["image"].partition(":")[2] not in ("", "latest", "main")


def test_nothing_is_reachable_from_other_machines(services):
    ports = [port for service in services.values() for port in service["ports"]]

    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_one_node_is_enough_for_every_internal_topic(services):
    environment = services["kafka"]["environment"]

    factors = {name: n for name, n in environment.items() if name.endswith("REPLICATION_FACTOR")}

    assert set(factors.values()) == {1}
    assert {"OFFSETS", "TRANSACTION", "SHARE"} <= {name.split("_")[1] for name in factors}


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    asked = [[docker, "info"], [docker, "compose", "version"]]
    return all(
        subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
        for command in asked
    )


@pytest.mark.skipif(not _docker_answers(), reason="no Docker engine answers here")
def test_docker_takes_the_file():
    command = ["docker", "compose", "--file", str(FILE), "--profile", "ui", "config", "--quiet"]

    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert outcome.returncode == 0, outcome.stderr
