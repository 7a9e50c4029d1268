"""The table of scenarios: a row each, printed after a run and published with the docs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "docs" / "guarantees.json"


@dataclass(slots=True)
class Row:
    """What one scenario showed. `again` are calls made again, `bound` how many the mode allows."""

    test: str = ""
    mode: str = "at_least_once"
    faults: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    lost: int = 0
    again: int = 0
    bound: int = 0
    disorder: int = 0
    recovered: float | None = None  # seconds from the last fault until all was done
    seed: int | None = None
    passed: bool = True
    date: str = ""
    length: str = "short"  # as in `make test`; or full, as in `make faults`

    @property
    def scenario(self) -> str:
        """The test's name as the sentence it is, with its case."""
        name, _, case = self.test.rpartition("::")[2].partition("[")
        words = re.sub(r"^test_", "", name).replace("_", " ")
        return f"{words} ({case.rstrip(']')})" if case else words

    @property
    def cells(self) -> tuple[str, ...]:
        faults = ", ".join(f"{count} {what}" for what, count in self.faults.items())
        return (
            self.scenario if self.passed else f"FAILED: {self.scenario}",
            faults or "none",
            f"{self.messages:,}",
            str(self.lost),
            f"{self.again} of at most {self.bound}",
            str(self.disorder),
            "" if self.recovered is None else f"{self.recovered:.1f}",
            "" if self.seed is None else str(self.seed),
        )


HEAD = (
    "scenario", "faults", "messages", "lost", "handled again", "out of order", "recovered, s",
    "seed",
)  # fmt: skip


def dumped(row: Row) -> str:
    """For a report that may travel between processes."""
    return json.dumps(asdict(row))


def loaded(text: str) -> Row:
    return Row(**json.loads(text))


def printed(rows: Sequence[Row]) -> list[str]:
    """Lines for a terminal."""
    cells = [HEAD, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def publish(rows: Iterable[Row], length: str, path: Path = ROWS) -> None:
    """Put these rows in the place of those of the same files; `docs/generate.py` makes the
    pages of them."""
    today = datetime.now(UTC).date().isoformat()
    fresh = list(rows)
    for row in fresh:
        row.date, row.length = today, length
    files = {_file(row) for row in fresh}
    kept = [row for row in published(path) if _file(row) not in files]
    left = [row for row in kept if (ROOT / _file(row)).exists()]
    told = [asdict(row) for row in sorted([*left, *fresh], key=lambda row: row.test)]
    path.write_text("[\n" + ",\n".join(map(json.dumps, told)) + "\n]\n", encoding="utf-8")


def published(path: Path = ROWS) -> list[Row]:
    if not path.exists():
        return []
    return [loaded(json.dumps(one)) for one in json.loads(path.read_text(encoding="utf-8"))]


def _file(row: Row) -> str:
    return row.test.partition("::")[0]
