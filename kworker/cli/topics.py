"""`kworker topics`: what topics an app needs, and making them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .. import settings
from ..errors import TopicsMissing
from . import cluster, commands, options, output, tables

if TYPE_CHECKING:
    from ..topics import Plan

_HAS_CHANGES = 10
_SETTINGS = ("connect_timeout", *cluster.TEMPLATES)


@commands.group()
def command() -> None:
    """The topics that an app needs: those of its handlers, and its group's own for retries,
    replays and dead letters.

    \b
    kworker topics plan shop.orders:app
    kworker topics apply shop.orders:app --execute
    """


_create_sources = click.option(
    "--create-sources", is_flag=True, help="Also create topics that handlers take (4 partitions)."
)


@command.command("plan")
@options.with_app("accept_topics", *_SETTINGS)
@_create_sources
@options.as_json
def plan_command(given: options.Given, create_sources: bool, as_json: bool) -> None:
    """Say which topics are missing, or worse than needed. Changes nothing.

    \b
    kworker topics plan shop.orders:app
    kworker topics plan shop.orders:app --create-sources --json

    Exit codes: 0 nothing to do, 10 there are topics to create, 3 topics that exist are worse
    than needed (unless accepted), or those that handlers take do not exist.
    """
    work = _Work(given, create_sources)
    plan = work.plan()
    if as_json:
        output.document("topics.plan", changes=_changes(plan, work.accept))
    else:
        _show(plan, work.accept)
    work.refuse_or_warn(plan)
    if plan.missing:
        click.get_current_context().exit(_HAS_CHANGES)


@command.command("apply")
@options.with_app("accept_topics", *_SETTINGS)
@_create_sources
@click.option("--execute", is_flag=True, help="Create them; without it, only say which.")
def apply_command(given: options.Given, create_sources: bool, execute: bool) -> None:
    """Create the topics that are missing. Existing ones are never changed.

    \b
    kworker topics apply shop.orders:app --execute
    kworker topics apply shop.orders:app --create-sources --execute

    Several may do so at once: a topic that exists by then is as good. Exit codes: 0 done,
    3 topics that exist are worse than needed (unless accepted), or cannot be created.
    """
    work = _Work(given, create_sources)
    plan = work.plan()
    if not execute:
        _show(plan, work.accept)
        work.refuse_or_warn(plan)
        if plan.missing:
            output.note(f"{_count(len(plan.missing))} would be created; add --execute to do it")
        return
    work.refuse_or_warn(plan)
    made = work.apply()
    for new in made.missing:
        output.data(f"created {new.name}")
    if not made.missing:
        output.note("nothing to do: all topics exist")


class _Work:
    """One app on one cluster, and what was decided about its topics."""

    def __init__(self, given: options.Given, create_sources: bool) -> None:
        app, configuration = given.load()
        register = app.register()
        self.copies = configuration.values["group"] != settings.UNIQUE
        self.delays = {delay for one in register for delay in one.retry_topics if self.copies}
        self.names = cluster.topics_of(app, configuration)
        self.accept = configuration.values["accept_topics"]
        self.create_sources = create_sources
        self.kafka = cluster.connect(configuration)
        with self.admin() as admin:
            register.find(admin.topics(), self.names.internal)
        self.sources = register.topics

    def plan(self) -> Plan:
        from .. import topics

        with self.admin() as admin:
            return topics.plan(
                self.sources,
                self.delays,
                self.names,
                admin,
                create_sources=self.create_sources,
                copies=self.copies,
            )

    def apply(self) -> Plan:
        from .. import topics

        with self.admin() as admin:
            return topics.ensure(
                self.sources,
                self.delays,
                self.names,
                admin,
                create=True,
                create_sources=self.create_sources,
                accept=self.accept,
                copies=self.copies,
            )

    def admin(self) -> Any:
        from contextlib import closing

        return closing(self.kafka.admin())

    def refuse_or_warn(self, plan: Plan) -> None:
        for note in plan.notes:
            output.note(note)
        for flaw in plan.worse if self.accept else ():
            output.note(f"accepted although worse than needed: {flaw}")
        if plan.worse and not self.accept:
            raise TopicsMissing(plan.refusal(self.names.group))


def _changes(plan: Plan, accept: bool) -> list[dict[str, Any]]:
    create = [
        {
            "change": "create",
            "topic": new.name,
            "partitions": new.partitions,
            "replication": new.replication if new.replication > 0 else None,
            "configs": dict(new.configs),
        }
        for new in plan.missing
    ]
    alter = [
        {
            "change": "alter",
            "topic": flaw.topic,
            "config": flaw.config,
            "found": flaw.found,
            "needed": flaw.needed,
        }
        for flaw in plan.worse
        if not accept
    ]
    return create + alter


def _show(plan: Plan, accept: bool) -> None:
    rows = [
        (
            "create",
            new.name,
            str(new.partitions),
            str(new.replication) if new.replication > 0 else "as the broker says",
            " ".join(f"{name}={value}" for name, value in new.configs.items()),
        )
        for new in plan.missing
    ]
    rows += [
        ("alter", flaw.topic, "", "", f"{flaw.config}: {flaw.found} -> {flaw.needed}")
        for flaw in plan.worse
        if not accept
    ]
    if rows:
        tables.table(("CHANGE", "TOPIC", "PARTITIONS", "REPLICATION", "CONFIGURATION"), rows)
    else:
        output.note("nothing to do: all topics exist")


def _count(number: int) -> str:
    return f"{number} topic{'' if number == 1 else 's'}"
