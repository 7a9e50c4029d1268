"""Handlers that share a database transaction with the record of their message."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from ..durations import canonical
from ..outcome import Done, Dropped, Failed, HandlerTimeout, Outage, Outcome, Postponed, Recorded
from ..ranges import Ranges
from ..stores import Lender
from ..stores.api import Log, Turn
from .executors import HELD, NO_HOOKS, Answer, Call, Down, Executor, Hooks, Performed, failure
from .lanes import Run
from .work import Work

log = logging.getLogger("kworker.runtime")

LONG = 1.0  # seconds in a transaction that others should not have to wait for
TURN = 0.2  # seconds to wait for a turn before looking whether the work is still to be done


class Transactions:
    """Calls such handlers one at a time, in a thread that has the file's other connection;
    all other handlers are called by `others`.

    What went wrong with the file is handed to `failed`: the worker cannot go on. Whether a
    message was handled before is asked again within the transaction, because another process
    of the host may have handled it since it was admitted.
    """

    def __init__(
        self,
        open_lender: Callable[[], Lender],
        *,
        timeout: float,
        answer: Answer,
        failed: Callable[[BaseException], None],
        down: Down,
        others: Executor,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self._open_lender = open_lender
        self._timeout = timeout
        self._answer = answer
        self._failed = failed
        self._down = down
        self._others = others
        self._hooks = hooks
        self._runs: SimpleQueue[Run | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, run: Run) -> None:
        handler = run.scope.handler
        if handler is None or handler.takes_transaction is None:
            self._others.start(run)
            return
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._live, name="kworker-transactions", daemon=True
            )
            self._thread.start()
        self._runs.put(run)

    def close(self) -> None:
        self._runs.put(None)
        self._others.close()

    def _live(self) -> None:
        try:
            lender = self._open_lender()
            try:
                while (run := self._runs.get()) is not None:
                    self._serve(lender, run)
            finally:
                lender.close()
        except BaseException as error:  # noqa: BLE001 - the loop raises it again
            self._failed(error)

    def _serve(self, lender: Lender, run: Run) -> None:
        run.active = True
        run.caller = threading.get_ident()
        told = time.monotonic()
        for work in run.works:
            run.results.append((work, self._perform(lender, work, run)))
            if time.monotonic() - told > HELD:
                self._answer(Performed(run.take(), run, False))
                told = time.monotonic()
        self._answer(Performed(run.take(), run, True))

    def _perform(self, lender: Lender, work: Work, run: Run) -> Outcome:
        if not work.ledger.starting:
            return Dropped()
        if run.down or (self._down(work.scope.name) and not run.probe):
            return Postponed()
        try:
            call = Call(work, self._hooks)
        except BaseException as error:  # noqa: BLE001 - validators are the user's code
            run.down = isinstance(error, Outage)
            return Failed(error, called=False)
        while not lender.begin(TURN):
            if not work.ledger.starting:
                return Dropped()
        if lender.known(work.marks, work.log, work.record.offset):
            lender.rollback()
            return Recorded(duplicate=True)
        outcome = self._call(lender, call, run)
        if not isinstance(outcome, Done) or not work.ledger.ours:
            lender.rollback()
            return self._no_room(lender, outcome, run) if work.ledger.ours else Dropped()
        try:
            lender.commit(_turn(work), outcome.outputs)
            return Recorded(published=bool(outcome.outputs))
        except sqlite3.Error as error:
            return self._no_room(lender, Failed(error), run)

    def _no_room(self, lender: Lender, outcome: Outcome, run: Run) -> Outcome:
        """A full disk is an outage of the handler, not its failure."""
        if not (isinstance(outcome, Failed) and lender.full(outcome.error)):
            return outcome
        run.down = True
        outage = Outage("the disk of the store is full")
        outage.__cause__ = outcome.error
        return Failed(outage)

    def _call(self, lender: Lender, call: Call, run: Run) -> Outcome:
        handler, work = call.handler, call.work
        assert handler.takes_transaction is not None
        begun = time.monotonic()
        call.begin()
        try:
            with lender.lent(self._timeout) as connection:
                call.arguments[handler.takes_transaction] = connection
                result = call.plain()
            outcome = call.ended(result)
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            outcome = failure(error, run)
        finally:
            call.end()
        took = time.monotonic() - begun
        if took > self._timeout:
            late = HandlerTimeout(
                f"{handler.name} held its Transaction for {took:.1f} s, longer than "
                f"transaction_timeout ({canonical(self._timeout)}), and was rolled back"
            )
            late.__cause__ = outcome.error if isinstance(outcome, Failed) else None
            return Failed(late)
        if took > LONG:
            log.warning(
                "%s held its Transaction for %.1f s; nobody on this host could record anything "
                "meanwhile", handler.name, took,
                extra={"handler": handler.name, "id": work.id},
            )  # fmt: skip
        if isinstance(outcome, Done) and not lender.whole:
            return Failed(
                sqlite3.OperationalError(
                    f"{handler.name} went on after an error that had rolled its Transaction back"
                )
            )
        return outcome


def _turn(work: Work) -> Turn:
    """The record of one work that its handler has handled."""
    name, topic = work.scope.name, work.scope.topic
    settled = work.marks if work.noted else ()
    if work.log is not None:
        done = Ranges()
        done.add(work.record.offset)
        key: tuple[str, Log] = (name, work.log)
        return Turn(done={key: done}, topics={work.log.topic_id: topic}, settled=settled)
    if work.hop or work.replay:
        return Turn(seen=[work.mark], settled=settled)
    return Turn(ids={(name, topic): [work.id]}, settled=settled)
