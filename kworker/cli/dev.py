"""`kworker dev TARGET`: a broker, a worker on it, and a new worker whenever a file changes.

The broker lives in this process (or one of its own) and the worker in a child, so that
messages outlive a reload.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from .. import devbroker, settings
from ..errors import KafkaUnavailable, SettingsError, UsageError
from . import commands, options, output, reload


@commands.command()
@options.with_app(*settings.declared(), level=logging.INFO)
@click.option(
    "--broker",
    metavar="mock|kafka|HOST:PORT",
    help="mock: inside this process; kafka: a real one, from kworker-broker; or one that runs "
    "already.  [default: mock]",
)
def command(given: options.Given, broker: str | None) -> None:
    """Run TARGET on a broker of its own, and again whenever a file changes. Needs no Kafka.

    \b
    kworker dev shop.orders:app
    kworker dev shop.orders:app --broker kafka

    Missing topics are made (4 partitions). While it runs, commands in this folder find its
    broker without -b. Ctrl-C ends it, and what was on the mock broker is gone.
    """
    servers = given.flags.get("bootstrap_servers")
    if broker and servers:
        raise UsageError("give either --broker or -b, which is the same as --broker HOST:PORT")
    folder = Path.cwd()
    if other := devbroker.find(folder):
        raise UsageError(f"another `kworker dev` runs in this folder, its broker at {other}")

    code, choice = 0, broker or servers or "mock"
    with _broker(choice) as address:
        shutil.rmtree(folder / devbroker.STORES, ignore_errors=True)
        devbroker.leave(folder, address)
        try:
            output.note(f"broker at {address}; commands in this folder use it without -b")
            code = reload.Reloader(
                _child(given, choice, address), reload.watched(given.app_dir)
            ).run()
        finally:
            devbroker.remove(folder)
    click.get_current_context().exit(code)


@contextlib.contextmanager
def _broker(choice: str) -> Iterator[str]:
    """The address of the broker that was chosen; it ends with the block if it is ours."""
    if choice == "mock":
        from ..kafka import embedded

        mock = embedded.start()
        try:
            yield mock.bootstrap_servers
        finally:
            mock.close()
    elif choice == "kafka":
        try:
            import kworker_broker
        except ModuleNotFoundError as error:
            raise SettingsError(
                "--broker kafka needs the package kworker-broker, which is not installed; "
                "install it, or leave out --broker for the mock"
            ) from error
        output.note("starting Kafka; the first time on a machine it is downloaded")
        try:
            cluster = kworker_broker.Cluster.start()
        except kworker_broker.BrokerError as error:
            raise KafkaUnavailable(str(error)) from error
        try:
            yield cluster.bootstrap_servers
        finally:
            cluster.close()
    elif ":" in choice:
        yield choice
    else:
        raise UsageError(f"--broker {choice}: give mock, kafka or HOST:PORT")


def _child(given: options.Given, choice: str, address: str) -> list[str]:
    """The command of the worker: what was typed, on this broker."""
    flags = {"create_topics": "missing", "log_format": "console", **given.flags}
    flags["bootstrap_servers"] = address
    typed = dataclasses.replace(given, flags=flags).arguments()
    return [sys.executable, "-m", "kworker", "run", *typed, "--under-dev", choice]
