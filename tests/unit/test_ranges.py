"""Ranges beside a plain set of integers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker.ranges import Ranges

SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair)))
)


def offsets(ranges: Ranges) -> set[int]:
    return {offset for start, stop in ranges for offset in range(start, stop)}


def model(spans: list[tuple[int, int]]) -> set[int]:
    return {offset for start, stop in spans for offset in range(start, stop)}


@given(SPANS)
def test_ranges_hold_what_was_put_in_and_nothing_else(spans: list[tuple[int, int]]):
    ranges = Ranges()

    for start, stop in spans:
        if stop == start + 1:
            ranges.add(start)
        else:
            ranges.add_range(start, stop)

    expected = model(spans)
    assert offsets(ranges) == expected
    assert ranges.total == len(expected)
    assert bool(ranges) is bool(expected)
    assert {offset for offset in range(80) if offset in ranges} == expected


@given(SPANS)
def test_ranges_are_sorted_and_never_touch(spans: list[tuple[int, int]]):
    ranges = Ranges(spans)

    pairs = list(ranges)
    assert all(start < stop for start, stop in pairs)
    assert all(before[1] < after[0] for before, after in pairwise(pairs))


@given(SPANS)
def test_the_order_of_adding_makes_no_difference(spans: list[tuple[int, int]]):
    assert Ranges(spans) == Ranges(reversed(spans))


@given(SPANS, SPANS)
def test_an_update_is_the_union(first: list[tuple[int, int]], second: list[tuple[int, int]]):
    ranges, other = Ranges(first), Ranges(second)

    ranges.update(other)

    assert offsets(ranges) == model(first) | model(second)
    assert other == Ranges(second)


@given(SPANS, st.integers(0, 80))
def test_the_first_missing_offset_is_the_lowest_one_not_in_the_set(
    spans: list[tuple[int, int]], offset: int
):
    expected = offset
    while expected in model(spans):
        expected += 1

    assert Ranges(spans).first_missing(offset) == expected


@given(SPANS)
def test_text_comes_back_as_the_same_set(spans: list[tuple[int, int]]):
    ranges = Ranges(spans)

    assert Ranges.decode(ranges.encode()) == ranges


@given(st.text("0123456789-, ", max_size=12))
def test_any_other_text_is_refused(text: str):
    try:
        ranges = Ranges.decode(text)
    except ValueError:
        return

    assert ranges.encode() == text


def test_text_is_readable_with_both_bounds_included():
    ranges = Ranges([(0, 100), (105, 106), (107, 111)])

    assert ranges.encode() == "0-99,105,107-110"
    assert Ranges().encode() == ""


@pytest.mark.parametrize(
    "text",
    [",", "5,", "1-", "-1", "3-3", "9-2", "5,5", "5,6", "5,1", "07", "1 ,3", "0-1_0", "٣", "x"],
)
def test_text_that_was_damaged_is_refused(text: str):
    with pytest.raises(ValueError, match="range"):
        Ranges.decode(text)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4)])
def test_what_is_no_range_is_refused(start: int, stop: int):
    with pytest.raises(ValueError, match="no range"):
        Ranges().add_range(start, stop)


def test_a_negative_offset_is_refused():
    with pytest.raises(ValueError, match="no range"):
        Ranges().add(-1)


def test_a_copy_goes_its_own_way():
    ranges = Ranges([(0, 5)])

    twin = ranges.copy()
    twin.add(9)

    assert 9 in twin
    assert 9 not in ranges


def test_a_million_offsets_in_order_are_one_range():
    ranges = Ranges()

    for offset in range(1_000_000):
        ranges.add(offset)

    assert list(ranges) == [(0, 1_000_000)]
