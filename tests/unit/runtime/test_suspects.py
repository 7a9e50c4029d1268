"""What may have ended a process runs alone in the next one, and is known by that."""

from __future__ import annotations

import pytest

from kworker import App, Message

from .bench import P0, P1, Bench


class Killed(BaseException):
    """The process has ended."""


def shop(concurrency: int = 4) -> tuple[App, list[int]]:
    app, calls = App("shop", concurrency=concurrency), []

    @app.handler("orders", name="charge", order="none")
    def charge(order: dict, message: Message) -> None:
        calls.append(message.offset)

    return app, calls


def lives(bench: Bench, culprit: int, app: App, *, letters_end: bool = False) -> Bench:
    """The worker until it has the culprit in its hands, when the process ends; the next one, on
    another host."""
    for _ in range(1000):
        bench.turn()
        if letters_end and letters(bench):
            return bench
        while bench.executor.waiting:
            run = bench.executor.waiting[0]
            if any(work.record.offset == culprit for work in run.works):
                bench.die()
                return Bench(app, bench.broker, clock=bench.clock, assign=(P0, P1))
            bench.executor.begin()()
        bench.clock.now += 0.05
    raise AssertionError("it lives")


def letters(bench: Bench) -> list[tuple[bytes | None, bytes | None]]:
    found = [dict(one.headers) for one in bench.log if one.topic == "shop.dlq"]
    return [(one["kworker-disposition"], one["kworker-original-offset"]) for one in found]


def test_what_ends_three_processes_alone_is_a_dead_letter_and_its_neighbours_are_handled() -> None:
    app, calls = shop()
    bench = Bench(app, assign=(P0, P1))
    for _ in range(12):
        bench.broker.write(P0)
    for _ in range(4):
        bench = lives(bench, 2, app)

    bench.settle()

    assert letters(bench) == [(b"process_killer", b"2")]
    assert set(calls) == set(range(12)) - {2}
    assert (bench.committed(), bench.open) == (12, 0)


def test_two_deaths_are_not_enough() -> None:
    app, calls = shop()
    bench = Bench(app, assign=(P0, P1))
    for _ in range(3):
        bench.broker.write(P0)
    for _ in range(3):
        bench = lives(bench, 0, app)

    bench.settle()

    assert letters(bench) == []
    assert set(calls) == {0, 1, 2}


def test_a_suspect_is_alone_in_the_process_and_kafka_knows_of_it_before_it_begins() -> None:
    app, _ = shop()
    bench = Bench(app, assign=(P0, P1))
    for _ in range(4):
        bench.broker.write(P0)
    bench.turn()
    bench.die()
    bench = Bench(app, bench.broker, clock=bench.clock, assign=(P0, P1))
    for _ in range(4):
        bench.broker.write(P1)
    bench.consumer.refuse = "away"

    for _ in range(5):
        bench.turn()
    unheard = len(bench.executor.waiting)
    bench.consumer.refuse = ""
    bench.clock.now += 1.1
    for _ in range(5):
        bench.turn()

    assert unheard == 0
    (run,) = bench.executor.waiting
    assert len(run.works) == len(bench.loop.runs) == 1


def test_who_takes_it_from_an_owner_that_has_let_go_suspects_nothing() -> None:
    app, calls = shop()
    bench = Bench(app, assign=(P0,))
    bench.broker.write(P0)
    bench.perform()
    bench.consumer.revoke(P0)
    bench.die()
    bench.broker.write(P0)

    bench = Bench(app, bench.broker, clock=bench.clock)
    active = bench.loop.suspects.active
    bench.settle()

    assert not active
    assert calls == [0, 1]


def test_a_partition_that_was_lost_and_comes_back_to_the_same_process_is_not_suspect() -> None:
    app, _ = shop()
    bench = Bench(app)
    bench.broker.write(P0)
    bench.turn()
    bench.commit()

    bench.consumer.lose(P0)
    bench.consumer.assign(P0)

    assert not bench.loop.suspects.active


@pytest.mark.parametrize("forced", [True, False], ids=["forced to end", "dead"])
def test_our_own_forced_exit_is_no_death(forced: bool) -> None:
    app, _ = shop()
    bench = Bench(app)
    bench.broker.write(P0)
    for _ in range(4):
        bench.turn(4)
        if forced:
            bench.loop.handover.leaving = True
        bench.commit()
        bench = bench.again()

    bench.settle()

    assert bool(letters(bench)) != forced


def test_more_are_suspect_where_the_culprit_was_not_among_the_first() -> None:
    app, _ = shop(concurrency=1)
    bench = Bench(app, assign=(P0, P1))
    for _ in range(300):
        bench.broker.write(P0)
    deaths = 0
    while (found := lives(bench, 250, app, letters_end=True)) is not bench:
        bench, deaths = found, deaths + 1

    assert letters(bench) == [(b"process_killer", b"250")]
    assert deaths < 9
