"""`kworker offsets`: where an app's group stands, and moving it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import offsets
from ..errors import StoreError, UsageError
from ..names import did_you_mean
from . import cluster, commands, options, output, tables
from .positions import Position

if TYPE_CHECKING:
    from ..kafka.api import Committed
    from ..message import Partition
    from ..note import Note
    from ..progress import Move
    from ..stores import Store

_PATIENCE = 10.0  # seconds to wait for the turn of others that write into the store
_SETTINGS = ("connect_timeout", *cluster.TEMPLATES)


@commands.group()
def command() -> None:
    """Where an app's group stands in the topics it reads.

    \b
    kworker offsets show shop.orders:app
    kworker offsets reset shop.orders:app --to -2h
    kworker offsets reset shop.orders:app --to -2h --again --execute
    """


@command.command("show")
@options.as_json
@options.with_app(*_SETTINGS)
def show_command(given: options.Given, as_json: bool) -> None:
    """Show the committed position of each partition: the next offset that is taken, the
    leader epoch it was read under, and what else the commit says: what each handler has
    finished above it, and what is in doubt.

    \b
    kworker offsets show shop.orders:app
    kworker offsets show shop.orders:app --json
    """
    room = _Room(given)
    partitions = room.partitions()
    found = room.kafka.committed(room.group, partitions)
    notes = room.notes(found)
    if as_json:
        output.document(
            "offsets.show",
            group=room.group,
            partitions=[
                {
                    "topic": one.topic,
                    "partition": one.index,
                    "committed": point.offset if point else None,
                    "leader_epoch": point.leader_epoch if point else None,
                    "metadata": point.metadata if point else None,
                    "map": _map(notes[one]) if one in notes else None,
                }
                for one in partitions
                for point in (found.get(one),)
            ],
        )
    else:
        tables.table(
            ("TOPIC", "PARTITION", "COMMITTED", "EPOCH", "ABOVE IT"),
            [
                (
                    one.topic,
                    str(one.index),
                    "-" if point is None else str(point.offset),
                    "-" if point is None or point.leader_epoch is None else str(point.leader_epoch),
                    _said(notes[one]) if one in notes else point.metadata if point else "",
                )
                for one in partitions
                for point in (found.get(one),)
            ],
        )
    for one in partitions:
        if one not in found:
            output.note(f"{one}: not told by Kafka, a transaction on it is still open")
    for one, why in room.foreign.items():
        output.note(f"{one}: what the commit says besides is ignored by workers: {why}")


@command.command("reset")
@click.option(
    "--to", type=Position(), required=True, help=f"Where to: {offsets.HOW} (N from where it is)."
)
@click.option(
    "--topic",
    "chosen",
    multiple=True,
    metavar="TOPIC",
    help="This topic alone, which may be one of retries; else all that handlers take. Repeatable.",
)
@click.option(
    "--again", is_flag=True, help="Also forget what this host's store remembers of the topics."
)
@click.option("--execute", is_flag=True, help="Move them; without it, only say where to.")
@options.with_app("db", *_SETTINGS)
def reset_command(
    given: options.Given,
    to: offsets.Position,
    chosen: tuple[str, ...],
    again: bool,
    execute: bool,
) -> None:
    """Move the group's positions, so that its workers go on from there.

    \b
    kworker offsets reset shop.orders:app --to earliest
    kworker offsets reset shop.orders:app --to -2h --execute
    kworker offsets reset shop.orders:app --to -100 --topic orders --again --execute

    Nothing is moved while the group has members: stop its workers first. What a host's store
    remembers is skipped there when it comes again; --again makes this host's forget it. Exit
    codes: 0 done, 2 the group has members, or the position is none, 3 a topic is missing,
    4 Kafka unreachable, 5 the store cannot be used.
    """
    from .. import progress

    room = _Room(given)
    partitions = room.partitions(chosen) if chosen else room.sources()
    active = progress.members(room.kafka, room.group)
    if active and execute:
        raise UsageError(progress.refusal(room.group, active))
    moves = progress.moves(room.kafka, room.group, partitions, to)
    _table(moves)
    if not execute:
        output.data(
            f"{_count(len(moves))} of group {room.group} would be moved; add --execute to do it"
        )
        if again:
            output.note(f"what {room.store} remembers of {_topics(moves)} would be forgotten")
        if active:
            output.note(progress.refusal(room.group, active))
        return
    with room.memory(again) as memory:
        progress.move(room.kafka, room.group, {one.partition: one.after for one in moves})
        output.data(f"moved {_count(len(moves))} of group {room.group}")
        if memory is not None:
            _forget(memory, room.store, moves)
    if again:
        output.note("other hosts of the group keep their memory; do the same there")
    elif any(one.before is not None and one.after < one.before for one in moves):
        output.note("what a host's store remembers is skipped there; --again forgets it here")


class _Room:
    """One app's group on one cluster."""

    def __init__(self, given: options.Given) -> None:
        app, configuration = given.load()
        cluster.refuse_unique(configuration)
        self.register = app.register()
        self.topics = cluster.topics_of(app, configuration)
        self.group = self.topics.group
        self.store = cluster.store_of(self.group, configuration)
        self.kafka = cluster.connect(configuration)
        self.foreign: dict[Partition, str] = {}  # why a commit's metadata is not believed

    @contextmanager
    def memory(self, wanted: bool) -> Iterator[Store | None]:
        """The store on this host, None where it is not wanted or not there. Raises StoreError
        before anything else is done."""
        from ..stores import open_store

        if not (wanted and self.store.exists()):
            yield None
            return
        identity = self.kafka.admin().cluster_id()
        with closing(open_store(self.store, group=self.group, cluster=identity)) as store:
            yield store

    def notes(self, found: Mapping[Partition, Committed | None]) -> dict[Partition, Note]:
        """What owners have said with their commits; why others are not believed."""
        from ..note import Foreign, Place, read

        admin = self.kafka.admin()
        cluster_id = admin.cluster_id()
        described = admin.describe({one.topic for one in found})
        notes: dict[Partition, Note] = {}
        for one, point in found.items():
            if point is None or one.topic not in described:
                continue
            topic_id = described[one.topic].id or one.topic
            try:
                note = read(point.metadata, Place(cluster_id, topic_id, one.index, point.offset))
            except Foreign as error:
                self.foreign[one] = str(error)
                continue
            if note is not None:
                notes[one] = note
        return notes

    def sources(self) -> list[Partition]:
        """Those of the topics that handlers take."""
        return [one for one in self.partitions() if not self.topics.owns(one.topic)]

    def partitions(self, chosen: Sequence[str] = ()) -> list[Partition]:
        """Those that the group reads, of the chosen topics alone if there are any."""
        served = cluster.served(self.kafka, self.register, self.topics)
        names = {one.topic for one in served}
        for name in chosen:
            if name not in names:
                raise UsageError(
                    f"group {self.group!r} does not read {name!r}{did_you_mean(name, names)}"
                )
        return [one for one in served if not chosen or one.topic in chosen]


def _map(note: Note) -> dict[str, object]:
    """A note as programs read it: offsets as ranges, bounds included."""
    return {
        "handlers": {
            name: {"done": done.encode(), "count": done.total} for name, done in note.done.items()
        },
        "in_doubt": [
            {
                "handler": name,
                "offset": offset,
                "calls": doubt.calls,
                "decided": doubt.decided is not None,
            }
            for (name, offset), doubt in note.doubts.items()
        ],
        "store": note.store,
        "clean": note.clean,
    }


def _said(note: Note) -> str:
    """A note as people read it."""
    done = [f"{name}: {ranges.encode()}" for name, ranges in note.done.items()]
    doubts = [
        f"{name}: {offset} in doubt after {doubt.calls} calls"
        for (name, offset), doubt in note.doubts.items()
    ]
    return "; ".join(done + doubts)


def _table(moves: Sequence[Move]) -> None:
    tables.table(
        ("TOPIC", "PARTITION", "BEFORE", "AFTER", "CHANGE"),
        [
            (
                one.partition.topic,
                str(one.partition.index),
                "-" if one.before is None else str(one.before),
                str(one.after),
                "" if one.before is None else f"{one.after - one.before:+}",
            )
            for one in moves
        ],
    )


def _forget(memory: Store, path: Path, moves: Sequence[Move]) -> None:
    for topic in sorted({one.partition.topic for one in moves}):
        count = memory.forget(topic=topic, patience=_PATIENCE)
        if count is None:
            raise StoreError(
                f"{path}: another process has had its turn for {_PATIENCE:.0f} s, so what it "
                f"remembers of {topic} is not forgotten; the positions are moved: give the "
                "command again with --to +0"
            )
        output.data(f"forgot {count} entries of {topic}")


def _topics(moves: Sequence[Move]) -> str:
    return ", ".join(sorted({one.partition.topic for one in moves}))


def _count(number: int) -> str:
    return f"{number} position{'' if number == 1 else 's'}"
