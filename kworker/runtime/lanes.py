"""Order: one at a time in each lane, the next free lane to whoever is idle."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

from ..batch import Batch
from ..outcome import Outcome
from .batches import Gathering
from .work import Scope, Work

LONGEST = 256  # works handed over at once
WORTH = 0.001  # seconds of work that make a hand-over worth its cost
AHEAD = 0.1  # seconds of work in one lane that are handed over at once: a retry comes after them


class Lane:
    """Works that wait for their turn one behind the other; `busy` while some are out on a run,
    and `held_by` one that has failed."""

    __slots__ = ("busy", "held_by", "key", "table", "works")

    def __init__(self, table: dict[bytes | None, Lane], key: bytes | None) -> None:
        self.works: list[Work] = []
        self.busy = False
        self.held_by: Work | None = None
        self.table = table  # that knows it by its key, as long as any of these is the case
        self.key = key


class Run:
    """Works to be performed one after the other, lane by lane."""

    __slots__ = (
        "active",
        "again",
        "caller",
        "down",
        "lanes",
        "probe",
        "results",
        "scope",
        "works",
    )  # fmt: skip

    def __init__(
        self, works: list[Work], lanes: list[Lane], scope: Scope, probe: bool = False
    ) -> None:
        self.works = works
        self.probe = probe  # it finds out whether an outage is over
        self.down = False  # it met one: the rest of it is not called
        self.again: list[Work] = []  # postponed; they go back in front when the run is over
        self.lanes = lanes
        self.scope = scope
        self.active = False  # somebody has begun with it
        self.caller: int | asyncio.Task[Any] | None = None  # whose stack is its handlers'
        self.results: deque[tuple[Work, Outcome]] = deque()  # not on their way yet

    def take(self) -> list[tuple[Work, Outcome]]:
        """The results so far that nobody else has taken. Any thread may call it."""
        taken = []
        while self.results:
            try:
                taken.append(self.results.popleft())
            except IndexError:  # another thread was quicker
                break
        return taken


class Gate(Protocol):
    """What says how much of a handler may start now; see `Gates`."""

    def room(self, handler: str) -> int | None: ...
    def down(self, handler: str) -> bool: ...
    def allowance(self, handler: str) -> int | None: ...
    def spend(self, handler: str, calls: int) -> None: ...


class _Queue:
    """What waits for one scope: lanes that are free, works that have none, and how quick
    its handler has been."""

    __slots__ = ("gathering", "pace", "ready")

    def __init__(self, gathering: Gathering | None) -> None:
        self.ready: deque[Lane | Work] = deque()
        self.pace = AHEAD  # seconds a call, a moving average
        self.gathering = gathering  # of a handler of batches


class Lanes:
    """Works that wait for their turn, by scope and lane.

    A lane is handed out as part of a run and is busy until that run is left; works without
    a lane wait for nobody. A run holds one lane, or as many as a quick handler does in about
    a millisecond; of a handler of batches, one batch, which `gathering` says when to begin.
    The gate says how many runs of a handler may be out at once, how many calls it may begin by
    now, and whether it is down, when a run is one work. Only the loop's thread touches lanes.
    """

    def __init__(self, gate: Gate, gathering: Callable[[Batch], Gathering] | None = None) -> None:
        self._gate = gate
        self._gathering = gathering
        self._tables: dict[tuple[Scope, int], dict[bytes | None, Lane]] = {}
        self._queues: dict[Scope, _Queue] = {}
        self._out: Counter[str] = Counter()  # runs by handler, whatever the topics
        self.waiting = 0

    def enter(self, works: Sequence[Work], *, first: bool = False) -> None:
        """Let works wait for their turns; `first` before what waits in their lanes already.

        Works of one handler and partition come in a row, so what they have in common is looked
        up once for all of them.
        """
        self.waiting += len(works)
        scope = ledger = None
        for work in works:
            if work.scope is not scope or work.ledger is not ledger:
                scope, ledger = work.scope, work.ledger
                assert scope.handler is not None
                order = scope.handler.order
                ready = self._queue(scope).ready
                table = self._table(work)
            key = work.record.key if order == "key" else None
            if order == "none" or (key is None and order == "key"):
                ready.append(work)
                continue
            lane = table.get(key)
            if lane is None:
                lane = table[key] = Lane(table, key)
                ready.append(lane)
            if first:
                lane.works.insert(0, work)
            else:
                lane.works.append(work)

    def _queue(self, scope: Scope) -> _Queue:
        queue = self._queues.get(scope)
        if queue is None:
            queue = self._queues[scope] = _Queue(self._gathers(scope))
        return queue

    def _table(self, work: Work) -> dict[bytes | None, Lane]:
        """The lanes that the work's may be among, by key. Copies have lanes of their own: order
        holds among first arrivals."""
        # The partition of a copy is told from a source's by its sign.
        index = work.record.partition
        place = (work.scope, index if work.origin is None else ~index)
        table = self._tables.get(place)
        if table is None:
            table = self._tables[place] = {}
        return table

    def runs(self) -> Iterator[Run]:
        """The runs that may start now; each is out until `leave` is called with it."""
        if not self.waiting:
            return
        for scope, queue in list(self._queues.items()):
            started = False
            while queue.ready and (most := self._may_start(scope, queue)):
                run = self._fill(scope, queue, most)
                self.waiting -= len(run.works)
                self._out[scope.name] += 1
                self._gate.spend(scope.name, 1 if queue.gathering else len(run.works))
                started = True
                yield run
            if started and queue.ready:
                # What the gate holds back here goes on after the handler's other topics.
                self._queues[scope] = self._queues.pop(scope)

    def find(self, wanted: Callable[[Work], bool]) -> bool:
        """Whether a work that could start now is wanted."""
        return any(wanted(work) for _, _, work in self._heads())

    def take(self, wanted: Callable[[Work], bool]) -> Run | None:
        """A run of the first work that could start now and is wanted, and of nothing else."""
        found = next((head for head in self._heads() if wanted(head[2])), None)
        if found is None:
            return None
        scope, number, work = found
        ready = self._queues[scope].ready
        entry = ready[number]
        del ready[number]
        lanes: list[Lane] = []
        if not isinstance(entry, Work):
            del entry.works[0]
            entry.busy = True
            lanes.append(entry)
        self.waiting -= 1
        self._out[scope.name] += 1
        self._gate.spend(scope.name, 1)
        return Run([work], lanes, scope, self._gate.down(scope.name))

    def _heads(self) -> Iterator[tuple[Scope, int, Work]]:
        """What could start now: whose it is, the number of its entry, and the work."""
        for scope, queue in self._queues.items():
            room = self._gate.room(scope.name)
            full = room is not None and self._out[scope.name] >= room
            if full or self._gate.allowance(scope.name) == 0:
                continue
            for number, entry in enumerate(queue.ready):
                yield scope, number, entry if isinstance(entry, Work) else entry.works[0]

    def _may_start(self, scope: Scope, queue: _Queue) -> int:
        """How many works of this scope the next run may hold; 0: none may start now."""
        gate, name = self._gate, scope.name
        room = gate.room(name)
        if room is not None and self._out[name] >= room:
            return 0
        gathering, allowance = queue.gathering, gate.allowance(name)
        if gathering is None:
            return LONGEST if allowance is None else min(LONGEST, allowance)
        waiting = sum(1 if isinstance(entry, Work) else len(entry.works) for entry in queue.ready)
        if allowance == 0 or not (gate.down(name) or gathering.ripe(waiting)):
            return 0
        return gathering.size

    def _gathers(self, scope: Scope) -> Gathering | None:
        batch = scope.handler.batch if scope.handler is not None else None
        return self._gathering(batch) if batch is not None and self._gathering else None

    def _fill(self, scope: Scope, queue: _Queue, most: int) -> Run:
        probe = self._gate.down(scope.name)
        if probe:
            wanted = longest = 1
        elif queue.gathering is not None:
            wanted = longest = most
            queue.gathering.took()
        else:
            wanted = max(1, min(most, int(WORTH / queue.pace)))
            # One that holds its lane up must not be followed by what was handed over with it.
            longest = 1 if scope.holds else max(1, min(most, int(AHEAD / queue.pace)))
        works: list[Work] = []
        lanes: list[Lane] = []
        ready = queue.ready
        while ready:
            entry = ready.popleft()
            if isinstance(entry, Work):
                works.append(entry)
            else:
                line, room = entry.works, min(longest, most - len(works))
                works += line[:room]
                del line[:room]
                entry.busy = True
                lanes.append(entry)
            if len(works) >= wanted:
                break
        return Run(works, lanes, scope, probe)

    def hold(self, work: Work) -> None:
        """Nothing of the work's lane starts any more, until it is released; where it has none,
        it holds up nobody."""
        key = work.record.key
        order = work.scope.handler.order if work.scope.handler is not None else "none"
        if order == "none" or (order == "key" and key is None):
            return
        table = self._table(work)
        key = key if order == "key" else None
        lane = table.get(key)
        if lane is None:
            lane = table[key] = Lane(table, key)
        if lane.held_by is None:
            lane.held_by = work
            with suppress(ValueError):
                self._queue(work.scope).ready.remove(lane)

    def release(self, work: Work) -> None:
        """The lane that this work holds, if it does, goes on."""
        table = self._table(work)
        lane = table.get(work.record.key) or table.get(None)
        if lane is None or lane.held_by is not work:
            return
        lane.held_by = None
        if lane.works and not lane.busy:
            self._queue(work.scope).ready.append(lane)
        self._let_go(lane)

    def _let_go(self, lane: Lane) -> None:
        """Forget a lane that nothing waits in, is out of or holds."""
        if not lane.works and not lane.busy and lane.held_by is None:
            lane.table.pop(lane.key, None)

    def leave(self, run: Run) -> None:
        """The run is over: its lanes are free again, with what was postponed in front."""
        self.enter(run.again[::-1], first=True)
        queue = self._queues[run.scope]
        self._out[run.scope.name] -= 1
        pace = sum(work.seconds for work in run.works) / len(run.works)
        # Slower counts at once, so that a hand-over never holds up what others could do.
        queue.pace = max(pace, 1e-7, 0.8 * queue.pace)
        for lane in run.lanes:
            lane.busy = False
            if lane.works:
                if lane.held_by is None:
                    queue.ready.append(lane)
            else:
                self._let_go(lane)

    def drop(self, condemned: Callable[[Work], bool]) -> list[Work]:
        """Take out what waits and is condemned; what is out on a run is not touched."""
        dropped: list[Work] = []
        for table in self._tables.values():
            for lane in list(table.values()):
                dropped += [work for work in lane.works if condemned(work)]
                lane.works = [work for work in lane.works if not condemned(work)]
                if lane.held_by is not None and condemned(lane.held_by):
                    self.release(lane.held_by)
                else:
                    self._let_go(lane)
        for queue in self._queues.values():
            ready, queue.ready = queue.ready, deque()
            for entry in ready:
                if not isinstance(entry, Work):
                    if entry.works:
                        queue.ready.append(entry)
                elif condemned(entry):
                    dropped.append(entry)
                else:
                    queue.ready.append(entry)
        self.waiting -= len(dropped)
        return dropped
