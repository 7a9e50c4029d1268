"""In which block may an id be? Sorted runs of hashes, merged as they grow in number.

A run is written once, in pieces by the first bits of the hash, so that a question reads one
small row a run. When `FAN` runs of a level have come together, they become one of the next,
piece by piece: a piece moves in one transaction, so an entry is always in exactly one place,
whoever looks, and whoever comes next goes on where the last one stopped. With 32 a level, five
million ids are in some 25 runs and were moved once.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator

FAN = 32
_BITS = FAN.bit_length() - 1  # of the hash that each level's pieces are told apart by
_TOP = 3  # level; its pieces grow instead of becoming more
_DROPPED = 256  # pieces at once
_BLOCK = 30  # bits of a block's number in an entry
_LOW = (1 << _BLOCK) - 1
_YOUNG = FAN  # runs in memory: as many as wait to be merged

# A piece's key is its run's number, then 24 bits for the first bits of the hash.
_FIND = (
    "SELECT entries FROM run CROSS JOIN piece "
    f"ON piece.piece = (run.run << 24) | (?1 >> (32 - {_BITS} * (level + 1))) "
    "WHERE level > 0 OR after < ?2"
)


def entries_of(block: int, hashes: Iterable[int]) -> list[int]:
    """An entry a hash: it sorts by hash, and has room for the low bits of a block's number."""
    low = block & _LOW
    return [hash << _BLOCK | low for hash in hashes]


def in_order(entries: array[int]) -> array[int]:
    """Sorted. Doubles sort twice as fast as such large integers, and the order of doubles
    that are positive and finite, which 62 bits always are, is that of their bits."""
    doubles = memoryview(entries).cast("B").cast("d").tolist()
    doubles.sort()
    ordered = array("Q")
    ordered.frombytes(array("d", doubles).tobytes())
    return ordered


class Young:
    """The runs that this process wrote last, in memory: most runs are young.

    They hold all entries of the blocks beyond `after`, as far as `upto`.
    """

    def __init__(self, after: int) -> None:
        self.after = self.upto = after
        self._runs: deque[tuple[int, array[int]]] = deque()  # their last blocks, and entries

    def add(self, entries: array[int], after: int, last: int) -> None:
        """Another run was written; unless it continues them it takes the place of all."""
        if after != self.upto:
            self._runs.clear()
            self.after = after
        self.upto = last
        self._runs.append((last, entries))
        if len(self._runs) > _YOUNG:
            self.after, _ = self._runs.popleft()

    def find(self, hash: int) -> list[int]:
        """The low bits of the blocks that may hold an id with this hash."""
        return [low for _, entries in self._runs for low in _lows(entries, hash)]


def find(
    connection: sqlite3.Connection, young: Young, hash: int, first: int, last: int
) -> Iterator[int]:
    """The blocks from `first` to `last` that may hold an id with this hash: the one that does,
    and a few numbers of others or of none."""
    lows = young.find(hash)
    for (stored,) in connection.execute(_FIND, (hash, young.after)):
        entries = array("Q")
        entries.frombytes(stored)
        lows += _lows(entries, hash)
    for low in set(lows):
        yield from range(first + ((low - first) & _LOW), last + 1, 1 << _BLOCK)


def _lows(entries: array[int], hash: int) -> list[int]:
    place = bisect_left(entries, hash << _BLOCK)
    end = place
    while end < len(entries) and entries[end] >> _BLOCK == hash:
        end += 1
    return [entry & _LOW for entry in entries[place:end]]


def indexed(connection: sqlite3.Connection) -> int:
    """The last block whose ids are in a run; 0 for none."""
    (last,) = connection.execute("SELECT coalesce(max(last), 0) FROM run").fetchone()
    return int(last)


def add(connection: sqlite3.Connection, entries: array[int], after: int, last: int) -> None:
    """Write a run of these sorted entries, all there are beyond one block up to another."""
    run = connection.execute(
        "INSERT INTO run (level, after, last) VALUES (0, ?, ?)", (after, last)
    ).lastrowid
    assert run is not None
    _write(connection, run, 0, _BITS, entries)


def tidy(connection: sqlite3.Connection, first: int) -> bool:
    """Do a little of what is due: move a piece, drop some of what lives no more (all blocks
    before `first`). False where nothing is due."""
    return _drop(connection, first) or _move(connection) or _begin(connection)


def _begin(connection: sqlite3.Connection) -> bool:
    """Begin the merge that is due, if one is."""
    row = connection.execute(
        "SELECT level, min(after), max(last), count(*) FROM "
        "(SELECT level, after, last, row_number() OVER (PARTITION BY level ORDER BY run) AS place "
        f"FROM run WHERE level < {_TOP} AND into_run IS NULL AND moved IS NULL) "
        f"WHERE place <= {FAN} GROUP BY level HAVING count(*) = {FAN} LIMIT 1"
    ).fetchone()
    if row is None:
        return False
    level, after, last, _ = row
    merged = connection.execute(
        "INSERT INTO run (level, after, last, moved) VALUES (?, ?, ?, 0)",
        (level + 1, after, last),
    ).lastrowid
    connection.execute(
        "UPDATE run SET into_run = ? WHERE run IN (SELECT run FROM run WHERE level = ? "
        "AND into_run IS NULL AND moved IS NULL ORDER BY run LIMIT ?)",
        (merged, level, FAN),
    )
    return True


def _move(connection: sqlite3.Connection) -> bool:
    """Move the next piece of each run of a merge that was begun."""
    row = connection.execute(
        "SELECT run, level, moved FROM run WHERE moved IS NOT NULL ORDER BY run LIMIT 1"
    ).fetchone()
    if row is None:
        return False
    merged, level, at = row
    rows = connection.execute(
        "SELECT piece.piece, entries FROM run JOIN piece ON piece.piece = (run.run << 24) | ? "
        "WHERE into_run = ?",
        (at, merged),
    ).fetchall()
    joined = array("Q")
    for _, stored in rows:
        joined.frombytes(stored)
    connection.executemany("DELETE FROM piece WHERE piece = ?", [(piece,) for piece, _ in rows])
    _write(connection, merged, at << _BITS, _BITS * (level + 1), in_order(joined))
    if at + 1 < 1 << _BITS * level:
        connection.execute("UPDATE run SET moved = ? WHERE run = ?", (at + 1, merged))
    else:
        connection.execute("DELETE FROM run WHERE into_run = ?", (merged,))
        connection.execute("UPDATE run SET moved = NULL WHERE run = ?", (merged,))
    return True


def _drop(connection: sqlite3.Connection, first: int) -> bool:
    """Drop some of the oldest run that holds nothing but blocks before `first`."""
    row = connection.execute(
        "SELECT run FROM run WHERE last < ? AND into_run IS NULL AND moved IS NULL "
        "ORDER BY last LIMIT 1",
        (first,),
    ).fetchone()
    if row is None:
        return False
    (run,) = row
    gone = connection.execute(
        "DELETE FROM piece WHERE piece IN (SELECT piece FROM piece "
        "WHERE piece >= ? AND piece < ? LIMIT ?)",
        (run << 24, run + 1 << 24, _DROPPED),
    ).rowcount
    if gone < _DROPPED:
        connection.execute("DELETE FROM run WHERE run = ?", (run,))
    return True


def _write(
    connection: sqlite3.Connection, run: int, piece: int, bits: int, entries: array[int]
) -> None:
    """Cut sorted entries into pieces by their first bits, from this piece on."""
    pieces = []
    begin = 0
    while begin < len(entries):
        end = bisect_left(entries, piece + 1 << 32 + _BLOCK - bits, begin)
        if end > begin:
            pieces.append((run << 24 | piece, entries[begin:end].tobytes()))
        begin = end
        piece += 1
    connection.executemany("INSERT INTO piece (piece, entries) VALUES (?, ?)", pieces)
