"""`kworker lag TARGET`: how far an app's group is behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .. import durations, offsets
from ..clock import SystemClock
from ..errors import UsageError
from . import cluster, commands, options, output, tables

if TYPE_CHECKING:
    from ..progress import Lag

_FOUND = 10
_EVERY = 2.0  # seconds between two looks of --watch


@commands.command()
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option(
    "--fail-above",
    type=click.IntRange(min=0),
    metavar="N",
    help="Exit with 10 when more than N messages are ahead, in all.",
)
@options.as_json
@options.with_app("connect_timeout", "start_from", *cluster.TEMPLATES)
def command(given: options.Given, watch: bool, fail_above: int | None, as_json: bool) -> None:
    """Say how many messages are ahead of the app's group, and how old the next one is, for
    each partition of the topics it reads: its handlers' own, and those of retries and replays.

    \b
    kworker lag shop.orders:app
    kworker lag shop.orders:app --watch
    kworker lag shop.orders:app --json --fail-above 10000

    What has no position yet counts from where the group would begin. Exit codes: 0, 3 a topic
    is missing, 4 Kafka unreachable, 10 more is ahead than --fail-above.
    """
    if watch and (as_json or fail_above is not None):
        raise UsageError("--watch is for people: leave out --json and --fail-above")
    if watch and not sys.stdout.isatty():
        raise UsageError("--watch needs a terminal; without one, give the command again")
    look = _Look(given)
    if watch:
        _watch(look)
        return
    lags = look()
    if as_json:
        output.document("lag", partitions=[_json(one) for one in lags], total=_total(lags))
    else:
        _show(lags)
    for one in lags:
        if one.ahead is None:
            output.note(f"{one.partition}: not told by Kafka, a transaction on it is still open")
    if fail_above is not None and _total(lags) > fail_above:
        click.get_current_context().exit(_FOUND)


class _Look:
    """One app's group on one cluster, looked at again and again."""

    def __init__(self, given: options.Given) -> None:
        app, configuration = given.load()
        cluster.refuse_unique(configuration)
        self._register = app.register()
        self._topics = cluster.topics_of(app, configuration)
        self._start = offsets.parse(configuration.values["start_from"], SystemClock.wall())
        self._kafka = cluster.connect(configuration)

    def __call__(self) -> list[Lag]:
        from .. import progress

        partitions = cluster.served(self._kafka, self._register, self._topics)
        return progress.lag(
            self._kafka,
            self._topics.group,
            partitions,
            self._start,
            self._topics.owns,
            SystemClock.wall(),
        )


def _watch(look: _Look) -> None:
    try:
        while True:
            lags = look()
            click.clear()
            _show(lags)
            time.sleep(_EVERY)
    except KeyboardInterrupt:
        pass  # the way to end it


def _show(lags: Sequence[Lag]) -> None:
    rows = [
        (
            one.partition.topic,
            str(one.partition.index),
            "-" if one.committed is None else str(one.committed),
            str(one.end),
            "?" if one.ahead is None else str(one.ahead),
            "?" if one.seconds is None else durations.canonical(round(one.seconds)),
        )
        for one in lags
    ]
    columns = ("TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "AGE OF NEXT")
    tables.table(columns, [*rows, ("total", "", "", "", str(_total(lags)), "")])


def _total(lags: Sequence[Lag]) -> int:
    return sum(one.ahead or 0 for one in lags)


def _json(one: Lag) -> dict[str, object]:
    return {
        "topic": one.partition.topic,
        "partition": one.partition.index,
        "committed": one.committed,
        "end": one.end,
        "lag": one.ahead,
        "lag_seconds": None if one.seconds is None else round(one.seconds, 3),
    }
