"""Several messages in one call, and calls no faster than they may be; the clock is the test's."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kworker import App, Batch, BatchFailure, Context, Message, Outage, Retry, Transaction
from kworker.errors import HandlerError

from .bench import P0, Bench


def values(bench: Bench, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        bench.broker.write(P0, b"%d" % number, key=b"%d" % number)


def settle(bench: Bench, turns: int = 40, step: float = 0.0) -> None:
    for _ in range(turns):
        bench.turn()
        bench.executor.perform()  # type: ignore[attr-defined]
        bench.answer()
        bench.clock.now += step


def test_a_full_batch_goes_at_once_and_the_rest_when_its_first_has_waited_long_enough() -> None:
    app, got = App("shop"), []

    @app.handler("orders", name="charge", batch=Batch(4, wait="2s"))
    def charge(orders: list[int]) -> None:
        got.append(orders)

    bench = Bench(app)
    values(bench, 10)
    settle(bench)
    early = list(got)
    bench.clock.now += 1.9
    settle(bench)
    still = list(got)
    bench.clock.now += 0.2
    settle(bench)

    bench.clock.now += 1.5
    settle(bench, turns=2)

    assert early == still == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert got == [*early, [8, 9]]
    assert bench.committed() == 10


def test_messages_of_a_batch_bring_what_each_is() -> None:
    app, got = App("shop"), []

    @app.handler("orders", name="charge", batch=Batch(3))
    def charge(orders: list[Message[int]]) -> None:
        got.append([(one.key, one.value, one.offset, one.attempt) for one in orders])

    bench = Bench(app)
    values(bench, 3)
    settle(bench)

    assert got == [[(b"0", 0, 0, 1), (b"1", 1, 1, 1), (b"2", 2, 2, 1)]]


@settings(max_examples=25)
@given(
    count=st.integers(1, 40),
    size=st.integers(1, 12),
    bad=st.sets(st.integers(0, 39), max_size=6),
)
def test_a_batch_that_fails_as_a_whole_is_taken_apart_until_only_the_bad_ones_have_failed(
    count: int, size: int, bad: set[int]
) -> None:
    app, done = App("shop", retry=Retry(attempts=1)), []

    @app.handler("orders", name="charge", batch=Batch(size, wait=0))
    def charge(orders: list[int]) -> None:
        if bad.intersection(orders):
            raise ValueError("one of them is bad")
        done.extend(orders)

    bench = Bench(app)
    values(bench, count)
    settle(bench, step=0.5)

    assert sorted(done) == [number for number in range(count) if number not in bad]
    dead = [int(one.value or b"") for one in bench.log if one.topic == "shop.dlq"]
    assert sorted(dead) == sorted(bad.intersection(range(count)))
    assert bench.committed() == count


def test_a_batch_failure_names_those_that_failed_and_no_other_is_called_again() -> None:
    app, calls = App("shop", retry=Retry(attempts=1)), []

    @app.handler("orders", name="charge", batch=Batch(4))
    def charge(orders: list[int]) -> None:
        calls.append(orders)
        raise BatchFailure({1: ValueError("no"), 3: KeyError("nor this")})

    bench = Bench(app)
    values(bench, 4)
    settle(bench)

    dead = [one for one in bench.log if one.topic == "shop.dlq"]
    kinds = {one.value: dict(one.headers)["kworker-error-type"] for one in dead}
    assert calls == [[0, 1, 2, 3]]
    assert kinds == {b"1": b"ValueError", b"3": b"KeyError"}


@pytest.mark.parametrize("errors", [{}, {7: ValueError("no")}, {0: "no error"}])
def test_a_batch_failure_that_names_nothing_sensible_is_taken_apart_like_any_other(
    errors: dict[int, Any],
) -> None:
    app, calls = App("shop", retry=Retry(attempts=1)), []

    @app.handler("orders", name="charge", batch=Batch(2))
    def charge(orders: list[int]) -> None:
        calls.append(orders)
        if 0 in orders:
            raise BatchFailure(errors)

    bench = Bench(app)
    values(bench, 2)
    settle(bench)

    assert calls == [[0, 1], [0], [1]]
    assert [one.value for one in bench.log if one.topic == "shop.dlq"] == [b"0"]


def test_what_cannot_be_decoded_is_taken_out_of_its_batch() -> None:
    app, got = App("shop"), []

    @app.handler("orders", name="charge", batch=Batch(3))
    def charge(orders: list[int]) -> None:
        got.append(orders)

    bench = Bench(app)
    for value in (b"1", b"no JSON", b"3"):
        bench.broker.write(P0, value)
    settle(bench)

    assert got == [[1, 3]]
    assert [one.value for one in bench.log if one.topic == "shop.dlq"] == [b"no JSON"]


def test_an_outage_of_a_batch_spends_no_call_and_takes_nothing_apart() -> None:
    app, calls, down = App("shop"), [], [True]

    @app.handler("orders", name="charge", batch=Batch(3, wait=0))
    def charge(orders: list[Message[int]]) -> None:
        calls.append([one.attempt for one in orders])
        if down[0]:
            raise Outage("the bank is closed")

    bench = Bench(app)
    values(bench, 3)
    settle(bench, turns=5)
    down[0] = False
    settle(bench, step=0.5)

    assert calls[:2] == [[1, 1, 1], [1]]  # the whole; then one tries
    assert sum(map(len, calls[1:])) == 3
    assert {attempt for call in calls for attempt in call} == {1}
    assert bench.committed() == 3


def test_each_message_of_a_batch_publishes_its_own_result() -> None:
    app = App("shop")

    @app.handler("orders", name="charge", batch=Batch(3), publish_to="receipts")
    def charge(orders: list[int]) -> list[dict[str, int] | None]:
        return [{"n": order} if order != 1 else None for order in orders]

    bench = Bench(app)
    values(bench, 3)
    settle(bench, step=0.1)

    sent = [(one.key, json.loads(one.value or b"")) for one in bench.log if one.topic == "receipts"]
    assert sent == [(b"0", {"n": 0}), (b"2", {"n": 2})]
    assert bench.committed() == 3


def test_results_that_are_not_one_for_each_message_fail_the_handler() -> None:
    app = App("shop", retry=Retry(attempts=1))

    @app.handler("orders", name="charge", batch=Batch(2), publish_to="receipts")
    def charge(orders: list[int]) -> list[int]:
        return [7, 7, 7]

    bench = Bench(app)
    values(bench, 2)
    settle(bench)

    dead = [dict(one.headers)["kworker-error-message"] for one in bench.log]
    assert len(dead) == 2 and all(b"one result for each of its 1 messages" in one for one in dead)


def test_a_batch_leaves_its_keys_in_order_and_a_key_is_never_in_two_at_once() -> None:
    app, got = App("shop"), []

    @app.handler("orders", name="charge", batch=Batch(4, wait=0))
    def charge(orders: list[Message[int]]) -> None:
        got.extend((one.key, one.value) for one in orders)

    bench = Bench(app)
    for number in range(30):
        bench.broker.write(P0, b"%d" % number, key=b"abc"[number % 3 : number % 3 + 1])
    settle(bench)

    for key in (b"a", b"b", b"c"):
        of_it = [value for one, value in got if one == key]
        assert of_it == sorted(of_it) and len(of_it) == 10


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda order: None, None),
        ("one", "annotate it as list[int]"),
        ("context", "belongs to one message, and gets batches"),
        ("transaction", "belongs to one message, and gets batches"),
    ],
)
def test_a_handler_of_batches_that_takes_no_list_is_refused(function: Any, reason: str) -> None:
    def one(order: int) -> None: ...
    def context(orders: list[int], ctx: Context) -> None: ...
    def transaction(orders: list[int], db: Transaction) -> None: ...

    app = App("shop")
    found = {"one": one, "context": context, "transaction": transaction}.get(function)
    if found is None:

        @app.handler("orders", batch=Batch(2))
        def plain(orders): ...  # type: ignore[no-untyped-def]

        assert len(app.register()) == 1
        return
    app.handler("orders", batch=Batch(2))(found)

    with pytest.raises(HandlerError, match=r"test_batches_and_rates.py:[0-9]+: .*") as caught:
        app.register()
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch": 10}, "give a Batch"),
        ({"rate": "fast"}, "write it as 100/s"),
        ({"rate": 0}, "write it as 100/s"),
    ],
)
def test_a_batch_or_rate_that_says_nothing_is_refused(options: dict[str, Any], reason: str) -> None:
    app = App("shop")

    @app.handler("orders", **options)
    def charge(orders: list[int]) -> None: ...

    with pytest.raises(HandlerError) as caught:
        app.register()
    assert reason in str(caught.value)


@pytest.mark.parametrize(("size", "wait"), [(0, 1), (True, 1), (10, "soon"), (10, -1)])
def test_a_batch_of_no_size_or_no_duration_cannot_be_made(size: int, wait: Any) -> None:
    with pytest.raises(ValueError, match=r"Batch\(size=|duration"):
        Batch(size, wait)


def test_a_handler_begins_no_more_calls_than_its_rate_and_a_moments_burst() -> None:
    app, at = App("shop"), []
    bench: Bench

    @app.handler("orders", name="charge", rate="100/s")
    def charge(order: int) -> None:
        at.append(bench.clock.now)

    bench = Bench(app)
    values(bench, 300)
    begun = bench.clock.now
    while len(at) < 300:
        settle(bench, turns=1, step=0.013)

    took = at[-1] - begun
    assert 300 / 100 - 0.15 <= took <= 300 / 100 + 0.15
    for first in range(0, 290, 10):
        for last in range(first + 20, 300, 10):
            assert last - first <= (at[last] - at[first]) * 100 + 11


def test_a_pause_earns_a_moments_calls_and_no_more() -> None:
    app, at = App("shop"), []

    @app.handler("orders", name="charge", rate="100/s")
    def charge(order: int) -> None:
        at.append(order)

    bench = Bench(app)
    bench.clock.now += 3600
    values(bench, 100)
    settle(bench)

    assert 10 <= len(at) <= 15  # the turns take a moment, too


def test_a_slow_rate_is_kept_too() -> None:
    app, at = App("shop"), []
    bench: Bench

    @app.handler("orders", name="charge", rate="6/m")
    def charge(order: int) -> None:
        at.append(bench.clock.now)

    bench = Bench(app)
    values(bench, 4)
    settle(bench, turns=80, step=0.5)

    assert [round(b - a) for a, b in itertools.pairwise(at)] == [10, 10, 10]
