"""The ledger against a plain model: never past an open offset, always past what is done."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from kworker.message import Partition, Record
from kworker.runtime.ledger import Ledger

HERE = Partition("orders", 0)


def at(offset: int, epoch: int | None = None) -> Record:
    return Record(*HERE, offset, value=b"...", leader_epoch=epoch)


@given(
    gaps=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    parts=st.integers(1, 3),
    data=st.data(),
)
def test_the_safe_offset_is_the_lowest_unfinished_one_at_every_instant(
    gaps: list[int], parts: int, data: st.DataObject
) -> None:
    ledger = Ledger(HERE, 0)
    every = (1 << parts) - 1
    bits = [1 << number for number in range(parts)]
    unfinished: dict[int, int] = {}
    offset = -1
    rest = list(gaps)
    while rest:
        batch = []
        for _ in range(data.draw(st.integers(1, len(rest)))):
            offset += rest.pop(0)
            batch.append(at(offset))
            unfinished[offset] = every
        ledger.open(batch, every)

    while unfinished:
        part = data.draw(
            st.sampled_from([bit for bit in bits if any(bit & one for one in unfinished.values())])
        )
        having = sorted(one for one, left in unfinished.items() if left & part)
        chosen = data.draw(st.lists(st.sampled_from(having), min_size=1, max_size=5, unique=True))
        ledger.close(map(at, chosen), part)
        for one in chosen:
            unfinished[one] -= part
            if not unfinished[one]:
                del unfinished[one]

        safe = min(unfinished, default=offset + 1)
        assert ledger.safe == safe
        assert ledger.count == len(unfinished)
        assert ledger.size == 3 * len(unfinished)
        for bit in bits:
            left = {one for one, parts in unfinished.items() if parts & bit}
            assert {one for one in range(safe, offset + 1) if one not in ledger.done(bit)} == left
            assert all(ledger.awaits(one, bit) for one in left)
        some_are_done = any(one not in unfinished for one in _opened(gaps) if one > safe)
        halves = any(parts != every for parts in unfinished.values())
        assert ledger.scattered(every) == (some_are_done or halves)


def _opened(gaps: list[int]) -> list[int]:
    return [offset - 1 for offset in accumulate(gaps)]


def test_markers_at_the_end_are_passed_only_when_nothing_is_open() -> None:
    ledger = Ledger(HERE, 0)
    ledger.open([at(0)], 1)

    ledger.reach(4)

    assert ledger.safe == 0
    ledger.close([at(0)], 1)
    assert ledger.safe == 4


def test_the_point_carries_the_leader_epoch_of_the_record_before_it() -> None:
    ledger = Ledger(HERE, 0)
    ledger.open([at(0, 3), at(1, 3), at(2, 4)], 1)
    ledger.open([at(3, 4)], 1)

    epochs = []
    for offset in range(4):
        ledger.close([at(offset)], 1)
        epochs.append((ledger.point().offset, ledger.point().leader_epoch))

    assert epochs == [(1, 3), (2, 3), (3, 4), (4, 4)]
