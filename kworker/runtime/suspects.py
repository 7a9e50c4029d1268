"""Who killed the process: after a death, what may have done it runs alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

from ..message import Partition
from .handover import Handover
from .lanes import Lanes, Run
from .ledger import Ledger
from .timers import Timers
from .work import Work

log = logging.getLogger("kworker.runtime")

STEADY = 10.0  # seconds in company after which the next death is another story
FEWEST = 8  # messages that run alone after a death, of all partitions together
WIDER = 4  # times as many where the culprit was not among them


@dataclass(slots=True)
class _Window:
    """How many messages of a partition are still to run alone, besides those that were alone
    when a process ended."""

    ledger: Ledger
    left: int


class Suspects:
    """Lets the messages that may have ended the last owner of a partition run one at a time.

    Handlers' messages are alone in the process then, and the attempt is committed before it
    begins, so that whoever takes the partition after another death knows which it was, on
    whatever host. A few of each partition are suspect, the first that come: what was running
    is among the oldest that are unfinished. Where the culprit was not among them, it ends the
    next process in company, and more run alone after that. Costs nothing while `active` is
    false. Only the loop's thread touches it.
    """

    def __init__(
        self,
        *,
        lanes: Lanes,
        handover: Handover,
        timers: Timers,
        concurrency: int | None,
        say: Callable[[str], None] = lambda said: None,
    ) -> None:
        """`concurrency` is None where what an owner had begun is not handled again, so that
        nothing of it can end another process. `say` is told which message runs alone, before
        it does, and "" when none does."""
        self._lanes = lanes
        self._handover = handover
        self._timers = timers
        self._many = 0 if concurrency is None else max(FEWEST, 2 * concurrency)
        self._say = say
        self._windows: dict[Partition, _Window] = {}
        self._chosen: Run | None = None  # its attempt is not committed yet
        self._alone: Run | None = None  # the last that was started
        self._acquitted: Work | None = None  # Kafka may not know yet that it has ended
        self._asked = False  # for the commit that says so
        self.active = False

    # --- partitions come and go ----------------------------------------------------------

    def begin(self, ledgers: Collection[Ledger]) -> None:
        """These are ours now: those whose last owner has not let go are suspect."""
        suspect = [one for one in ledgers if one.takings]
        if not (suspect and self._many):
            return
        for ledger in suspect:
            many = -(-self._many // len(suspect)) * WIDER ** (ledger.takings - 1)
            self._windows[ledger.partition] = window = _Window(ledger, many)
            self._timers.after(STEADY, partial(self._watch, window, many))
        self.active = True
        log.warning(
            "the last owner of %s ended without letting go: the first messages run one at a time",
            ", ".join(str(one.partition) for one in suspect),
            extra={"partitions": [str(one.partition) for one in suspect]},
        )  # fmt: skip

    def end(self, partition: Partition) -> None:
        """It is not ours any more."""
        self._windows.pop(partition, None)
        self._close()

    def found(self, work: Work) -> None:
        """This one has ended processes, so the others have not."""
        log.error(
            "%s for %s has ended %d processes while it was all they handled; it is a dead letter",
            work.original, work.scope.name, work.ledger.doubts[work.key].deaths,
            extra={"handler": work.scope.name, "topic": work.record.topic,
                   "partition": work.record.partition, "offset": work.record.offset},
        )  # fmt: skip
        window = self._windows.get(work.ledger.partition)
        if window is not None:
            window.left = 0

    def _watch(self, window: _Window, left: int) -> None:
        """Close a window when nothing of it has come to run alone for a while."""
        if self._windows.get(window.ledger.partition) is not window:
            return
        if window.left == left:
            window.left = 0
            self._close()
        else:
            self._timers.after(STEADY, partial(self._watch, window, window.left))

    def _close(self) -> None:
        for partition, window in list(self._windows.items()):
            if window.left <= 0 and not window.ledger.accused:
                del self._windows[partition]
                self._timers.after(STEADY, partial(_is_steady, window.ledger))
        self.active = bool(self._windows or self._chosen or self._alone or self._acquitted)

    @property
    def accused(self) -> Work | None:
        """What runs alone, or is about to."""
        run = self._chosen or self._alone
        return None if run is None else run.works[0]

    @property
    def waits(self) -> bool:
        """Whether handlers are called once Kafka has answered."""
        return self._chosen is not None or self._acquitted is not None

    # --- one at a time -------------------------------------------------------------------

    def runs(self, out: Collection[Run], commit: Callable[[], None]) -> Iterator[Run]:
        """The runs that may start now, while these are out: one that is alone, or, when no
        suspect waits, those of the lanes."""
        if self._chosen is not None:
            yield from self._begin()
            return
        if self._alone is not None:
            if self._alone in out:
                return
            self._acquit(self._alone.works[0])
        if out and self._lanes.find(self._suspected):
            return
        run = None if out else self._lanes.take(self._suspected)
        if run is None:
            if self._is_told(commit):
                yield from self._lanes.runs()
            return
        (work,) = run.works
        self._chosen = run
        self._windows[work.ledger.partition].left -= 1
        self._acquitted = None
        self._handover.accuse(work)
        commit()

    def _acquit(self, work: Work) -> None:
        """It has ended, and the process has not."""
        self._handover.acquit(work)
        self._alone, self._acquitted, self._asked = None, work, False
        self._say("")
        self._close()

    def _is_told(self, commit: Callable[[], None]) -> bool:
        """Whether Kafka knows that nothing runs alone any more: else what now begins in company,
        and ends the process, would be taken for what was alone before."""
        work = self._acquitted
        if work is None:
            return True
        if work.ledger.starting and self._handover.accuses(work):
            if not self._asked:
                self._asked = True
                commit()
            return False
        self._acquitted = None
        self._close()
        return True

    def _suspected(self, work: Work) -> bool:
        window = self._windows.get(work.ledger.partition)
        if window is None or window.ledger is not work.ledger:
            return False
        return window.left > 0 or work.key in work.ledger.accused

    def _begin(self) -> Iterator[Run]:
        """Start the chosen one once Kafka knows of it; at once where it is not to be called."""
        assert self._chosen is not None
        (work,) = self._chosen.works
        if work.ledger.starting and not self._handover.knows(work):
            return
        self._alone, self._chosen = self._chosen, None
        self._say(f"{work.original} for {work.scope.name}")
        yield self._alone


def _is_steady(ledger: Ledger) -> None:
    """What it holds has not ended this process."""
    ledger.takings = 0
