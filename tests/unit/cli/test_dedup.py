"""`kworker dedup` on stores as workers leave them; no Kafka is asked."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from kworker.clock import Clock
from kworker.ranges import Ranges
from kworker.stores import Store, open_store
from kworker.stores.api import Attempt, Log, Mark, Turn
from kworker.testing.stores import StoreClock

LOG = Log("SvXW3IK6RDOpYRbJWUA3QQ", 0)
CHARGE = [Mark("shop.charge", "orders", id) for id in ("a", "b", "c")]
COPY = Mark("shop.charge", "orders", "a", hop=1)
MAIL = Mark("shop.mail", "orders", "a")
DOUBT = Mark("shop.charge", "orders", "d")
THEN = 1767225600.0  # 2026-01-01T00:00:00Z


def opened(path: Path, clock: Clock | None = None) -> Store:
    return open_store(path, group="shop", cluster="c1", clock=clock)


def known(path: Path) -> set[Mark]:
    with closing(opened(path)) as store:
        return store.seen([*CHARGE, COPY, MAIL])


@pytest.fixture
def store(tmp_path: Path, shop: Path) -> Path:
    """The store of `shop:app`; the first mark is a second older than the rest."""
    path = tmp_path / ".kworker" / "shop.db"
    clock = StoreClock(THEN)
    with closing(opened(path, clock)) as store:
        store.record(Turn(seen=CHARGE[:1]))
        clock.now += 1
        store.record(
            Turn(
                seen=[*CHARGE[1:], COPY, MAIL],
                done={("shop.mail", LOG): Ranges([(0, 7)])},
                topics={LOG.topic_id: "orders"},
                attempts={DOUBT: Attempt(2, "a copy")},
                skipped={"shop.charge": 3},
            )
        )
        store.record(Turn(skipped={"shop.charge": 2}))
    return path


# --- stats ---------------------------------------------------------------------------------


def test_stats_are_told_as_programs_may_read_them(command, store):
    done = command("dedup", "stats", "shop:app", "--json")

    document = json.loads(done.stdout)
    assert document.pop("bytes") >= store.stat().st_size
    assert document == {
        "schema": "kworker.dedup.stats/1",
        "handlers": [
            {
                "handler": "shop.charge",
                "settled": 3,
                "skipped_duplicates": 5,
                "oldest": "2026-01-01T00:00:00.000Z",
            },
            {
                "handler": "shop.mail",
                "settled": 8,
                "skipped_duplicates": 0,
                "oldest": "2026-01-01T00:00:01.000Z",
            },
        ],
    }


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--db", ".kworker/shop.db"], {}),
        (["-g", "shop"], {}),
        ([], {"KWORKER_DB": ".kworker/shop.db"}),
        ([], {"KWORKER_GROUP": "shop"}),
    ],
)
def test_a_target_is_not_needed_where_the_store_is_named(command, store, arguments, variables):
    done = command("dedup", "stats", *arguments, **variables)

    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["HANDLER", "SETTLED"],
        ["shop.charge", "3"],
        ["shop.mail", "8"],
    ]


@pytest.mark.parametrize("what", [["stats"], ["get", "a"], ["forget", "a"]])
def test_a_store_that_nothing_names_is_2(command, what):
    done = command("dedup", *what)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "kworker: error: which store? Say it by TARGET, by --group or by its file, --db\n"
    )


def test_a_store_that_is_not_there_is_5_and_is_not_made(command, tmp_path, shop):
    done = command("dedup", "stats", "shop:app")

    assert done.returncode == 5
    assert done.stderr.startswith("kworker: error: .kworker/shop.db: there is no store; ")
    assert not (tmp_path / ".kworker").exists()


def test_a_store_of_another_group_or_program_is_5(command, store, tmp_path):
    (tmp_path / "notes").write_text("these are notes " * 100)

    foreign = command("dedup", "stats", "-g", "mail", "--db", str(store))
    notes = command("dedup", "stats", "--db", "notes")

    assert (foreign.returncode, notes.returncode) == (5, 5)
    assert "belongs to group 'shop', not to 'mail'" in foreign.stderr
    assert "notes: not a database" in notes.stderr
    assert foreign.stderr.count("\n") == notes.stderr.count("\n") == 1


# --- get -----------------------------------------------------------------------------------


def known_of(command, *arguments):
    done = command("dedup", "get", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "kworker.dedup.get/1"
    return [
        (one["handler"], one["id"], one["hop"], one["settled"], one["calls"])
        for one in document["known"]
    ]


def test_all_that_is_known_of_an_id_is_told(command, store):
    found = known_of(command, "shop:app", "a")

    assert sorted(found) == [
        ("shop.charge", "a", 0, True, None),
        ("shop.charge", "a", 1, True, None),
        ("shop.mail", "a", 0, True, None),
    ]
    assert known_of(command, "-g", "shop", "d") == [("shop.charge", "d", 0, False, 2)]
    assert known_of(command, "-g", "shop", "z") == []


def test_a_position_is_the_id_of_a_message_that_brought_none(command, store):
    by_name = known_of(command, "shop:app", "orders/0/6")
    beyond = known_of(command, "shop:app", "orders/0/7")

    assert by_name == [("shop.mail", f"{LOG.topic_id}/0/6", 0, True, None)]
    assert beyond == []


def test_people_see_a_line_for_each_or_that_there_is_none(command, store):
    some = command("dedup", "get", "shop:app", "d")
    none = command("dedup", "get", "shop:app", "z")
    nothing = command("dedup", "get")

    assert some.stdout.splitlines()[1].endswith("called 2 times, decided")
    assert (none.returncode, none.stdout) == (0, "")
    assert "nothing is known of 'z' in .kworker/shop.db" in none.stderr
    assert nothing.returncode == 2


# --- forget --------------------------------------------------------------------------------


def test_without_execute_nothing_is_forgotten(command, store):
    one = command("dedup", "forget", "shop:app", "a")
    handler = command("dedup", "forget", "shop:app", "--handler", "shop.mail")
    prune = command("dedup", "prune", "shop:app", "--before", "2026-01-01T00:00:00.500Z")

    assert [row.returncode for row in (one, handler, prune)] == [0, 0, 0]
    assert one.stdout.endswith("3 entries would be forgotten; add --execute to do it\n")
    assert handler.stdout.splitlines()[1].split() == ["shop.mail", "orders", "8"]
    assert prune.stdout == "1 entry would be forgotten; add --execute to do it\n"
    assert known(store) == {*CHARGE, COPY, MAIL}


def test_an_id_is_forgotten(command, store):
    done = command("dedup", "forget", "-g", "shop", "a", "--execute")

    assert done.stdout.endswith("forgot 3 entries\n")
    assert "restart the workers" in done.stderr
    assert known(store) == set(CHARGE[1:])


def test_an_id_is_forgotten_for_one_handler(command, store):
    command("dedup", "forget", "shop:app", "a", "--handler", "shop.charge", "--execute")

    assert known(store) == {*CHARGE[1:], MAIL}


def test_a_handler_is_forgotten(command, store):
    done = command("dedup", "forget", "-g", "shop", "--handler", "shop.mail", "--execute")

    assert done.stdout.endswith("forgot 8 entries\n")
    assert known(store) == {*CHARGE, COPY}


@pytest.mark.parametrize(
    "what", [["forget", "-g", "shop"], ["prune", "-g", "shop"], ["prune", "--before", "noon"]]
)
def test_what_says_not_what_to_forget_is_2(command, store, what):
    done = command("dedup", *what, "--execute")

    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


# --- prune ---------------------------------------------------------------------------------


def test_what_is_older_is_forgotten_and_nothing_else(command, store):
    done = command(
        "dedup", "prune", "shop:app", "--before", "2026-01-01T00:00:00.500Z", "--execute"
    )

    assert done.stdout == "forgot 1 entry\n"
    assert known(store) == {*CHARGE[1:], COPY, MAIL}


def test_many_are_forgotten_in_steps(command, store):
    marks = [Mark("shop.charge", "orders", f"n-{number}") for number in range(2500)]
    with closing(opened(store, StoreClock(THEN - 1000))) as open_:
        open_.record(Turn(seen=marks))

    done = command("dedup", "prune", "shop:app", "--before", "2026-01-02", "--execute")

    assert done.stdout == f"forgot {2500 + 5} entries\n"
    assert known(store) == set()
