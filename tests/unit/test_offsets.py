from __future__ import annotations

import pytest

from kworker.offsets import Position, moment, parse

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("earliest", Position("earliest")),
        ("latest", Position("latest")),
        ("17", Position("offset", 17)),
        ("20260101", Position("offset", 20260101)),
        ("+5", Position("relative", 5)),
        ("-5", Position("relative", -5)),
        ("-0", Position("relative", 0)),
        ("-2h", Position("time", moment=NOW - 7200)),
        ("-1m30s", Position("time", moment=NOW - 90)),
        ("2026-01-01", Position("time", moment=NOW)),
        ("2026-01-01T00:00:01", Position("time", moment=NOW + 1)),
        ("2026-01-01T01:00:00+01:00", Position("time", moment=NOW)),
        (" 2026-01-01T00:00:00Z ", Position("time", moment=NOW)),
    ],
)
def test_a_position_is_read_as_it_is_written(text, position):
    assert parse(text, NOW) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "+",
        "sometime",
        "1.5",
        "--5",
        "+-5",
        "5h",
        "+2h",
        "²",
        "1" * 19,
        "-" + "1" * 19,
        "2026-13-01",
        "-5x",
    ],
)
def test_what_is_no_position_is_refused_with_what_would_be_one(text):
    with pytest.raises(ValueError, match="is no position; write earliest, latest, an offset"):
        parse(text, NOW)


@pytest.mark.parametrize("text", ["noon", "-soon", "12", ""])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is no time; write 2026"):
        moment(text, NOW)


@pytest.mark.parametrize(
    ("text", "base", "at", "offset"),
    [
        ("earliest", 14, None, 10),
        ("latest", 14, None, 20),
        ("12", None, None, 12),
        ("3", None, None, 10),
        ("300", None, None, 20),
        ("+2", None, None, 12),
        ("-2", None, None, 18),
        ("+2", 14, None, 16),
        ("-2", 14, None, 12),
        ("+200", 14, None, 20),
        ("-200", 14, None, 10),
        ("-2h", None, 15, 15),
        ("-2h", None, None, 20),
        ("-2h", None, 3, 10),
    ],
)
def test_a_position_is_an_offset_of_the_log_and_never_outside_it(text, base, at, offset):
    assert parse(text, NOW).within(10, 20, base=base, at=at) == offset
