"""Writers take turns: one at a time, fairly, and the dead hold nobody up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kworker.stores.sqlite.turnstile import COURTESY, Turnstile

ROOT = Path(__file__).parents[2]
HOLD_A_TURN = """
import sys, time
from pathlib import Path
from kworker.stores.sqlite.turnstile import Turnstile
assert Turnstile(Path(sys.argv[1])).enter()
print("mine", flush=True)
time.sleep(60)
"""


@pytest.fixture
def pair(tmp_path: Path):
    one, other = Turnstile(tmp_path / "lock"), Turnstile(tmp_path / "lock")
    yield one, other
    one.close()
    other.close()


def test_only_one_has_the_turn(pair: tuple[Turnstile, Turnstile]):
    one, other = pair

    assert one.enter()
    assert not other.enter()
    one.leave()
    assert other.enter()


def test_whoever_wrote_last_lets_another_go_first(pair: tuple[Turnstile, Turnstile]):
    one, other = pair
    one.enter()
    other.enter()
    one.leave()

    first = one.enter(), other.enter()
    other.leave()

    assert first == (False, True)
    assert one.enter()


def test_one_alone_never_waits(pair: tuple[Turnstile, Turnstile]):
    one, _ = pair

    for _ in range(100):
        assert one.enter()
        one.leave()


def test_one_that_wants_no_more_holds_nobody_up_for_long(pair: tuple[Turnstile, Turnstile]):
    one, other = pair
    one.enter()
    other.enter()
    one.leave()

    assert one.enter(patience=20 * COURTESY)


def test_the_patient_one_gets_the_turn_when_it_is_given_back(pair: tuple[Turnstile, Turnstile]):
    one, other = pair
    one.enter()
    timer = threading.Timer(0.05, one.leave)
    timer.start()

    assert other.enter(patience=10)
    timer.join()


def test_patience_ends(pair: tuple[Turnstile, Turnstile]):
    one, other = pair
    one.enter()
    began = time.monotonic()

    assert not other.enter(patience=0.1)

    assert 0.1 <= time.monotonic() - began < 5


def test_waiting_costs_little(pair: tuple[Turnstile, Turnstile]):
    one, other = pair
    one.enter()
    began = time.thread_time()

    other.enter(patience=0.3)

    assert time.thread_time() - began < 0.1


def test_the_turn_of_a_killed_process_is_free(tmp_path: Path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_TURN, str(tmp_path / "lock")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    turnstile = Turnstile(tmp_path / "lock")
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"mine\n"
        assert not turnstile.enter()

        child.kill()

    assert turnstile.enter(patience=10)
    turnstile.close()
