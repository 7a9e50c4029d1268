"""Committed before it begins, and not given up before it has ended: step by step."""

from __future__ import annotations

from typing import Any

from kworker import App, Reject, Retry
from kworker.runtime.delivery.api import Hands
from kworker.runtime.delivery.at_most_once import AtMostOnce

from .bench import P0, P1, Bench, Broker, Inline


class Most(Bench):
    """A bench in `at_most_once`, two handlers at once."""

    def __init__(self, app: App, *given: Any, **more: Any) -> None:
        def mode(hands: Hands, parts: dict[str, Any]) -> AtMostOnce:
            return AtMostOnce(concurrency=2, hands=hands, **parts)

        super().__init__(app, *given, mode=mode, **more)

    @property
    def lost(self) -> int:
        return self.loop.delivery.lost

    def settle(self) -> None:
        """Perform until nothing is left to begin or to answer, then commit."""
        for _ in range(20):
            self.clock.now += 0.6
            self.perform()
            self.answer()
        self.commit()

    def begin(self) -> None:
        """Turn until handlers may begin."""
        self.turn(3)


def noting(calls: list[bytes], **options: Any) -> App:
    app = App("shop", retry=Retry(attempts=1))

    @app.handler("orders", order="none", **options)
    def note(value: bytes) -> None:
        calls.append(value)
        if value == b"bad":
            raise Reject("bad")

    return app


def write(broker: Broker, count: int, partition: Any = P0) -> None:
    for number in range(count):
        broker.write(partition, b"%d" % number)


def test_no_handler_begins_before_the_commit_past_its_message_is_acknowledged() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls))
    write(bench.broker, 1)
    answers: list[Any] = []
    kept, bench.consumer.commit = (
        bench.consumer.commit,
        lambda points, answered: answers.append((points, answered)),
    )

    bench.perform()
    before = list(calls)
    [_, (points, _)] = answers  # the first says that the partition is ours
    for asked, answered in answers:
        kept(asked, answered)
    bench.consumer.commit = kept
    bench.perform()

    assert before == []
    assert points[P0].offset == 1
    assert calls == [b"0"]


def test_no_more_is_committed_ahead_than_may_run_at_once() -> None:
    bench = Most(noting([]), assign=(P0, P1))
    write(bench.broker, 5)
    write(bench.broker, 5, P1)

    bench.begin()

    assert bench.committed(P0) + bench.committed(P1) == 2
    assert isinstance(bench.executor, Inline)
    assert sum(len(run.works) for run in bench.executor.waiting) == 2


def test_what_was_begun_when_the_process_died_is_told_by_the_next_and_not_handled_again() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls))
    write(bench.broker, 3)
    bench.begin()

    after = bench_again(bench)
    after.settle()
    third = bench_again(after)
    third.settle()

    assert calls == [b"2"]
    assert (after.lost, third.lost) == (2, 0)
    assert after.committed() == 3


def test_what_has_ended_is_not_told_as_lost() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls))
    write(bench.broker, 5)
    bench.settle()

    after = bench_again(bench)
    after.settle()

    assert calls == [b"0", b"1", b"2", b"3", b"4"]
    assert after.lost == 0


def test_a_partition_that_moves_away_waits_for_what_was_begun_and_for_no_more() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls), assign=(P0, P1))
    write(bench.broker, 5)
    bench.begin()
    assert isinstance(bench.executor, Inline)
    while_waiting = bench.executor.perform
    bench.clock.meanwhile[3] = while_waiting

    bench.consumer.revoke(P0)

    assert calls == [b"0", b"1"]
    assert bench.committed() == 2
    assert bench.broker.committed[P0].metadata == ""
    assert bench.lost == 0


def test_what_runs_longer_than_its_partition_is_ours_is_finished_all_the_same() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls), assign=(P0, P1))
    bench.broker.write(P0, b"bad")
    bench.begin()
    bench.clock.look = 5.0

    bench.consumer.revoke(P0)
    bench.clock.look = 0.0001
    bench.settle()

    assert calls == [b"bad"]
    assert bench.facts.dead == [("rejected", 0)]
    assert bench.lost == 0


def test_what_was_asked_for_and_not_granted_is_given_back_with_the_partition() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls), assign=(P0, P1))
    write(bench.broker, 5)
    kept, bench.consumer.commit = bench.consumer.commit, lambda points, answered: None
    bench.begin()
    bench.broker.committed[P0] = bench.broker.committed[P0].__class__(2)  # stored, not answered
    bench.consumer.commit = kept

    bench.consumer.revoke(P0)

    assert bench.committed() == 0
    assert (calls, bench.lost) == ([], 0)


def test_what_was_asked_for_when_the_partition_was_lost_counts_as_lost() -> None:
    bench = Most(noting([]), assign=(P0, P1))
    write(bench.broker, 5)
    bench.consumer.commit = lambda points, answered: None
    bench.begin()

    bench.consumer.lose(P0)
    bench.turn()

    assert bench.lost == 2


def test_a_commit_that_was_refused_is_asked_for_again() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls))
    write(bench.broker, 1)
    bench.consumer.refuse = "REBALANCE_IN_PROGRESS"
    bench.begin()
    before = list(calls)
    bench.consumer.refuse = ""

    bench.settle()

    assert before == []
    assert calls == [b"0"]


def test_a_stop_finishes_what_was_begun_and_leaves_the_rest_for_the_next() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls))
    write(bench.broker, 5)
    bench.begin()
    assert isinstance(bench.executor, Inline)
    bench.clock.meanwhile[3] = bench.executor.perform
    bench.loop.stop(10.0)

    finished = bench.loop.run()

    assert finished
    assert calls == [b"0", b"1"]
    assert (bench.committed(), bench.lost) == (2, 0)


def test_a_stop_that_cannot_wait_tells_what_is_lost_and_the_next_does_not_tell_it_again() -> None:
    calls: list[bytes] = []
    bench = Most(noting(calls))
    write(bench.broker, 5)
    bench.begin()
    bench.loop.stop(0.0)

    finished = bench.loop.run()
    after = bench_again(bench)
    after.settle()

    assert not finished
    assert (bench.lost, after.lost) == (2, 0)
    assert calls == [b"2", b"3", b"4"]


def test_a_failing_handler_is_called_again_in_the_process() -> None:
    calls: list[bytes] = []
    app = App("shop", retry=Retry(attempts=3))

    @app.handler("orders")
    def fail(value: bytes) -> None:
        calls.append(value)
        if len(calls) < 3:
            raise ValueError("not yet")

    bench = Most(app)
    write(bench.broker, 1)

    bench.settle()

    assert len(calls) == 3
    assert bench.facts.dead == []


def bench_again(bench: Most) -> Most:
    """The next process after this one's death."""
    broker, folder = bench.die()
    return Most(bench.app, broker, folder, clock=bench.clock)
