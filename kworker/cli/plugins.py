"""`kworker plugins [TARGET]`: the plugins that a worker would have, and their hooks."""

from __future__ import annotations

import click

from .. import observe, plugins
from ..plugins import Plugin
from . import commands, options, output, tables


@commands.command()
@options.as_json
@options.with_app(required=False)
def command(given: options.Given, as_json: bool) -> None:
    """List plugins: kworker's own, those of the app, and those that are installed.

    \b
    kworker plugins
    kworker plugins shop.orders:app

    They are told and asked in this order. One that is installed and cannot be used is told;
    it is left out by its name in the variable KWORKER_WITHOUT_PLUGINS, names separated by
    commas. Exit codes: 0, 3 the app cannot be imported, or a plugin cannot be used.
    """
    app = None if given.target is None else given.load_app()
    given.configuration({} if app is None else app.settings)
    own = plugins.named(observe.own(), "kworker")
    apps = app.plugins if app is not None else ()
    found = list(plugins.distinct([*own, *apps, *plugins.installed()]))
    whole = [one for one in found if one.fault is None]
    if as_json:
        output.document("plugins", plugins=[_json(one) for one in found])
    else:
        tables.table(
            ("NAME", "FROM", "HOOKS"),
            [(one.name, _origin(one), " ".join(one.hooks)) for one in whole],
        )
    faults = [one.fault for one in found if one.fault is not None]
    for fault in faults:
        output.error(fault)
    if faults:
        click.get_current_context().exit(3)


def _origin(plugin: Plugin) -> str:
    return " ".join(filter(None, (plugin.origin, plugin.version)))


def _json(plugin: Plugin) -> dict[str, object]:
    return {
        "name": plugin.name,
        "origin": plugin.origin,
        "version": plugin.version,
        "hooks": list(plugin.hooks) if plugin.fault is None else [],
        "error": plugin.fault,
    }
