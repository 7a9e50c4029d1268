"""Forgetting on demand: what the file's other users and damage mean for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kworker.errors import StoreError
from kworker.ranges import Ranges
from kworker.stores import Store, open_store
from kworker.stores.api import Log, Mark, Turn
from kworker.stores.sqlite.turnstile import Turnstile
from kworker.stores.tools import View

MARK = Mark("shop.charge", "orders", "a-1")
LOG = Log("SvXW3IK6RDOpYRbJWUA3QQ", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "k" / "shop.db"


def opened(path: Path) -> Store:
    return open_store(path, group="shop", cluster="c1")


def test_nothing_is_forgotten_while_another_process_has_its_turn(path: Path):
    with closing(opened(path)) as store:
        store.record(Turn(seen=[MARK]))
        turnstile = Turnstile(path.with_name("shop.db.lock"))
        turnstile.enter()

        count = store.forget(id="a-1", patience=0.05)

        turnstile.close()
        assert count is None
        assert store.seen([MARK]) == {MARK}


def test_saying_nothing_does_not_forget_everything(path: Path):
    with closing(opened(path)) as store:
        store.record(Turn(seen=[MARK]))

        with pytest.raises(ValueError, match="nothing is said"):
            store.forget()

        assert store.seen([MARK]) == {MARK}


def test_an_id_that_is_too_long_to_be_kept_is_found_and_forgotten(path: Path):
    long = MARK._replace(id="x" * 5000)
    with closing(opened(path)) as store:
        store.record(Turn(seen=[long]))
        with closing(View(path)) as view:
            found = view.find(long.id)

        count = store.forget(id=long.id)

        assert (len(found), count, store.seen([long])) == (1, 1, set())


def test_a_view_sees_what_is_written_while_it_is_open_and_writes_nothing(path: Path):
    with closing(opened(path)) as store, closing(View(path)) as view:
        before = view.handlers()
        store.record(Turn(seen=[MARK]))

        assert (before, [one.settled for one in view.handlers()]) == ([], [1])
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            view._connection.execute("DELETE FROM mark")


def test_damaged_offsets_are_told_and_left_as_they_are(path: Path):
    with closing(opened(path)) as store:
        store.record(Turn(done={("shop.charge", LOG): Ranges([(0, 9)])}, seen=[MARK]))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE position SET ranges = '9-1'")

    with closing(opened(path)) as store, pytest.raises(StoreError, match=r"shop\.db: damaged"):
        store.forget(handler="shop.charge")
    with closing(View(path)) as view, pytest.raises(StoreError, match=r"shop\.db: damaged"):
        view.handlers()
    with closing(opened(path)) as store:
        assert store.seen([MARK]) == {MARK}
