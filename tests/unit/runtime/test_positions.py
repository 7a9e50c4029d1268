"""Where reading begins and goes on; what is committed when nothing is open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kworker import App, Retry
from kworker.errors import CannotGoOn
from kworker.kafka.api import Committed, Trouble
from kworker.message import Partition, Record

from .bench import P0, P1, Bench, Broker

REPLAY = Partition("shop.replay", 0)
LOST = Trouble("lost_position", "offset out of range", P0)


def counting() -> tuple[App, list[int]]:
    app, calls = App("shop"), []

    @app.handler("orders", name="charge", retry=Retry(attempts=1))
    def charge(order: dict) -> None:
        calls.append(order["n"])

    return app, calls


def written(broker: Broker, partition: Partition, *numbers: int) -> None:
    for number in numbers:
        broker.write(partition, b'{"n": %d}' % number)


def test_a_start_is_committed_before_the_first_message_is_taken() -> None:
    app, calls = counting()
    broker = Broker()
    written(broker, P0, 0, 1)

    bench = Bench(app, broker)

    assert (bench.committed(), calls) == (0, [])


def test_a_partition_whose_start_kafka_does_not_tell_waits_and_its_neighbours_flow() -> None:
    app, calls = counting()
    bench = Bench(app, assign=())
    written(bench.broker, P0, 0)
    written(bench.broker, P1, 1)
    bench.consumer.assign(P1)
    bench.consumer.silent = True
    bench.consumer.assign(P0)
    bench.settle()
    assert calls == [1]

    bench.consumer.silent = False
    bench.clock.now += 1.1
    bench.turn()
    bench.settle()

    assert calls == [1, 0]
    assert bench.committed(P0) == 1


def test_a_start_that_could_not_be_committed_is_not_taken_yet() -> None:
    app, calls = counting()
    bench = Bench(app, assign=())
    written(bench.broker, P0, 0)
    bench.consumer.refuse = "rebalance in progress"
    bench.consumer.assign(P0)
    bench.settle()
    assert calls == []

    bench.consumer.refuse = ""
    bench.clock.now += 1.1
    bench.turn()
    bench.settle()

    assert (calls, bench.committed()) == ([0], 1)


def test_an_untaken_partition_that_goes_again_is_not_asked_for_any_more() -> None:
    app, _ = counting()
    bench = Bench(app, assign=())
    bench.consumer.silent = True
    bench.consumer.assign(P0)

    bench.consumer.revoke(P0)
    bench.consumer.silent = False
    bench.clock.now += 1.1
    bench.turn(2)

    assert (bench.loop.ledgers, bench.consumer.places) == ({}, {})


def test_markers_at_the_end_are_committed_past_when_nothing_is_open() -> None:
    app, _ = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0)
    bench.broker.mark(P0)
    bench.turn()
    bench.commit()
    waiting = bench.committed()

    bench.settle()

    assert (waiting, bench.committed()) == (0, 2)


def test_the_commit_carries_the_leader_epoch_of_what_was_read() -> None:
    app, _ = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0)

    bench.settle()

    point = bench.broker.committed[P0]
    assert (point.offset, point.leader_epoch) == (1, 7)


def test_a_refused_commit_is_made_again() -> None:
    app, _ = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0)
    bench.consumer.refuse = "rebalance in progress"
    bench.settle()
    assert bench.committed() == 0

    bench.consumer.refuse = ""
    bench.commit()

    assert bench.committed() == 1


def test_a_group_that_retention_overran_is_told_how_many_are_missing_and_goes_on() -> None:
    app, calls = counting()
    broker = Broker()
    written(broker, P0, *range(10))
    broker.committed[P0] = Committed(2)
    broker.cut(P0, 7)

    bench = Bench(app, broker)
    bench.settle()

    assert bench.facts.lost == [(2, 7, 5)]
    assert (calls, bench.committed()) == ([7, 8, 9], 10)


def test_a_position_lost_while_reading_is_told_and_reading_goes_on_where_the_log_begins() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0)
    bench.settle()
    bench.consumer.places[P0] = 9  # it is silent now
    written(bench.broker, P0, *range(1, 9))
    bench.broker.cut(P0, 6)

    bench.consumer.script.append(lambda: [LOST])
    bench.turn()
    bench.settle()

    assert bench.facts.lost == [(1, 6, 5)]
    assert (calls, bench.committed()) == ([0, 6, 7, 8], 9)


def test_a_position_lost_while_reading_ends_the_worker_under_stop() -> None:
    app, _ = counting()
    bench = Bench(app, on_lost_position="stop")
    written(bench.broker, P0, *range(8))
    bench.settle()
    written(bench.broker, P0, 8, 9)
    bench.broker.cut(P0, 10)
    bench.consumer.script.append(lambda: [LOST])

    with pytest.raises(CannotGoOn, match="offset 8 no longer exists, 2 messages are gone"):
        bench.turn(2)

    bench.loop.abandon(within=1.0)
    assert bench.committed() == 8


def test_a_topic_made_anew_while_the_worker_runs_is_not_taken_for_what_was_done() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0, 1, 2)
    bench.settle()

    bench.consumer.revoke(P0)
    bench.broker.remake("orders")
    bench.consumer.assign(P0)
    written(bench.broker, P0, 10, 11)
    bench.settle()

    assert calls == [0, 1, 2, 10, 11]
    assert bench.committed() == 2


def test_a_topic_made_anew_behind_the_clients_back_is_read_from_its_beginning() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0, 1, 2, 3)
    bench.settle()
    bench.broker.remake("orders")
    written(bench.broker, P0, 10, 11)

    bench.consumer.script.append(lambda: [LOST])
    bench.turn()
    bench.commit()
    assert bench.committed() == 0  # else a crash now could skip what is new
    bench.settle()

    assert bench.facts.lost == [(4, 0, None)]
    assert calls == [0, 1, 2, 3, 10, 11]
    assert bench.committed() == 2


def test_a_commit_that_is_answered_after_the_log_was_made_anew_holds_up_no_later_one() -> None:
    app, _ = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0, 1, 2, 3)
    bench.perform()
    bench.clock.now += 1.1
    bench.turn()  # commits 4; the answer is on its way
    bench.broker.remake("orders")
    written(bench.broker, P0, 10, 11)

    late, bench.consumer.answers = bench.consumer.answers, []
    bench.consumer.script.append(lambda: [LOST])
    bench.turn()
    bench.consumer.answers = late
    bench.settle()

    assert bench.committed() == 2


def test_copies_that_come_together_with_a_lost_position_leave_nothing_flying() -> None:
    app, calls = counting()
    bench = Bench(app, assign=(REPLAY,))
    due = b"%d" % int((bench.clock.wall() + 60) * 1000)

    def copy(id: bytes) -> Record:
        headers = (
            ("kworker-message-id", id), ("kworker-handler", b"charge"), ("kworker-hop", b"1"),
            ("kworker-not-before", due), ("kworker-original-topic", b"orders"),
        )  # fmt: skip
        return bench.broker.write(REPLAY, b'{"n": %s}' % id, headers=headers)

    copy(b"1")
    bench.turn()
    last = copy(b"2")

    def truncated() -> list[Record | Trouble]:
        bench.broker.remake("shop.replay")
        copy(b"2")
        return [last, Trouble("lost_position", "truncated", REPLAY)]

    bench.consumer.script.append(truncated)
    bench.turn(2)
    bench.clock.now += 61
    bench.turn()
    bench.settle()

    assert calls == [2]
    assert all(not scope.flying for scope in bench.loop.intake._scopes.values())
    assert (bench.open, bench.committed(REPLAY)) == (0, 1)


def test_what_stands_in_a_log_that_was_cut_is_not_taken_for_what_stood_there_before() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, *range(10))
    bench.settle()
    bench.broker.truncate(P0, 4)
    written(bench.broker, P0, 14, 15)

    bench.consumer.script.append(lambda: [LOST])
    bench.turn()
    bench.settle()

    assert bench.facts.lost == [(10, 0, None)]
    assert calls == [*range(10), *range(4), 14, 15]  # nobody knows where it was cut
    assert bench.committed() == 6


def test_a_log_that_was_cut_at_a_known_offset_is_read_from_there() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, *range(10))
    bench.settle()
    bench.broker.truncate(P0, 4)
    written(bench.broker, P0, *range(14, 24))

    bench.consumer.script.append(lambda: [replace(LOST, cut=4)])
    bench.turn()
    bench.settle()

    assert bench.facts.lost == [(10, 4, None)]
    assert calls == [*range(10), *range(14, 24)]
    assert bench.committed() == 14


def test_a_log_that_was_cut_while_nobody_read_is_handled_where_it_was_written_anew() -> None:
    app, calls = counting()
    first = Bench(app)
    written(first.broker, P0, *range(10))
    first.settle()
    first.broker.truncate(P0, 4)
    written(first.broker, P0, 14, 15)

    bench = first.again()
    bench.settle()

    assert bench.facts.lost == [(10, 0, None)]
    assert calls == [*range(10), *range(4), 14, 15]
    assert bench.committed() == 6


def test_a_log_that_is_shorter_than_what_was_done_in_it_was_cut_wherever_the_commit_is() -> None:
    app, calls = counting()
    first = Bench(app)
    written(first.broker, P0, *range(10))
    first.perform()
    first.broker.truncate(P0, 4)
    written(first.broker, P0, 14, 15)

    bench = first.again()
    bench.settle()

    assert first.broker.committed[P0].offset == bench.committed() == 6
    assert calls == [*range(10), *range(4), 14, 15]


def test_nothing_is_committed_of_a_log_that_is_gone_while_kafka_does_not_tell_of_the_new() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, *range(4))
    bench.perform()
    bench.broker.remake("orders")
    written(bench.broker, P0, *range(10, 18))
    bench.consumer.away = True

    bench.consumer.script.append(lambda: [LOST])
    bench.turn()
    bench.commit()
    bench.consumer.revoke(P0)

    assert bench.committed() == -1
    bench.consumer.away = False
    bench.consumer.assign(P0)
    bench.settle()
    assert calls == [*range(4), *range(10, 18)]


def test_a_topic_made_anew_is_known_to_be_so_until_its_start_is_found() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, *range(4))
    bench.settle()
    bench.consumer.revoke(P0)
    kept = bench.broker.committed[P0]
    bench.broker.remake("orders")
    written(bench.broker, P0, *range(10, 18))
    bench.broker.committed[P0] = kept  # not every broker forgets it with the topic

    bench.consumer.away = True
    bench.consumer.assign(P0)
    bench.consumer.away = False
    bench.clock.now += 1.1
    bench.turn()
    bench.settle()

    assert calls == [*range(4), *range(10, 18)]


def test_many_lost_positions_together_hold_up_the_loop_no_longer_than_one() -> None:
    app, _ = counting()
    bench = Bench(app, assign=(P0, P1))
    written(bench.broker, P0, 0)
    written(bench.broker, P1, 1)
    bench.turn()
    bench.executor.begin()  # two handlers that do not end
    bench.executor.begin()
    for partition in (P0, P1):
        bench.broker.truncate(partition, 0)
    bench.consumer.script.append(lambda: [LOST, replace(LOST, partition=P1)])
    bench.clock.look = 0.1
    begun = bench.clock.now

    bench.turn()

    assert [found for _, found, _ in bench.facts.lost] == [0, 0]
    assert 25 <= bench.clock.now - begun < 40  # one revoke_timeout, not two


def test_partitions_whose_starts_are_not_told_are_asked_for_together_and_once_at_a_time() -> None:
    app, _ = counting()
    bench = Bench(app, assign=())
    bench.consumer.silent = True
    for index in range(5):
        bench.consumer.assign(Partition("orders", index))
    asked: list[set[Partition]] = []
    bench.consumer.committed = lambda partitions, timeout: asked.append(set(partitions)) or {}  # type: ignore[method-assign,func-returns-value]

    bench.clock.now += 1.1
    bench.turn(3)

    assert asked == [{Partition("orders", index) for index in range(5)}]


def test_records_of_a_topic_that_has_just_left_are_neither_handled_nor_committed() -> None:
    app, calls = counting()
    former = Partition("former", 0)
    bench = Bench(app, assign=(former,))
    bench.broker.write(former, b'{"n": 1}')

    bench.settle()

    assert (calls, bench.log, bench.facts.dead) == ([], [], [])
    assert (bench.open, bench.committed(former)) == (1, 0)


def test_an_answer_that_comes_with_records_commits_none_of_them() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0)
    bench.perform()
    bench.loop.delivery.commit()
    bench.loop.delivery.commit()  # as the beat does while the first is unanswered
    written(bench.broker, P0, 1)

    bench.turn()
    before = bench.committed()
    bench.settle()

    assert before == 1
    assert (calls, bench.committed()) == ([0, 1], 2)
