"""Processes that record are killed and share one file: nothing acknowledged is forgotten."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from kworker.ranges import Ranges
from kworker.stores import open_store
from kworker.stores.api import Log, Mark, Turn

ROOT = Path(__file__).parents[2]
LOG = Log("topic-id", 0)
MARKS = 20  # a turn

# Prints each turn's number after it was recorded; its offsets follow those of all before it.
WRITER = f"""
import os, sys
from kworker.ranges import Ranges
from kworker.stores import open_store
from kworker.stores.api import Attempt, Log, Mark, Turn
path, life, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(path, group="g", cluster="c")
for turn in range(first, 10**9):
    marks = [Mark("h", "t", f"{{turn}}-{{number}}") for number in range({MARKS})]
    done = {{("h", Log("topic-id", 0)): Ranges([(turn, turn + 1)])}}
    if store.record(Turn(seen=marks, done=done, settled=marks), patience=10):
        os.write(1, f"{{turn}}\\n".encode())
"""

# Writes runs, merges them, stores its sieve and forgets all the time, and kills itself in the
# middle of the transaction in which it does so for the n-th time; or, with n = 0, is killed.
TENDER = """
import os, signal, sys
from kworker.stores import open_store
from kworker.stores.api import Turn
from kworker.stores.sqlite import arrivals, runs
path, begun, last_breath = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
arrivals.RUN, arrivals._WRITE_SIEVE, arrivals._PORTION, runs._DROPPED = 20, 2000, 10, 20
deeds = 0
def mortal(deed):
    def done(*args):
        global deeds
        result = deed(*args)
        deeds += 1
        if deeds == last_breath:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return done
runs._write, runs._drop = mortal(runs._write), mortal(runs._drop)
arrivals.Arrivals._write_sieve = mortal(arrivals.Arrivals._write_sieve)
store = open_store(path, group="g", cluster="c")
for turn in range(begun, 10**9):
    ids = [f"{turn}-{number}" for number in range(20)]
    if store.record(Turn(ids={("h", "t"): ids}), patience=10):
        os.write(1, f"{turn}\\n".encode())
"""

# Records as a worker's loop does: it tries, and while another has its turn it does something
# else for a moment. Prints how many turns it had.
SHARER = """
import sys, time
from kworker.stores import open_store
from kworker.stores.api import Mark, Turn
path, name, patience = sys.argv[1], sys.argv[2], float(sys.argv[3])
store = open_store(path, group="g", cluster="c")
print("ready", flush=True)
until = float(sys.stdin.readline())
turns = 0
while time.time() < until:
    marks = [Mark("h", "t", f"{name}-{turns}-{number}") for number in range(20)]
    if store.record(Turn(seen=marks), patience=patience):
        turns += 1
    else:
        time.sleep(0.001)
store.close()
print(turns)
"""


def marks(turn: int) -> list[Mark]:
    return [Mark("h", "t", f"{turn}-{number}") for number in range(MARKS)]


def child(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_every_turn_that_was_acknowledged_is_there_after_ten_kills(tmp_path: Path):
    seed = int(os.environ.get("KWORKER_TEST_SEED", "0")) or random.randrange(1, 10**9)
    print(f"KWORKER_TEST_SEED={seed}")
    chance = random.Random(seed)
    path = tmp_path / "k" / "g.db"
    acknowledged: list[int] = []
    begun = 0

    for life in range(10):
        with child(WRITER, path, life, begun) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))
            writer.kill()
            told = (first + writer.stdout.read()).split()
        acknowledged += map(int, told)
        begun = acknowledged[-1] + 2  # the one after the last may or may not have been written

    with closing(open_store(path, group="g", cluster="c")) as store:
        done = store.done("h", LOG)
        for turn in range(begun):
            found = store.seen(marks(turn))
            if turn in set(acknowledged):
                assert found == set(marks(turn)), f"turn {turn} was forgotten"
            assert len(found) in (0, MARKS), f"turn {turn} was written in part"
            assert (turn in done) == bool(found), f"turn {turn}: marks and offsets differ"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(acknowledged) > 10


def test_no_id_is_forgotten_by_kills_amid_what_is_done_from_time_to_time(tmp_path: Path):
    seed = int(os.environ.get("KWORKER_TEST_SEED", "0")) or random.randrange(1, 10**9)
    print(f"KWORKER_TEST_SEED={seed}")
    chance = random.Random(seed)
    path = tmp_path / "k" / "g.db"
    acknowledged: set[int] = set()
    begun = 0

    for life in range(24):
        last_breath = chance.randrange(1, 400) if life % 3 else 0
        with child(TENDER, path, begun, last_breath) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            if not last_breath:
                time.sleep(chance.uniform(0, 0.3))
                writer.kill()
            told = (first + writer.stdout.read()).split()
        acknowledged.update(map(int, told))
        begun = max(acknowledged, default=0) + 2

    with closing(open_store(path, group="g", cluster="c")) as store:
        for turn in range(begun):
            ids = [f"{turn}-{number}" for number in range(20)]
            found = store.seen_ids("h", "t", ids)
            assert len(found) in (0, 20), f"turn {turn} was written in part"
            assert found or turn not in acknowledged, f"turn {turn} was forgotten"
        assert store.seen_ids("h", "t", [f"{begun + n}-0" for n in range(1000)]) == set()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT max(level) FROM run").fetchone()[0] >= 1
    assert len(acknowledged) > 400


@pytest.mark.parametrize("patience", [(0, 0), (5, 5), (0, 5)])
def test_two_processes_that_write_all_the_time_have_about_as_many_turns(
    tmp_path: Path, patience: tuple[float, float]
):
    path = tmp_path / "k" / "g.db"
    sharers = [child(SHARER, path, name, each) for name, each in zip("ab", patience, strict=True)]
    for sharer in sharers:
        assert sharer.stdout is not None
        assert sharer.stdout.readline() == b"ready\n"

    until = f"{time.time() + 1.5}\n".encode()
    for sharer in sharers:
        assert sharer.stdin is not None
        sharer.stdin.write(until)
        sharer.stdin.flush()
    turns = [int(sharer.communicate(timeout=30)[0]) for sharer in sharers]

    assert min(turns) * 3 >= max(turns) > 10, turns
    with closing(open_store(path, group="g", cluster="c")) as store:
        for name, had in zip("ab", turns, strict=True):
            for turn in range(had):
                written = [Mark("h", "t", f"{name}-{turn}-{number}") for number in range(20)]
                assert store.seen(written) == set(written)


def test_a_process_that_was_stopped_for_long_overwrites_nothing(tmp_path: Path):
    path = tmp_path / "k" / "g.db"
    zombie = open_store(path, group="g", cluster="c")
    zombie.record(Turn(done={("h", LOG): Ranges([(0, 10)])}))
    with closing(open_store(path, group="g", cluster="c")) as successor:
        successor.record(Turn(done={("h", LOG): Ranges([(10, 50)])}), patience=5)

    zombie.record(Turn(done={("h", LOG): Ranges([(10, 12)])}), patience=5)

    assert zombie.done("h", LOG) == Ranges([(0, 50)])
    zombie.close()
