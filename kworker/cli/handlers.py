"""`kworker handlers TARGET`: what an app declares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import durations
from . import commands, options, output, tables

if TYPE_CHECKING:
    from ..handlers import Handler


@commands.command()
@options.as_json
@options.with_app("concurrency")
def command(given: options.Given, as_json: bool) -> None:
    """List the app's handlers: their topics, retries, order and concurrency. Asks no Kafka.

    \b
    kworker handlers shop.orders:app

    CONCURRENCY is how many calls of it run at once in a process. Exit codes: 0, 3 the app
    cannot be imported, or one of its handlers cannot work.
    """
    app, configuration = given.load()
    found = tuple(app.register())
    together = configuration.values["concurrency"]
    if as_json:
        output.document("handlers", handlers=[_json(one) for one in found])
        return
    tables.table(
        ("NAME", "TOPICS", "RETRIES", "ORDER", "CONCURRENCY", "WHERE"),
        [
            (
                one.name,
                " ".join(one.topics),
                _retries(one),
                one.order,
                str(min(one.concurrency or together, together)),
                one.where,
            )
            for one in found
        ],
    )


def _retries(handler: Handler) -> str:
    retry = handler.retry
    calls = f"{retry.attempts} call{'s' if retry.attempts > 1 else ''}"
    delays = ", ".join(map(durations.canonical, retry.delays))
    return f"{calls}, then after {delays}" if delays else calls


def _json(handler: Handler) -> dict[str, object]:
    retry = handler.retry
    return {
        "name": handler.name,
        "topics": list(handler.topics),
        "retry": {
            "attempts": retry.attempts,
            "delays": [durations.canonical(delay) for delay in retry.delays],
            "calls": retry.calls,
        },
        "order": handler.order,
        "concurrency": handler.concurrency,
        "async": handler.is_async,
        "where": handler.where,
    }
