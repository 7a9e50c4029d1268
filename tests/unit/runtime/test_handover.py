"""What is finished above the commit goes with the partition to its next owner, on whatever host."""

from __future__ import annotations

import logging
import random
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from kworker import App, Message, Retry
from kworker.message import Partition
from kworker.runtime.executors import DONE, Performed
from kworker.runtime.lanes import Run
from kworker.runtime.work import Work

from .bench import AWAY, P0, Bench

RETRY = Partition("shop.retry.5s", 0)


def shop(*handlers: str, aliases: tuple[str, ...] = (), **options: Any) -> tuple[App, list[str]]:
    """An app whose handlers note what they are called for and with which attempt."""
    app, calls = App("shop", concurrency=8), []

    def add(name: str) -> None:
        @app.handler("orders", name=name, order="none", aliases=aliases, **options)
        def handle(order: dict, message: Message) -> None:
            calls.append(f"{name} {message.offset} {message.attempt}")
            if order.get("bad"):
                raise ValueError("bad")

    for name in handlers:
        add(name)
    return app, calls


def unfinished_first(bench: Bench, records: int, *, ids: bool = False) -> None:
    """The first message stays with its handlers, the others are finished and committed."""
    for number in range(records):
        headers = (("kworker-message-id", b"id-%d" % number),) if ids else ()
        bench.broker.write(P0, headers=headers)
    bench.turn()
    held = [run for run in bench.executor.waiting if run.works[0].record.offset == 0]
    for run in held:
        bench.executor.waiting.remove(run)
        rest = [work for work in run.works if work.record.offset]
        run.works[:] = rest
    bench.executor.waiting.extend(run for run in held if run.works)
    bench.perform()
    bench.commit()


def on_another_host(bench: Bench, app: App, **more: Any) -> Bench:
    """The next owner of the same partitions, with a store that knows nothing; the last one has
    let go, without waiting for its handlers."""
    bench.loop.handover.leaving = True
    bench.commit()
    bench.die()
    return Bench(app, bench.broker, clock=bench.clock, **more)


@pytest.mark.parametrize("ids", [False, True], ids=["by position", "by id"])
def test_what_was_finished_above_the_commit_is_not_run_by_another_host(ids: bool) -> None:
    app, calls = shop("charge")
    bench = Bench(app)
    unfinished_first(bench, 6, ids=ids)
    before = list(calls)

    bench = on_another_host(bench, app)
    bench.settle()

    assert (bench.committed(), sorted(before)) == (6, [f"charge {n} 1" for n in range(1, 6)])
    assert calls[len(before) :] == ["charge 0 1"]
    assert bench.facts.skipped == [1, 2, 3, 4, 5]


def test_what_a_third_host_is_told_comes_from_both_before() -> None:
    app, calls = shop("charge")
    bench = Bench(app)
    unfinished_first(bench, 4)
    bench = on_another_host(bench, app)
    unfinished_first(bench, 3)
    before = len(calls)

    bench = on_another_host(bench, app)
    bench.settle()

    assert before == 6
    assert calls[before:] == ["charge 0 1"]
    assert bench.committed() == 7


def test_what_was_told_is_passed_on_before_it_is_come_to() -> None:
    app, calls = shop("charge")
    bench = Bench(app)
    unfinished_first(bench, 6)
    between = on_another_host(bench, app)
    between.consumer.pause([P0])
    between.commit()
    before = len(calls)

    bench = on_another_host(between, app)
    bench.settle()

    assert calls[before:] == ["charge 0 1"]


def test_each_handler_is_told_its_own_and_a_new_one_has_done_nothing() -> None:
    one, _ = shop("charge")
    two, calls = shop("charge", "mail")
    bench = Bench(one)
    unfinished_first(bench, 3)

    bench = on_another_host(bench, two)
    bench.settle()

    assert sorted(calls) == ["charge 0 1", "mail 0 1", "mail 1 1", "mail 2 1"]


def test_a_handler_that_is_away_for_a_while_does_not_begin_anew() -> None:
    both, calls = shop("charge", "mail")
    one, _ = shop("charge")
    bench = Bench(both)
    unfinished_first(bench, 3)
    bench = on_another_host(bench, one)
    bench.turn()
    bench.commit()
    before = len(calls)

    bench = on_another_host(bench, both)
    bench.settle()

    assert sorted(calls[before:]) == ["charge 0 1", "mail 0 1"]


def test_a_renamed_handler_is_known_by_its_former_name_and_back() -> None:
    old, first = shop("charge")
    new, second = shop("bill", aliases=("charge",))
    bench = Bench(old)
    unfinished_first(bench, 3)
    bench = on_another_host(bench, new)
    unfinished_first(bench, 2)
    before = len(first)

    bench = on_another_host(bench, old)
    bench.settle()

    assert sorted(second) == ["bill 3 1", "bill 4 1"]
    assert first[before:] == ["charge 0 1"]


def test_an_offset_that_one_of_two_handlers_has_done_is_told_by_half() -> None:
    app, calls = shop("charge", "mail")
    bench = Bench(app)
    bench.broker.write(P0)
    bench.turn()
    bench.executor.begin()()
    bench.turn()
    bench.commit()

    bench = on_another_host(bench, app)
    bench.settle()

    assert calls == ["charge 0 1", "mail 0 1"]


def test_a_copy_that_was_handled_above_the_commit_is_not_handled_again() -> None:
    app, calls = shop("charge", retry=Retry(attempts=1, delays=["5s"]))
    bench = Bench(app, assign=(P0, RETRY))
    for _ in range(3):
        bench.broker.write(
            RETRY,
            headers=(
                ("kworker-handler", b"charge"),
                ("kworker-hop", b"1"),
                ("kworker-attempt", b"1"),
                ("kworker-message-id", b"id-%d" % bench.broker.ends[RETRY]),
            ),
        )
    bench.turn()
    (run,) = [run for run in bench.executor.waiting if run.works[0].record.offset == 0]
    bench.executor.waiting.remove(run)
    bench.perform()
    bench.commit()
    before = len(calls)

    bench = on_another_host(bench, app, assign=(P0, RETRY))
    bench.settle()

    assert before == 2
    assert calls[before:] == ["charge 0 2"]


def test_a_note_that_was_copied_to_another_offset_is_ignored_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, calls = shop("charge")
    bench = Bench(app)
    unfinished_first(bench, 3)
    bench.loop.handover.leaving = True
    bench.commit()
    bench.broker.committed[P0] = replace(bench.broker.committed[P0], offset=1)
    before = len(calls)
    bench.die()

    with caplog.at_level(logging.WARNING):
        bench = Bench(app, bench.broker, clock=bench.clock)
        bench.settle()

    assert sorted(calls[before:]) == ["charge 1 1", "charge 2 1"]
    assert "belongs to another offset, topic or cluster" in caplog.text


def test_a_note_of_a_log_that_was_cut_says_nothing_about_the_new_one() -> None:
    app, calls = shop("charge")
    bench = Bench(app)
    for _ in range(4):
        bench.broker.write(P0)
    bench.settle()
    unfinished = bench.broker.committed[P0].offset
    bench.broker.logs[P0] = bench.broker.logs[P0][:2]
    bench.broker.ends[P0] = 2
    before = len(calls)

    bench = on_another_host(bench, app)
    bench.settle()

    assert unfinished == 4
    assert sorted(calls[before:]) == ["charge 0 1", "charge 1 1"]


def test_the_calls_of_a_message_in_doubt_are_counted_on_by_another_host() -> None:
    app, calls = shop("charge", retry=Retry(attempts=3, wait=lambda state: 60.0))
    bench = Bench(app)
    bench.broker.write(P0, b'{"bad": 1}')
    bench.perform()
    bench.commit()

    bench = on_another_host(bench, app)
    bench.perform()
    early = list(calls)
    bench.clock.now += 61
    bench.perform()

    assert early == ["charge 0 1"], "what is left of its pause goes along"
    assert calls == ["charge 0 1", "charge 0 2"]


def test_what_was_decided_about_a_message_is_carried_out_by_another_host() -> None:
    app, calls = shop("charge", retry=Retry(attempts=1))
    bench = Bench(app)
    bench.broker.write(P0, b'{"bad": 1}')
    bench.perform()
    bench.answer(AWAY)
    bench.turn()
    bench.commit()

    bench = on_another_host(bench, app)
    bench.turn()

    assert calls == ["charge 0 1"]
    assert [(one.topic, dict(one.headers)["kworker-disposition"]) for one in bench.sent] == [
        ("shop.dlq", b"retries_exhausted")
    ]


def test_a_doubt_that_is_settled_travels_no_further() -> None:
    app, calls = shop("charge", retry=Retry(attempts=3, wait=lambda state: 0.5))
    bench = Bench(app)
    unfinished_first(bench, 1)
    bench.broker.write(P0, b'{"bad": 1}')
    bench.perform()
    bench.commit()
    in_doubt = bench.broker.committed[P0].metadata

    for _ in range(3):
        bench.clock.now += 0.6
        bench.perform()
    bench.answer()
    bench.turn()
    bench.commit()

    assert calls == [f"charge 1 {n}" for n in (1, 2, 3)]
    assert len(bench.broker.committed[P0].metadata) < len(in_doubt)
    assert bench.loop.ledgers[P0].doubts == {}


def finish_half(bench: Bench, rounds: int) -> list[Work]:
    """Messages come by the five hundred, and about half of them stay with their handlers."""
    left: set[Work] = set()
    choice = random.Random(1)
    for _ in range(rounds):
        for _ in range(500):
            bench.broker.write(P0)
        bench.turn()
        for run in bench.executor.waiting:
            left.update(work for work in run.works if choice.random() < 0.5)
            run.works[:] = [work for work in run.works if work not in left]
        bench.executor.waiting = deque(run for run in bench.executor.waiting if run.works)
        bench.perform()
        bench.commit()
    return list(left)


@pytest.mark.parametrize("takes", [4095, 300, 30])
def test_intake_stops_before_what_is_finished_out_of_order_does_not_fit_a_commit(
    takes: int, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = shop("charge")
    bench = Bench(app, max_in_flight=10_000)
    bench.consumer.takes = takes

    finish_half(bench, 60)
    stands = bench.loop.ledgers[P0].next
    finish_half(bench, 2)

    assert P0 in bench.loop.paused
    assert bench.loop.ledgers[P0].next == stands < 30_000
    assert len(bench.broker.committed[P0].metadata) <= takes
    assert ("no room" in caplog.text) == (takes < 4095)  # of the batch that taught it


def test_a_partition_that_was_full_for_its_note_goes_on_when_there_is_room() -> None:
    app, _ = shop("charge")
    bench = Bench(app, max_in_flight=10_000)
    bench.consumer.takes = 300
    left = finish_half(bench, 6)
    waiting = P0 in bench.loop.paused

    run = Run(left, [], left[0].scope)
    bench.inbox.put(Performed([(work, DONE) for work in left], run, False))
    for _ in range(3):
        bench.settle()

    assert waiting
    assert bench.committed() == 3000
    assert P0 not in bench.loop.paused
