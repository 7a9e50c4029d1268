"""A worker for some of an app's handlers, for so many messages, or for so long."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..faults.harness import until
from .stage import Stage, staged

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def stage(kafka: Any, tmp_path: Path) -> Iterator[Stage]:
    with staged(kafka.bootstrap_servers, tmp_path) as made:
        orders = made.create_topic(f"{made.group}.orders", partitions=2)
        returns = made.create_topic(f"{made.group}.returns", partitions=1)
        made.env |= {"APP": made.group, "ORDERS": orders, "RETURNS": returns}
        yield made


def test_a_choice_that_leaves_out_a_handler_is_refused_in_the_apps_own_group(
    stage: Stage,
) -> None:
    for n in range(4):
        stage.send(stage.env["ORDERS"], {"n": n})

    of_names = stage.run("several:app", "--handlers", "charge,count", "--drain")
    of_topics = stage.run("several:app", "--topics", stage.env["RETURNS"], "--drain")
    unknown = stage.run("several:app", "--handlers", "chrage", "--drain")
    nothing = stage.run(
        "several:app", "--exclude-topics", f"{stage.env['ORDERS']},{stage.env['RETURNS']}"
    )
    by_variable = stage.run("several:app", "--drain", env={"KWORKER_HANDLERS": "charge"})

    assert [one.code for one in (of_names, of_topics, unknown, nothing, by_variable)] == [2] * 5
    assert len(of_names.said) == 1 and "notify would be left out" in of_names.said[0]
    assert "charge, notify would be left out" in of_topics.said[0]
    assert "did you mean 'charge'" in unknown.said[0]
    assert "nothing is left" in nothing.said[0]
    assert "notify, count would be left out" in by_variable.said[0]
    assert stage.told() == []


def test_a_chosen_handler_in_its_own_group_leaves_the_others_their_messages(
    stage: Stage,
) -> None:
    for n in range(4):
        stage.send(stage.env["ORDERS"], {"n": n}, partition=n % 2)
    own = f"{stage.group}-charge"

    alone = stage.run(
        "several:app", "--handlers", "charge", "-g", own, "--drain",
        "--db", str(stage.folder / "own.db"),
    )  # fmt: skip
    chosen = [one["handler"] for one in stage.told()]
    whole = stage.run("several:app", "--drain")

    assert (alone.code, whole.code) == (0, 0)
    assert chosen == ["charge"] * 4
    assert len(stage.told(handler="notify")) == len(stage.told(handler="count")) == 4
    assert len(stage.told(handler="charge")) == 8


def test_a_topic_left_out_waits_for_a_worker_that_takes_it(stage: Stage) -> None:
    stage.send(stage.env["ORDERS"], {"n": 1})
    stage.send(stage.env["RETURNS"], {"n": 2})

    first = stage.run("several:app", "--exclude-topics", stage.env["RETURNS"], "--drain")
    without = {one["place"][0] for one in stage.told()}
    second = stage.run("several:app", "--drain")

    assert (first.code, second.code) == (0, 0)
    assert without == {stage.env["ORDERS"]}
    assert [one["place"][0] for one in stage.told(handler="count")] == [
        stage.env["ORDERS"], stage.env["RETURNS"],
    ]  # fmt: skip


def test_max_messages_hands_out_no_more_and_the_rest_comes_to_the_next_worker(
    stage: Stage,
) -> None:
    for n in range(9):
        stage.send(stage.env["ORDERS"], {"n": n, "fail": n == 1}, partition=n % 2)

    first = stage.run("several:app", "--max-messages", "3", "--concurrency", "4")
    taken = {tuple(one["place"]) for one in stage.told()}
    rest = stage.run("several:app", "--drain")

    assert (first.code, rest.code) == (0, 0)
    assert len(taken) == 3
    for handler in ("notify", "count"):
        places = [tuple(one["place"]) for one in stage.told(handler=handler)]
        assert len(places) == len(set(places)) == 9
    assert len(stage.told(handler="charge")) == 10  # one of them twice


def test_a_worker_out_of_time_stops_cleanly_and_so_do_all_workers_of_a_parent(
    stage: Stage,
) -> None:
    one = stage.start("several:app", "--max-runtime", "1s")
    stage.send(stage.env["ORDERS"], {"n": 1})

    alone = one.wait(40)
    parent = stage.start("several:app", "--max-runtime", "1s", "--workers", "2")
    together = parent.wait(60)

    assert (alone, together) == (0, 0)
    assert "--max-runtime" in one.output


def test_a_stop_that_comes_first_wins(stage: Stage) -> None:
    worker = stage.start("several:app", "--max-messages", "100")
    stage.send(stage.env["ORDERS"], {"n": 1})
    until(lambda: len(stage.told()) == 3, 40, "it is handled")

    worker.signal(signal.SIGTERM)

    assert worker.wait(30) == 0
