"""The database transaction that a handler shares with the record of its message."""

from __future__ import annotations

import sqlite3
from typing import Annotated

from .context import Shared

Transaction = Annotated[sqlite3.Connection, Shared()]
"""A connection to the store's file, in a transaction that is kworker's.

What a handler writes through it and the record of its message are committed together, or not at
all. Beginning and ending it is kworker's part: COMMIT, ROLLBACK, `with connection:`, `commit()`
and `executescript` raise, and so do ATTACH and writing to kworker's own tables. Savepoints work.
It belongs to the call and to its thread.
"""
