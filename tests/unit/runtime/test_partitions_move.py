"""Partitions come and go: what is finished first, what is dropped, what is never recorded."""

from __future__ import annotations

import pytest

from kworker import App, Context, Retry
from kworker.errors import StoreError
from kworker.message import Partition
from kworker.stores.api import Log, Store, Turn

from .bench import P0, P1, Bench, Broker

NAME = "charge"
LOG0 = Log("id-of-orders", 0)


def counting(retry: Retry | None = None, order: str = "key") -> tuple[App, list[int]]:
    app, calls = App("shop"), []

    @app.handler("orders", name=NAME, retry=retry or Retry(attempts=1), order=order)  # type: ignore[arg-type]
    def charge(order: dict) -> None:
        calls.append(order["n"])
        if order.get("bad"):
            raise ValueError("bad")

    return app, calls


def written(broker: Broker, partition: Partition, *numbers: int, key: bytes | None = None) -> None:
    for number in numbers:
        broker.write(partition, b'{"n": %d}' % number, key)


def done(bench: Bench, log: Log = LOG0) -> str:
    return bench.store.done(NAME, log).encode()


def test_what_has_not_started_is_dropped_and_what_runs_is_recorded_and_committed() -> None:
    app, calls = counting(order="partition")
    bench = Bench(app)
    written(bench.broker, P0, 0, 1, 2)
    bench.turn()
    end = bench.executor.begin()

    bench.clock.meanwhile[3] = end
    bench.consumer.revoke(P0)

    assert calls == [0]
    assert (done(bench), bench.committed()) == ("0", 1)
    assert bench.loop.ledgers == {}


def test_a_revocation_waits_for_a_run_that_holds_works_of_several_partitions() -> None:
    app, calls = counting()
    bench = Bench(app, assign=(P0, P1))
    for number in range(30):  # so quick that several are handed over at once
        written(bench.broker, P0, number)
        bench.perform()
    written(bench.broker, P0, 30)
    written(bench.broker, P1, 31)
    bench.turn()
    (run,) = bench.executor.waiting
    assert [work.record.partition for work in run.works] == [0, 1]

    bench.clock.meanwhile[3] = bench.executor.begin(2)
    bench.consumer.revoke(P1)

    assert calls[-2:] == [30, 31]
    assert done(bench, Log("id-of-orders", 1)) == "0"
    assert bench.committed(P1) == 1


def test_a_handler_longer_than_the_budget_learns_it_and_its_result_is_not_recorded() -> None:
    app = App("shop")
    mine: list[bool] = []
    contexts: list[Context] = []

    @app.handler("orders", name=NAME)
    def charge(order: dict, context: Context) -> None:
        mine.append(context.still_mine)
        contexts.append(context)

    bench = Bench(app)
    written(bench.broker, P0, 0)
    bench.turn()
    end = bench.executor.begin()
    bench.clock.look = 1.0

    begun = bench.clock.now
    bench.consumer.revoke(P0)
    mine.append(contexts[0].still_mine)
    waited = bench.clock.now - begun
    end()
    bench.turn(3)

    assert mine == [True, False]
    assert 25 <= waited < 40
    assert (done(bench), bench.committed()) == ("", 0)
    assert bench.facts.settled == []


def test_lost_records_and_commits_nothing() -> None:
    app, calls = counting(order="none")
    bench = Bench(app)
    written(bench.broker, P0, 0, 1)
    bench.turn()
    bench.executor.begin()()  # ended, and the loop has not heard of it yet
    end = bench.executor.begin()

    bench.consumer.script.append(lambda: bench.consumer.lose(P0))
    bench.turn()
    end()
    bench.commit()

    assert calls == [0, 1]
    assert (done(bench), bench.committed()) == ("", 0)
    assert bench.loop.runs == set()
    assert not bench.loop.busy


def test_a_copy_of_a_lost_partition_is_neither_recorded_nor_sent_again() -> None:
    app, _ = counting()
    bench = Bench(app)
    bench.broker.write(P0, b'{"n": 0, "bad": true}')
    bench.perform()
    assert len(bench.sent) == 1

    bench.consumer.lose(P0)
    bench.answer()
    bench.commit()
    bench.clock.now += 60
    bench.turn(2)

    assert (done(bench), bench.committed(), bench.open) == ("", 0, 0)
    assert bench.sent == [] and bench.loop.delivery.pending == 0


def test_a_partition_that_comes_back_waits_for_the_old_handler_and_records_the_new_one() -> None:
    app, calls = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0, key=b"k")
    bench.turn()
    end = bench.executor.begin()
    bench.clock.look = 1.0
    bench.consumer.revoke(P0)
    bench.clock.look = 0.0001

    bench.consumer.assign(P0)
    bench.turn(2)
    beside = len(bench.executor.waiting)
    end()
    bench.settle()

    assert beside == 0  # one at a time in its lane, still
    assert calls == [0, 0]
    assert bench.facts.settled == [("Done", 0)]
    assert (done(bench), bench.committed()) == ("0", 1)


def test_nothing_is_left_of_a_partition_that_went() -> None:
    app, _ = counting(Retry(attempts=3, wait=lambda state: 5.0))
    bench = Bench(app, assign=(P0, P1))
    for number in range(20):
        bench.broker.write(
            P0, b'{"n": 0, "bad": true}', headers=(("kworker-message-id", b"%d" % number),)
        )
    bench.perform()

    bench.consumer.revoke(P0)
    bench.clock.now += 10
    bench.turn(2)

    assert bench.loop.lanes.waiting == 0
    assert not any(bench.loop.lanes._tables.values())
    assert len(bench.loop.timers) == 0
    assert bench.loop.runs == set()
    assert bench.loop.delivery.pending == 0
    assert all(not scope.flying for scope in bench.loop.intake._scopes.values())
    assert bench.loop.paused <= {P1}


class Deferred:
    """A store whose turn is another process's, as long as the test says so."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.others = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def record(self, turn: Turn, *, patience: float = 0.0) -> bool:
        return not self.others and self._store.record(turn, patience=patience)


def test_what_could_not_be_recorded_closes_nothing_until_it_is() -> None:
    app, _ = counting()
    kept: list[Deferred] = []

    def deferred(store: Store) -> Store:
        kept.append(Deferred(store))
        return kept[0]  # type: ignore[return-value]

    bench = Bench(app, store=deferred)
    written(bench.broker, P0, 0)
    bench.broker.write(P0, b'{"n": 1, "bad": true}')

    bench.perform()
    bench.commit()
    waiting = (bench.open, bench.committed(), [*bench.sent, *bench.facts.settled])
    kept[0].others = False
    bench.settle()

    assert waiting == (2, 0, [])
    assert (bench.open, bench.committed()) == (0, 2)


def test_an_error_while_a_partition_goes_leaves_nothing_that_would_be_committed() -> None:
    app, _ = counting()
    bench = Bench(app)
    written(bench.broker, P0, 0)
    bench.turn()
    bench.executor.perform()
    bench.store.close()

    with pytest.raises(StoreError):
        bench.consumer.revoke(P0)

    assert bench.loop.ledgers == {}


# --- twins: two works of one id -------------------------------------------------------------

ID = (("kworker-message-id", b"order-1"),)


def test_of_two_with_one_id_the_second_waits_and_is_skipped_once_the_first_is_recorded() -> None:
    app, calls = counting()
    bench = Bench(app, assign=(P0, P1))
    bench.broker.write(P0, b'{"n": 0}', headers=ID)
    bench.broker.write(P1, b'{"n": 1}', headers=ID)
    written(bench.broker, P1, 2)

    bench.turn()
    flying = len(bench.executor.waiting)
    bench.settle()

    assert flying == 2  # the twin holds up nobody
    assert sorted(calls) == [0, 2]
    assert bench.facts.skipped == [0]
    assert (bench.committed(P0), bench.committed(P1)) == (1, 2)


@pytest.mark.parametrize("lost", [False, True])
def test_a_twin_runs_when_the_first_has_gone_with_its_partition(lost: bool) -> None:
    app, calls = counting()
    bench = Bench(app, assign=(P0, P1))
    bench.broker.write(P0, b'{"n": 0}', headers=ID)
    bench.broker.write(P1, b'{"n": 1}', headers=ID)
    bench.turn()

    (bench.consumer.lose if lost else bench.consumer.revoke)(P0)
    bench.settle()

    assert calls == [1]
    assert (bench.committed(P0), bench.committed(P1)) == (0, 1)


def test_a_twin_that_has_gone_with_its_partition_is_not_closed_when_the_first_lands() -> None:
    app, calls = counting()
    bench = Bench(app, assign=(P0, P1))
    bench.broker.write(P0, b'{"n": 0}', headers=ID)
    bench.broker.write(P1, b'{"n": 1}', headers=ID)
    bench.turn()

    bench.consumer.revoke(P1)
    bench.settle()

    assert calls == [0]
    assert bench.facts.skipped == []
    assert (bench.committed(P0), bench.committed(P1)) == (1, 0)


def test_both_twins_gone_at_once_leave_nothing_flying() -> None:
    app, calls = counting()
    bench = Bench(app, assign=(P0, P1))
    for partition in (P0, P1, P0, P1):
        bench.broker.write(partition, b'{"n": 0}', headers=ID)
    bench.turn()

    bench.consumer.revoke(P0, P1)
    bench.settle()

    assert calls == []
    assert all(not scope.flying for scope in bench.loop.intake._scopes.values())
    assert (bench.loop.runs, bench.loop.lanes.waiting) == (set(), 0)


def test_a_twin_behind_a_first_that_fails_is_skipped_when_the_copy_is_recorded() -> None:
    app, calls = counting()
    bench = Bench(app)
    bench.broker.write(P0, b'{"n": 0, "bad": true}', headers=ID)
    bench.broker.write(P0, b'{"n": 1}', headers=ID)
    bench.perform()
    before = bench.committed()

    bench.settle()

    assert (before, calls) == (0, [0])
    assert bench.facts.skipped == [1]
    assert bench.committed() == 2
