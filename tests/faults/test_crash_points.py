"""A worker dies at every step of a message's journey, and the next one goes on from there.

Each cell is one message and one point at which its first process ends as by kill -9; what is
expected is exact: how often the handler was called in all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from .harness import FULL, Lab, Truth, dump, headers_of, until

HASTY = (
    "--commit-every",
    "100ms",
    "-X",
    "session.timeout.ms=1000",
    "-X",
    "heartbeat.interval.ms=200",
)
BEFORE_HANDLER = ["join", "assign", "poll", "admit", "dispatch", "enter", "perform", "decode"]
AFTER_COMMIT = ["after_committed", "before_finish", "after_finish", "before_revoke",
                "after_revoke", "before_leave", "after_leave"]  # fmt: skip


class Cell(NamedTuple):
    kind: str
    point: str  # where the first process ends; `kill`: in the middle of its handler
    calls: int  # of the handler, by both processes
    transaction: bool = False

    def __str__(self) -> str:
        return f"{'transaction, ' * self.transaction}{self.kind}, {self.point}"


def every_cell() -> Iterator[Cell]:
    """The table, row by row: before the handler, in it, before its record, before its
    commit, and after."""
    for step in BEFORE_HANDLER:
        yield Cell("ok", f"before_{step}:1", 1)
        yield Cell("ok", f"after_{step}:1", 1)
    yield Cell("ok", "before_handler:1", 1)
    yield Cell("nap", "kill", 2)
    for point in ("after_handler", "before_settle", "after_settle", "before_record"):
        yield Cell("ok", f"{point}:1", 2)
    for point in ("after_record", "before_close", "after_close", "before_commit", "after_commit"):
        yield Cell("ok", f"{point}:1", 1)
    for point in ("before_committed", *AFTER_COMMIT):
        yield Cell("ok", f"{point}:1", 1)
    # What it published is sent before it is recorded.
    for point in ("before_send", "after_send", "before_acknowledge", "after_acknowledge"):
        yield Cell("mail", f"{point}:1", 2)
    yield Cell("mail", "before_record:1", 2)
    yield Cell("mail", "after_record:1", 1)
    # A failure: what was decided is recorded first, and only carried out after that. A retry
    # is one call more.
    for kind, calls in (("always", 2), ("chain", 2)):
        for point in ("after_handler:1", "before_record:1"):
            yield Cell(kind, point, calls + 1)
        for point in (
            "after_record:1", "before_send:1", "after_send:1", "before_acknowledge:1",
            "after_acknowledge:1", "before_record:2", "after_record:2",
        ):  # fmt: skip
            yield Cell(kind, point, calls)
    yield Cell("chain", "after_handler:2", 3)
    yield Cell("chain", "after_record:3", 2)
    yield Cell("always", "before_record:3", 3)
    yield Cell("always", "after_record:3", 2)
    yield Cell("always", "after_send:2", 2)
    # The handler's writes and the record are one transaction.
    for kind in ("ok", "mail"):
        yield Cell(kind, "before_handler:1", 1, True)
        yield Cell(kind, "after_handler:1", 2, True)
        yield Cell(kind, "before_transaction:1", 2, True)
        for point in ("after_transaction", "before_settle", "after_settle", "before_committed"):
            yield Cell(kind, f"{point}:1", 1, True)
    yield Cell("nap", "kill", 2, True)
    yield Cell("mail", "before_send:1", 1, True)
    yield Cell("mail", "after_send:1", 1, True)
    yield Cell("mail", "after_acknowledge:1", 1, True)


SHORT = {
    "ok, before_handler:1", "ok, after_record:1", "mail, after_send:1", "always, after_record:1",
    "transaction, mail, after_transaction:1", "transaction, ok, before_transaction:1",
}  # fmt: skip
CELLS = [cell for cell in every_cell() if FULL or str(cell) in SHORT]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_process_that_ends_at_this_point_loses_nothing_and_calls_again_only_what_it_must(
    lab: Lab, topic: Callable[..., str], cell: Cell
) -> None:
    lab.env["TOPIC"] = source = topic("cell", partitions=1)
    lab.env["MAILS"] = mails = topic("mails", partitions=1)
    if cell.transaction:
        lab.env["TRANSACTION"] = "1"
    truth = Truth(lab.bootstrap, source, "cell")
    id = truth.send("k", cell.kind)
    sent = truth.flush()

    if cell.point == "kill":
        worker = lab.start("journey:app", *HASTY)
        until(lambda: lab.lines() == 1, 20, "the handler runs")
        lab.kill(worker)
    else:
        lab.crash("journey:app", cell.point, *HASTY, "--drain")
    ended = lab.run("journey:app", *HASTY, "--drain")

    assert ended.code == 0
    assert lab.lag([source]) == 0
    verdict = lab.verdict(sent, handlers=["journey"])
    assert verdict.problems == []
    assert sum(one.phase == "start" for one in lab.effects()) == cell.calls
    assert len({one.identity for one in lab.dead_letters()}) == (cell.kind == "always")
    assert lab.row is not None
    lab.row.bound = cell.calls - (2 if cell.kind in ("always", "chain") else 1)
    published = {headers_of(one)["kworker-message-id"] for one in dump(lab.bootstrap, mails)}
    assert len(published) == (cell.kind == "mail")
    if cell.transaction:
        with sqlite3.connect(lab.db) as connection:
            assert connection.execute("SELECT id FROM made").fetchall() == [(id,)]
