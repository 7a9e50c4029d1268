"""Lanes against a model: order in each lane, nothing lost, nobody waits without a reason."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from kworker import App
from kworker.handlers import Handler
from kworker.message import Partition, Record
from kworker.runtime.gates import Gates
from kworker.runtime.lanes import Lanes, Run
from kworker.runtime.ledger import Ledger
from kworker.runtime.work import Scope, Work


def made(name: str = "charge", order: str = "key") -> Handler:
    app = App("shop")

    @app.handler("orders", name=name)
    def charge(order: bytes) -> None: ...

    (handler,) = app.register()
    return dataclasses.replace(handler, order=order)  # type: ignore[arg-type]


def gate(cap: int | None = None) -> Gates:
    """No outage, no rate, and so many runs at once."""
    return Gates(lambda name: cap, lambda seconds, call: None, rates={}, monotonic=lambda: 0.0)


LEDGERS = {index: Ledger(Partition("orders", index), 0) for index in range(3)}
HANDLER = made()
CHARGE = Scope(HANDLER.name, "orders", HANDLER)


def work(offset: int, key: bytes | None, partition: int = 0, scope: Scope = CHARGE) -> Work:
    record = Record("orders", partition, offset, key, b"{}")
    return Work(record, LEDGERS[partition], scope, f"{partition}/{offset}", None)


KEYS = st.one_of(st.none(), st.sampled_from([b"", b"a", b"b", b"c"]))


@given(
    arrivals=st.lists(st.tuples(KEYS, st.integers(0, 1)), max_size=30),
    cap=st.one_of(st.none(), st.integers(1, 3)),
    data=st.data(),
)
def test_a_lane_is_performed_in_order_and_every_work_comes_out_once(
    arrivals: list[tuple[bytes | None, int]], cap: int | None, data: st.DataObject
) -> None:
    lanes = Lanes(gate(cap))
    out: list[Run] = []
    performed: dict[object, list[int]] = defaultdict(list)
    pending = [work(offset, key, part) for offset, (key, part) in enumerate(arrivals)]
    expected = len(pending)

    while pending or out or lanes.waiting:
        if pending and (not out or data.draw(st.booleans())):
            lanes.enter([pending.pop(0)])
        out.extend(lanes.runs())
        busy = [lane for run in out for lane in run.lanes]
        assert len(busy) == len(set(busy))
        assert cap is None or len(out) <= cap
        if out and (not pending or data.draw(st.booleans())):
            run = out.pop(data.draw(st.integers(0, len(out) - 1)))
            for one in run.works:
                one.seconds = data.draw(st.sampled_from([0.0, 0.0001, 0.01]))
                lane = (one.record.partition, one.record.key)
                performed[id(one) if one.record.key is None else lane].append(one.record.offset)
            lanes.leave(run)

    assert sum(map(len, performed.values())) == expected
    for offsets in performed.values():
        assert offsets == sorted(offsets)


def test_a_busy_key_does_not_hold_up_another() -> None:
    lanes = Lanes(gate())
    lanes.enter([work(0, b"hot")])
    (hot,) = lanes.runs()

    lanes.enter([work(1, b"hot")])
    lanes.enter([work(2, b"cold")])

    (cold,) = lanes.runs()
    assert [one.record.offset for one in cold.works] == [2]
    lanes.leave(hot)
    (next_hot,) = lanes.runs()
    assert [one.record.offset for one in next_hot.works] == [1]


def test_what_is_dropped_never_runs_and_its_neighbours_do() -> None:
    lanes = Lanes(gate())
    for offset, key, partition in ((0, b"a", 0), (1, b"a", 1), (2, None, 0), (3, b"b", 1)):
        lanes.enter([work(offset, key, partition)])

    dropped = lanes.drop(lambda one: one.record.partition == 0)

    assert sorted(one.record.offset for one in dropped) == [0, 2]
    assert sorted(one.record.offset for run in lanes.runs() for one in run.works) == [1, 3]
    assert lanes.waiting == 0


def test_a_work_that_comes_again_goes_before_what_waits_in_its_lane() -> None:
    lanes = Lanes(gate())
    lanes.enter([work(1, b"a")])

    lanes.enter([work(0, b"a")], first=True)

    (first,) = lanes.runs()
    lanes.leave(first)
    (second,) = lanes.runs()
    assert [one.record.offset for one in (*first.works, *second.works)] == [0, 1]


def test_order_none_lets_everything_run_beside_everything() -> None:
    lanes = Lanes(gate())
    free = Scope("free", "orders", made(order="none"))
    for offset in range(3):
        lanes.enter([work(offset, b"a", scope=free)])

    assert len(list(lanes.runs())) == 3


def test_quick_works_travel_together_and_slow_ones_alone() -> None:
    lanes = Lanes(gate())

    def round_of(seconds: float) -> int:
        for offset in range(20):
            lanes.enter([work(offset, b"k%d" % offset)])
        runs = list(lanes.runs())
        for run in runs:
            for one in run.works:
                one.seconds = seconds
            lanes.leave(run)
        return len(runs)

    assert round_of(0.00001) == 20  # nothing is known of the handler yet
    for _ in range(20):
        last = round_of(0.00001)
    assert last == 1
    assert round_of(0.01) == 1
    assert round_of(0.01) == 20


def test_of_two_topics_of_a_capped_handler_neither_waits_until_the_other_has_nothing() -> None:
    lanes = Lanes(gate(1))
    other = Scope(HANDLER.name, "returns", HANDLER)
    for offset in range(6):
        lanes.enter([work(offset, b"%d" % offset)])
        lanes.enter([work(offset, b"%d" % offset, scope=other)])

    topics = []
    while lanes.waiting:
        (run,) = lanes.runs()
        topics.append(run.scope.topic)
        run.works[0].seconds = 1.0  # slow: one a run
        lanes.leave(run)

    assert topics == ["orders", "returns"] * 6
