"""Kafka's jars: resolved once, checked, kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import BrokerUnavailable
from .java import Java

KAFKA = "4.2.0"
# kafka-clients must be named: jgo otherwise takes an older one from a transitive dependency,
# and nothing starts. The last is the binding without which nothing is logged.
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA}",
    f"org.apache.kafka:kafka-clients:{KAFKA}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
)
_NEEDED = (
    f"kafka_2.13-{KAFKA}.jar",
    f"kafka-clients-{KAFKA}.jar",
    f"kafka-raft-{KAFKA}.jar",
    f"kafka-metadata-{KAFKA}.jar",
    f"kafka-storage-{KAFKA}.jar",
)
_FORMATTED = "bootstrap.checkpoint"
_PATIENCE = 600.0  # seconds for a download


@dataclass(frozen=True, slots=True)
class Jars:
    """A folder with a checked Kafka: its jars, and what a formatted data folder begins with."""

    folder: Path

    @property
    def class_path(self) -> str:
        """In a fixed order: an archive of loaded classes is good for one class path only."""
        return os.pathsep.join(str(jar) for jar in sorted((self.folder / "jars").glob("*.jar")))

    @property
    def formatted(self) -> Path:
        """The records that formatting writes. They are the same for every node and cluster; the
        identities are in `meta.properties` beside them, which is four lines of text."""
        return self.folder / _FORMATTED


def cache_folder() -> Path:
    """$KWORKER_BROKER_CACHE, else `kworker-broker` in the user's cache folder."""
    if given := os.environ.get("KWORKER_BROKER_CACHE"):
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "kworker-broker"


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """One process at a time changes the cache. The system unlocks when the holder dies."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = (cache / "lock").open("w")
    except OSError as error:
        raise BrokerUnavailable(
            f"the cache folder {cache} cannot be used ({error.strerror}): "
            "set KWORKER_BROKER_CACHE to a folder that can be written"
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def kafka(java: Java, cache: Path) -> Jars:
    """Kafka from the cache, or resolved into it; the caller holds the cache's lock.

    A cache whose files are not those that were resolved is resolved again. Raises
    BrokerUnavailable.
    """
    folder = cache / f"kafka-{KAFKA}"
    if _intact(folder):
        return Jars(folder)
    with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as name:
        new = Path(name)
        _resolve(new / "jars")
        _format(java, Jars(new), new)
        (new / "manifest.json").write_text(
            json.dumps({"kafka": KAFKA, "files": _checksums(new)}, indent=1)
        )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for made in (new / "jars", new / _FORMATTED, new / "manifest.json"):  # manifest last
            made.rename(folder / made.name)
    return Jars(folder)


def _intact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        return bool(manifest["files"] == _checksums(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _checksums(folder: Path) -> dict[str, str]:
    files = [folder / _FORMATTED, *sorted((folder / "jars").iterdir())]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _resolve(into: Path) -> None:
    """Copy the jars into a new folder, with jgo or else with the machine's Maven."""
    refusals = []
    resolvers: tuple[Callable[[Path], None], ...] = (_resolve_with_jgo, _resolve_with_maven)
    for resolve in resolvers:
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        try:
            resolve(into)
        except Exception as error:  # noqa: BLE001 - what a resolver may raise is not documented
            said = " ".join(str(error).split()) or type(error).__name__
            refusals.append(said[:300])
            continue
        missing = [name for name in _NEEDED if not (into / name).is_file()]
        if not missing:
            return
        refusals.append(f"{missing[0]} was not among what it resolved")
    raise BrokerUnavailable(
        f"Kafka {KAFKA}'s jars cannot be had (jgo: {refusals[0]}; mvn: {refusals[1]}): connect to "
        "the network once, or set KWORKER_BROKER_CACHE to a cache filled on another machine"
    )


def _resolve_with_jgo(into: Path) -> None:
    import jgo  # an import that configures logging and reads files: only when there is need

    for artifact in jgo.resolve("+".join(COORDINATES)):
        shutil.copy2(artifact.resolve(), into)


def _resolve_with_maven(into: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise FileNotFoundError("not installed")
    with tempfile.TemporaryDirectory() as project:
        Path(project, "pom.xml").write_text(_pom())
        outcome = subprocess.run(
            [maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={into}"],
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    if outcome.returncode != 0:
        raise RuntimeError(outcome.stdout.strip()[:200] or f"ended with {outcome.returncode}")


def _pom() -> str:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, artifact, version in (coordinate.split(":") for coordinate in COORDINATES)
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>kworker</groupId>"
        "<artifactId>broker</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


def _format(java: Java, jars: Jars, folder: Path) -> None:
    """Let Kafka format a data folder once, which also shows that the class path starts."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name, "data")
        properties = Path(name, "server.properties")
        properties.write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            "controller.quorum.voters=1@127.0.0.1:1\ncontroller.listener.names=CONTROLLER\n"
            f"listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\nlog.dirs={data}\n"
        )
        arguments = ["--cluster-id", "AAAAAAAAAAAAAAAAAAAAAQ", "--config", str(properties)]
        outcome = subprocess.run(
            [java.path, "kafka.tools.StorageTool", "format", *arguments],
            env={**os.environ, "CLASSPATH": jars.class_path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if outcome.returncode != 0:
            raise BrokerUnavailable(
                f"{java.path} cannot run the resolved Kafka {KAFKA} "
                f"({' '.join(outcome.stdout.split())[-300:]}): try another Java, named by JAVA_HOME"
            )
        shutil.copy2(data / _FORMATTED, folder / _FORMATTED)
