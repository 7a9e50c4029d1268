"""`kworker check TARGET`: everything that can be wrong before a start, and what to do about it."""

from __future__ import annotations

import dataclasses
import os
import resource
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import findings, settings
from ..clock import SystemClock
from ..errors import KworkerError, StoreError
from ..findings import Finding
from . import cluster, commands, options, output

if TYPE_CHECKING:
    from ..app import App
    from ..handlers import Register
    from ..kafka import Kafka
    from ..kafka.api import Admin
    from ..message import Partition
    from ..stores.tools import View
    from ..topics import GroupTopics

_WITHOUT_APP = "without it there are no handlers to run, and nobody knows their topics"
_NO_KAFKA = "a worker waits for it for connect_timeout, then ends with this code"


@commands.command()
@options.as_json
@options.with_app(*settings.declared())
def command(given: options.Given, as_json: bool) -> None:
    """Look at everything that can be wrong before a start, and change nothing: app, settings,
    store and its disk, SQLite, broker, rights, topics, clocks, handlers new to the group.

    \b
    kworker check shop.orders:app
    kworker check shop.orders:app -b kafka-1:9092 --json

    Flags are those of `kworker run`, to look at what they would mean. Each finding says what,
    why it matters and what to do. Exit codes, that of the worst finding: 0 a worker can run,
    3 app, setting or topics, 4 Kafka unreachable or access refused, 5 the store.
    """
    found = []
    for one in _findings(given):
        found.append(one)
        if not as_json:
            _tell(one)
    code = findings.worst(found)
    if as_json:
        output.document("check", findings=[dataclasses.asdict(one) for one in found], code=code)
    elif not any(one.level in ("error", "warning") for one in found):
        output.note("nothing is in the way of a worker")
    click.get_current_context().exit(code)


def _tell(one: Finding) -> None:
    from ..observe.log import printable

    output.data(f"{one.level:<8} {one.check}: {printable(one.what)}")
    if one.why:
        output.data(f"{'':<8}   why: {printable(one.why)}")
    if one.do:
        output.data(f"{'':<8}   do:  {printable(one.do)}")


def _findings(given: options.Given) -> Iterator[Finding]:
    """All of them, in the order of a start; what needs what is broken is left out."""
    app: App | None = None
    try:
        app = given.load_app()
        yield findings.fine("app", f"{given.target} is {app!r}")
    except KworkerError as error:
        yield findings.failed("app", error, _WITHOUT_APP)
    try:
        configuration = given.configuration({} if app is None else app.settings)
    except KworkerError as error:
        yield findings.failed("settings", error, "a worker would not start with it")
        return
    for warning in configuration.warnings:
        what, _, do = warning.partition("; ")
        yield Finding("settings", "warning", what, "it changes nothing", do or "remove it")
    register: Register | None = None
    names: GroupTopics | None = None
    if app is not None:
        try:
            plugins = app.load_plugins()
            register = app.register(plugins)
            app.providers()
            names = cluster.topics_of(app, configuration)
            yield findings.fine("handlers", ", ".join(one.name for one in register))
        except KworkerError as error:
            yield findings.failed("handlers", error, "a worker would not start with it")
    yield from _host()
    path = _store(configuration, names)
    if path is not None:
        yield from _place(path)
    yield from findings.hosts(configuration.values["bootstrap_servers"])
    try:
        kafka = cluster.connect(configuration)
    except KworkerError as error:
        yield findings.failed("kafka", error, _NO_KAFKA)
        return
    with closing(kafka.admin(configuration.values["connect_timeout"])) as admin:
        identity = admin.cluster_id()
        yield findings.fine("kafka", f"{kafka.bootstrap_servers}, cluster {identity}")
        yield findings.release(kafka.release())
        view = None
        if path is not None and path.exists():
            try:
                view = _look(path, names, identity)
                yield findings.fine("store", f"{path} is of group {view.group!r}")
            except KworkerError as error:
                yield findings.failed("store", error, "a worker would refuse to start with it")
        elif path is not None:
            yield findings.fine("store", f"{path} is made at the first start")
        if register is not None and names is not None:
            yield from _cluster(configuration, kafka, admin, register, names, view)
        if view is not None:
            view.close()


def _host() -> Iterator[Finding]:
    version = tuple(int(one) for one in sqlite3.sqlite_version.split("."))
    yield findings.sqlite(version)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield findings.open_files(soft if soft != resource.RLIM_INFINITY else 2**20)


def _store(configuration: settings.Configuration, names: GroupTopics | None) -> Path | None:
    """The store's file; None where there is none on a disk, or nobody knows its name."""
    db = configuration.values["db"]
    if configuration.values["group"] == settings.UNIQUE or (db is not None and "://" in db):
        return None
    if names is None:
        return None if db is None else Path(db)
    return cluster.store_of(names.group, configuration)


def _place(path: Path) -> Iterator[Finding]:
    from ..stores import place

    folder = place.nearest(path)
    try:
        found = place.look(path)
    except OSError as error:
        found = None
        yield _unusable(f"{folder} cannot be looked at: {error.strerror}")
    if found is not None:
        yield findings.file_system(str(folder), found.kind, found.network)
        yield findings.disk(str(folder), found.free)
    target = path if path.exists() else folder
    if not os.access(target, os.R_OK | os.W_OK, effective_ids=True):
        yield _unusable(f"{target} cannot be written by this user")


def _unusable(what: str) -> Finding:
    why = "a worker keeps there what it has done, and takes nothing without"
    do = "make it writable for this user, or name another file with --db"
    return Finding("store", "error", what, why, do, StoreError.exit_code)


def _look(path: Path, names: GroupTopics | None, identity: str) -> View:
    """The store, looked into. Raises StoreError for one that a worker would refuse."""
    from ..stores.tools import View

    view = View(path)
    for what, expected, found in (
        ("group", view.group if names is None else names.group, view.group),
        ("cluster", identity, view.cluster),
    ):
        if expected != found:
            view.close()
            raise StoreError(
                f"{path}: belongs to {what} {found!r}, not to {expected!r}; name another file "
                "with --db"
            )
    return view


def _cluster(
    configuration: settings.Configuration,
    kafka: Kafka,
    admin: Admin,
    register: Register,
    names: GroupTopics,
    view: View | None,
) -> Iterator[Finding]:
    """About rights, topics and the group, as far as the cluster tells."""
    from .. import topics

    values: Any = configuration.values
    creates, unique = values["create_topics"] == "missing", values["group"] == settings.UNIQUE
    known = admin.topics()
    register.find(known, names.internal)
    delays = {delay for one in register for delay in one.retry.delays if not unique}
    try:
        plan = topics.plan(register.topics, delays, names, admin, copies=not unique)
        yield from findings.plan(plan, creates=creates, accepts=values["accept_topics"])
        if not plan.missing and not plan.worse:
            yield findings.fine("topics", "all exist and are as good as needed")
    except KworkerError as error:
        yield findings.failed("topics", error, "handlers would take nothing from it")
    owned = [name for name in known if names.owns(name)]
    told = admin.rights([*register.topics, *owned], names.group)
    yield from findings.rights(told, names, creates=creates)
    sources = admin.describe(register.topics)
    yield from findings.replication(sources.values())
    yield from findings.partitions(sources.values(), values["workers"])
    served = cluster.partitions_of(kafka, sources)
    newest = max(admin.newest(served).values(), default=None)
    yield findings.clock(newest, SystemClock.wall())
    if not unique:
        yield from _group(kafka, register, names, served, view)


def _group(
    kafka: Kafka,
    register: Register,
    names: GroupTopics,
    served: Sequence[Partition],
    view: View | None,
) -> Iterator[Finding]:
    committed = kafka.committed(names.group, served)
    live: dict[str, bool] = {}
    for one in served:
        live[one.topic] = live.get(one.topic, False) or committed.get(one) is not None
    if not any(live.values()):
        yield findings.fine("group", f"{names.group} is new")
        return
    with closing(kafka.admin()) as admin:
        members = admin.members(names.group)
    yield findings.fine("group", f"{names.group} has positions, and {len(members)} members now")
    if view is not None:
        yield from findings.newcomers(register, view.names(), live)
