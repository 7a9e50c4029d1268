"""`kworker config show`: the settings that hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from .. import kafka, settings
from . import cluster, commands, options, output, tables

_UNITS = {"DURATION": "seconds", "SIZE": "bytes"}


@commands.group()
def command() -> None:
    """The settings that hold here.

    \b
    kworker config show
    kworker config show shop.orders:app --origin
    """


@command.command("show")
@click.option("--origin", "origins", is_flag=True, help="Also say where each value came from.")
@options.as_json
@options.with_app(*settings.declared(), required=False)
def show_command(given: options.Given, origins: bool, as_json: bool) -> None:
    """Show every setting with its value, and Kafka's own properties as they were given.

    \b
    kworker config show
    kworker config show shop.orders:app --origin

    With TARGET also what the app itself says. Flags are those of `kworker run`, to see what
    they would change. What is secret is shown as stars. Exit codes: 0, 3 the app cannot be
    imported, or a setting is refused.
    """
    if given.target is None:
        configuration = given.configuration()
    else:
        app, configuration = given.load()
        configuration = _as_used(configuration, app.name)
    _refuse_properties(configuration)
    rows = list(_settings(configuration))
    properties = list(_properties(configuration))
    if as_json:
        output.document(
            "config.show",
            settings=[one._asdict() for one in rows],
            kafka=[
                {"name": one.name, "value": one.value, "origin": one.origin} for one in properties
            ],
        )
        return
    told = [(one.name, _text(one), one.origin) for one in (*rows, *properties)]
    if origins:
        tables.table(("SETTING", "VALUE", "ORIGIN"), told)
    else:
        tables.table(("SETTING", "VALUE"), [one[:2] for one in told])


def _refuse_properties(configuration: settings.Configuration) -> None:
    """Raises SettingsError for properties that `kworker run` would refuse. Asks no broker."""
    kafka.connect(
        configuration.values["bootstrap_servers"],
        common=configuration.kafka,
        consumer=configuration.kafka_consumer,
        producer=configuration.kafka_producer,
        group_protocol=configuration.values["group_protocol"],
        instance_id=configuration.values["instance_id"],
    )


def _as_used(configuration: settings.Configuration, name: str) -> settings.Configuration:
    """With the group and the store's file that an app of that name has by default."""
    values = configuration.values
    group = values["group"] or name
    if group == settings.UNIQUE:
        return configuration
    db = str(cluster.store_of(group, configuration))
    return dataclasses.replace(configuration, values={**values, "group": group, "db": db})


class _Row(NamedTuple):
    """One setting or property; `unit` is what a number counts."""

    name: str
    value: Any
    unit: str | None
    origin: str


def _settings(configuration: settings.Configuration) -> Iterator[_Row]:
    values: Any = configuration.values
    for one in settings.declared().values():
        origin = configuration.origins[one.name]
        value = values[one.name]
        if isinstance(value, str):
            value = settings.masked(one.name, value)
        yield _Row(one.name, value, _UNITS.get(one.kind.metavar), origin)


def _properties(configuration: settings.Configuration) -> Iterator[_Row]:
    for prefix, found in (
        ("kafka.", configuration.kafka),
        ("kafka.consumer.", configuration.kafka_consumer),
        ("kafka.producer.", configuration.kafka_producer),
    ):
        for name, value in found.items():
            told = settings.masked(name, value)
            yield _Row(f"{prefix}{name}", told, None, configuration.origins[f"{prefix}{name}"])


def _text(row: _Row) -> str:
    if row.value is None:
        return "-"
    declared = settings.declared().get(row.name)
    return str(row.value) if declared is None else declared.kind.show(row.value)
