"""How commands speak: data on stdout, everything else on stderr, nothing that hurts a terminal."""

from __future__ import annotations

import json
from typing import Any

import click

from ..observe.log import printable


def data(text: str) -> None:
    """One line of what was asked for, on stdout."""
    click.echo(text)


def document(schema: str, **content: Any) -> None:
    """The JSON document of a command, on stdout: `schema` as in "dlq.list", then `content`."""
    click.echo(text(schema, **content))


def text(schema: str, **content: Any) -> str:
    """The same as one line of text."""
    # ASCII: what a message holds may be read by a terminal.
    return json.dumps({"schema": f"kworker.{schema}/1", **content})


def note(text: str) -> None:
    """One line for whoever watches, on stderr; not said under -q."""
    if _said() >= 0:
        click.echo(f"kworker: {printable(text)}", err=True)


def error(text: str) -> None:
    """One line about what went wrong, on stderr."""
    click.echo(f"kworker: error: {printable(' '.join(text.split()))}", err=True)


_VERBOSITY = "kworker.verbosity"


def verbosity(level: int) -> None:
    """How much this run of the command says: -v counts up, -q down."""
    click.get_current_context().find_root().meta[_VERBOSITY] = level


def verbose() -> bool:
    """Whether -v was given."""
    return _said() > 0


def _said() -> int:
    context = click.get_current_context(silent=True)
    return 0 if context is None else int(context.find_root().meta.get(_VERBOSITY, 0))
