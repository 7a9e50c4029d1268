"""What it takes to start a node: a Java, the jars, and an archive that makes it quick."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from . import jars, java

# Small and quick to start rather than fast: a test's broker carries a few messages.
_JVM = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_AHEAD_OF_TIME = 25  # the Java that has caches of loaded and linked classes


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a node on this machine."""

    java: java.Java
    jars: jars.Jars
    archive: tuple[str, ...] = ()

    def command(self, log4j: Path) -> list[str]:
        """The command for a folder that holds `server.properties`."""
        return [
            str(self.java.path),
            *_JVM,
            *self.archive,
            f"-Dlog4j2.configurationFile={log4j}",
            "-Dkafka.log.file=server.log",
            "kafka.Kafka",
            "server.properties",
        ]

    @property
    def environ(self) -> Mapping[str, str]:
        return {**os.environ, "CLASSPATH": self.jars.class_path}


def prepare(rehearse: Callable[[Launch], None]) -> Launch:
    """Find Java and Kafka, verified. Blocks while another process fills the cache.

    With an archive of the classes that a start loads, a node is up in one second instead of
    more than two. The archive is good for one build of Java; where there is none for this one,
    `rehearse` starts a node and ends it in order, which writes it. Raises BrokerUnavailable.
    """
    machine = java.find()
    cache = jars.cache_folder()
    with jars.locked(cache):
        launch = Launch(machine, jars.kafka(machine, cache))
        archive = launch.jars.folder / f"classes-{machine.build}"
        if not archive.exists():
            new = archive.with_suffix(".new")
            rehearse(replace(launch, archive=(_writing(machine, new),)))
            # A Java that cannot write one (a runtime without base archive) is not asked again.
            new.touch()
            new.rename(archive)
    if archive.stat().st_size == 0:
        return launch
    return replace(launch, archive=(_reading(machine, archive),))


def _writing(machine: java.Java, archive: Path) -> str:
    modern = machine.major >= _AHEAD_OF_TIME
    return f"-XX:{'AOTCacheOutput' if modern else 'ArchiveClassesAtExit'}={archive}"


def _reading(machine: java.Java, archive: Path) -> str:
    modern = machine.major >= _AHEAD_OF_TIME
    return f"-XX:{'AOTCache' if modern else 'SharedArchiveFile'}={archive}"
