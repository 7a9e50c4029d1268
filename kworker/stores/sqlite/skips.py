"""How many duplicates were skipped: the table `skip`, for people the view `skipped`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping


def add(connection: sqlite3.Connection, skipped: Mapping[str, int]) -> None:
    """Add these counts to what is stored."""
    connection.executemany(
        "INSERT INTO skip (handler, duplicates) VALUES (?, ?) "
        "ON CONFLICT (handler) DO UPDATE SET duplicates = duplicates + excluded.duplicates",
        skipped.items(),
    )
