"""`kworker init [DIR]`: the least that an app needs: a handler, its settings, a test."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ..errors import UsageError
from . import commands, output

_APP = '''"""The handlers of {name}.

    kworker dev orders:app
    kworker publish orders '{{"id": 1, "amount": 9.5}}'      (in a second terminal)
"""

from __future__ import annotations

from pydantic import BaseModel

from kworker import App, Context, Retry

app = App("{name}")  # the name is the consumer group, unless told otherwise


class Order(BaseModel):
    id: int
    amount: float


@app.handler("orders", retry=Retry(attempts=3, delays=["5s", "1m"]))
def charge(order: Order, ctx: Context) -> None:
    """Called with every message of the topic; what it raises, the retry policy answers."""
    if order.amount < 0:
        raise ValueError("a negative amount")
    print(f"charging order {{order.id}}: {{order.amount:.2f}}", flush=True)
    ctx.publish("receipts", {{"order": order.id}}, key=str(order.id))
'''

_TEST = '''"""A handler is a function: call it. Run with pytest."""

from __future__ import annotations

import pytest

from kworker import testing
from orders import Order, charge


def test_an_order_is_answered_with_a_receipt():
    ctx = testing.context()

    charge(Order(id=1, amount=9.5), ctx)

    assert [one.topic for one in ctx.published] == ["receipts"]


def test_a_negative_amount_is_a_failure():
    with pytest.raises(ValueError, match="negative"):
        charge(Order(id=2, amount=-1), testing.context())
'''

_SETTINGS = """# Settings of kworker: `kworker config show --origin` says which hold, and why.
bootstrap_servers = "localhost:9092"
concurrency = 8

# [kafka]
# "security.protocol" = "SASL_SSL"
# "sasl.mechanisms" = "SCRAM-SHA-512"
# "sasl.username" = "{name}"   # the password: KWORKER_KAFKA__SASL_PASSWORD, or …_PASSWORD_FILE
"""

_IGNORED = ".kworker/\n__pycache__/\n"


@commands.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Write a small app into DIR (this folder unless given): a handler, a test, settings. It
    runs under `kworker dev`.

    \b
    kworker init shop
    kworker init

    A file that is there is never replaced. Exit codes: 0 written, 2 there are such files already.
    """
    name = _name(folder)
    files = {
        "orders.py": _APP.format(name=name),
        "test_orders.py": _TEST,
        "kworker.toml": _SETTINGS.format(name=name),
        ".gitignore": _IGNORED,
    }
    try:
        there = [one for one in files if (folder / one).exists() and one != ".gitignore"]
        if there:
            raise UsageError(
                f"{folder}: {', '.join(there)} {'is' if len(there) == 1 else 'are'} there already, "
                "and nothing is replaced; name another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for one, text in files.items():
            if not (folder / one).exists():
                (folder / one).write_text(text, encoding="utf-8")
                output.data(f"wrote {folder / one}")
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; name another folder") from error
    here = "" if folder == Path() else f"cd {folder} && "
    output.note(f"try it: {here}kworker dev orders:app")


def _name(folder: Path) -> str:
    """What the app is called: as its folder, of letters that a topic's name may have."""
    name = re.sub(r"[^a-zA-Z0-9._-]+", "-", folder.resolve().name).strip(".-")
    return name or "shop"
