"""The store's disk fills up, its file is taken away or damaged, while its worker runs."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from .harness import FULL, ROOT, Lab, Truth, seed, until
from .test_kill_storm import CONCURRENCY, send_all
from .test_transactions_under_kill import moved

FULL_DISK = "the disk of the store is full"
NOTICED = 6.0  # seconds within which a worker ends whose file is no longer what it was


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of six megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    privileged = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*privileged, "mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", str(place)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    if privileged:
        subprocess.run([*privileged, "chown", str(os.geteuid()), str(place)], check=True)
    yield place
    subprocess.run([*privileged, "umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def starts(lab: Lab) -> int:
    return sum(effect.phase == "start" for effect in lab.effects())


@pytest.mark.timeout(300)
def test_a_full_disk_stops_the_taking_and_nothing_is_lost_or_repeated_once_there_is_room(
    lab: Lab, topic: Callable[..., str], small_disk: Path
) -> None:
    rng = random.Random(seed())
    lab.db = small_disk / "store.db"
    lab.env["TOPIC"] = source = topic("full")
    truth = Truth(lab.bootstrap, source, "full", **{"linger.ms": 20})
    send_all(truth, 8_000 if FULL else 2_000, "mixed", rng)
    sent = truth.flush()
    worker = lab.start("storm:app", *CONCURRENCY, "--commit-every", "100ms")

    for number in range(4 if FULL else 2):
        lab.wait_for_lines(lab.lines() + rng.randrange(200, 600), 60)
        ballast = fill(small_disk)
        lab.fault("disk full")
        until(lambda n=number: worker.output.count(FULL_DISK) >= n + 1, 20, "it says so")
        # Those that ran have ended, and no other begins. Some room may be made meanwhile.
        until(lambda: fill(small_disk) and quiet(lab), 20, "nothing starts any more")
        lab.note_commits(source)
        before = starts(lab)
        time.sleep(1.0)  # what is shown is that nothing happens
        assert starts(lab) == before
        assert worker.running
        ballast.unlink()
    lab.wait_for_lag_0([source], 120)

    verdict = lab.verdict(sent, handlers=["storm"])
    assert verdict.problems == []
    assert verdict.repeated == []
    worker.signal(15)
    assert worker.wait(25) == 0


def quiet(lab: Lab) -> bool:
    before = lab.lines()
    time.sleep(0.3)
    return lab.lines() == before


def test_a_full_disk_is_an_outage_for_handlers_that_share_a_transaction_and_costs_no_call(
    lab: Lab, topic: Callable[..., str], small_disk: Path
) -> None:
    lab.db = small_disk / "store.db"
    lab.apps = ROOT / "examples" / "05_effectively_once"
    lab.env |= {"TRANSFERS": topic("transfers"), "RECEIPTS": topic("receipts", partitions=1)}
    transfers = 3_000
    truth = Truth(lab.bootstrap, lab.env["TRANSFERS"], "bank", **{"linger.ms": 20})
    for amount in range(1, transfers + 1):
        order = {"from_account": "a1", "to_account": "a2", "amount": amount}
        truth.send(f"a{amount % 40}", raw=json.dumps(order).encode())
    truth.flush()
    worker = lab.start("bank:app", "--commit-every", "200ms")
    until(lambda: moved(lab).total() > 200, 30, "some are made")

    ballast = fill(small_disk)
    lab.fault("disk full")
    until(lambda: FULL_DISK in worker.output, 20, "it says so")
    made = moved(lab).total()
    ballast.unlink()
    lab.wait_for_lag_0([lab.env["TRANSFERS"]], 90)

    times = moved(lab)
    assert made < transfers
    assert worker.running
    assert set(times) == set(range(1, transfers + 1))
    assert set(times.values()) == {1}
    assert lab.dead_letters() == []
    lab.row = lab.row_of(messages=transfers, lost=0, again=0, bound=0)


def taken_away(db: Path) -> None:
    db.unlink()


def moved_aside(db: Path) -> None:
    db.rename(db.with_name("elsewhere.db"))


def replaced(db: Path) -> None:
    copy = db.with_name("copy.db")
    shutil.copy(db, copy)
    copy.replace(db)


def cut_to_nothing(db: Path) -> None:
    os.truncate(db, 0)


def cut_short(db: Path) -> None:
    os.truncate(db, db.stat().st_size // 2)


def overwritten(db: Path) -> None:
    with db.open("r+b") as file:
        file.seek(0)
        file.write(b"\xa5" * max(8192, db.stat().st_size - 4096))


def made_read_only(db: Path) -> None:
    db.chmod(0o400)


def without_its_log(db: Path) -> None:
    db.with_name(db.name + "-wal").unlink()


def with_its_log_emptied(db: Path) -> None:
    os.truncate(db.with_name(db.name + "-wal"), 0)


DEEDS = [
    taken_away, moved_aside, replaced, cut_to_nothing, cut_short, overwritten, made_read_only,
    without_its_log, with_its_log_emptied,
]  # fmt: skip
SHORT = [taken_away, overwritten, made_read_only]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("deed", DEEDS if FULL else SHORT, ids=lambda deed: deed.__name__)
def test_a_file_that_is_no_longer_what_it_was_ends_its_worker_with_5_and_nothing_is_lost(
    lab: Lab, topic: Callable[..., str], deed: Callable[[Path], None]
) -> None:
    rng = random.Random(seed())
    lab.env |= {"TOPIC": topic("broken"), "PACE": "100"}
    truth = Truth(lab.bootstrap, lab.env["TOPIC"], "broken", **{"linger.ms": 20})
    send_all(truth, 1_200, "mixed", rng)
    sent = truth.flush()
    worker = lab.start("storm:app", *CONCURRENCY, "--commit-every", "100ms")
    lab.wait_for_lines(rng.randrange(300, 800), 30)

    deed(lab.db)
    lab.end(worker, f"store {deed.__name__.replace('_', ' ')}")
    began = time.monotonic()

    assert worker.wait(NOTICED) == 5
    print(f"noticed after {time.monotonic() - began:.1f} s")
    last = worker.output.splitlines()[-1]
    assert str(lab.db) in last
    assert "Traceback" not in worker.output
    mend(lab)
    ended = lab.run("storm:app", *CONCURRENCY, "--drain", timeout=120)
    assert ended.code == 0
    assert lab.lag([lab.env["TOPIC"]]) == 0
    # What was recorded since the last commit may be gone with the file, and is done again.
    verdict = lab.verdict(sent, handlers=["storm"], turn=NOTICED)
    if deed is made_read_only:
        assert verdict.problems == []
    else:
        assert len(verdict.repeated) <= verdict.bound
        assert replace(verdict, repeated=[]).problems == []


def mend(lab: Lab) -> None:
    """Do as the worker says: make it writable, or move it aside with its log."""
    if lab.db.exists():
        lab.db.chmod(0o600)
    try:
        with closing(sqlite3.connect(lab.db)) as connection:
            whole = connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            whole = whole and connection.execute("SELECT count(*) FROM meta").fetchone() == (1,)
    except sqlite3.DatabaseError:
        whole = False
    if not whole:
        for suffix in ("", "-wal", "-shm"):
            lab.db.with_name(lab.db.name + suffix).unlink(missing_ok=True)


@pytest.mark.timeout(300)
def test_a_log_that_lost_its_end_with_the_power_loses_no_transaction(
    lab: Lab, topic: Callable[..., str]
) -> None:
    transfers, losses = (6_000, 8) if FULL else (1_500, 2)
    rng = random.Random(seed())
    lab.apps = ROOT / "examples" / "05_effectively_once"
    lab.env |= {"TRANSFERS": topic("transfers"), "RECEIPTS": topic("receipts", partitions=1)}
    truth = Truth(lab.bootstrap, lab.env["TRANSFERS"], "bank", **{"linger.ms": 20})
    for amount in range(1, transfers + 1):
        order = {"from_account": "a1", "to_account": "a2", "amount": amount}
        truth.send(f"a{amount % 40}", raw=json.dumps(order).encode(), header_id=amount % 2 == 0)
    truth.flush()
    undone = 0

    for number in range(losses):
        worker = lab.start("bank:app", "--commit-every", "50ms")
        goal = round((number + rng.random()) / losses * 0.8 * transfers)
        until(lambda goal=goal: moved(lab).total() >= goal, 60, f"{goal} are made")
        time.sleep(rng.random() * 0.2)
        lab.kill(worker)
        made = moved_as_left(lab.db)
        log = lab.db.with_name(lab.db.name + "-wal")
        os.truncate(log, round(log.stat().st_size * rng.uniform(0.05, 0.4)))
        lab.fault("end of the log lost")
        undone += made - moved_as_left(lab.db)
    ended = lab.run("bank:app", "--drain", timeout=120)

    assert ended.code == 0
    times = moved(lab)
    lost = set(range(1, transfers + 1)) - set(times)
    print(f"{undone} transfers were undone by {losses} losses and made again")
    assert undone > 0 or not FULL, "two losses may hit what was checkpointed already"
    assert lost == set()
    assert set(times.values()) == {1}
    lab.row = lab.row_of(messages=transfers, lost=len(lost), again=0, bound=0)


def moved_as_left(db: Path) -> int:
    """How many transfers a copy of the file shows; the file itself is left as it was."""
    with closing(sqlite3.connect(":memory:")) as memory:
        folder = db.parent / "look"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(db.with_name(db.name + suffix), folder / ("copy.db" + suffix))
        with closing(sqlite3.connect(folder / "copy.db")) as connection:
            connection.backup(memory)
        (count,) = memory.execute("SELECT count(*) FROM moved").fetchone()
        return int(count)
