"""A plugin with every hook of the page, beside one that raises in each: both are called in a
real run, and nothing is lost."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from kworker import hookspecs
from kworker.message import Partition
from kworker.outcome import Output
from kworker.stores import open_keeper

from .conftest import Shop

OBSERVERS = [name for name, kind in hookspecs.KINDS.items() if kind == "observer"]

RECORDER = """
import contextlib, json, sys
from kworker import hookimpl
from kworker.stores import open_store

class Wire: ...
class Pool: ...

def told(hook, **facts):
    with open("told.log", "a") as log:
        log.write(json.dumps({"hook": hook, **{name: repr(fact) for name, fact in facts.items()}}))
        log.write("\\n")

class Asked:
    @hookimpl
    def provide_codec(self, annotation):
        if annotation is Wire:
            told("provide_codec", annotation=annotation)
            return lambda raw, headers: json.loads(raw)

    @hookimpl
    def provide_value(self, annotation):
        if annotation is Pool:
            told("provide_value", annotation=annotation)
            return lambda message: f"pool of {message.offset}"

    @hookimpl
    def provide_store(self, url, group, cluster):
        scheme, _, path = url.partition("://")
        if scheme == "shared":
            told("provide_store", url=url)
            return open_store(path, group=group, cluster=cluster)

    @hookimpl
    @contextlib.contextmanager
    def around_handler(self, message, handler):
        told("around_handler", message=message, handler=handler)
        yield
"""

OBSERVER = """
@hookimpl
def {name}(self, {parameters}):
    told({name!r}, {facts})
"""

BREAKING = """
@hookimpl
def {name}(self):
    told("broken {name}")
    raise {error}("on purpose")
"""

APP = """
import pathlib, sys, time, tenacity
from kworker import App, Outage, Reject, Retry
from hooks import Asked, Breaking, Pool, Told, Wire, told

once = Retry(attempts=2, wait=tenacity.wait_none())
app = App({group!r}, retry=once, plugins=[Breaking(), Told(), Asked()])

def first(name):
    flag = pathlib.Path(name)
    if flag.exists():
        return False
    flag.touch()
    return True

@app.handler({source!r}, name="charge", timeout="200ms")
def charge(order: Wire, pool: Pool):
    what = order["do"]
    if what == "fail" and first("failed"):
        raise ValueError("not yet")
    if what == "wait" and first("down"):
        raise Outage("the bank is closed")
    if what == "reject":
        raise Reject("never")
    if what == "sleep":
        time.sleep(2.5)
    told("handled", what=what, pool=pool)
"""


def write_app(shop: Shop) -> None:
    def methods(template: str, **more: Any) -> str:
        texts = []
        for name in OBSERVERS:
            names = list(inspect.signature(getattr(hookspecs, name)).parameters)
            facts = ", ".join(f"{one}={one}" for one in names)
            texts.append(
                template.format(name=name, parameters=", ".join(names), facts=facts, **more)
            )
        return "".join(texts).replace("\n", "\n    ")

    (shop.folder / "hooks.py").write_text(
        f"{RECORDER}\n\nclass Told:{methods(OBSERVER)}\n\n"
        f"class Breaking:{methods(BREAKING, error='SystemExit')}\n"
    )
    (shop.folder / "shop.py").write_text(APP.format(group=shop.group, source=shop.source))


def leave_behind(shop: Shop, path: Path) -> None:
    """In the outbox, what a publisher could not send: one to a topic that is not there."""
    outbox = open_keeper(path, group=shop.group, cluster=None)
    for topic in (shop.source, "no-such-topic"):
        outbox.keep([], [Output(topic, None, b'{"do": "kept"}', (), f"to-{topic}")], "no answer")
    outbox.close()


def told(shop: Shop) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shop.folder / "told.log").read_text().splitlines()]


@pytest.mark.timeout(180)
def test_every_hook_is_called_and_an_observer_that_raises_in_each_loses_nothing(
    open_shop: Shop,
) -> None:
    shop = open_shop
    write_app(shop)
    store = f"shared://{shop.folder}/elsewhere.db"
    twice = [("kworker-message-id", b"twin")]
    leave_behind(shop, Path(shop.folder / "elsewhere.db"))
    for what in ("fail", "wait", "reject", "sleep"):
        shop.send(json.dumps({"do": what}).encode(), key=what.encode())
    for _ in range(2):
        shop.send(b'{"do": "twin"}', key=b"twin", headers=twice)

    first = shop.run("run", "shop:app", "--drain", "--db", store)
    last = [shop.send(b'{"do": "late"}') for _ in range(3)][-1]
    gone = TopicPartition(shop.source, 0, last)
    admin = AdminClient({"bootstrap.servers": shop.servers})  # its answers end with it
    [done] = admin.delete_records([gone]).values()
    done.result(20)
    second = shop.run("run", "shop:app", "--drain", "--db", store)

    assert (first.code, second.code) == (0, 0), first.err + second.err
    found = told(shop)
    called = {one["hook"] for one in found}
    # The first has no part in a run; the others are asked where pages are served, and by handlers
    # that publish.
    assert set(hookspecs.KINDS) - called == {
        "register_commands", "provide_metrics", "outgoing_headers"
    }  # fmt: skip
    assert {f"broken {name}" for name in OBSERVERS} <= called
    assert [one["what"] for one in found if one["hook"] == "handled"].count("'twin'") == 1
    assert {one["what"] for one in found if one["hook"] == "handled"} == {
        repr(what) for what in ("fail", "wait", "sleep", "twin", "late", "kept")
    }
    assert f"'pool of {last}'" in {one.get("pool") for one in found}
    assert (shop.folder / "elsewhere.db").is_file()
    assert shop.cluster.committed(shop.group, [Partition(shop.source, 0)], 10.0)[
        Partition(shop.source, 0)
    ].offset == (last + 1)  # type: ignore[union-attr]


def test_what_happens_is_told_in_the_order_of_life(open_shop: Shop) -> None:
    shop = open_shop
    write_app(shop)
    shop.send(b'{"do": "fail"}')

    ran = shop.run("run", "shop:app", "--drain", "--db", f"shared://{shop.folder}/elsewhere.db")

    assert ran.code == 0, ran.err
    order = [one["hook"] for one in told(shop) if one["hook"] in OBSERVERS]
    once = [one for one in dict.fromkeys(order) if one not in ("worker_beat", "offsets_committed")]
    assert once == [
        "worker_started", "partitions_assigned", "message_started", "message_retrying",
        "message_settled", "worker_stopping", "partitions_revoked", "worker_stopped",
    ]  # fmt: skip
    assert order.count("message_started") == 2


def test_a_store_that_no_plugin_keeps_is_refused(open_shop: Shop) -> None:
    ran = open_shop.run("run", "shop:app", "--drain", "--db", "postgres://db/shop")

    assert ran.code == 3
    assert "db: no plugin keeps a store at postgres://" in ran.err
