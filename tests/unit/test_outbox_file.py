"""What waits in a store's outbox: who may send it, and in which order."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from kworker.errors import StoreError
from kworker.outcome import Output
from kworker.stores import Keeper, open_keeper, open_store
from kworker.stores.api import Lane

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from kworker.outcome import Output
from kworker.stores import open_keeper
keeper = open_keeper(sys.argv[1], group="shop", cluster="c")
keeper.keep([Output("orders", b"k", b"theirs", (), "id-theirs")], [], "no answer")
print("kept", flush=True)
time.sleep(60)
"""

Opener = Callable[..., Keeper]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Opener]:
    made: list[Keeper] = []

    def make(cluster: str | None = "c", group: str = "shop") -> Keeper:
        made.append(open_keeper(path, group=group, cluster=cluster))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has kept a message and holds it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "kept\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def output(value: str, key: bytes | None = b"k", topic: str = "orders") -> Output:
    return Output(topic, key, value.encode(), (("trace", b"abc"),), f"id-{value}")


def values(claimed: object) -> list[str]:
    return [one.output.value.decode() for one in claimed]  # type: ignore[attr-defined]


def test_what_is_kept_is_taken_on_once_and_in_its_order(opened: Opener) -> None:
    one, other = opened(), opened()
    one.keep([], [output("1"), output("2"), output("3")], "no answer")

    first = one.claim(2)
    blocked = other.claim(10)
    rest = one.claim(10)

    assert (values(first), values(blocked), values(rest)) == (["1", "2"], [], ["3"])
    assert all(waiting.failed for waiting in first)


def test_a_message_comes_out_of_the_outbox_as_it_went_in(opened: Opener) -> None:
    strange = Output(
        "orders", b"\xff\0", None, (("a", None), ("a", b""), ("b", b"\xfe"), ("c", b'"')), "i"
    )
    plain = Output("orders", None, "größe".encode(), (), "j")
    keeper = opened()

    keeper.keep([], [strange, plain], "no answer")

    assert [one.output for one in keeper.claim(10) or ()] == [strange, plain]


def test_another_lane_flows_past_one_that_somebody_else_is_sending(
    opened: Opener, another: subprocess.Popen[str]
) -> None:
    keeper = opened()
    keeper.keep([], [output("mine"), output("free", key=b"other"), output("keyless", None)], "no")

    assert values(keeper.claim(10)) == ["free", "keyless"]
    assert keeper.behind() == {Lane("orders", b"k"): 2}


def test_what_a_dead_process_held_is_sent_first_by_whoever_lives(
    opened: Opener, another: subprocess.Popen[str]
) -> None:
    keeper = opened()
    keeper.keep([], [output("mine")], "no")

    another.kill()
    another.wait()

    assert values(keeper.claim(10)) == ["theirs", "mine"]


def test_a_process_that_takes_a_dead_ones_number_does_not_take_its_messages_for_its_own(
    opened: Opener, another: subprocess.Popen[str]
) -> None:
    another.kill()
    another.wait()
    keeper = opened()

    waiting = keeper.behind()
    keeper.keep([output("mine", b"own")], [], "no")
    claimed = keeper.claim(10)

    assert waiting == {Lane("orders", b"k"): 1}
    assert values(claimed) == ["theirs"]
    assert keeper.behind() == {}


def test_what_is_on_its_way_is_nobody_elses_until_its_holder_closes(opened: Opener) -> None:
    one, other = opened(), opened()
    one.keep([output("flying")], [output("behind")], "no answer")

    meanwhile = other.claim(10)
    one.close()

    assert values(meanwhile) == []
    assert values(other.claim(10)) == ["flying", "behind"]


def test_a_forked_child_does_not_keep_its_parents_number_alive(path: Path) -> None:
    program = """
import os, sys, time
from kworker.stores import open_keeper
from kworker.outcome import Output
keeper = open_keeper(sys.argv[1], group="shop", cluster="c")
keeper.keep([Output("orders", b"k", b"v", (), "i")], [], "no")
if os.fork() == 0:
    time.sleep(30)
    os._exit(0)
os._exit(0)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )  # fmt: skip
    parent.wait(20)
    try:
        keeper = open_keeper(path, group="shop", cluster="c")

        claimed = keeper.claim(10)
        keeper.close()
    finally:
        os.killpg(parent.pid, 9)

    assert values(claimed) == ["v"]


def test_what_was_sent_is_gone_and_what_was_refused_waits_for_a_person(
    opened: Opener, path: Path
) -> None:
    keeper = opened()
    keeper.keep([], [output("sent"), output("refused"), output("waiting")], "no answer")
    sent, refused, _ = keeper.claim(3) or ()

    done = keeper.posted([sent.number], {refused.number: "too large"})

    rows = list(Database(path)["outbox"].rows)
    told = [(row["value"], row["state"], row["error"], row["attempts"]) for row in rows]
    assert done
    assert told == [
        ("refused", "rejected", "too large", 1),
        ("waiting", "waiting", "no answer", 1),
    ]
    assert rows[0]["headers"] == '[["trace", "abc"]]'


def test_a_worker_finds_what_a_publisher_has_kept(opened: Opener, path: Path) -> None:
    publisher = opened()
    publisher.keep([], [output("kept")], "no answer")

    store = open_store(path, group="shop", cluster="c")
    claimed = store.claim(10)
    store.close()

    assert values(claimed) == ["kept"]


def test_a_file_made_without_kafka_is_bound_to_the_first_cluster_that_is_named(
    opened: Opener,
) -> None:
    unknown = opened(cluster=None)

    unknown.bind("c")

    assert opened(cluster="c")
    assert opened(cluster=None)
    with pytest.raises(StoreError, match="belongs to cluster 'c', not to 'other'"):
        opened(cluster="other")
    with pytest.raises(StoreError, match="belongs to cluster 'c'"):
        unknown.bind("other")
    with pytest.raises(StoreError, match="belongs to group 'shop'"):
        opened(group="another")


def test_while_another_writes_nothing_is_taken_on_and_it_is_said(
    opened: Opener, path: Path
) -> None:
    keeper = opened()
    keeper.keep([], [output("1")], "no answer")
    entered, leave = threading.Event(), threading.Event()

    def write() -> None:
        other = open_keeper(path, group="shop", cluster="c")
        with other._turn(1.0):  # type: ignore[attr-defined]
            entered.set()
            leave.wait(10)
        other.close()

    thread = threading.Thread(target=write)
    thread.start()
    entered.wait(10)

    taken, posted = keeper.claim(10), keeper.posted([1], {})
    leave.set()
    thread.join()

    assert (taken, posted) == (None, False)
    assert values(keeper.claim(10)) == ["1"]
