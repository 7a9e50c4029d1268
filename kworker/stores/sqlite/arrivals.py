"""Which messages with an id of their own have arrived and were settled: the table `block`.

Ids are random, so a row an id would dirty a page an id. Instead a turn appends its ids as one
row, a *block*, and "was it recorded?" is answered from the cheapest place that knows:

    sieve    in memory, without the ids: what it holds back is certainly new, which is nearly all
    recent   in memory, word for word: the ids of the last blocks, until they fill a run
    runs     in which blocks may it be?
    block    is it?

All but the blocks can be made anew from the blocks, and what is stored of it says up to which
block it goes. Each process has its own memory and takes in what others appended before it
answers. What has to be done from time to time is done in small pieces within turns.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from . import runs
from .care import Damaged
from .marks import Scopes, storable
from .sieve import PARTS, Sieve, hashes

RUN = 12_800  # ids in a run of the lowest level; as many are kept in memory, word for word
_WRITE_SIEVE = 2**19  # ids after which it is written down again: what a start goes through
_PORTION = 8_192  # ids gone through at a time where that can wait
_READ_AHEAD = 500  # ids read around one that was found: its neighbours are often asked next
_KEPT = 50_000  # ids that were read, kept for the next question

_encode = json.JSONEncoder(separators=(",", ":")).encode


def _decode(text: str) -> list[str]:
    try:
        ids: list[str] = json.loads(text)
    except ValueError as error:
        raise Damaged(str(error)) from error
    return ids


class Block(NamedTuple):
    """What one turn recorded for one handler and topic.

    It is numbered by its last id, all ids ever recorded being counted: numbers only grow, are
    never given twice, and their differences count ids.
    """

    number: int
    scope: int
    ids: Sequence[str]
    hashes: list[int]


class Arrivals:
    """Only the thread of the store's connection touches it."""

    def __init__(self, connection: sqlite3.Connection, scopes: Scopes) -> None:
        self._connection = connection
        self._scopes = scopes
        self._taken = 0  # the last block that is known here
        self._sieve = Sieve()
        self._sieve_since = 0  # it has nothing of blocks up to this one
        self._sieve_stored = 0  # the last block in what is stored of it, as far as is known
        self._cleaner: _Cleaner | None = None
        self._recent: list[Block] = []
        self._recent_ids: dict[int, set[str]] = {}  # by scope
        self._recent_after = 0  # the block before the recent ones
        self._young = runs.Young(0)
        self._untidy = True  # runs may have to be merged or dropped
        self._fresh: list[Block] = []  # written in a transaction that has not ended
        self._run: array[int] | None = None  # as well, of all recent blocks
        self._erased = False  # as well: what is in memory of blocks may be gone
        self._read: dict[int, dict[str, int]] = {}  # of blocks looked into: scope, id, number
        self._read_count = 0

    # --- before the first question --------------------------------------------------------

    def load(self) -> None:
        """Take in what is stored; whoever calls it has the turn and no transaction."""
        self._sieve_since, self._sieve_stored = self._connection.execute(
            "SELECT since, upto FROM sieve_state"
        ).fetchone()
        if self._sieve_stored:
            (size,) = self._connection.execute("SELECT sum(length(words)) FROM sieve").fetchone()
            if size != Sieve.size():
                raise Damaged(f"the sieve has {size} bytes in place of {Sieve.size()}")
            rows = self._connection.execute("SELECT words FROM sieve ORDER BY part")
            self._sieve = Sieve(words for (words,) in rows)
        else:
            self._sieve_since = self._first() - 1
        indexed = runs.indexed(self._connection)
        self._taken = self._recent_after = min(indexed, self._sieve_stored)
        self._young = runs.Young(self._recent_after)
        while portion := self._portion(self._taken):
            self._take(portion)
            if self._taken <= indexed:
                self._let_go(len(self._recent))
            elif self._taken - self._recent_after >= RUN:
                self._connection.execute("BEGIN IMMEDIATE")
                self._write_run()
                self._connection.execute("COMMIT")
                self.keep(committed=True)

    # --- the question ---------------------------------------------------------------------

    def find(self, handler: str, topic: str, ids: Sequence[str]) -> set[str]:
        """Which of these were recorded as first arrivals."""
        scope = self._scopes.find(handler, topic)
        if scope is None:
            return set()
        stored = storable(ids)
        self.catch_up()
        hashed = hashes(stored)
        passing = set(self._sieve.passing(scope, hashed))
        if not passing:
            return set()
        pairs = zip(stored, hashed, strict=True)
        found = self._among(scope, [pair for pair in pairs if pair[1] in passing])
        if found and stored is not ids:
            return {id for id, kept in zip(ids, stored, strict=True) if kept in found}
        return found

    def catch_up(self) -> None:
        """Take in what other processes have appended."""
        for number, scope, text in self._connection.execute(
            "SELECT block, scope, ids FROM block WHERE block > ? ORDER BY block", (self._taken,)
        ):
            ids = _decode(text)
            self._take([Block(number, scope, ids, hashes(ids))])
            if self._taken - self._recent_after >= 4 * RUN:  # far behind: it is in runs by now
                indexed = runs.indexed(self._connection)
                self._let_go(sum(1 for block in self._recent if block.number <= indexed))

    def _among(self, scope: int, suspects: Sequence[tuple[str, int]]) -> set[str]:
        """Which of those that passed the sieve are in a block that lives."""
        found: set[str] = set()
        first = self._first()
        if self._recent and self._recent[0].number < first:
            self._let_go(sum(1 for block in self._recent if block.number < first))
        recent = self._recent_ids.get(scope, ())
        read = self._read.setdefault(scope, {})
        for id, hash in suspects:
            if id in recent or read.get(id, -1) >= first:
                found.add(id)
                continue
            candidates = runs.find(self._connection, self._young, hash, first, self._taken)
            if any(self._holds(number, scope, id) for number in candidates):
                found.add(id)
        return found

    def _holds(self, number: int, scope: int, id: str) -> bool:
        """Whether the block holds the id; what is near it is then kept for what is asked next."""
        row = self._connection.execute(
            "SELECT ids FROM block WHERE block = ? AND scope = ?", (number, scope)
        ).fetchone()
        if row is None or _encode(id) not in row[0] or id not in _decode(row[0]):
            return False
        if self._read_count > _KEPT:
            for kept in self._read.values():
                kept.clear()
            self._read_count = 0
        count = 0
        rows = self._connection.execute(
            "SELECT block, scope, ids FROM block WHERE block >= ? ORDER BY block", (number,)
        )
        for near, whose, text in rows:
            ids = _decode(text)
            self._read.setdefault(whose, {}).update(dict.fromkeys(ids, near))
            count += len(ids)
            if count >= _READ_AHEAD:
                break
        self._read_count += count
        return True

    # --- within a turn --------------------------------------------------------------------

    def add(self, arrivals: Mapping[tuple[str, str], Sequence[str]], now: float) -> None:
        """Append a block for each handler and topic."""
        if not self._fresh:
            self.catch_up()
        number = self._fresh[-1].number if self._fresh else self._taken
        for (handler, topic), ids in arrivals.items():
            if not ids:
                continue
            scope = self._scopes.give(handler, topic)
            stored = storable(ids)
            number += len(stored)
            self._connection.execute(
                "INSERT INTO block (block, scope, at, ids) VALUES (?, ?, ?, ?)",
                (number, scope, now, _encode(stored)),
            )
            self._fresh.append(Block(number, scope, stored, hashes(stored)))

    def tend(self) -> None:
        """Do a little of what has to be done from time to time, in proportion to what came."""
        if not self._fresh:
            self.catch_up()
        count = self._fresh[-1].number - self._taken if self._fresh else 0
        for _ in range(1 + count // _PORTION):
            if self._taken - self._recent_after >= RUN and self._run is None:
                self._write_run()
            elif self._cleaner is not None:
                self._clean(self._cleaner)
            elif self._taken - self._sieve_stored >= _WRITE_SIEVE:
                self._write_sieve()
            elif self._untidy:
                self._untidy = runs.tidy(self._connection, self._first())
            else:
                break

    def forget(self, before: float, limit: int) -> int:
        """Remove the oldest blocks, `limit` ids or somewhat more, as far as they were recorded
        before that time. How many ids that were.

        Only the first rows are looked at. Should the clock have jumped, some stay until those
        written ahead of them go: too long rather than too short.
        """
        self.catch_up()
        last = count = 0
        for number, at, size in self._connection.execute(
            "SELECT block, at, json_array_length(ids) FROM block ORDER BY block"
        ):
            if at >= before or count >= limit or (size == 0 and number == self._taken):
                break
            last, count = number, count + size
        if not last:
            return 0
        if last == self._taken:
            # Numbers are never given twice, so the highest has to stay: on an empty block.
            self._connection.execute(
                "INSERT INTO block (block, scope, at, ids) VALUES (?, 0, ?, '[]')",
                (last + 1, before),
            )
            self._fresh.append(Block(last + 1, 0, (), []))
        self._connection.execute("DELETE FROM block WHERE block <= ?", (last,))
        self._untidy = True
        dead, alive = last - self._sieve_since, self._taken - last
        if self._cleaner is None and dead > alive + _WRITE_SIEVE:
            self._cleaner = _Cleaner(last)
        return count

    def erase(self, scope: int, ids: Collection[str] | None) -> int:
        """Forget these ids of a scope, or all, on demand; how many were recorded.

        Every block is looked at. It stays, with what is left in it.
        """
        self._erased = True
        if ids is None:
            (count,) = self._connection.execute(
                "SELECT coalesce(sum(json_array_length(ids)), 0) FROM block WHERE scope = ?",
                (scope,),
            ).fetchone()
            self._connection.execute("UPDATE block SET ids = '[]' WHERE scope = ?", (scope,))
            return int(count)
        holding = {
            number: _decode(text)
            for id in ids
            for number, text in self._connection.execute(
                "SELECT block, ids FROM block WHERE scope = ? AND instr(ids, ?)",
                (scope, _encode(id)),
            )
        }
        gone: set[str] = set()
        for number, recorded in holding.items():
            left = [id for id in recorded if id not in ids]
            gone.update(id for id in recorded if id in ids)
            self._connection.execute(
                "UPDATE block SET ids = ? WHERE block = ?", (_encode(left), number)
            )
        return len(gone)

    def keep(self, committed: bool) -> None:
        """The transaction has ended: what was done in it holds, or never was."""
        run, self._run = self._run, None
        fresh, self._fresh = self._fresh, []
        erased, self._erased = self._erased, False
        if not committed:
            return
        if run is not None:
            if run:
                self._young.add(run, self._recent_after, self._taken)
            self._let_go(len(self._recent))
        self._take(fresh)
        if erased:
            self._read.clear()
            self._recent, self._recent_ids = [], {}
            self._taken = self._recent_after
            self.catch_up()

    # --- from time to time ----------------------------------------------------------------

    def _write_run(self) -> None:
        """Make a run of the recent blocks, as far as no other process has."""
        indexed = runs.indexed(self._connection)
        unsorted = array("Q")
        for block in self._recent:
            if block.number > indexed:
                unsorted.extend(array("Q", runs.entries_of(block.number, block.hashes)))
        entries = runs.in_order(unsorted)
        if entries:
            runs.add(self._connection, entries, max(indexed, self._recent_after), self._taken)
        self._run = entries if indexed <= self._recent_after else array("Q")
        self._untidy = True

    def _write_sieve(self) -> None:
        """Write down a part of the sieve. Once all are written, it is known to hold every
        block up to the one that was the last when the first part was written: a part may hold
        more, since bits are only added."""
        upto, until, part = self._connection.execute(
            "SELECT upto, until, part FROM sieve_state"
        ).fetchone()
        self._sieve_stored = upto
        if self._taken - upto < _WRITE_SIEVE:
            return  # another process did
        if not until:
            self._connection.execute(
                "UPDATE sieve_state SET next_since = ?, until = ?, part = 0",
                (self._sieve_since, self._taken),
            )
        self._connection.execute(
            "INSERT OR REPLACE INTO sieve (part, words) VALUES (?, ?)",
            (part, self._sieve.part(part)),
        )
        if part + 1 < PARTS:
            self._connection.execute("UPDATE sieve_state SET part = ?", (part + 1,))
        else:
            self._connection.execute(
                "UPDATE sieve_state SET since = next_since, upto = until, until = 0, part = 0"
            )

    def _clean(self, cleaner: _Cleaner) -> None:
        """Go on filling a sieve without what was forgotten, which then takes the place."""
        portion = self._portion(cleaner.upto)
        for block in portion:
            if block.number <= self._taken:
                cleaner.sieve.add(block.scope, block.hashes)
                cleaner.upto = block.number
        if cleaner.upto == self._taken or not portion:
            self._sieve, self._sieve_since = cleaner.sieve, cleaner.since
            self._cleaner = None

    # --- what is in memory ----------------------------------------------------------------

    def _take(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self._sieve.add(block.scope, block.hashes)
            self._recent.append(block)
            self._recent_ids.setdefault(block.scope, set()).update(block.ids)
            self._taken = block.number

    def _let_go(self, count: int) -> None:
        """Let go of the oldest recent blocks: they are in runs, or forgotten."""
        if not count:
            return
        self._recent_after = self._recent[count - 1].number
        if self._young.upto != self._recent_after:
            self._young = runs.Young(self._recent_after)
        del self._recent[:count]
        self._recent_ids = {}
        for block in self._recent:
            self._recent_ids.setdefault(block.scope, set()).update(block.ids)

    def _first(self) -> int:
        """The first block that lives; 0 where there never was one."""
        (first,) = self._connection.execute("SELECT coalesce(min(block), 0) FROM block").fetchone()
        return int(first)

    def _portion(self, after: int) -> list[Block]:
        """The next blocks, some thousand ids of them."""
        portion: list[Block] = []
        count = 0
        for number, scope, text in self._connection.execute(
            "SELECT block, scope, ids FROM block WHERE block > ? ORDER BY block", (after,)
        ):
            ids = _decode(text)
            portion.append(Block(number, scope, ids, hashes(ids)))
            count += len(ids)
            if count >= _PORTION:
                break
        return portion


class _Cleaner:
    """A sieve that is being filled from the blocks that live."""

    def __init__(self, since: int) -> None:
        self.sieve = Sieve()
        self.since = self.upto = since
