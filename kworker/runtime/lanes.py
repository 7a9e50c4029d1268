"""Order: one at a time in each lane, the next free lane to whoever is idle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from .work import LaneKey, Work

RUN = 64  # works handed over at once from one lane


class Run:
    """Works of one lane, to be performed in their order, one after the other."""

    __slots__ = ("active", "handler", "lane", "works")

    def __init__(self, works: list[Work], lane: LaneKey | None, handler: str) -> None:
        self.works = works
        self.lane = lane
        self.handler = handler
        self.active = False  # somebody has begun with it


class Lanes:
    """Works that wait for their turn, by handler and lane.

    A lane is handed out as a run and is busy until it is left; works without a lane wait
    for nobody. `cap` says how many runs of a handler may be out at once (None: any number).
    Only the loop's thread touches lanes.
    """

    def __init__(self, cap: Callable[[str], int | None]) -> None:
        self._cap = cap
        self._waiting: dict[LaneKey, deque[Work]] = {}
        self._busy: set[LaneKey] = set()
        self._ready: dict[str, deque[LaneKey | Work]] = {}
        self._out: dict[str, int] = {}
        self.waiting = 0

    def enter(self, work: Work, *, first: bool = False) -> None:
        """Let a work wait for its turn; `first` before what waits in its lane already."""
        assert work.handler is not None
        name, lane = work.handler.name, work.lane
        self.waiting += 1
        if lane is None:
            self._ready.setdefault(name, deque()).append(work)
            return
        queue = self._waiting.get(lane)
        if queue is None:
            self._waiting[lane] = queue = deque()
            if lane not in self._busy:
                self._ready.setdefault(name, deque()).append(lane)
        if first:
            queue.appendleft(work)
        else:
            queue.append(work)

    def runs(self) -> Iterable[Run]:
        """The runs that may start now; each is out until `leave` is called with it."""
        for name, ready in self._ready.items():
            cap = self._cap(name)
            while ready and (cap is None or self._out.get(name, 0) < cap):
                entry = ready.popleft()
                if isinstance(entry, Work):
                    run = Run([entry], None, name)
                else:
                    run = self._take(entry, name)
                self.waiting -= len(run.works)
                self._out[name] = self._out.get(name, 0) + 1
                yield run

    def _take(self, lane: LaneKey, name: str) -> Run:
        queue = self._waiting[lane]
        if len(queue) <= RUN:
            del self._waiting[lane]
            works = list(queue)
        else:
            works = [queue.popleft() for _ in range(RUN)]
        self._busy.add(lane)
        return Run(works, lane, name)

    def leave(self, run: Run) -> None:
        """The run is over: its lane is free again."""
        self._out[run.handler] -= 1
        if run.lane is None:
            return
        self._busy.discard(run.lane)
        if run.lane in self._waiting:
            self._ready.setdefault(run.handler, deque()).append(run.lane)

    def drop(self, condemned: Callable[[Work], bool]) -> list[Work]:
        """Take out what waits and is condemned; what is out on a run is not touched."""
        dropped: list[Work] = []
        for lane, queue in list(self._waiting.items()):
            kept = deque(work for work in queue if not condemned(work))
            if len(kept) == len(queue):
                continue
            dropped.extend(work for work in queue if condemned(work))
            if kept:
                self._waiting[lane] = kept
            else:
                del self._waiting[lane]
        for name, ready in self._ready.items():
            self._ready[name] = deque(
                entry
                for entry in ready
                if (not condemned(entry) if isinstance(entry, Work) else entry in self._waiting)
            )
            dropped.extend(entry for entry in ready if isinstance(entry, Work) and condemned(entry))
        self.waiting -= len(dropped)
        return dropped
