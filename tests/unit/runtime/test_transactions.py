"""Handlers that share a transaction with their message's record: both, or neither."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kworker import (
    App,
    Context,
    HandlerError,
    Outage,
    Reject,
    Retry,
    SettingsError,
    Skip,
    Transaction,
    note,
)
from kworker.kafka.api import Committed
from kworker.message import Partition
from kworker.runtime.executors import Answer, Down, Executor, Threads
from kworker.runtime.worker import _open_store

from .bench import AWAY, P0, Bench

ONCE = Retry(attempts=1)
WROTE = "CREATE TABLE IF NOT EXISTS wrote (n)"


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(app: App, **more: Any) -> Bench:
        made.append(Bench(app, **more))
        return made[-1]

    yield make
    for bench in made:
        bench.executor.close()


def threads(answer: Answer, down: Down) -> Executor:
    return Threads(4, answer, down)


def until(bench: Bench, wanted: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not wanted():
        assert time.monotonic() < limit
        bench.turn()


def begin(bench: Bench) -> None:
    """Half a turn: what has arrived is handed on, and nobody hears what becomes of it."""
    bench.loop.dispatch(bench.loop.intake.admit(bench.loop.mine(bench.loop.poll())))


def finished(bench: Bench) -> None:
    """Until nothing is open, whatever is sent being acknowledged."""

    def idle() -> bool:
        bench.answer()
        return not bench.open and not bench.loop.busy and not bench.loop.outbox.pending

    def committed() -> bool:
        bench.commit()  # not in this beat, where another has its turn at the store
        ledgers = bench.loop.ledgers.items()
        return all(bench.committed(partition) == ledger.safe for partition, ledger in ledgers)

    bench.turn(2)
    until(bench, idle)
    until(bench, committed)


def rows(bench: Bench, sql: str = "SELECT n FROM wrote") -> list[Any]:
    connection = sqlite3.connect(bench.folder / "shop.db")
    try:
        return [row[0] for row in connection.execute(sql)]
    finally:
        connection.close()


def writing(app: App, **options: Any) -> list[int]:
    """A handler that writes each message's number; the numbers it was called with."""
    calls: list[int] = []

    @app.handler("orders", name="write", **{"retry": ONCE, **options})
    def write(order: dict[str, Any], tx: Transaction, ctx: Context) -> None:
        calls.append(order["n"])
        tx.execute(WROTE)
        tx.execute("INSERT INTO wrote VALUES (?)", (order["n"],))
        if order.get("publish"):
            ctx.publish("receipts", {"n": order["n"]})
        if order.get("fails"):
            raise ValueError("no")
        if order.get("skips"):
            raise Skip("not today")

    return calls


@pytest.mark.parametrize("header", [(), (("kworker-message-id", b"m"),)])
def test_what_was_written_and_recorded_is_found_after_a_death_before_the_loop_heard_of_it(
    benches: Callable[..., Bench], header: Any
) -> None:
    app = App("shop")
    calls = writing(app)
    bench = benches(app)
    bench.broker.write(P0, b'{"n": 0}', headers=header)
    begin(bench)
    limit = time.monotonic() + 20
    while bench.inbox.empty():
        assert time.monotonic() < limit
    bench.executor.close()

    again = bench.again()
    finished(again)

    assert calls == [0]
    assert rows(again) == [0]
    assert again.facts.skipped == [0]
    assert again.committed() == 1


def test_a_handler_that_fails_or_skips_has_written_nothing_and_goes_its_usual_way(
    benches: Callable[..., Bench],
) -> None:
    app = App("shop")
    writing(app)
    bench = benches(app)
    bench.broker.write(P0, b'{"n": 0}')
    bench.broker.write(P0, b'{"n": 1, "fails": 1, "publish": 1}')
    bench.broker.write(P0, b'{"n": 2, "skips": 1}')
    bench.broker.write(P0, b'{"n": 3}')

    finished(bench)

    assert rows(bench) == [0, 3]
    assert bench.facts.dead == [("retries_exhausted", 1)]
    assert [one.topic for one in bench.log] == ["shop.dlq"]
    assert ("Skipped", 2) in bench.facts.settled
    assert bench.committed() == 4


def test_what_another_process_of_the_host_did_since_is_not_done_again(
    benches: Callable[..., Bench],
) -> None:
    app = App("shop")
    calls = writing(app)
    bench = benches(app)
    twin = benches(app, broker=bench.broker, folder=bench.folder)
    bench.broker.write(P0, b'{"n": 0}', headers=(("kworker-message-id", b"m"),))
    begin(bench)
    finished(twin)

    finished(bench)

    assert calls == [0]
    assert rows(bench) == [0]


def test_what_it_publishes_goes_out_with_its_transaction_and_is_removed_once_acknowledged(
    benches: Callable[..., Bench],
) -> None:
    app = App("shop")
    writing(app)
    bench = benches(app)
    bench.broker.write(P0, b'{"n": 0, "publish": 1}')
    until(bench, lambda: bool(bench.sent))
    [first] = bench.sent
    until(bench, lambda: bench.open == 0)  # settled, though nothing is acknowledged
    kept = rows(bench, "SELECT message_id FROM outbox")
    bench.executor.close()

    again = bench.again()
    until(again, lambda: bool(again.sent))
    [second] = again.sent
    again.answer(AWAY)
    again.turn()
    still = rows(again, "SELECT message_id FROM outbox")
    again.clock.now += 1.1
    until(again, lambda: bool(again.sent))
    finished(again)

    assert first.headers == second.headers == (("kworker-message-id", kept[0].encode()),)
    assert (second.topic, second.value) == ("receipts", b'{"n":0}')
    assert still == kept
    assert rows(again, "SELECT message_id FROM outbox") == []
    assert rows(again) == [0]


def attempts(tx: sqlite3.Connection) -> dict[str, Callable[[], Any]]:
    def entered() -> None:
        with tx:
            pass

    def conflict() -> None:
        tx.execute("CREATE UNIQUE INDEX one ON wrote (n)")
        try:
            tx.execute("INSERT OR ROLLBACK INTO wrote VALUES (0)")
        except sqlite3.IntegrityError:
            tx.execute("INSERT INTO wrote VALUES (1)")

    def setting() -> None:
        tx.isolation_level = None

    def unreferenced() -> None:
        tx.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        tx.execute("CREATE TABLE child (of REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        tx.execute("INSERT INTO child VALUES (7)")

    def swallowed() -> None:
        tx.execute("CREATE UNIQUE INDEX one ON wrote (n)")
        try:
            tx.execute("INSERT OR ROLLBACK INTO wrote VALUES (0)")
        except sqlite3.IntegrityError:
            return

    return {
        "COMMIT": lambda: tx.execute("COMMIT"),
        "end": lambda: tx.execute("end"),
        "ROLLBACK": lambda: tx.execute("ROLLBACK"),
        "BEGIN": lambda: tx.execute("BEGIN"),
        "commit()": tx.commit,
        "rollback()": tx.rollback,
        "close()": tx.close,
        "with connection": entered,
        "executescript": lambda: tx.executescript("SELECT 1"),
        "isolation_level": setting,
        "ATTACH": lambda: tx.execute("ATTACH ':memory:' AS other"),
        "INSERT OURS": lambda: tx.execute("INSERT INTO Skip VALUES ('x', 1)"),
        "DELETE OURS": lambda: tx.execute("DELETE FROM block"),
        "DROP OURS": lambda: tx.execute("DROP TABLE mark"),
        "ALTER OURS": lambda: tx.execute("ALTER TABLE mark ADD COLUMN x"),
        "TEMP OURS": lambda: tx.execute("CREATE TEMP TABLE block (x)"),
        "TRIGGER OURS": lambda: tx.execute(
            "CREATE TRIGGER t AFTER INSERT ON block BEGIN SELECT 1; END"
        ),
        "PRAGMA": lambda: tx.execute("PRAGMA user_version = 7"),
        "INSERT OR ROLLBACK": conflict,
        "INSERT OR ROLLBACK, swallowed": swallowed,
        "reference that leads nowhere": unreferenced,
    }


@pytest.mark.parametrize("attempt", list(attempts(sqlite3.connect(":memory:"))))
def test_whatever_would_part_the_writes_from_the_record_fails_and_nothing_is_written(
    benches: Callable[..., Bench], attempt: str
) -> None:
    app = App("shop")

    @app.handler("orders", name="write", retry=ONCE)
    def write(order: dict[str, Any], tx: Transaction) -> None:
        tx.execute(WROTE)
        tx.execute("INSERT INTO wrote VALUES (?)", (order["n"],))
        if order["n"] == 0:
            attempts(tx)[attempt]()

    bench = benches(app)
    for n in (9, 0, 8):
        bench.broker.write(P0, b'{"n": %d}' % n)

    finished(bench)

    assert bench.facts.dead == [("retries_exhausted", 1)]
    assert rows(bench) == [9, 8]
    assert bench.committed() == 3


def test_savepoints_reads_and_tables_of_its_own_work(benches: Callable[..., Bench]) -> None:
    app, seen = App("shop"), []

    @app.handler("orders", name="write", retry=ONCE)
    def write(order: dict[str, Any], tx: sqlite3.Connection) -> None:
        tx.execute(WROTE)
        tx.execute("SAVEPOINT one")
        tx.execute("INSERT INTO wrote VALUES (1)")
        tx.execute("ROLLBACK TO one")
        tx.execute("INSERT INTO wrote VALUES (2)")
        tx.execute("RELEASE one")
        tx.row_factory = sqlite3.Row
        seen.append(tx.execute("SELECT count(*) AS many FROM seen").fetchone()["many"])
        seen.append(len(tx.execute("PRAGMA table_info(wrote)").fetchall()))

    bench = benches(app)
    for _ in range(2):
        bench.broker.write(P0)

    finished(bench)

    assert rows(bench) == [2, 2]
    assert seen == [0, 1, 0, 1]


def test_one_that_takes_too_long_is_interrupted_rolled_back_and_has_failed(
    benches: Callable[..., Bench],
) -> None:
    app, calls = App("shop"), []
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT sum(x) FROM c"

    @app.handler("orders", name="write", retry=ONCE)
    def write(order: dict[str, Any], tx: Transaction) -> None:
        calls.append(order["n"])
        tx.execute(WROTE)
        tx.execute("INSERT INTO wrote VALUES (?)", (order["n"],))
        if order["n"] == 1:
            tx.execute(endless).fetchone()
        if order["n"] == 2:
            time.sleep(0.3)

    bench = benches(app, transaction_timeout=0.2)
    for n in range(4):
        bench.broker.write(P0, b'{"n": %d}' % n)

    finished(bench)

    assert calls == [0, 1, 2, 3]
    assert bench.facts.dead == [("retries_exhausted", 1), ("retries_exhausted", 2)]
    types = [dict(one.headers)["kworker-error-type"] for one in bench.log]
    assert types == [b"kworker.outcome.HandlerTimeout"] * 2
    assert rows(bench) == [0, 3]


def test_a_long_one_is_warned_of(
    benches: Callable[..., Bench],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kworker.runtime.transactions.LONG", 0.01)
    app = App("shop")

    @app.handler("orders", name="write")
    def write(order: dict[str, Any], tx: Transaction) -> None:
        time.sleep(0.02)

    bench = benches(app)
    bench.broker.write(P0)
    with caplog.at_level(logging.WARNING):
        finished(bench)

    assert "write held its Transaction for" in caplog.text


def test_it_runs_one_at_a_time_beside_others_that_do_not_wait_for_it(
    benches: Callable[..., Bench],
) -> None:
    app, gate, at_once = App("shop"), threading.Event(), []
    running = threading.Semaphore(1)

    @app.handler("orders", name="write", order="none")
    def write(order: dict[str, Any], tx: Transaction) -> None:
        at_once.append(running.acquire(blocking=False))
        gate.wait(20)
        running.release()

    @app.handler("orders", name="other")
    def other(order: dict[str, Any]) -> None: ...

    bench = benches(app, executor=threads)
    for _ in range(3):
        bench.broker.write(P0)
    until(bench, lambda: len(at_once) == 1)
    bench.turn(20)
    gate.set()
    finished(bench)

    assert at_once == [True, True, True]
    assert bench.committed() == 3


def test_an_outage_and_a_rejection_mean_what_they_always_mean(
    benches: Callable[..., Bench],
) -> None:
    app, down = App("shop"), [True]

    @app.handler("orders", name="write")
    def write(order: dict[str, Any], tx: Transaction) -> None:
        tx.execute(WROTE)
        tx.execute("INSERT INTO wrote VALUES (?)", (order["n"],))
        if down:
            raise Outage("away")
        if order["n"] == 1:
            raise Reject("no")

    bench = benches(app)
    for n in range(3):
        bench.broker.write(P0, b'{"n": %d}' % n)
    until(bench, lambda: bool(bench.facts.outages))
    down.clear()
    bench.clock.now += 60
    finished(bench)

    assert sorted(rows(bench)) == [0, 2]  # they have no key, so no order
    assert bench.facts.dead == [("rejected", 1)]


def test_reading_begins_where_an_older_store_ends_if_the_commit_names_that_store(
    benches: Callable[..., Bench],
) -> None:
    app = App("shop")
    calls = writing(app)
    bench = benches(app)
    bench.broker.write(P0, b'{"n": 0}')
    finished(bench)
    bench.executor.close()
    wait_closed(bench)
    backup = (bench.folder / "shop.db").read_bytes()
    bench = benches(app, broker=bench.broker, folder=bench.folder)
    for n in (1, 2):
        bench.broker.write(P0, b'{"n": %d}' % n)
    finished(bench)
    uuid = bench.store.uuid
    bench.executor.close()
    point = bench.broker.committed[P0]
    wait_closed(bench)
    for file in bench.folder.glob("shop.db-*"):
        file.unlink()
    (bench.folder / "shop.db").write_bytes(backup)

    bench = benches(app, broker=bench.broker, folder=bench.folder)
    finished(bench)

    assert (point.offset, named_in(point)) == (3, uuid)
    assert rows(bench) == [0, 1, 2]
    assert calls == [0, 1, 2, 1, 2]
    assert bench.committed() == 3


def wait_closed(bench: Bench) -> None:
    bench.store.close()
    thread = bench.executor._thread  # type: ignore[attr-defined]
    thread.join(20)


def test_a_commit_of_another_host_is_where_reading_begins(benches: Callable[..., Bench]) -> None:
    app = App("shop")
    calls = writing(app)
    bench = benches(app)
    for n in range(2):
        bench.broker.write(P0, b'{"n": %d}' % n)
    finished(bench)
    bench.broker.write(P0, b'{"n": 2}')
    bench.broker.committed[P0] = Committed(
        3, metadata=note.write(note.Note(store="another"), place(P0, 3))[0]
    )
    bench.executor.close()

    again = bench.again()
    again.turn(3)

    assert again.loop.ledgers[P0].start == 3
    assert calls == [0, 1]


def test_commits_of_topics_without_such_handlers_name_no_store(
    benches: Callable[..., Bench],
) -> None:
    app = App("shop")
    writing(app)

    @app.handler("returns", name="other")
    def other(order: dict[str, Any]) -> None: ...

    returns = Partition("returns", 0)
    bench = benches(app, assign=(P0, returns), executor=threads)
    bench.broker.write(returns)
    bench.broker.write(P0, b'{"n": 0}')
    finished(bench)

    assert named_in(bench.broker.committed[returns], returns) is None
    assert named_in(bench.broker.committed[P0]) == bench.store.uuid


def place(partition: Partition, offset: int) -> note.Place:
    return note.Place("c", f"id-of-{partition.topic}" if partition == P0 else "returns", 0, offset)


def named_in(point: Committed, partition: Partition = P0) -> str | None:
    """The store that a commit names."""
    found = note.read(point.metadata, place(partition, point.offset))
    assert found is not None
    return found.store


def is_async(app: App) -> None:
    @app.handler("orders")
    async def write(order: dict[str, Any], tx: Transaction) -> None: ...


def takes_two(app: App) -> None:
    @app.handler("orders")
    def write(order: dict[str, Any], tx: Transaction, other: sqlite3.Connection) -> None: ...


def is_ambiguous(app: App) -> None:
    @app.provide
    def database() -> sqlite3.Connection:
        return sqlite3.connect(":memory:")

    @app.handler("orders")
    def write(order: dict[str, Any], tx: sqlite3.Connection) -> None: ...


def is_provided(app: App) -> None:
    @app.provide
    def database() -> Transaction:
        return sqlite3.connect(":memory:")

    @app.handler("orders")
    def write(order: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("declare", "why"),
    [
        (is_async, "takes a Transaction and is async"),
        (takes_two, "takes the transaction twice, in 'tx' and in 'other'"),
        (is_ambiguous, "'tx' as sqlite3.Connection, which may mean the app's or the transaction"),
        (is_provided, "which no parameter can ask for"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(
    declare: Callable[[App], None], why: str
) -> None:
    app = App("shop")
    declare(app)

    with pytest.raises(HandlerError, match=rf"test_transactions.py:\d+: .*{why}"):
        app.register()


def test_a_store_that_is_no_file_cannot_be_shared() -> None:
    plugins = App("shop").load_plugins([])

    with pytest.raises(SettingsError, match="write takes a Transaction of the store's file"):
        _open_store("pg://here", "shop", "c", plugins, "write")
