"""`kworker dedup`: what this host's store remembers of an app's group, and forgetting it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..clock import Deadline, SystemClock
from ..errors import StoreError, UsageError
from . import cluster, commands, options, output, tables
from .positions import Moment

if TYPE_CHECKING:
    from ..stores import Store
    from ..stores.tools import HandlerMemory, Trace

_PATIENCE = 10.0  # seconds to wait for the turn of others that write
_PAUSE = 0.05  # seconds between two tries
_LIVE = (
    "workers that run keep what they hold in memory until they end, and other hosts keep "
    "theirs: restart the workers to have it handled again"
)


@commands.group()
def command() -> None:
    """What this host's store remembers: the ids of messages that were handled.

    \b
    kworker dedup stats shop.orders:app
    kworker dedup get shop.orders:app order-17
    kworker dedup forget shop.orders:app order-17 --execute
    kworker dedup prune --db .kworker/shop.db --before -3d --execute

    No Kafka is asked. TARGET may be left out where --db, --group or the settings say which
    store is meant.
    """


@command.command("stats")
@options.as_json
@options.with_app("db", required=False)
def stats_command(given: options.Given, as_json: bool) -> None:
    """Say how many messages of each handler are remembered, and since when.

    \b
    kworker dedup stats shop.orders:app
    kworker dedup stats --db .kworker/shop.db --json
    """
    with cluster.view(given) as (_, view, _):
        found, size = view.handlers(), view.size
    if as_json:
        output.document("dedup.stats", handlers=[asdict(one) for one in found], bytes=size)
    else:
        _stats(found, size)


@command.command("get")
@options.as_json
@options.with_app("db", required=False)
@click.argument("id", required=False, metavar="ID")
def get_command(given: options.Given, id: str | None, as_json: bool) -> None:
    """Say what is known of a message's id, which may be a position: topic/partition/offset.

    \b
    kworker dedup get shop.orders:app order-17
    kworker dedup get --db .kworker/shop.db orders/0/17 --json
    """
    given, id = _one_word_is_the_id(given, id)
    if id is None:
        raise UsageError("ID is missing: say which message, as order-17 or orders/0/17")
    with cluster.view(given) as (path, view, _):
        found = view.find(id)
    if as_json:
        output.document("dedup.get", id=id, known=[asdict(one) for one in found])
    elif found:
        _traces(found)
    else:
        output.note(f"nothing is known of {id!r} in {path}")


@command.command("forget")
@click.option("--handler", metavar="NAME", help="What this handler did, all of it without an ID.")
@click.option("--execute", is_flag=True, help="Forget it; without it, only say how much.")
@options.with_app("db", required=False)
@click.argument("id", required=False, metavar="[ID]")
def forget_command(
    given: options.Given, id: str | None, handler: str | None, execute: bool
) -> None:
    """Forget a message's id, or all that a handler did, so that it is handled when it comes
    again. It comes by itself only if it is sent again, or after `kworker offsets reset`.

    \b
    kworker dedup forget shop.orders:app order-17 --execute
    kworker dedup forget shop.orders:app --handler shop.orders.charge --execute

    With --handler a single word is TARGET. Exit codes: 0 done, 5 the store cannot be used.
    """
    if handler is None:
        given, id = _one_word_is_the_id(given, id)
        if id is None:
            raise UsageError("say what to forget: an ID, or all of --handler NAME")
    with cluster.view(given) as (path, view, _):
        found = view.matching(id=id, handler=handler)
        owner = view.group, view.cluster
    _amounts(found)
    if not execute:
        _would(sum(found.values()), "forgotten")
        return
    with _open(path, owner) as store:
        count = store.forget(id=id, handler=handler, patience=_PATIENCE)
    if count is None:
        raise _busy(path, "nothing was forgotten")
    output.data(f"forgot {_entries(count)}")
    output.note(_LIVE)


@command.command("prune")
@click.option(
    "--before", type=Moment(), required=True, help="What was recorded before then (ISO, -3d)."
)
@click.option("--execute", is_flag=True, help="Forget it; without it, only say how much.")
@options.with_app("db", required=False)
def prune_command(given: options.Given, before: float, execute: bool) -> None:
    """Forget the ids that were recorded before a time, as workers do with those older than
    dedup_retention; what is known by position takes no room and stays.

    \b
    kworker dedup prune shop.orders:app --before -3d --execute
    """
    with cluster.view(given) as (path, view, _):
        total = view.older(before)
        if not execute:
            _would(total, "forgotten")
            return
        with (
            _open(path, (view.group, view.cluster)) as store,
            tables.progress("forgetting") as progress,
        ):
            done = 0
            deadline = Deadline(SystemClock(), _PATIENCE)
            while (count := store.prune(before)) or view.older(before):
                done += count
                progress(done, max(done, total))
                if count:
                    deadline = Deadline(SystemClock(), _PATIENCE)
                elif deadline.passed:
                    raise _busy(path, f"{_entries(done)} are forgotten")
                else:
                    time.sleep(_PAUSE)
    output.data(f"forgot {_entries(done)}")


def _one_word_is_the_id(given: options.Given, id: str | None) -> tuple[options.Given, str | None]:
    """TARGET may be left out, so of one word it is the ID that was meant."""
    return (given, id) if id is not None else (replace(given, target=None), given.target)


def _open(path: Path, owner: tuple[str, str]) -> closing[Store]:
    from ..stores import open_store

    group, cluster_id = owner
    return closing(open_store(path, group=group, cluster=cluster_id))


def _busy(path: Path, how_far: str) -> StoreError:
    return StoreError(
        f"{path}: another process has had its turn for {_PATIENCE:.0f} s, {how_far}; give the "
        "command again"
    )


def _stats(found: Sequence[HandlerMemory], size: int) -> None:
    tables.table(
        ("HANDLER", "SETTLED", "SKIPPED", "OLDEST"),
        [
            (
                one.handler,
                str(one.settled),
                str(one.skipped_duplicates),
                one.oldest or "-",
            )
            for one in found
        ],
    )
    output.note(f"{size} bytes on disk")


def _traces(found: Sequence[Trace]) -> None:
    tables.table(
        ("HANDLER", "TOPIC", "ID", "REPLAY", "HOP", "RECORDED AT", "STATE"),
        [
            (
                one.handler,
                one.topic,
                one.id,
                str(one.replay),
                str(one.hop),
                one.recorded_at,
                "settled"
                if one.settled
                else f"called {one.calls} times" + ", decided" * one.decided,
            )
            for one in found
        ],
    )


def _amounts(found: Mapping[tuple[str, str], int]) -> None:
    if found:
        rows = [(handler, topic, str(count)) for (handler, topic), count in sorted(found.items())]
        tables.table(("HANDLER", "TOPIC", "ENTRIES"), rows)


def _would(count: int, what: str) -> None:
    hint = "; add --execute to do it" if count else ""
    output.data(f"{_entries(count)} would be {what}{hint}")


def _entries(count: int) -> str:
    return f"{count} entr{'y' if count == 1 else 'ies'}"
