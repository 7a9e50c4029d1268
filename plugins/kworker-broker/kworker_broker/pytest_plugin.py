"""Fixtures on a real Kafka. Nothing happens until a test asks for one of them.

`KWORKER_TEST_BOOTSTRAP` names a cluster to use for `kafka` instead of one of our own. Where no
Kafka can be had, tests that need one are skipped and one line at the end says how to get it;
under `CI` or `KWORKER_REQUIRE_KAFKA=1` they fail instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from .cluster import Cluster

_WHY = pytest.StashKey[str]()


class Kafka(Protocol):
    """A cluster that answers at `bootstrap_servers`."""

    @property
    def bootstrap_servers(self) -> str: ...


class MakeTopic(Protocol):
    """Creates a topic and returns its name, which is `name` with a unique ending.

    Configs are written with underscores for dots: `topic("orders", retention_ms=1000)`.
    """

    def __call__(
        self, name: str = ..., *, partitions: int = ..., on: Kafka | None = ..., **configs: object
    ) -> str: ...


class StartCluster(Protocol):
    """Starts a cluster for this test alone; see `Cluster.start`."""

    def __call__(self, nodes: int = ..., **server_properties: object) -> Cluster: ...


@dataclass(frozen=True, slots=True)
class _Given:
    bootstrap_servers: str


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[Kafka]:
    """The session's Kafka: one node, warm, shared by all tests."""
    if given := os.environ.get("KWORKER_TEST_BOOTSTRAP"):
        yield _Given(given)
        return
    with _start(request.config, 1, {}) as cluster:
        cluster.warm_up()
        yield cluster


@pytest.fixture
def own_kafka(request: pytest.FixtureRequest) -> Iterator[StartCluster]:
    """Start clusters to be harmed, warm; they end with the test."""
    clusters: list[Cluster] = []

    def start(nodes: int = 1, **server_properties: object) -> Cluster:
        clusters.append(_start(request.config, nodes, server_properties))
        clusters[-1].warm_up()
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> Iterator[MakeTopic]:
    """Create topics on `kafka`, or `on` another cluster; the former are deleted with the test."""
    from . import client

    made: list[str] = []

    def make(
        name: str = "topic", *, partitions: int = 4, on: Kafka | None = None, **configs: object
    ) -> str:
        cluster: Kafka = request.getfixturevalue("kafka") if on is None else on
        unique = f"{name}-{uuid4().hex[:8]}"
        client.create_topic(
            cluster.bootstrap_servers,
            unique,
            partitions=partitions,
            configs={key.replace("_", "."): str(value) for key, value in configs.items()},
        )
        if on is None:
            made.append(unique)
        return unique

    yield make
    if made:
        client.delete_topics(request.getfixturevalue("kafka").bootstrap_servers, made)


@pytest.fixture
def group() -> str:
    """The name of a group that nobody else uses; it also makes legal topic names."""
    return f"group-{uuid4().hex[:8]}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if why := config.stash.get(_WHY, None):
        terminalreporter.write_line(f"Tests that need a real Kafka were skipped: {why}")


def _start(config: pytest.Config, nodes: int, properties: dict[str, object]) -> Cluster:
    from .cluster import Cluster
    from .errors import BrokerUnavailable

    if (why := config.stash.get(_WHY, None)) is None:
        try:
            return Cluster.start(nodes, **properties)
        except BrokerUnavailable as error:
            why = str(error)
    if _required():
        pytest.fail(f"this run demands a real Kafka: {why}", pytrace=False)
    config.stash[_WHY] = why
    pytest.skip("no real Kafka")


def _required() -> bool:
    names = ("KWORKER_REQUIRE_KAFKA", "CI")
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in names)
