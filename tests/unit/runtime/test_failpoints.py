"""Failpoints: which there are, what they take, and that nothing is there without one."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kworker import App
from kworker.errors import SettingsError
from kworker.handlers import Handler
from kworker.kafka.consumer import GroupConsumer
from kworker.kafka.pair import PairedConsumer
from kworker.kafka.producer import ReliableProducer
from kworker.kafka.transactions import TransactionalProducer
from kworker.outbox import Courier
from kworker.runtime import failpoints
from kworker.runtime.delivery.api import Hands
from kworker.runtime.delivery.at_least_once import AtLeastOnce
from kworker.runtime.delivery.at_most_once import AtMostOnce
from kworker.runtime.delivery.exactly_once import ExactlyOnce
from kworker.runtime.executors import Coroutines, Threads
from kworker.runtime.intake import Admitted, Intake
from kworker.runtime.lanes import Lanes
from kworker.runtime.loop import Loop
from kworker.runtime.transactions import Transactions
from kworker.runtime.unique import Alone
from kworker.stores.sqlite.lender import SqliteLender
from kworker.stores.sqlite.store import SqliteStore

ROOT = Path(__file__).parents[3]

PARTS = {
    "consumer": (GroupConsumer, PairedConsumer, Alone),
    "delivery": (AtLeastOnce, AtMostOnce, ExactlyOnce),
    "executor": (Threads, Coroutines, Transactions),
    "handler": (Handler,),
    "hands": (Hands,),
    "intake": (Intake,),
    "lanes": (Lanes,),
    "lender": (SqliteLender,),
    "loop": (Loop,),
    "outbox": (Courier,),
    "producer": (ReliableProducer,),
    "store": (SqliteStore,),
    "transactions": (TransactionalProducer,),
}


class Part:
    """Something with a step, which it says it has taken."""

    def __init__(self) -> None:
        self.taken: list[object] = []

    def record(self, what: object) -> object:
        self.taken.append(what)
        return what

    def poll(self) -> list[int]:
        return [len(self.taken)] if len(self.taken) > 1 else self.taken.append(0) or []


def armed(text: str) -> failpoints.Arm:
    return failpoints.arm({"KWORKER_TESTING": "1", "KWORKER_FAILPOINT": text})


def test_every_step_can_be_met_before_and_after_and_is_listed_one_a_line():
    listed = subprocess.run(
        [sys.executable, "-m", "kworker.runtime.failpoints"],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip

    assert listed.returncode == 0
    assert listed.stderr == ""
    assert listed.stdout.split("\n")[:-1] == list(failpoints.names())
    assert {"before_handler", "after_settle", "after_record"} <= set(failpoints.names())


@pytest.mark.parametrize("step", failpoints.STEPS)
def test_every_step_is_one_that_the_parts_of_a_worker_take(step: str):
    for part, name, _ in failpoints.STEPS[step]:
        for kind in PARTS[part]:
            fields = [one.name for one in dataclasses.fields(kind)] if part in (
                "handler", "hands"
            ) else dir(kind)  # fmt: skip
            assert name in fields, f"{kind.__name__} has no {name}"


@pytest.mark.parametrize(
    "text",
    [
        "after_settle", "after_settle:", "after_settle:0", "after_settle:-1", "after_settle:x",
        "settle:1", "after_nothing:1", "after_settle:1:explode", "after_settle:1:stall",
        "after_settle:1:stall=", "after_settle:1:stall=soon", "after_settle:1:exit=3", ":1",
    ],
)  # fmt: skip
def test_what_names_no_step_number_or_action_is_refused_by_name(text: str):
    with pytest.raises(SettingsError, match="KWORKER_FAILPOINT") as refused:
        armed(text)

    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("testing", [{}, {"KWORKER_TESTING": "0"}, {"KWORKER_TESTING": "yes"}])
def test_without_testing_there_is_none_whatever_the_variable_says(testing: dict[str, str]):
    part = Part()

    arm = failpoints.arm({"KWORKER_FAILPOINT": "nonsense", **testing})

    assert arm("store", part) is part
    assert vars(part) == {"taken": []}


def test_it_acts_once_at_its_number():
    part = armed("before_record:2:raise")("store", Part())
    part.record("first")

    with pytest.raises(failpoints.Provoked, match="before_record:2:raise"):
        part.record("second")
    part.record("third")

    assert part.taken == ["first", "third"]


def test_after_a_step_means_that_it_was_taken():
    part = armed("after_record:1:raise")("store", Part())

    with pytest.raises(failpoints.Provoked):
        part.record("first")

    assert part.taken == ["first"]


def test_a_batch_that_is_settled_together_counts_by_its_messages():
    taken: list[str] = []
    settle = lambda self, results, run: taken.extend(results)  # noqa: E731
    loop = armed("before_settle:3:raise")("loop", type("Loop", (), {"settle": settle})())

    with pytest.raises(failpoints.Provoked):
        loop.settle(["first", "second", "third", "fourth"], "run")

    assert taken == ["first", "second"]


def test_a_part_that_does_not_take_the_step_stays_as_it_is():
    part = armed("after_record:1:raise")("consumer", Part())

    part.record("first")

    assert vars(part) == {"taken": ["first"]}


def test_a_call_with_nothing_in_it_does_not_count():
    part = armed("after_poll:1:raise")("consumer", Part())

    assert part.poll() == []
    part.taken += [1, 2]
    with pytest.raises(failpoints.Provoked):
        part.poll()

    intake = armed("before_dispatch:1:raise")
    loop = type("Loop", (), {"dispatch": lambda self, admitted: admitted})()
    assert intake("loop", loop).dispatch(Admitted()) == Admitted()


def test_a_stall_holds_up_for_so_many_seconds():
    part = armed("before_record:1:stall=0.05")("store", Part())
    begun = time.monotonic()

    part.record("first")

    assert time.monotonic() - begun >= 0.05


@pytest.mark.parametrize("name", ["before_handler", "after_handler"])
def test_a_handler_can_be_met_in_its_own_thread_or_task(name: str):
    app = App("shop")

    @app.handler("orders")
    def plain(order: dict) -> str:
        return "plain"

    @app.handler("orders")
    async def awaited(order: dict) -> str:
        return "awaited"

    [one, other] = app.register()

    with pytest.raises(failpoints.Provoked):
        armed(f"{name}:1:raise")("handler", one).function(order={})
    with pytest.raises(failpoints.Provoked):
        asyncio.run(armed(f"{name}:1:raise")("handler", other).function(order={}))
    assert one.function(order={}) == "plain"


def test_a_worker_refuses_a_bad_value_in_one_line(tmp_path: Path):
    (tmp_path / "shop.py").write_text("from kworker import App\napp = App('shop')\n")

    ended = subprocess.run(
        [sys.executable, "-m", "kworker", "run", "shop:app", "-b", "127.0.0.1:1"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "KWORKER_TESTING": "1", "KWORKER_FAILPOINT": "after_lunch:1"},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip

    assert ended.returncode == 3
    [line] = ended.stderr.splitlines()
    assert "after_lunch" in line
    assert "kworker.runtime.failpoints" in line
