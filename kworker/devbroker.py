"""Where the broker of a running `kworker dev` is, left in a file for other commands."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from contextlib import closing
from pathlib import Path

from . import settings

FOLDER = Path(".kworker")
FILE = FOLDER / "dev.json"
STORES = FOLDER / "dev"


def leave(folder: Path, address: str) -> None:
    """Write where the broker of this process is; for its owner's eyes only."""
    path = folder / FILE
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    content = {"schema": "kworker.dev/1", "bootstrap_servers": address, "pid": os.getpid()}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)


def joining_quickly(configuration: settings.Configuration) -> settings.Configuration:
    """When its last member leaves, the mock keeps a group waiting for the session timeout, so
    that every reload would take half a minute."""
    if configuration.values["group_protocol"] == "consumer":
        return configuration
    quick = {"session.timeout.ms": "3000", "heartbeat.interval.ms": "500"}
    if quick.keys() & (configuration.kafka.keys() | configuration.kafka_consumer.keys()):
        return configuration
    consumer = settings.Properties({**configuration.kafka_consumer, **quick})
    return dataclasses.replace(configuration, kafka_consumer=consumer)


def remove(folder: Path) -> None:
    """Remove the file that this process left; another's stays."""
    if _read(folder).get("pid") == os.getpid():
        (folder / FILE).unlink(missing_ok=True)


def find(folder: Path) -> str | None:
    """The address of the broker of a `kworker dev` that runs in this folder, else None."""
    content = _read(folder)
    address, pid = content.get("bootstrap_servers"), content.get("pid")
    if isinstance(address, str) and isinstance(pid, int) and _runs(pid) and _answers(address):
        return address
    return None


def outbox_of(group: str, db: str | None, servers: str) -> Path:
    """The file in which a publisher keeps what it cannot send: the group's store, as `db` says;
    beside the other stores of `kworker dev` where its broker is meant, whose every start is a
    new cluster. A store that a plugin keeps elsewhere has no outbox for publishers."""
    # Here, because who only declares handlers needs no database.
    from .stores import default_path

    if db is not None and "://" not in db:
        return Path(db)
    place = default_path(group)
    return STORES / place.name if find(Path.cwd()) == servers else place


def _read(folder: Path) -> dict[str, object]:
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return False  # somebody else's process: not one that left a file here
    return pid > 0


def _answers(address: str) -> bool:
    """Whether something listens there; a process id may have been given anew."""
    host, _, port = address.split(",")[0].rpartition(":")
    try:
        with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=1.0)):
            return True
    except (OSError, ValueError):
        return False
