"""Ids by the thousand: blocks, sieve and runs remember exactly what was recorded."""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from kworker.errors import StoreError
from kworker.stores import Store, open_store
from kworker.stores.api import Mark, Turn
from kworker.stores.sqlite import arrivals, runs, schema, sieve
from kworker.testing.stores import StoreClock

ORDERS, RETURNS = ("charge", "orders"), ("charge", "returns")
KINDS = [ORDERS, RETURNS, ("mail", "orders")]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch):
    """What takes millions of ids in life takes hundreds here."""
    monkeypatch.setattr(arrivals, "RUN", 8)
    monkeypatch.setattr(arrivals, "_WRITE_SIEVE", 256)
    monkeypatch.setattr(arrivals, "_PORTION", 4)
    monkeypatch.setattr(arrivals, "_READ_AHEAD", 4)
    monkeypatch.setattr(arrivals, "_KEPT", 50)
    monkeypatch.setattr(sieve, "_WORDS", 9)
    monkeypatch.setattr(arrivals, "PARTS", 4)
    monkeypatch.setattr(sieve, "PARTS", 4)
    monkeypatch.setattr(runs, "_DROPPED", 20)


def opened(folder: Path, clock: StoreClock | None = None) -> Store:
    return open_store(folder / "k" / "g.db", group="g", cluster="c", clock=clock or StoreClock(0.0))


def fill(store: Store, count: int, *, each: int = 5, kind: tuple[str, str] = ORDERS) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(count)]
    for begin in range(0, count, each):
        assert store.record(Turn(ids={kind: ids[begin : begin + each]}), patience=5)
    return ids


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "k" / "g.db")) as connection:
        return connection.execute(query).fetchall()


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_three_processes_do_nothing_is_forgotten_too_early_or_found_too_much(seed: int):
    chance = random.Random(seed)
    last: dict[tuple[tuple[str, str], str], float] = {}
    horizon = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), StoreClock(0.0)
        stores = [opened(folder, clock) for _ in range(3)]

        for step in range(250):
            clock.now += 1
            who = chance.randrange(3)
            deed = chance.random()
            if deed < 0.7:
                ids = {
                    kind: [f"{step}-{number}" for number in range(chance.randrange(12))]
                    for kind in chance.sample(KINDS, chance.randrange(1, 3))
                }
                if last and chance.random() < 0.1:
                    kind, id = chance.choice(list(last))
                    ids.setdefault(kind, []).append(id)
                assert stores[who].record(Turn(ids=ids), patience=5)
                last.update({(kind, id): clock.now for kind in ids for id in ids[kind]})
            elif deed < 0.75:
                horizon = max(horizon, clock.now - chance.randrange(20, 200))
                while stores[who].prune(horizon, limit=chance.choice([1, 50, 1000])):
                    pass
            elif deed < 0.85:
                stores[who].close()
                stores[who] = opened(folder, clock)
            else:
                nothing_of_ids = Turn(settled=[Mark("x", "y", "z")])
                assert stores[who].record(nothing_of_ids, patience=5)
            if last:
                kind = chance.choice(KINDS)
                known = [id for whose, id in last if whose == kind]
                asked = chance.sample(known, min(len(known), 30))
                asked += [f"{step}-never", f"{step + 1}-0"]
                alive = {id for id in asked if last.get((kind, id), -1.0) >= horizon}
                assert stores[chance.randrange(3)].seen_ids(*kind, asked) == alive

        for store in stores:
            for kind in KINDS:
                known = [id for whose, id in last if whose == kind]
                alive = {id for id in known if last[kind, id] >= horizon}
                assert store.seen_ids(*kind, known) == alive
            store.close()


def test_runs_are_merged_until_few_are_left_and_hold_everything(tmp_path: Path):
    store = opened(tmp_path)
    ids = fill(store, 9000, each=8)

    assert store.seen_ids(*ORDERS, ids) == set(ids)
    levels = rows(tmp_path, "SELECT level, count(*) FROM run GROUP BY level")
    assert [level for level, _ in levels] == [0, 1, 2]
    assert sum(count for _, count in levels) < 5 * runs.FAN
    store.close()
    with closing(opened(tmp_path)) as other:
        assert other.seen_ids(*ORDERS, ids) == set(ids)
        assert other.seen_ids(*ORDERS, [str(uuid.uuid4()) for _ in range(1000)]) == set()


def test_a_start_does_not_go_through_what_the_stored_sieve_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with closing(opened(tmp_path)) as store:
        ids = fill(store, 2000)
    read: list[str] = []
    monkeypatch.setattr(arrivals, "hashes", lambda ids: read.extend(ids) or sieve.hashes(ids))

    store = opened(tmp_path)

    assert len(read) < 200
    assert store.seen_ids(*ORDERS, ids) == set(ids)
    store.close()


def test_one_that_records_no_ids_stores_no_sieve_that_lacks_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    no_ids = Turn(settled=[Mark("x", "y", "z")])
    one, other = opened(tmp_path), opened(tmp_path)
    monkeypatch.setattr(arrivals, "_WRITE_SIEVE", 10**9)
    ids = fill(one, 300)
    other.seen_ids(*ORDERS, ids)
    ids += fill(one, 20)
    monkeypatch.setattr(arrivals, "_WRITE_SIEVE", 256)

    while rows(tmp_path, "SELECT until FROM sieve_state") == [(0,)]:
        assert one.record(no_ids, patience=5)
    while rows(tmp_path, "SELECT upto FROM sieve_state") == [(0,)]:
        assert other.record(no_ids, patience=5)

    with closing(opened(tmp_path)) as third:
        assert third.seen_ids(*ORDERS, ids) == set(ids)
    one.close()
    other.close()


def test_what_is_stored_beside_the_blocks_goes_when_they_go(tmp_path: Path):
    clock = StoreClock(0.0)
    store = opened(tmp_path, clock)
    fill(store, 1500)
    clock.now = 100.0
    young = fill(store, 20)

    while store.prune(50.0, limit=100):
        pass
    for _ in range(200):
        store.prune(50.0)

    assert store.seen_ids(*ORDERS, young) == set(young)
    (blocks,) = rows(tmp_path, "SELECT count(*) FROM block")
    (pieces,) = rows(tmp_path, "SELECT sum(length(entries)) / 8 FROM piece")
    assert blocks == (4,)
    assert pieces[0] < 1500 / 2 + 20
    store.close()


def test_a_sieve_full_of_what_was_forgotten_is_filled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sieve, "_WORDS", 7)
    clock = StoreClock(0.0)
    store = opened(tmp_path, clock)
    strangers = [str(uuid.uuid4()) for _ in range(500)]

    def passing() -> int:
        inside = store._arrivals._sieve  # type: ignore[attr-defined]
        return len(inside.passing(1, sieve.hashes(strangers)))

    fill(store, 3000)
    full = passing()
    clock.now = 100.0
    young = fill(store, 20)
    while store.prune(50.0):
        pass
    young += fill(store, 50)

    assert full > 250
    assert passing() < 100
    assert store.seen_ids(*ORDERS, young) == set(young)
    store.close()


def test_a_rewind_is_answered_from_blocks_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(arrivals, "_READ_AHEAD", 50)
    monkeypatch.setattr(arrivals, "_KEPT", 1000)
    store = opened(tmp_path)
    ids = fill(store, 1000, each=1)
    asked: list[int] = []
    find = runs.find
    monkeypatch.setattr(runs, "find", lambda *args: asked.append(1) or find(*args))

    for begin in range(0, 1000, 50):
        assert store.seen_ids(*ORDERS, ids[begin : begin + 50]) == set(ids[begin : begin + 50])

    assert len(asked) < 50
    store.close()


def test_ids_with_one_hash_are_told_apart(tmp_path: Path):
    # A CRC is linear: two differences that cancel out.
    same = ["plumless", "buckeroo"]
    assert len(set(sieve.hashes(same))) == 1
    store = opened(tmp_path)

    store.record(Turn(ids={ORDERS: same[:1]}))
    fill(store, 100)
    assert store.seen_ids(*ORDERS, same) == set(same[:1])
    store.record(Turn(ids={ORDERS: same[1:]}))
    fill(store, 600)

    assert store.seen_ids(*ORDERS, same) == set(same)
    store.close()


def test_a_turn_that_was_not_written_leaves_nothing_in_memory(tmp_path: Path):
    store = opened(tmp_path)
    before = fill(store, 7)
    connection = store._connection  # type: ignore[attr-defined]
    connection.execute(
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON piece BEGIN SELECT raise(ROLLBACK, 'no'); END"
    )

    late = [str(uuid.uuid4()) for _ in range(9)]
    store.record(Turn(ids={ORDERS: late[:1]}))
    with pytest.raises(StoreError):
        store.record(Turn(ids={ORDERS: late[1:]}))
    connection.execute("DROP TRIGGER refuse")

    assert store.seen_ids(*ORDERS, [*before, *late]) == {*before, late[0]}
    store.record(Turn(ids={ORDERS: late[1:]}))
    assert store.seen_ids(*ORDERS, [*before, *late]) == {*before, *late}
    store.close()


@pytest.mark.parametrize(
    "damage", ["DELETE FROM sieve WHERE part = 1", "UPDATE block SET ids = ids || ']'"]
)
def test_what_was_damaged_is_told_and_not_taken_for_new(tmp_path: Path, damage: str):
    with closing(opened(tmp_path)) as store:
        fill(store, 400)
    with closing(sqlite3.connect(tmp_path / "k" / "g.db")) as program:
        program.execute(damage)
        program.commit()

    with pytest.raises(StoreError, match=r"g\.db: damaged; move it aside"):
        opened(tmp_path)


def test_people_read_each_id_in_a_row(tmp_path: Path):
    with closing(opened(tmp_path, StoreClock(1_700_000_000.5))) as store:
        store.record(
            Turn(
                seen=[Mark(*ORDERS, "c", 0, 2)], ids={ORDERS: ["a", "\u00e4\"'\\"], RETURNS: ["b"]}
            )
        )

    db = Database(tmp_path / "k" / "g.db")
    assert list(db.query("SELECT * FROM seen ORDER BY id")) == [
        {
            "handler": "charge", "topic": topic, "id": id, "replay": 0, "hop": hop,
            "recorded_at": "2023-11-14T22:13:20.500Z",
        }
        for id, topic, hop in [("a", "orders", 0), ("b", "returns", 0), ("c", "orders", 2),
                               ("\u00e4\"'\\", "orders", 0)]
    ]  # fmt: skip
    db.close()


def test_a_store_of_the_first_version_keeps_all_its_marks(tmp_path: Path):
    path = tmp_path / "k" / "g.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as old:
        for statement in schema._FIRST:
            old.execute(statement)
        old.execute("CREATE TABLE _sqlite_migrations (id INTEGER PRIMARY KEY, migration_set TEXT, "
                    "name TEXT, applied_at TEXT)")  # fmt: skip
        old.execute("INSERT INTO _sqlite_migrations VALUES (1, 'kworker', 'the_first_tables', '')")
        old.execute("INSERT INTO meta VALUES (1, 'u', 'g', 'c', 0)")
        old.execute("INSERT INTO scope VALUES (1, 'charge', 'orders'), (2, 'charge', 'returns')")
        old.executemany(
            "INSERT INTO mark (scope, id, replay, hop, at) VALUES (?, ?, ?, ?, ?)",
            [
                (1 + number % 2, f"\u00e4-{number}", 0, number % 3 == 0, float(number))
                for number in range(3000)
            ],
        )
        old.execute("PRAGMA application_id = 0x6B776B72")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    marks = [
        Mark("charge", ("orders", "returns")[number % 2], f"\u00e4-{number}", 0, number % 3 == 0)
        for number in range(3000)
    ]

    with closing(opened(tmp_path)) as store:
        assert store.seen(marks) == set(marks)
        assert store.seen([mark._replace(replay=1) for mark in marks]) == set()
        assert store.prune(2000.0, limit=10**9) <= 2000
        assert store.seen(marks) >= set(marks[2000:])

    assert all(json.loads(str(ids)) for (ids,) in rows(tmp_path, "SELECT ids FROM block"))
