"""Where a group remembers what it did: the door to the room."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from ..clock import Clock, SystemClock
from .api import Keeper, Lender, Store
from .sqlite.keeper import SqliteKeeper
from .sqlite.lender import SqliteLender
from .sqlite.store import SqliteStore


def open_store(path: Path | str, *, group: str, cluster: str, clock: Clock | None = None) -> Store:
    """Open the store of this group on this host, made if it is not there.

    It is bound to the group and the Kafka cluster (its id) that it was made for. It belongs
    to the thread that opens it; a process that forks opens it afterwards, in each child.
    Raises StoreError for a file that cannot be used, and for any that is not this group's.
    """
    path = Path(path).absolute()
    return SqliteStore(path, group=group, cluster=cluster, clock=clock or SystemClock())


def open_lender(
    path: Path | str, *, group: str, cluster: str, clock: Clock | None = None
) -> Lender:
    """Open the store's file once more, to be lent to handlers. It belongs to the thread that
    opens it. Raises StoreError as `open_store` does."""
    path = Path(path).absolute()
    return SqliteLender(path, group=group, cluster=cluster, clock=clock or SystemClock())


def open_keeper(
    path: Path | str, *, group: str, cluster: str | None, clock: Clock | None = None
) -> Keeper:
    """Open the store's file for its outbox alone, made if it is not there: for publishers.

    `cluster` None: Kafka cannot be asked yet. It belongs to the thread that opens it. Raises
    StoreError as `open_store` does.
    """
    path = Path(path).absolute()
    return SqliteKeeper(path, group=group, cluster=cluster, clock=clock or SystemClock())


def default_path(group: str) -> Path:
    """Where the group's store is unless told otherwise: under the working directory.

    A group's name may hold anything; what could lead out of the folder or hide the file is
    percent-escaped.
    """
    name = quote(group, safe="").replace("~", "%7E")
    if name.startswith("."):
        name = "%2E" + name[1:]
    return Path(".kworker") / f"{name}.db"


__all__ = [
    "Keeper",
    "Lender",
    "Store",
    "default_path",
    "open_keeper",
    "open_lender",
    "open_store",
]
