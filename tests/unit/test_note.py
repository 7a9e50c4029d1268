"""What an owner says to the next one: short, complete, and believed nowhere else."""

from __future__ import annotations

from bisect import bisect_left
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kworker import note
from kworker.note import Doubt, Foreign, Note, Place
from kworker.ranges import Ranges

HERE = Place("cluster", "topic", 3, 1_000_000)


def some(*offsets: int) -> Ranges:
    return Ranges((HERE.offset + one, HERE.offset + one + 1) for one in offsets)


def many(step: int, count: int) -> Ranges:
    return some(*range(1, step * count, step))


sets = st.sets(st.integers(0, 3000), max_size=300).map(lambda offsets: some(*offsets))
names = st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable())
notes = st.builds(
    Note,
    done=st.dictionaries(names, sets.filter(bool), max_size=3),
    doubts=st.dictionaries(
        st.tuples(names, st.integers(HERE.offset, HERE.offset + 3000)),
        st.builds(
            Doubt,
            st.integers(0, 9),
            st.none() | st.text(max_size=30),
            st.none() | st.integers(0, 1 << 33),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=3,
    ),
    store=st.none() | st.uuids().map(str),
    clean=st.booleans(),
    taken=st.integers(0, 9),
    by=st.sampled_from(["", "0a1b2c3d"]),
)


@given(notes)
@settings(max_examples=60, deadline=None)
def test_a_note_is_read_as_it_was_written(given_note: Note) -> None:
    text, whole = note.write(given_note, HERE)

    assert whole
    assert text.isascii() and text.isprintable()
    assert note.read(text, HERE) == given_note


@given(notes, st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_a_note_is_never_longer_than_allowed_and_claims_nothing_that_is_not_done(
    given_note: Note, limit: int
) -> None:
    text, whole = note.write(given_note, HERE, limit)

    assert len(text) <= limit
    found = note.read(text, HERE) or note.NOTHING
    assert not whole or found.done == given_note.done
    for name, ranges in found.done.items():
        both = ranges.copy()
        both.update(given_note.done[name])
        assert both == given_note.done[name]


@given(st.integers(1, 3), st.integers(1, 20_000), st.data())
@settings(max_examples=60, deadline=None)
def test_the_room_that_is_kept_is_enough_for_whatever_is_done_first(
    handlers: int, span: int, data: st.DataObject
) -> None:
    gaps = data.draw(st.lists(st.integers(1, max(1, span // 50)), min_size=1, max_size=200))
    opened = [HERE.offset]
    for gap in gaps:
        opened.append(opened[-1] + gap)
    done: dict[str, Ranges] = {}
    for number in range(handlers):
        left = {HERE.offset, *data.draw(st.sets(st.sampled_from(opened)))}
        ranges, begin = Ranges(), HERE.offset
        for offset in opened:
            if offset in left:
                ranges.add_range(begin, offset)
                begin = offset + 1
        ranges.add_range(begin, opened[-1] + 1)
        if ranges:
            done[f"handler{number}"] = ranges
    needed = handlers * note.longest(opened[-1] + 1 - HERE.offset, len(opened))

    limit = bisect_left(range(400_000), needed, key=lambda size: note.room(size, 12 * handlers))

    assert note.write(Note(done, store="0" * 36, clean=True, taken=10, by="0" * 8), HERE, limit)[1]


def test_ten_thousand_offsets_in_disorder_fit_a_commit() -> None:
    text, whole = note.write(Note({"shop.orders.charge": many(2, 5000)}), HERE)

    assert whole
    assert len(text) < 1800


def test_handlers_that_have_done_the_same_cost_little_more_than_one() -> None:
    one = note.write(Note({"a": many(3, 900)}), HERE)[0]
    four = note.write(Note(dict.fromkeys("abcd", many(3, 900))), HERE)[0]

    assert len(four) < len(one) + 20


@pytest.mark.parametrize(
    "elsewhere",
    [
        HERE._replace(cluster="another"),
        HERE._replace(topic_id="made anew"),
        HERE._replace(partition=4),
        HERE._replace(offset=HERE.offset + 1),
    ],
    ids=Place._fields,
)
def test_a_note_of_another_place_is_not_believed(elsewhere: Place) -> None:
    text, _ = note.write(Note({"charge": some(1)}), elsewhere)

    with pytest.raises(Foreign, match="belongs to another"):
        note.read(text, HERE)


def test_a_damaged_note_is_not_believed() -> None:
    text, _ = note.write(Note({"charge": some(1, 5)}), HERE)

    for at in range(4, len(text)):
        with pytest.raises(Foreign):
            note.read(text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :], HERE)


def test_a_note_of_a_later_version_is_told_from_other_programs_text() -> None:
    with pytest.raises(Foreign, match="version 'kw9'"):
        note.read("kw9 whatever", HERE)

    assert note.read("another program's", HERE) is None
    assert note.read("", HERE) is None


def test_what_was_decided_goes_before_what_is_done_when_there_is_no_room() -> None:
    doubts = {
        ("charge", HERE.offset + n): Doubt(2, sha256(b"%d" % n).hexdigest()) for n in range(20)
    }
    whole = Note({"charge": some(1)}, doubts)

    found = note.read(note.write(whole, HERE, 500)[0], HERE)

    assert found is not None
    assert found.done == whole.done
    assert len(found.doubts) == 20
    assert 0 < sum(one.decided is not None for one in found.doubts.values()) < 20


@pytest.mark.parametrize(
    "doubt", [Doubt(3), Doubt(3, "a copy"), Doubt(3, due=1_900_000_000), Doubt(3, "both", 7)]
)
def test_a_doubt_arrives_as_it_was_told(doubt: Doubt) -> None:
    told = Note(doubts={("charge", HERE.offset + 5): doubt})

    assert note.read(note.write(told, HERE)[0], HERE) == told
