"""`kworker run TARGET`: run an app's handlers until told to stop."""

from __future__ import annotations

import logging

import click

from .. import settings
from . import options


@click.command()
@options.with_app(*settings.declared(), level=logging.INFO)
@click.option("--drain", is_flag=True, help="Handle what is there now, retries included; then end.")
def command(given: options.Given, drain: bool) -> None:
    """Run the handlers of TARGET (package.module:app, or package.module).

    \b
    kworker run shop.orders:app
    kworker run shop.orders:app -b localhost:9092 --concurrency 32
    kworker run shop.orders:app --drain

    TERM or Ctrl-C stops taking messages, finishes what runs, commits and leaves; a second
    Ctrl-C ends at once. Exit codes: 0 stopped, 1 crashed or forced, 2 usage, 3 app, setting
    or topic, 4 Kafka unreachable, 5 local store, 6 cannot go on safely.
    """
    app, configuration = given.load()

    from ..runtime import worker

    click.get_current_context().exit(worker.run(app, configuration, drain=drain))
