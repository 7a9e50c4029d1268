from __future__ import annotations

import pytest

from kworker.durations import rate


@pytest.mark.parametrize(
    ("text", "a_second"),
    [("100/s", 100.0), ("5", 5.0), ("30/m", 0.5), ("1.5/s", 1.5), ("36/h", 0.01)],
)
def test_a_rate_is_so_many_a_second(text, a_second):
    assert rate(text) == pytest.approx(a_second)


@pytest.mark.parametrize("text", ["", "fast", "0/s", "-1/s", "5/", "5/ms", "1/2s", "nan"])
def test_what_is_no_rate_is_refused_with_what_would_be_one(text):
    with pytest.raises(ValueError, match="is not a rate; write it as 100/s"):
        rate(text)
