"""What became of every message, judged from logs that the worker does not write.

Three logs and one dump are all the oracle believes:

* what the producer of truth sent and Kafka acknowledged (`Sent`),
* what handlers did, one line a phase, written with a single `write` to a file opened for
  appending (`Effect`; the writer is `apps/effects.py`),
* when processes were killed (`Kill`),
* what stands in the group's retry and dead-letter topics at the end (`Copy`).

`judge` is a pure function of them. It knows nothing of how kworker works; what it holds a
worker to is the delivery contract alone.

The bound on repeats. A call may be repeated only when its process was killed between the
call's start and its record. Whether a call was recorded cannot be seen from outside, but a
turn of the loop can be bounded: a call that ended longer than `turn` seconds before the kill
has had its turn and must have been recorded. So a repeat is excused only when the very call
it repeats was, at the kill of the very process that made it, unfinished or finished for less
than `turn` seconds. This is stricter than a count: every single repeat must name its kill.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TURN = 0.2
"""Seconds within which a call that ended has been recorded: one turn of the loop (poll
patience, the acknowledgement of its copies, one synced transaction) on a busy machine."""

Place = tuple[str, int, int]
"""Topic, partition, offset."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message whose delivery report said yes."""

    id: str
    key: str | None
    seq: int
    place: Place


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of a handler: `phase` is start, end (it worked) or fail (it raised)."""

    handler: str
    id: str
    key: str | None
    seq: int
    phase: str
    attempt: int
    replay: int
    pid: int
    place: Place  # where this arrival stood: the source, a retry or the replay topic
    at: float  # seconds, the machine's monotonic clock: one for all its processes


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that ended without being asked; `at` is just before the signal was sent."""

    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A record of the group's own topics; `place` is where it stands."""

    place: Place
    handler: str
    original: Place
    message_id: str
    hop: int
    attempt: int
    replay: int
    disposition: str | None
    timestamp: float  # seconds since the epoch: when it was written

    @property
    def identity(self) -> tuple[str, str, str, int, int]:
        """What makes two copies one: handler, original topic, id, replay and hop."""
        return (self.handler, self.original[0], self.message_id, self.replay, self.hop)


@dataclass(frozen=True, slots=True)
class Commit:
    """What the group had committed for one partition at one moment."""

    topic: str
    partition: int
    offset: int
    at: float  # seconds, monotonic
    wall: float  # seconds since the epoch


@dataclass(slots=True)
class Call:
    """A handler's call, put together from its lines; `ended` None: it was never finished."""

    start: Effect
    ended: Effect | None = None

    @property
    def failed(self) -> bool:
        return self.ended is not None and self.ended.phase == "fail"

    @property
    def worked(self) -> bool:
        return self.ended is not None and self.ended.phase == "end"

    def open_at(self, kill: Kill, turn: float) -> bool:
        """Whether this call may have been unrecorded when its process was killed."""
        return self.start.pid == kill.pid and (
            self.ended is None or self.ended.at >= kill.at - turn
        )


@dataclass(frozen=True, slots=True)
class Repeat:
    """A call made again. `excused` by the kill of the process that made it the first time."""

    handler: str
    id: str
    attempt: int
    topic: str
    excused: bool
    age: float | None  # seconds from the end of the first call to its kill; None: unfinished
    story: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The counts. `problems` says which of them break the contract, in words."""

    acked: int
    handled: int
    lost: Sequence[str]
    repeated: Sequence[Repeat]
    bound: int
    kills: int
    out_of_order: Sequence[str]
    overlapping: Sequence[str]
    twice_settled: Sequence[str]
    dead_lettered: int
    dead_letter_copies: int
    retries: int
    retry_copies: int
    unhandled_hops: Sequence[str]
    early_commits: Sequence[str]
    foreign: Sequence[str] = field(default=())
    too_far: Sequence[str] = field(default=())  # I5, at every instant: see replay.py
    went_back: Sequence[str] = field(default=())  # I6
    unfaithful: Sequence[str] = field(default=())  # I9: dead letters that are not what was sent

    @property
    def unexcused(self) -> list[Repeat]:
        return [repeat for repeat in self.repeated if not repeat.excused]

    @property
    def problems(self) -> list[str]:
        """Empty when the contract was kept."""
        found = []

        def complain(what: str, cases: Sequence[object]) -> None:
            if cases:
                shown = "; ".join(str(case) for case in cases[:5])
                found.append(f"{what}: {len(cases)} ({shown}{'; …' if len(cases) > 5 else ''})")

        complain("lost", self.lost)
        complain("repeated without excuse", [repeat.story for repeat in self.unexcused])
        if len(self.repeated) > self.bound:
            found.append(f"repeated {len(self.repeated)}, more than the bound {self.bound}")
        complain("out of order", self.out_of_order)
        complain("a later message of a key started before the earlier ended", self.overlapping)
        complain("both handled and dead-lettered", self.twice_settled)
        complain("a copy in a retry topic that was never handled", self.unhandled_hops)
        complain("committed past an unfinished message", self.early_commits)
        complain("handled although never sent", self.foreign)
        complain("committed past what was not recorded yet", self.too_far)
        complain("committed less than before", self.went_back)
        complain("dead letters unlike their message", self.unfaithful)
        return found

    def __str__(self) -> str:
        ages = [repeat.age for repeat in self.repeated if repeat.age is not None]
        oldest = f" for up to {max(ages):.3f} s" if ages else ""
        return (
            f"oracle: acked {self.acked}, handled {self.handled}, lost {len(self.lost)}, "
            f"kills {self.kills}, repeated {len(self.repeated)} of at most {self.bound} "
            f"({len(ages)} had ended{oldest}, {len(self.unexcused)} without excuse), "
            f"out of order {len(self.out_of_order)}, overlapping {len(self.overlapping)}, "
            f"dead-lettered {self.dead_lettered} ({self.dead_letter_copies} copies), "
            f"retried {self.retries} ({self.retry_copies} copies), "
            f"handled and dead-lettered {len(self.twice_settled)}, "
            f"committed too far {len(self.early_commits) + len(self.too_far)}"
        )


def read_effects(path: Path) -> list[Effect]:
    """All whole lines of an effects log, in the order they were written."""
    if not path.exists():
        return []
    effects = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        told = json.loads(line)
        told["place"] = tuple(told["place"])
        effects.append(Effect(**told))
    return effects


def calls(effects: Iterable[Effect]) -> list[Call]:
    """Starts matched with their ends, in the order of their starts.

    A process never runs two calls of one handler for one message at the same time; if it
    does, the second start stays a call of its own and shows as a repeat.
    """
    made: list[Call] = []
    running: dict[tuple[int, str, str, int, Place], list[Call]] = defaultdict(list)
    for effect in sorted(effects, key=lambda one: one.at):
        where = (effect.pid, effect.handler, effect.id, effect.attempt, effect.place)
        if effect.phase == "start":
            call = Call(effect)
            made.append(call)
            running[where].append(call)
        elif running[where]:
            running[where].pop(0).ended = effect
        else:
            raise AssertionError(f"an end without a start: {effect}")
    return made


def judge(
    sent: Sequence[Sent],
    effects: Sequence[Effect],
    *,
    kills: Sequence[Kill] = (),
    retries: Sequence[Copy] = (),
    dead_letters: Sequence[Copy] = (),
    commits: Sequence[Commit] = (),
    handlers: Sequence[str],
    unknown: Collection[str] = (),
    ordered: bool = True,
    turn: float = TURN,
) -> Verdict:
    """Every count of the contract, for messages that each of `handlers` had to settle.

    `unknown` are ids that were sent and not acknowledged: they may have been written or not.
    """
    by_place = {message.place: message for message in sent}
    by_id = {message.id: message for message in sent}
    made = calls(effects)
    histories: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in made:
        histories[call.start.handler, call.start.id].append(call)
    buried = {
        (copy.handler, by_place[copy.original].id): copy
        for copy in dead_letters
        if copy.original in by_place
    }

    def unrecorded(call: Call) -> bool:
        return any(call.open_at(kill, turn) for kill in kills)

    lost, twice_settled, handled = [], [], 0
    for handler in handlers:
        for message in sent:
            worked = [call for call in histories[handler, message.id] if call.worked]
            handled += bool(worked)
            if (handler, message.id) not in buried:
                if not worked:
                    lost.append(f"{message.id} at {_place(message.place)} for {handler}")
            elif any(not call.start.replay and not unrecorded(call) for call in worked):
                twice_settled.append(f"{message.id} by {handler}")

    repeated = [
        repeat for history in histories.values() for repeat in _repeats(history, kills, turn)
    ]
    bound = sum(call.open_at(kill, turn) for kill in kills for call in made)
    out_of_order, overlapping = (
        _order(made, by_id, {kill.pid for kill in kills}) if ordered else ([], [])
    )
    arrivals = {(call.start.handler, call.start.id, call.start.place[0]) for call in made}
    unhandled = [
        f"{by_place[copy.original].id} at {_place(copy.place)}"
        for copy in {copy.identity: copy for copy in retries}.values()
        if copy.original in by_place
        and (copy.handler, by_place[copy.original].id, copy.place[0]) not in arrivals
    ]
    return Verdict(
        acked=len(sent),
        handled=handled,
        lost=lost,
        repeated=repeated,
        bound=bound,
        kills=len(kills),
        out_of_order=out_of_order,
        overlapping=overlapping,
        twice_settled=twice_settled,
        dead_lettered=len({copy.identity for copy in dead_letters}),
        dead_letter_copies=len(dead_letters),
        retries=len({copy.identity for copy in retries}),
        retry_copies=len(retries),
        unhandled_hops=unhandled,
        early_commits=_early(sent, made, [*retries, *dead_letters], commits, handlers),
        foreign=sorted({one.id for one in effects} - by_id.keys() - set(unknown)),
    )


def _repeats(history: Sequence[Call], kills: Sequence[Kill], turn: float) -> list[Repeat]:
    """Calls that are not the contract's own next step: a further attempt after a failure."""
    repeats = []
    for earlier, later in itertools.pairwise(history):
        if later.start.replay > earlier.start.replay:
            continue
        if earlier.failed and later.start.attempt > earlier.start.attempt:
            continue
        kill = next((kill for kill in kills if earlier.open_at(kill, turn)), None)
        ended = earlier.ended
        fate = "never ended" if ended is None else f"{ended.phase} at {ended.at:.3f}"
        of_process = [kill for kill in kills if kill.pid == earlier.start.pid]
        death = f"killed at {of_process[0].at:.3f}" if of_process else "never killed"
        repeats.append(
            Repeat(
                handler=later.start.handler,
                id=later.start.id,
                attempt=later.start.attempt,
                topic=later.start.place[0],
                excused=kill is not None,
                age=None if kill is None or ended is None else max(0.0, kill.at - ended.at),
                story=(
                    f"{later.start.id} attempt {later.start.attempt} at "
                    f"{_place(later.start.place)} by {later.start.pid} at {later.start.at:.3f}; "
                    f"before: attempt {earlier.start.attempt} at {_place(earlier.start.place)} by "
                    f"{earlier.start.pid} ({death}) started {earlier.start.at:.3f}, {fate}"
                ),
            )
        )
    return repeats


def _order(
    made: Sequence[Call], by_id: Mapping[str, Sent], killed: set[int]
) -> tuple[list[str], list[str]]:
    """First effects per handler and key: in the order sent, and one after the other."""
    firsts: dict[tuple[str, str, str], Call] = {}
    for call in made:
        message = by_id.get(call.start.id)
        if message is None or message.key is None or call.start.place != message.place:
            continue
        firsts.setdefault((call.start.handler, message.key, message.id), call)
    lanes: dict[tuple[str, str, int], list[Call]] = defaultdict(list)
    for (handler, key, id), call in firsts.items():
        lanes[handler, key, by_id[id].place[1]].append(call)

    out_of_order, overlapping = [], []
    for lane in lanes.values():
        lane.sort(key=lambda call: call.start.at)
        for earlier, later in itertools.pairwise(lane):
            if later.start.seq < earlier.start.seq:
                out_of_order.append(
                    f"{later.start.id} after {earlier.start.id} "
                    f"({earlier.start.at:.3f} {earlier.start.pid}, "
                    f"{later.start.at:.3f} {later.start.pid})"
                )
            if earlier.ended is None and earlier.start.pid in killed:
                if later.start.pid == earlier.start.pid:
                    overlapping.append(f"{later.start.id} within {earlier.start.id}")
            elif earlier.ended is None or later.start.at < earlier.ended.at:
                overlapping.append(f"{later.start.id} within {earlier.start.id}")
    return out_of_order, overlapping


def _early(
    sent: Sequence[Sent],
    made: Sequence[Call],
    copies: Sequence[Copy],
    commits: Sequence[Commit],
    handlers: Sequence[str],
) -> list[str]:
    """Messages below a committed offset that some handler had not settled at that moment."""
    settled_at: dict[tuple[str, Place], float] = {}
    copied_at: dict[tuple[str, Place], float] = {}
    places = {message.id: message.place for message in sent}
    for call in made:
        if call.worked and call.ended is not None and call.start.id in places:
            settled_at.setdefault((call.start.handler, places[call.start.id]), call.ended.at)
    for copy in copies:
        where = (copy.handler, copy.original)
        copied_at[where] = min(copy.timestamp, copied_at.get(where, copy.timestamp))
    early = []
    for commit in commits:
        for message in sent:
            topic, partition, offset = message.place
            if (topic, partition) != (commit.topic, commit.partition) or offset >= commit.offset:
                continue
            for handler in handlers:
                where = (handler, message.place)
                if settled_at.get(where, float("inf")) > commit.at and (
                    copied_at.get(where, float("inf")) > commit.wall + 0.01
                ):
                    early.append(f"{message.id} at {_place(message.place)} for {handler}")
    return early


def twice_listed(identities: Iterable[object]) -> list[object]:
    """What a listing shows more than once."""
    return [identity for identity, count in Counter(identities).items() if count > 1]


def _place(place: Place) -> str:
    return "/".join(str(part) for part in place)
