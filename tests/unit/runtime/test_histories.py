"""Random histories against the promises: nothing lost, nothing repeated that was recorded,
never a commit above what is unfinished, never one that goes back."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kworker import App, Context, Retry
from kworker import headers as names
from kworker.message import Partition
from kworker.runtime.intake import DEATHS
from kworker.stores.api import Log, Mark

from .bench import AWAY, P0, P1, TOO_LARGE, Bench

SOURCES = (P0, P1)
RETRY = Partition("shop.retry.5s", 0)
ALL = (*SOURCES, RETRY)
SPENT = 3  # calls of a message that always fails


class World:
    """One group's life over several processes, and what it owes."""

    def __init__(self, folder: Path) -> None:
        self.app = App("shop")
        self.calls: Counter[int] = Counter()
        self.repeats = 0  # that deaths and handovers allow
        self.number = 0
        self.bad: set[int] = set()
        self.identified: set[int] = set()
        self.letters: list[bytes] = []
        self.killers: set[bytes] = set()  # dead letters for the processes that have ended
        self.deaths: Counter[bytes] = Counter()  # while a message was to run alone
        self.mails: set[bytes] = set()

        @self.app.handler(
            "orders", name="charge",
            retry=Retry(attempts=2, wait=lambda state: 1.0, delays=["5s"]),
        )  # fmt: skip
        def charge(order: dict, context: Context) -> None:
            self.calls[order["n"]] += 1
            context.publish("mails", order)
            if order["n"] in self.bad:
                raise ValueError("bad")

        self.bench = Bench(self.app, folder=folder, assign=ALL)
        self._watch()

    def _watch(self) -> None:
        """Look at each commit in the moment it is made."""
        bench, taken = self.bench, dict(self.bench.broker.committed)

        def look(partition: Partition, offset: int) -> None:
            before = taken.get(partition)
            assert before is None or offset >= before.offset, "a commit went back"
            for record in bench.broker.logs[partition]:
                if record.offset < offset:
                    assert self.recorded(partition, record.offset), "committed and not recorded"

        bench.consumer.watch = look

    def mark(self, partition: Partition, offset: int) -> Mark:
        (record,) = [one for one in self.bench.broker.logs[partition] if one.offset == offset]
        headers = dict(record.headers)
        id = headers.get("kworker-message-id", b"id-of-orders/%d/%d" % (partition.index, offset))
        assert id is not None
        return Mark("charge", "orders", id.decode(), 0, int(headers.get("kworker-hop") or 0))

    def recorded(self, partition: Partition, offset: int) -> bool:
        mark, store = self.mark(partition, offset), self.bench.store
        if mark.id.startswith("id-of") and not mark.hop:
            return offset in store.done("charge", Log("id-of-orders", partition.index))
        return mark in store.seen([mark])

    # --- what may happen ---------------------------------------------------------------------

    def write(self, partition: int, bad: bool, named: bool, keyed: bool) -> None:
        number, self.number = self.number, self.number + 1
        if bad:
            self.bad.add(number)
        headers = (("kworker-message-id", b"order-%d" % number),) if named else ()
        key = b"%d" % (number % 2) if keyed else None
        self.bench.broker.write(SOURCES[partition], b'{"n": %d}' % number, key, headers)

    def resend(self, partition: int) -> None:
        """A producer sends its last message with an id once more, wherever it goes now."""
        sent = [one for place in SOURCES for one in self.bench.broker.logs[place] if one.headers]
        for record in sent[-1:]:
            self.bench.broker.write(
                SOURCES[partition], record.value or b"", record.key, record.headers
            )

    def perform(self, runs: int) -> None:
        for _ in range(runs):
            if self.bench.executor.waiting:
                self.bench.executor.begin()()

    def acknowledge(self, number: int) -> None:
        if number < len(self.bench.sent):
            shipment = self.bench.sent[number]
            if shipment.topic == RETRY.topic:
                self.bench.broker.write(RETRY, shipment.value or b"", None, shipment.headers)
            elif shipment.topic == "shop.dlq":
                self.letters.append(shipment.value or b"")
                if (names.DISPOSITION, b"process_killer") in shipment.headers:
                    self.killers.add(shipment.value or b"")
            else:
                self.mails.add(shipment.value or b"")
            self.bench.answer(only=number)

    def refuse(self, number: int, large: bool) -> None:
        """Copies alone are too large: an output that is fails its handler."""
        if number < len(self.bench.sent):
            output = self.bench.sent[number].topic == "mails"
            self.bench.answer(TOO_LARGE if large and not output else AWAY, only=number)

    def handover(self, partition: int, lost: bool) -> None:
        place = ALL[partition]
        self._expect_repeats([place])
        self.bench.clock.look = 5.0  # what is unanswered would be waited for
        (self.bench.consumer.lose if lost else self.bench.consumer.revoke)(place)
        self.bench.clock.look = 0.01
        self._watch()
        self.bench.consumer.assign(place)

    def crash(self) -> None:
        self._expect_repeats(ALL)
        if (work := self.bench.loop.suspects.accused) is not None:
            self.deaths[work.record.value or b""] += 1
        self.bench = self.bench.again(assign=ALL)
        self._watch()

    def _expect_repeats(self, partitions: tuple[Partition, ...] | list[Partition]) -> None:
        """What was called for and is not recorded may be called for again."""
        for partition in partitions:
            marks = [
                self.mark(partition, record.offset)
                for record in self.bench.broker.logs[partition]
                if not self.recorded(partition, record.offset)
            ]
            tried = self.bench.store.attempts(marks)
            decided = [mark for mark, attempt in tried.items() if attempt.decided]
            self.repeats += len(set(marks)) - len(decided)

    def wait(self, seconds: float) -> None:
        self.bench.clock.now += seconds
        self.bench.turn()

    def rest(self) -> None:
        """All is well from now on, until nothing is left to do."""
        for _ in range(200):
            self.bench.perform()
            while self.bench.sent:
                self.acknowledge(0)
            self.wait(3.0)
            if not self.bench.open and not self.bench.sent and not self.bench.executor.waiting:
                break
        self.wait(1.1)
        self.bench.turn(2)

    def judge(self) -> None:
        bench = self.bench
        assert bench.open == 0
        for partition in ALL:
            assert bench.committed(partition) == bench.broker.ends[partition]
            for record in bench.broker.logs[partition]:
                assert self.recorded(partition, record.offset)
        assert not bench.store.doubts
        assert all(not scope.flying for scope in bench.loop.intake._scopes.values())
        dead = Counter(self.letters)
        for number in range(self.number):
            value = b'{"n": %d}' % number
            if value in self.killers:
                assert self.deaths[value] >= DEATHS
            elif number in self.bad:
                assert dead[value] >= 1
                assert self.calls[number] >= SPENT
            else:
                assert dead[value] == 0
                assert self.calls[number] >= 1
                assert b'{"n":%d}' % number in self.mails
        due = sum(SPENT if number in self.bad else 1 for number in range(self.number))
        assert sum(self.calls.values()) <= due + self.repeats


STEPS = st.one_of(
    st.tuples(
        st.just("write"), st.integers(0, 1), st.booleans(), st.booleans(), st.booleans()
    ),
    st.tuples(st.just("resend"), st.integers(0, 1)),
    st.tuples(st.just("turn"), st.integers(1, 2)),
    st.tuples(st.just("perform"), st.integers(1, 4)),
    st.tuples(st.just("acknowledge"), st.integers(0, 3)),
    st.tuples(st.just("refuse"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.1, 6.0])),
    st.tuples(st.just("handover"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("crash")),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=80))
def test_whatever_happens_nothing_is_lost_and_nothing_recorded_is_repeated(
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.bench.clock.look = 0.01
        for name, *given_ in steps:
            if name == "turn":
                world.bench.turn(*given_)
            else:
                getattr(world, name)(*given_)

        world.rest()

        world.judge()
        world.bench.store.close()
