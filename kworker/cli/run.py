"""`kworker run TARGET`: run an app's handlers until told to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import devbroker, settings
from ..observe import log
from ..runtime import supervisor
from . import commands, options, output, reload

if TYPE_CHECKING:
    from ..app import App


@commands.command()
@options.with_app(*settings.declared(), level=logging.INFO)
@click.option("--drain", is_flag=True, help="Handle what is there now, retries included; then end.")
@click.option("--reload", "reloads", is_flag=True, help="Start again whenever a file changes.")
@click.option("--reloaded", is_flag=True, hidden=True)  # the child of `--reload`
@click.option("--under-dev", hidden=True)  # the child of `kworker dev`: on which broker
# A worker of `--workers`: which one, and the process id of its parent.
@click.option("--supervised", nargs=2, type=int, hidden=True)
def command(
    given: options.Given,
    drain: bool,
    reloads: bool,
    reloaded: bool,
    under_dev: str | None,
    supervised: tuple[int, int] | None,
) -> None:
    """Run the handlers of TARGET (package.module:app, or package.module).

    \b
    kworker run shop.orders:app
    kworker run shop.orders:app -b localhost:9092 --concurrency 32 --workers 2
    kworker run shop.orders:app --drain
    kworker run shop.orders:app --reload

    TERM or Ctrl-C stops taking messages, finishes what runs, commits and leaves; a second
    Ctrl-C ends at once. Exit codes: 0 stopped, 1 crashed or forced, 2 usage, 3 app, setting
    or topic, 4 Kafka unreachable, 5 local store, 6 cannot go on safely.
    """
    if reloads:
        command = [sys.executable, "-m", "kworker", "run", *given.arguments(), "--reloaded"]
        watched = reload.watched(given.app_dir)
        code = reload.Reloader(command + ["--drain"] * drain, watched).run()
        click.get_current_context().exit(code)
    if reloaded:
        _end_with_parent()
    if supervised is not None:
        supervisor.die_with(supervised[1])
    app, configuration = given.load()
    if supervised is not None:
        log.mark(worker=supervised[0], pid=os.getpid())
        configuration = _in_slot(configuration, supervised[0])
    if supervised is None:
        _check_choice(given, app, configuration)
    if under_dev is not None:
        if under_dev == "mock":
            configuration = devbroker.joining_quickly(configuration)
        if supervised is None:
            _end_with_parent()
            _make_topics(app, configuration)
    values = configuration.values
    if supervised is None and values["workers"] > 1:
        with _served_for_all(app, values) as health:
            code = supervisor.run(
                _workers_command(given, drain, under_dev, health),
                values["workers"],
                shutdown_timeout=values["shutdown_timeout"],
                connect_timeout=values["connect_timeout"],
                # One that ends by itself, for whatever reason, is not started again.
                drain=drain
                or values["max_messages"] is not None
                or values["max_runtime"] is not None,
            )
        click.get_current_context().exit(code)
    if under_dev is not None or configuration.origins["bootstrap_servers"] == str(devbroker.FILE):
        configuration = _with_store_of_dev(app, configuration)

    from ..runtime import worker

    click.get_current_context().exit(worker.run(app, configuration, drain=drain))


def _in_slot(configuration: settings.Configuration, number: int) -> settings.Configuration:
    """With an instance id that the processes of one parent do not share."""
    name = configuration.values["instance_id"]
    if name is None:
        return configuration
    values: settings.Settings = {**configuration.values, "instance_id": f"{name}-{number}"}
    return dataclasses.replace(configuration, values=values)


def _check_choice(given: options.Given, app: App, configuration: settings.Configuration) -> None:
    """Refuse a choice of handlers that would make the others lose messages."""
    from .. import choice

    values = configuration.values
    wanted = (values["handlers"], values["topics"], values["exclude_topics"])
    if not any(wanted) or values["group"] == settings.UNIQUE:
        return
    whole = app.register()
    served = choice.chosen(whole, handlers=wanted[0], topics=wanted[1], exclude_topics=wanted[2])
    usual = app.group
    flags = {name: value for name, value in given.flags.items() if name != "group"}
    if not given.factory and "group" in given.flags:
        # A module without an app is named after --group.
        usual = dataclasses.replace(given, flags=flags).load_app().group
    # A group that stands in a file or the environment is the whole app's, too.
    elsewhere = settings.load(
        app.settings,
        flags=flags,
        environ=os.environ,
        folder=Path.cwd(),
        properties=given.properties,
    )
    usual = elsewhere.values["group"] or usual
    choice.refuse_shared_group(whole, served, values["group"] or app.name, usual)


@contextlib.contextmanager
def _served_for_all(app: App, values: settings.Settings) -> Iterator[Mapping[int, str]]:
    """Serve `--health` for all workers while the block lasts; where each is to serve its own."""
    address = values["health"]
    if address is None:
        yield {}
        return
    from ..observe.health import Workers
    from ..observe.pages import served

    metrics = app.load_plugins().metrics
    with tempfile.TemporaryDirectory(prefix="kworker-") as folder:
        own = {number: f"unix:{folder}/{number}" for number in range(1, values["workers"] + 1)}
        pages = Workers(own, metrics).pages()
        with served(address, pages, values["health_token"]):
            yield own


def _workers_command(
    given: options.Given, drain: bool, under_dev: str | None, health: Mapping[int, str]
) -> supervisor.Command:
    """How each worker of `--workers` is started: with what was typed."""
    typed = [sys.executable, "-m", "kworker", "run", *given.arguments()]
    typed += ["--drain"] * drain
    typed += [] if under_dev is None else ["--under-dev", under_dev]

    def command(number: int) -> list[str]:
        served = ["--health", health[number]] if number in health else []
        return [*typed, *served, "--supervised", str(number), str(os.getpid())]

    return command


def _with_store_of_dev(app: App, configuration: settings.Configuration) -> settings.Configuration:
    """Every start of `kworker dev` is a new cluster, so its store is kept apart."""
    values = configuration.values
    if values["db"] is not None:
        return configuration
    db = devbroker.STORES / f"{values['group'] or app.name}.db"
    return dataclasses.replace(configuration, values={**values, "db": str(db)})


def _make_topics(app: App, configuration: settings.Configuration) -> None:
    """Under `kworker dev`, topics that handlers take are made, too."""
    from .. import topics
    from . import cluster

    values, register = configuration.values, app.register()
    connection = cluster.connect(configuration)
    with contextlib.closing(connection.admin(values["connect_timeout"])) as admin:
        topics.ensure(
            register.topics,
            {delay for handler in register for delay in handler.retry_topics},
            cluster.topics_of(app, configuration),
            admin,
            create=values["create_topics"] == "missing",
            create_sources=True,
            accept=True,
        )
    for topic in register.topics[:1]:
        output.note(f"send it a message: kworker publish {topic} '{{\"id\": 1}}'")


def _end_with_parent() -> None:
    """Stop when the process that reloads this one is gone, however it went."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="kworker-reloader", daemon=True).start()
