"""`retry_order="hold"`: a key waits for its failing message, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kworker import App, Reject, Retry, RetryLater
from kworker.errors import HandlerError, SettingsError
from kworker.message import Partition
from kworker.runtime.delivery import modes

from .bench import AWAY, P0, P1, Bench

CALLS = 4
RETRY = Retry(attempts=2, wait=lambda state: 1.0, delays=["5s", "1m"])


class World:
    """One group's life over several processes; each message fails so many times first."""

    def __init__(self, folder: Path) -> None:
        self.app = App("shop")
        self.fails: dict[int, int] = {}
        self.keys: dict[int, tuple[int, bytes]] = {}
        self.calls: Counter[int] = Counter()
        self.story: list[tuple[str, int]] = []  # in the order of time: call or final, and whose

        @self.app.handler("orders", name="charge", retry=RETRY, retry_order="hold")
        def charge(order: int) -> None:
            self.calls[order] += 1
            self.story.append(("call", order))
            if self.calls[order] <= self.fails[order]:
                raise ValueError("not yet")
            self.story.append(("final", order))

        self.bench = Bench(self.app, folder=folder, assign=(P0, P1))

    def write(self, partition: int, key: int, fails: int) -> None:
        number = len(self.fails)
        self.fails[number] = fails
        self.keys[number] = (partition, b"%d" % key)
        self.bench.broker.write((P0, P1)[partition], b"%d" % number, key=b"%d" % key)

    def perform(self, runs: int) -> None:
        for _ in range(runs):
            if self.bench.executor.waiting:  # type: ignore[attr-defined]
                self.bench.executor.begin()()  # type: ignore[attr-defined]

    def answer(self, refused: bool) -> None:
        for shipment in self.bench.sent if not refused else ():
            assert shipment.topic == "shop.dlq", "nothing is copied before all calls are spent"
            self.story.append(("final", int(shipment.value or b"")))
        self.bench.answer(AWAY if refused else None)

    def wait(self, seconds: float) -> None:
        self.bench.clock.now += seconds
        self.bench.turn()

    def crash(self) -> None:
        self.bench = self.bench.again(assign=(P0, P1))

    def handover(self, lost: bool) -> None:
        self.bench.clock.look = 5.0
        (self.bench.consumer.lose if lost else self.bench.consumer.revoke)(P0)
        self.bench.clock.look = 0.01
        self.bench.consumer.assign(P0)

    def rest(self) -> None:
        for _ in range(60 * len(self.fails) + 60):
            self.perform(100)
            self.answer(False)
            self.wait(2.0)
            if not self.bench.open and self.bench.committed(P0) == self.bench.broker.ends[P0]:
                return

    def check(self) -> None:
        first: dict[str, dict[int, int]] = {"call": {}, "final": {}}
        for moment, (what, number) in enumerate(self.story):
            first[what].setdefault(number, moment)
        lanes = defaultdict(list)
        for number, lane in self.keys.items():
            lanes[lane].append(number)
        assert set(first["final"]) == set(self.fails), "each has come to its end"
        for numbers in lanes.values():
            for before, after in itertools.pairwise(numbers):
                assert first["call"][after] > first["final"][before], "it went by one that waited"


MOVES = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 1), st.integers(0, CALLS + 1)),
    st.tuples(st.just("perform"), st.integers(1, 4)),
    st.tuples(st.just("answer"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.6, 1.1, 6.0, 61.0])),
    st.tuples(st.just("crash")),
    st.tuples(st.just("handover"), st.booleans()),
)


@settings(max_examples=60)
@given(st.lists(MOVES, max_size=40))
def test_no_message_of_a_key_is_called_before_the_one_in_front_of_it_has_come_to_its_end(
    moves: list[tuple[str, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name))

        for move, *arguments in moves:
            getattr(world, move)(*arguments)
        world.rest()

        world.check()


def settle(bench: Bench, seconds: float) -> None:
    """Let so many seconds pass, in steps of a tenth."""
    for _ in range(round(seconds * 10)):
        bench.turn()
        bench.executor.perform()  # type: ignore[attr-defined]
        bench.answer()
        bench.clock.now += 0.1


def held(bench_app: App, *values: bytes, keys: bytes = b"aab") -> Bench:
    bench = Bench(bench_app)
    for value, key in zip(values, keys, strict=True):
        bench.broker.write(P0, value, key=bytes([key]))
    return bench


def test_its_key_waits_and_the_others_flow_until_all_its_calls_are_spent() -> None:
    app, calls = App("shop"), []

    @app.handler("orders", name="charge", retry=RETRY, retry_order="hold")
    def charge(order: str) -> None:
        calls.append((order, round(bench.clock.now - begun)))
        if order == "bad":
            raise ValueError("never")

    bench = held(app, b"bad", b"behind", b"other")
    begun = bench.clock.now
    settle(bench, 80)

    assert [one for one in calls if one[0] == "bad"] == [
        ("bad", 0), ("bad", 1), ("bad", 6), ("bad", 66),
    ]  # fmt: skip
    assert ("other", 0) in calls
    assert calls[-1][0] == "behind" and calls[-1][1] >= 66
    assert [(one.topic, one.value) for one in bench.log] == [("shop.dlq", b"bad")]
    assert bench.committed() == 3


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_crash_goes_on_counting_and_waits_for_what_is_left_of_the_delay(elsewhere: bool) -> None:
    app, calls = App("shop"), []

    @app.handler("orders", name="charge", retry=RETRY, retry_order="hold")
    def charge(order: str) -> None:
        calls.append((order, round(bench.clock.now - begun)))
        if order == "bad":
            raise ValueError("never")

    bench = held(app, b"bad", b"behind", b"other")
    begun = bench.clock.now
    settle(bench, 10)
    if elsewhere:
        bench.commit()
        bench = Bench(app, bench.die()[0], clock=bench.clock)
    else:
        bench = bench.again()
    settle(bench, 70)

    bad = [at for order, at in calls if order == "bad"]
    assert bad[:3] == [0, 1, 6] and 66 <= bad[3] <= 67 and len(bad) == CALLS
    assert calls[-1][0] == "behind" and calls[-1][1] >= 66


@pytest.mark.parametrize("error", [Reject("no"), RetryLater("3s")])
def test_what_a_handler_says_of_its_message_holds_in_place_too(error: Exception) -> None:
    app, calls = App("shop"), []

    @app.handler("orders", name="charge", retry=RETRY, retry_order="hold")
    def charge(order: str) -> None:
        calls.append(order)
        if order == "odd" and calls.count("odd") == 1:
            raise error

    bench = held(app, b"odd", b"behind", b"other")
    settle(bench, 10)

    spoken = [one for one in calls if one != "other"]
    assert spoken == (["odd", "behind"] if isinstance(error, Reject) else ["odd", "odd", "behind"])
    assert [one.topic for one in bench.log] == (["shop.dlq"] if isinstance(error, Reject) else [])


@pytest.mark.parametrize("other", [{"order": "none"}, {"retry_order": "wait"}])
def test_where_nothing_could_be_held_it_is_refused(other: dict[str, str]) -> None:
    app = App("shop")

    @app.handler("orders", **{"retry_order": "hold", **other})  # type: ignore[arg-type]
    def charge(order: dict) -> None: ...

    with pytest.raises(HandlerError, match="retry_order="):
        app.register()


def test_what_waits_in_place_needs_no_retry_topics() -> None:
    app = App("shop")

    @app.handler("orders", name="charge", retry=RETRY, retry_order="hold")
    def charge(order: dict) -> None: ...

    (handler,) = app.register()

    assert handler.retry_topics == () and handler.retry.calls == CALLS
    assert Partition("shop.retry.5s", 0) not in Bench(app).loop.ledgers


def test_at_most_once_cannot_hold_and_says_why() -> None:
    app = App("shop")

    @app.handler("orders", name="charge", retry_order="hold")
    def charge(order: dict) -> None: ...

    with pytest.raises(SettingsError, match="at_most_once: charge has retry_order='hold'"):
        modes.refuse("at_most_once", app.register(), unique=False)

    modes.refuse("exactly_once", app.register(), unique=False)
