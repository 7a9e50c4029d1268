"""The SQLite store keeps what every store promises."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kworker.clock import Clock
from kworker.ranges import Ranges
from kworker.stores import Store, open_store
from kworker.stores.api import Attempt, Log, Mark, Turn
from kworker.testing.stores import StoreClock, StoreContract

MARKS = st.builds(
    Mark,
    st.sampled_from(["charge", "mail"]),
    st.sampled_from(["orders", "returns"]),
    st.sampled_from(["1", "2", "", "x" * 600]) | st.text(max_size=3),
    st.integers(0, 1),
    st.integers(0, 2),
)
ATTEMPTS = st.builds(
    Attempt, st.integers(0, 9), st.none() | st.sampled_from(["dead", ""]), st.none() | st.just(1.5)
)
LOGS = st.tuples(
    st.sampled_from(["charge", "mail"]),
    st.builds(Log, st.sampled_from(["T1", "T2"]), st.integers(0, 1)),
)
SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=4).map(
    lambda spans: Ranges((start, start + length) for start, length in spans)
)
TURNS = st.builds(
    Turn,
    seen=st.lists(MARKS, max_size=6),
    done=st.none() | st.dictionaries(LOGS, SPANS, max_size=3),
    attempts=st.none() | st.dictionaries(MARKS, ATTEMPTS, max_size=4),
    settled=st.lists(MARKS, max_size=4),
    ids=st.none()
    | st.dictionaries(
        st.tuples(st.sampled_from(["charge", "mail"]), st.sampled_from(["orders", "returns"])),
        st.lists(MARKS.map(lambda mark: mark.id), max_size=4),
        max_size=3,
    ),
)


class TestSqlite(StoreContract):
    def open(self, folder: Path, clock: Clock) -> Store:
        return open_store(folder / "kworker" / "g.db", group="g", cluster="c", clock=clock)


class Model:
    """The promise in a dozen lines; every turn is one second after the last."""

    def __init__(self) -> None:
        self.marks: dict[Mark, tuple[float, float]] = {}  # when first, when last
        self.offsets: dict[tuple[str, Log], Ranges] = {}
        self.doubts: dict[Mark, Attempt] = {}

    def record(self, turn: Turn, now: float) -> None:
        short = [
            Mark(handler, topic, id)
            for (handler, topic), ids in (turn.ids or {}).items()
            for id in ids
        ]
        for mark in [*turn.seen, *short]:
            self.marks[mark] = self.marks.get(mark, (now, now))[0], now
        for key, ranges in (turn.done or {}).items():
            self.offsets.setdefault(key, Ranges()).update(ranges)
        self.doubts.update(turn.attempts or {})
        for mark in turn.settled:
            self.doubts.pop(mark, None)

    def kept(self, before: float) -> set[Mark]:
        """What was recorded since; forgetting it would have duplicates handled again."""
        return {mark for mark, (first, _) in self.marks.items() if first >= before}

    def gone(self, before: float) -> set[Mark]:
        return {mark for mark, (_, last) in self.marks.items() if last < before}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TURNS, st.sampled_from("aab"), st.booleans()), max_size=8), st.data())
def test_two_processes_and_their_restarts_keep_one_memory(steps, data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        path, clock, model = Path(folder) / "k" / "g.db", StoreClock(0.0), Model()
        stores = {who: open_store(path, group="g", cluster="c", clock=clock) for who in "ab"}

        for turn, who, restart in steps:
            clock.now += 1
            assert stores[who].record(turn, patience=5)
            model.record(turn, clock.now)
            if restart:
                stores[who].close()
                stores[who] = open_store(path, group="g", cluster="c", clock=clock)

        asked = [*model.marks, *model.doubts, *data.draw(st.lists(MARKS, max_size=5))]
        for store in stores.values():
            assert store.seen(asked) == set(asked) & model.marks.keys()
            assert store.attempts(asked) == model.doubts
            for (handler, log), ranges in model.offsets.items():
                assert store.done(handler, log) == ranges
        before = data.draw(st.integers(0, 9))
        stores["b"].prune(before, limit=1000)
        seen = stores["a"].seen(asked)
        assert seen >= set(asked) & model.kept(before)
        assert not seen & model.gone(before)
        for store in stores.values():
            store.close()
