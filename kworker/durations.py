"""Durations and sizes as people write them."""

from __future__ import annotations

import re

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_UNIT = re.compile(r"\d+(?:\.\d+)?\s*((?!(?:ms|[dhms])\b)[a-zA-Zµ]+)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|h|d))?")
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


def seconds(value: str | float) -> float:
    """`"5s"`, `"1m30s"`, `"250ms"`, `2` or `"2"` as seconds; plain numbers are seconds.

    Raises ValueError for anything else, and for what is negative or not finite.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a duration")
    if isinstance(value, (int, float)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{value!r} is not a duration: it must be 0 or more")
        return float(value)
    text = value.strip()
    try:
        return seconds(float(text))
    except ValueError:
        pass
    if unit := _UNIT.fullmatch(text):
        raise ValueError(
            f"{value!r} is not a duration: {unit[1]!r} is none of its units d, h, m, s and ms"
        )
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration; write it as 5s, 1m, 250ms or 2h")
    return sum(float(number) * _UNITS[unit] for number, unit in parts) / 1000


def canonical(value: float) -> str:
    """Seconds as the shortest exact text: the largest unit that divides them.

    >>> canonical(60), canonical(90), canonical(0.25)
    ('1m', '90s', '250ms')
    """
    ms = round(value * 1000)
    for unit, size in _UNITS.items():
        if ms % size == 0 and ms:
            return f"{ms // size}{unit}"
    return "0s"


def rate(text: str) -> float:
    """`"100/s"`, `"30/m"` or `"5"`, which is a second, as how many a second.

    Raises ValueError for anything else, and for 0.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{text!r} is not a rate; write it as 100/s, 30/m or 5/h")
    return float(match[1]) * 1000 / _UNITS[match[2] or "s"]


def size(value: str | int) -> int:
    """`"32MiB"`, `"1.5kB"` or plain bytes as a number of bytes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"{value!r} is not a size: it must be 0 or more")
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if match is not None and match[2].lower() not in _SIZES:
        raise ValueError(
            f"{value!r} is not a size: {match[2]!r} is none of its units B, kB, MB, GB, KiB, MiB "
            "and GiB"
        )
    if match is None:
        raise ValueError(f"{value!r} is not a size; write it as 500kB, 32MiB or plain bytes")
    return int(float(match[1]) * _SIZES[match[2].lower()])
