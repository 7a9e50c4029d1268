"""One transaction holds what messages leave on the wire, and their positions: step by step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from kworker import App, Context, Retry
from kworker.errors import CannotGoOn
from kworker.kafka.api import (
    Ended,
    Membership,
    Outgoing,
    Refusal,
    Refused,
    Undone,
    Unknown,
    Written,
)
from kworker.message import Partition, Record
from kworker.runtime.delivery.api import Hands
from kworker.runtime.delivery.exactly_once import ExactlyOnce

from .bench import P0, P1, TOO_LARGE, Bench, Broker

OUT = Partition("out", 0)


class Transactions:
    """Writes to the bench's broker, or answers what the test says; `asked` holds what it was
    given. `gate` holds a transaction up until the test opens it."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.answers: list[Ended | BaseException | tuple[Ended, bool]] = []
        self.asked: list[tuple[list[str], dict[Partition, int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.refuse: bytes | None = None  # what no topic takes

    def open(self) -> None: ...

    def close(self) -> None: ...

    def commit(self, messages: Sequence[Outgoing], members: Sequence[Membership]) -> Ended:
        positions = {one: at for member in members for one, at in member.positions.items()}
        values = [f"{one.topic}:{(one.value or b'').decode()}" for one in messages]
        self.asked.append((values, {one: at.offset for one, at in positions.items()}))
        assert self.gate.wait(10)
        answer: Any = self.answers.pop(0) if self.answers and messages else Written()
        refused = {n: TOO_LARGE for n, one in enumerate(messages) if one.value == self.refuse}
        if refused and messages[0].topic == "out":
            # The batch is refused with it.
            return Refused(dict.fromkeys(range(len(messages)), TOO_LARGE))
        answer, written = answer if isinstance(answer, tuple) else (answer, answer == Written())
        if isinstance(answer, BaseException):
            raise answer
        if written:
            for one in messages:
                self.broker.write(Partition(one.topic, 0), one.value or b"", one.key, one.headers)
            self.broker.committed.update(positions)
        return answer


class Once(Bench):
    """A bench in `exactly_once`."""

    def __init__(self, app: App, broker: Broker | None = None, *given: Any, **more: Any) -> None:
        broker = broker or Broker()
        self.transactions = Transactions(broker)

        def mode(hands: Hands, parts: dict[str, Any]) -> ExactlyOnce:
            del parts["send"]
            return ExactlyOnce(
                hands=hands,
                transactions=self.transactions,
                answer=self.inbox.put,
                released=lambda: None,
                now=lambda: self.clock.now,
                **parts,
            )

        super().__init__(app, broker, *given, mode=mode, **more)

    def settle(self) -> None:
        """Perform, and go on until no transaction is under way or wanted."""
        self.perform()
        for _ in range(2):
            self.clock.now += 1.1
            self.perform()
            for _ in range(2000):
                if not (self.loop.delivery.committing or self.loop.delivery.pending):
                    break
                self.clock.now += 0.1
                self.perform()

    @property
    def out(self) -> list[bytes | None]:
        return [record.value for record in self.broker.logs[OUT]]


def copier(calls: list[bytes], **options: Any) -> App:
    """An app that publishes each message's value to `out`."""
    app = App("shop", retry=Retry(attempts=1))

    @app.handler("orders", **options)
    def copy(value: bytes, ctx: Context) -> None:
        calls.append(value)
        if value == b"bad":
            raise ValueError("bad")
        ctx.publish("out", value)

    return app


def write(broker: Broker, *values: bytes, partition: Partition = P0) -> list[Record]:
    return [broker.write(partition, value, key=value) for value in values]


def test_outputs_dead_letters_and_positions_go_in_one_transaction() -> None:
    calls: list[bytes] = []
    bench = Once(copier(calls))
    write(bench.broker, b"a", b"bad", b"b")

    bench.settle()

    assert bench.out == [b"a", b"b"]
    assert len(bench.broker.logs[Partition("shop.dlq", 0)]) == 1
    [(values, positions)] = [asked for asked in bench.transactions.asked if asked[0]]
    assert sorted(values) == ["out:a", "out:b", "shop.dlq:bad"]
    assert positions == {P0: 3}
    assert bench.committed() == 3
    assert bench.sent == []


def test_a_transaction_that_came_to_nothing_is_sent_again_and_no_handler_is_called_for_it() -> None:
    calls: list[bytes] = []
    bench = Once(copier(calls))
    bench.transactions.answers = [Undone("the coordinator moved"), Undone("a rebalance", True)]
    write(bench.broker, b"a", b"b")

    bench.settle()

    assert bench.out == [b"a", b"b"]
    assert calls == [b"a", b"b"]
    assert bench.committed() == 2
    assert bench.facts.stuck == ["the coordinator moved"]


def test_nothing_is_committed_past_a_message_whose_transaction_came_to_nothing() -> None:
    calls: list[bytes] = []
    bench = Once(copier(calls))
    bench.transactions.refuse = b"b"
    write(bench.broker, b"a", b"b", b"c", b"d")

    bench.settle()

    assert bench.out == [b"a", b"c", b"d"]
    assert [(values, at[P0]) for values, at in bench.transactions.asked if values] == [
        (["out:a", "out:b", "out:c", "out:d"], 4),  # refused as one batch
        (["out:a", "out:b"], 2),  # so is its half
        (["out:a"], 1),
        (["out:b"], 2),  # it was this one
        (["out:c", "out:d"], 1),
        (["shop.dlq:b"], 4),
    ]
    assert bench.facts.dead == [("retries_exhausted", 1)]
    assert bench.committed() == 4
    assert calls == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("committed", [True, False])
def test_after_a_transaction_of_unknown_end_the_groups_positions_decide(committed: bool) -> None:
    calls: list[bytes] = []
    bench = Once(copier(calls))
    bench.transactions.answers = [(Unknown("no answer"), committed)]
    write(bench.broker, b"a", b"b")

    bench.settle()
    bench.settle()

    assert bench.out == [b"a", b"b"]
    assert calls == [b"a", b"b"] if committed else [b"a", b"b", b"a", b"b"]
    assert bench.committed() == 2


def test_a_partition_is_given_away_after_its_transaction_has_ended() -> None:
    calls: list[bytes] = []
    bench = Once(copier(calls), assign=(P0, P1))
    write(bench.broker, b"a")
    bench.transactions.gate.clear()
    bench.perform()
    threading.Timer(0.1, bench.transactions.gate.set).start()

    bench.clock.look = 0.0
    bench.consumer.revoke(P0)

    assert bench.out == [b"a"]
    assert bench.committed() == 1


def test_what_belongs_to_a_partition_that_was_lost_is_in_no_transaction() -> None:
    calls: list[bytes] = []
    bench = Once(copier(calls), assign=(P0, P1))
    bench.transactions.answers = [Undone("a rebalance", True)]
    write(bench.broker, b"a")
    write(bench.broker, b"b", partition=P1)
    bench.perform()
    bench.consumer.lose(P0)

    bench.settle()

    assert bench.out == [b"b"]
    assert (bench.committed(P0), bench.committed(P1)) == (0, 1)


def test_a_rival_for_its_transactional_id_ends_the_worker() -> None:
    bench = Once(copier([]))
    bench.transactions.answers = [CannotGoOn("fenced off")]
    write(bench.broker, b"a")

    with pytest.raises(CannotGoOn):
        bench.settle()

    assert bench.committed() == 0


def test_an_output_that_kafka_refuses_fails_its_handler_and_leaves_nothing() -> None:
    calls: list[bytes] = []
    bench = Once(copier(calls))
    forbidden = Refusal("forbidden", "not authorised", True)
    bench.transactions.answers = [Refused({1: forbidden})]
    write(bench.broker, b"a", b"b", b"c")

    bench.settle()

    assert bench.out == [b"a", b"c"]
    assert bench.facts.dead == [("retries_exhausted", 1)]
    assert bench.committed() == 3


def test_what_leaves_nothing_on_the_wire_is_committed_with_the_next_beat() -> None:
    app = App("shop")

    @app.handler("orders")
    def look(value: bytes) -> None: ...

    bench = Once(app)
    write(bench.broker, b"a", b"b")

    bench.settle()

    assert bench.committed() == 2
    assert [(values, at[P0]) for values, at in bench.transactions.asked] == [
        ([], 0),  # that it is ours
        ([], 2),
    ]
